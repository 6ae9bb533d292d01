"""All regimes of a plan at once: the compared figure of each row, its gain over the baseline, and pictures of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.reproduction.plan import Plan
from engine.reproduction.tables import RegimeTable, TableRow
from utils.analysis_plots import Ranked, plot_gains, plot_rankings

GAINS, RANKS = "gains.png", "ranks.png"


class Overview(NamedTuple):
    """Rows by regimes, R x G, in the order of the plan; NaN where a row has no figure."""

    rows: tuple[str, ...]
    regimes: tuple[str, ...]
    means: NDArray[np.float64]
    gains: NDArray[np.float64]
    """Points above the baseline of the regime, paired by seed."""
    best: NDArray[np.bool_]
    """True for the highest mean of a regime, as it is shown."""


def overview(plan: Plan, found: Sequence[RegimeTable]) -> Overview:
    """What the tables of a plan say about its compared figure."""
    names = tuple(dict.fromkeys(row.name for row in plan.rows))
    figure = plan.figures[0]
    held = [{row.name: row for row in table.rows} for table in found]

    def matrix(value: Callable[[TableRow], float], empty: float) -> NDArray[np.float64]:
        """One number of every cell."""
        return np.array([[value(rows[name]) if name in rows else empty for rows in held] for name in names])

    def mean(row: TableRow) -> float:
        return row.spreads[figure].mean if figure in row.spreads else float("nan")

    return Overview(
        rows=names,
        regimes=tuple(table.regime for table in found),
        means=matrix(mean, float("nan")),
        gains=matrix(lambda row: row.gain.mean if row.gain else float("nan"), float("nan")),
        best=matrix(lambda row: figure in row.best, False).astype(bool),
    )


def draw_overview(folder: Path, plan: Plan, found: Sequence[RegimeTable]) -> list[Path]:
    """Draw the gains of all rows in all regimes that have any, and the ranking within each; returns the files.

    Nothing is drawn where there is nothing to compare: of one regime, or without a gain.
    """
    seen, figure = overview(plan, found), plan.figures[0]
    if len(found) < 2 or np.isnan(seen.gains).all():
        return []
    there = ~np.isnan(seen.gains)
    told, under = np.flatnonzero(there.any(axis=1)), np.flatnonzero(there.any(axis=0))
    rows, regimes = [seen.rows[row] for row in told], [seen.regimes[regime] for regime in under]
    title = f"{plan.title}: {figure}, points above the baseline of each regime"
    plot_gains(rows, regimes, seen.gains[np.ix_(told, under)], folder / GAINS, title=title)
    panels = {table.regime: _ranked(table, figure) for table in found}
    plot_rankings({name: ranked for name, ranked in panels.items() if ranked}, folder / RANKS, figure=figure)
    return [folder / GAINS, folder / RANKS]


def _ranked(table: RegimeTable, figure: str) -> list[Ranked]:
    """The rows of a regime that have the figure, the highest first."""
    rows = [row for row in table.rows if figure in row.spreads]
    ranked = sorted(rows, key=lambda row: -row.spreads[figure].mean)
    return [
        Ranked(row.name, row.spreads[figure].mean, row.spreads[figure].deviation or 0.0, row.name == table.baseline)
        for row in ranked
    ]
