"""A plan: the YAML file that names training runs to make and figures to compare them with.

    title: Candidate labels
    flags: --dataset digits --labels candidate
    seeds: [20, 21, 22]
    regimes:
      rate 0.4: --partial_rate 0.4
      rate 0.2: {flags: --partial_rate 0.2, seeds: [30, 31]}
    rows:
      - {name: BCE, command: main_BCE.py}
      - {name: CoNeS, command: main_CoNeS.py, try: {lr: [1e-3, 1e-4]}, regimes: [rate 0.4]}

A row and a regime make a cell: its runs, one per seed, are a figure of the table. The first row of a regime is its
baseline. With `like: OTHER.yaml` the rows are those of another plan, with the settings that it has chosen.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

TUNED_EPOCHS = ("tuning", "own")


@dataclass(frozen=True, kw_only=True)
class PlanRegime:
    """Flags that rows share: kind of labels, dataset, or whatever the plan varies."""

    name: str
    flags: tuple[str, ...]
    seeds: tuple[int, ...]
    needs: str


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """A command, and what is published of it."""

    name: str
    script: str
    flags: tuple[str, ...]
    regimes: tuple[str, ...]
    seeds: tuple[int, ...]
    """Those of its own; empty for those of each regime."""
    choices: Mapping[str, tuple[str, ...]]
    """Values to try by setting; empty for a row without tuning."""
    published: Mapping[str, Mapping[str, float]]
    """Figures in percent by regime and name."""
    source: str
    tolerance: float | None
    """Points by which ours may differ from the published figure and still agree."""
    needs: str
    remark: str
    elsewhere: str
    """Why it is not run in the other regimes."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How settings are chosen: on the validation split of a seed that is tested nowhere."""

    seed: int
    epoch: str = "tuning"
    """`tuning`: the epoch too is that of the tuning seed; `own`: each seed's own, by its validation split."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The content of a plan."""

    path: Path
    title: str
    about: str
    figures: tuple[str, ...]
    """Shown in the table; the first is compared."""
    flags: tuple[str, ...]
    regimes: Mapping[str, PlanRegime]
    rows: tuple[PlanRow, ...]
    tuning: Tuning | None
    needs: str
    like: Plan | None = None
    """The plan whose rows these are, and which chooses their settings and epochs."""

    @property
    def name(self) -> str:
        """The name of its file."""
        return self.path.stem


@dataclass(frozen=True)
class Cell:
    """A row of a plan under a regime."""

    plan: Plan
    row: PlanRow
    regime: PlanRegime

    @property
    def name(self) -> tuple[str, str]:
        """Names of the row and the regime."""
        return self.row.name, self.regime.name

    @property
    def where(self) -> str:
        """Words for a message."""
        regime = f", regime {self.regime.name}" if self.regime.name else ""
        return f"{self.plan.path}: row {self.row.name}{regime}"

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that are tested."""
        return self.row.seeds or self.regime.seeds

    @property
    def needs(self) -> str:
        """The data that it wants, in words; empty where the plan says nothing."""
        return self.row.needs or self.regime.needs or self.plan.needs

    @property
    def flags(self) -> tuple[str, ...]:
        """All flags but those of a seed; of one given twice the last holds."""
        return (*self.plan.flags, *self.regime.flags, *self.row.flags)

    @property
    def settings(self) -> list[dict[str, str]]:
        """Every combination of the values to try; one that is empty where nothing is tried."""
        names = list(self.row.choices)
        return [dict(zip(names, values, strict=True)) for values in itertools.product(*self.row.choices.values())]

    @property
    def is_tuned(self) -> bool:
        """True if a setting is chosen, be it by another plan."""
        return bool(self.row.choices)

    @property
    def model(self) -> Cell | None:
        """The cell of these names of the plan that this one is like."""
        like = self.plan.like
        return None if like is None else Cell(like, self.row, like.regimes[self.regime.name])


class RunOf(NamedTuple):
    """One run of a cell."""

    cell: Cell
    seed: int
    setting: Mapping[str, str]
    """The values tried, by setting."""

    @property
    def title(self) -> str:
        """Words for a line on the console."""
        tried = "".join(f", {name} {value}" for name, value in self.setting.items())
        names = ", ".join(filter(None, self.cell.name))
        return f"{names}, seed {self.seed}{tried}"

    @property
    def flags(self) -> tuple[str, ...]:
        """Its flags, but for the places of files."""
        return (*self.cell.flags, *(f"--{name}={value}" for name, value in self.setting.items()), f"--seed={self.seed}")


def cells(plan: Plan) -> list[Cell]:
    """The cells of a plan, regime by regime."""
    return [
        Cell(plan, row, regime) for name, regime in plan.regimes.items() for row in plan.rows if name in row.regimes
    ]


def first_runs(cell: Cell) -> list[RunOf]:
    """The runs of a cell that wait for nothing: every setting with the tuning seed, or else every seed.

    None where another plan chooses the setting.
    """
    if cell.is_tuned and cell.plan.like is not None:
        return []
    if cell.is_tuned:
        assert cell.plan.tuning is not None
        return [RunOf(cell, cell.plan.tuning.seed, setting) for setting in cell.settings]
    return [RunOf(cell, seed, {}) for seed in cell.seeds]


def shard(found: Sequence[Cell], number: int, count: int) -> list[tuple[Cell, tuple[int, ...]]]:
    """The part of a plan that one of several machines runs: cells, each with its seeds.

    Every run is in exactly one part. A tuned cell stays whole, for its seeds wait for its tuning.

    Args:
        found: the cells of the plan.
        number: which part, from 1.
        count: number of parts.
    """
    units = [(cell, seeds) for cell in found for seeds in ([cell.seeds] if cell.is_tuned else zip(cell.seeds))]
    return units[number - 1 :: count]
