"""What the finished runs of a plan say about each of its cells: figures by seed, and the setting that was chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from engine.reproduction.figures import PER_EPOCH, at_epoch
from engine.reproduction.lines import FinishedLine
from engine.reproduction.plan import Cell, RunOf, first_runs

Find = Callable[[RunOf], FinishedLine | None]
"""The finished line of a run, if it has one."""
Reason = Callable[[RunOf], str]
"""Why a run that has no line has none, in words; empty where it only waits."""

_NO_FRACTION = ("epoch", "best on test epoch", "seconds")


class Choice(NamedTuple):
    """The setting of a tuned cell, chosen on the validation split of the tuning seed."""

    setting: Mapping[str, str]
    epoch: int
    validation: float
    """Its figure there, in percent, at that epoch."""
    test: float
    """Its figure on the test set by the same seed and epoch."""
    best_on_test: float
    """The highest of any setting and epoch on the test set: what choosing on the test set would have shown."""

    @property
    def words(self) -> str:
        """The setting in words."""
        return ", ".join(f"{name} {value}" for name, value in self.setting.items())


@dataclass(frozen=True)
class CellResult:
    """What is known of a cell."""

    cell: Cell
    figures: Mapping[int, Mapping[str, float]]
    """Figures by seed: percent, but for epochs."""
    state: str
    """Words on what is missing; empty where nothing is."""
    choice: Choice | None = None
    lines: Mapping[int, FinishedLine] = field(default_factory=dict)

    def of(self, figure: str) -> dict[int, float]:
        """One figure by seed."""
        return {seed: found[figure] for seed, found in self.figures.items() if figure in found}


def chosen(lines: Sequence[tuple[Mapping[str, str], FinishedLine]], figure: str = "mAP") -> Choice | None:
    """The setting whose selected epoch has the highest validation figure; of equal ones the first.

    Args:
        lines: settings tried by one seed, each with its run.
        figure: the figure.

    Returns:
        The choice; None where no run has a validation figure.
    """
    wanted = {figure, f"validation {figure}", "epoch"}
    rated = [(setting, line) for setting, line in lines if wanted <= line.figures.keys()]
    if not rated:
        return None
    setting, line = max(rated, key=lambda pair: pair[1].figures[f"validation {figure}"])
    best = max(each.figures.get(f"best on test {figure}", each.figures[figure]) for _, each in rated)
    held_out, test = (100 * line.figures[name] for name in (f"validation {figure}", figure))
    return Choice(setting, int(line.figures["epoch"]), held_out, test, 100 * best)


def choice_of(cell: Cell, find: Find, failure: Reason) -> Choice | None:
    """The setting of a tuned cell; None of others, and while a run that would be compared is not there.

    One that has failed is not compared. One whose data is not at hand may be made on another machine, so it is waited
    for: a choice among the rest would be another one there.
    """
    if not cell.is_tuned:
        return None
    runs = first_runs(cell)
    lines = [(run.setting, find(run)) for run in runs]
    if any(line is None and not failure(run) for run, (_, line) in zip(runs, lines, strict=True)):
        return None
    return chosen([(setting, line) for setting, line in lines if line is not None])


def tested_runs(cell: Cell, choice: Choice | None) -> list[RunOf]:
    """The runs by which a cell is reported; none of a tuned cell without a choice."""
    if cell.is_tuned and choice is None:
        return []
    setting = {} if choice is None else choice.setting
    return [RunOf(cell, seed, setting) for seed in cell.seeds]


def cell_result(cell: Cell, choice: Choice | None, find: Find, reason: Reason) -> CellResult:
    """What the finished runs say about a cell under the setting that was chosen."""
    runs = tested_runs(cell, choice)
    lines = {run.seed: line for run in runs if (line := find(run)) is not None}
    epoch = choice.epoch if choice is not None and _takes_epoch(cell) else None
    figures = {seed: _figures(line, epoch) for seed, line in lines.items()}
    return CellResult(cell, figures, _state(cell, runs, lines, find, reason), choice, lines)


def _takes_epoch(cell: Cell) -> bool:
    """True if the epoch of the tuning seed is reported."""
    return cell.plan.tuning is not None and cell.plan.tuning.epoch == "tuning"


def _figures(line: FinishedLine, epoch: int | None) -> dict[str, float]:
    """Figures of a run, those of the test set at an epoch where one is given, and its seconds."""
    found = dict(line.figures) | ({} if line.seconds is None else {"seconds": line.seconds})
    if epoch is not None:
        found = {name: value for name, value in found.items() if name not in PER_EPOCH} | at_epoch(line, epoch)
        found["epoch"] = float(epoch)
    return {name: value if name in _NO_FRACTION else 100 * value for name, value in found.items()}


def _state(cell: Cell, runs: Sequence[RunOf], lines: Mapping[int, FinishedLine], find: Find, reason: Reason) -> str:
    """Words on the runs of a cell that are missing."""
    wanted = runs or first_runs(cell)
    if not wanted and cell.plan.like is not None:
        return f"not run: {cell.plan.like.path} has not chosen its setting yet"
    done = len(lines) if runs else sum(find(run) is not None for run in wanted)
    if done == len(wanted) and runs:
        return ""
    reasons = dict.fromkeys(why for run in wanted if find(run) is None and (why := reason(run)))
    what = f"{done} of {len(wanted)} {'seeds' if runs else 'settings tried'}"
    told = "; ".join(reasons)
    if not done:
        return f"not run: {told}" if told else "not run"
    return f"{what}: {told}" if told else what
