"""How long runs will take, from those that are finished."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from engine.reproduction.lines import FinishedLine
from engine.reproduction.plan import RunOf


def expected_seconds(run: RunOf, lines: Sequence[FinishedLine]) -> float | None:
    """Mean seconds of finished runs like one: of its row and regime, else of its row, else of all; None without any."""
    row, regime = run.cell.name
    known = [line for line in lines if line.seconds is not None]
    same_row = [line for line in known if line.about.get("row") == row]
    alike = [line for line in same_row if line.about.get("regime") == regime]
    found = alike or same_row or known
    return fmean(line.seconds for line in found if line.seconds is not None) if found else None


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
