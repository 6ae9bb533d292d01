"""The table of a plan: mean, deviation, paired differences to the baseline, and what is published beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from engine.reproduction.plan import Plan
from engine.reproduction.results import CellResult
from utils.seed_statistics import Difference, Spread, paired_difference, spread

LOWER_IS_BETTER = ("ECE", "ECE_class", "seconds")


class Verdict(NamedTuple):
    """A published figure beside ours, in percent."""

    figure: str
    published: float
    tolerance: float
    source: str
    ours: float | None

    @property
    def difference(self) -> float | None:
        """Points that ours is above the published figure."""
        return None if self.ours is None else self.ours - self.published

    @property
    def word(self) -> str:
        """`agrees` within the tolerance, else `higher` or `lower`; empty without a figure of ours."""
        if self.difference is None:
            return ""
        if abs(self.difference) <= self.tolerance:
            return "agrees"
        return "higher" if self.difference > 0 else "lower"


class TableRow(NamedTuple):
    """A row of the table of one regime."""

    result: CellResult
    spreads: Mapping[str, Spread]
    best: frozenset[str]
    """Figures in which it has the best mean of the regime: the highest, but of `LOWER_IS_BETTER` the lowest."""
    gain: Difference | None
    """To the baseline; None of the baseline itself, and where no seeds are shared."""
    verdicts: tuple[Verdict, ...]

    @property
    def name(self) -> str:
        """The name of the row."""
        return self.result.cell.row.name

    @property
    def remark(self) -> str:
        """What is missing, and the plan's own remark."""
        return "; ".join(filter(None, (self.result.state, self.result.cell.row.remark)))


class RegimeTable(NamedTuple):
    """The table of one regime."""

    regime: str
    baseline: str
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...]


def tables(plan: Plan, results: Sequence[CellResult]) -> list[RegimeTable]:
    """The tables of a plan, one per regime.

    Args:
        plan: the plan.
        results: its cells, regime by regime.
    """
    return [
        regime_table(plan, [result for result in results if result.cell.regime.name == name]) for name in plan.regimes
    ]


def regime_table(plan: Plan, results: Sequence[CellResult]) -> RegimeTable:
    """The table of one regime; its first row is the baseline."""
    spreads = [_spreads(result, plan.figures) for result in results]
    base = results[0] if results else None
    rows = tuple(
        TableRow(
            result,
            found,
            frozenset(name for name in found if _is_best(name, found, spreads)),
            None if base is None or result is base else _gain(result, base, plan.figures[0]),
            _verdicts(result),
        )
        for result, found in zip(results, spreads, strict=True)
    )
    regime, baseline = (base.cell.regime.name, base.cell.row.name) if base else ("", "")
    return RegimeTable(regime, baseline, rows, tuple(_notes(results)))


def _gain(result: CellResult, base: CellResult, figure: str) -> Difference | None:
    return paired_difference(result.of(figure), base.of(figure))


def _spreads(result: CellResult, figures: Sequence[str]) -> dict[str, Spread]:
    """Mean and deviation of each figure that a cell has."""
    found = {name: list(result.of(name).values()) for name in figures}
    return {name: spread(values) for name, values in found.items() if values}


def _is_best(name: str, own: Mapping[str, Spread], every: Sequence[Mapping[str, Spread]]) -> bool:
    """True for the best of several means, as they are shown."""
    means = [round(found[name].mean, 2) for found in every if name in found]
    best = min if name in LOWER_IS_BETTER else max
    return len(means) > 1 and round(own[name].mean, 2) == best(means)


def _verdicts(result: CellResult) -> tuple[Verdict, ...]:
    """The published figures of a cell beside ours."""
    row = result.cell.row
    published = row.published.get(result.cell.regime.name, {})
    ours = {name: list(result.of(name).values()) for name in published}
    return tuple(
        Verdict(name, value, row.tolerance or 0.0, row.source, spread(ours[name]).mean if ours[name] else None)
        for name, value in published.items()
    )


def _notes(results: Sequence[CellResult]) -> list[str]:
    """Words where runs of one seed had other labels or data, so that their differences are not those of methods."""
    notes = []
    seeds = dict.fromkeys(seed for result in results for seed in result.lines)
    for what in ("labels", "training set", "test set"):
        apart = [seed for seed in seeds if len(_hashes(results, seed, what)) > 1]
        if apart:
            notes.append(f"not the same {what} for all rows of seed {', '.join(map(str, apart))}")
    return notes


def _hashes(results: Sequence[CellResult], seed: int, what: str) -> set[str]:
    """Different hashes of what the runs of one seed were trained or scored on."""
    lines = [result.lines[seed] for result in results if seed in result.lines]
    if what == "labels":
        return {line.label_hash for line in lines if line.label_hash}
    part = "train" if what == "training set" else "test"
    return {line.data[part] for line in lines if part in line.data}
