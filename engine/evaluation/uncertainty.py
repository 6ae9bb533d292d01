"""How sure the figures of a test set are, and what they are per group of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from engine.core.run_folder import percentages
from engine.core.scoring import EvalResult
from utils.bootstrap import DRAWS, Uncertainty, bootstrap
from utils.checks import require
from utils.metrics import Metrics, defined, evaluate_scores
from utils.options import option
from utils.types import Annotations
from utils.unit_rows import GroupScore, group_rows


@dataclass(frozen=True, kw_only=True)
class UncertaintyConfig:
    """Settings of intervals and of figures per group."""

    bootstrap: int = option(
        DRAWS, "draws for the intervals of AP, of whole groups (--group_column) where there are any; 0 for none"
    )
    group_scores: GroupScore = option(
        "max", "figures per group: score of a group, the highest of its images or their mean"
    )

    def __post_init__(self) -> None:
        require(self.bootstrap >= 0, f"--bootstrap {self.bootstrap}: must not be negative")


class GroupFigures(NamedTuple):
    """Metrics where each group of images counts as one."""

    groups: int
    score: GroupScore
    metrics: Metrics


class UncertaintyFigures(NamedTuple):
    """Intervals of the figures per image, and figures per group."""

    intervals: Uncertainty | None
    """None without draws, without images, or where few labels per image are known."""
    unit: str
    """`groups` or `images`: what was drawn."""
    per_group: GroupFigures | None
    """None where images have no groups."""


def uncertainty_figures(measured: EvalResult, test: Annotations, config: UncertaintyConfig) -> UncertaintyFigures:
    """Intervals, and figures per group, of a test set."""
    unit, scores, groups = "images" if test.groups is None else "groups", measured.scores, test.groups
    if scores is None or not len(scores):
        return UncertaintyFigures(None, unit, None)
    truth = test.truth.dense()
    per_group = None
    if groups is not None:
        rows = group_rows(scores, truth, groups, config.group_scores)
        metrics = evaluate_scores(rows.scores, rows.truth)
        per_group = GroupFigures(len(rows.truth), config.group_scores, metrics)
    intervals = bootstrap(scores, truth, groups, draws=config.bootstrap) if config.bootstrap else None
    return UncertaintyFigures(intervals, unit, per_group)


def uncertainty_lines(figures: UncertaintyFigures) -> list[str]:
    """Lines for a person: the interval of the mAP, and the metrics per group."""
    lines, intervals, per_group = [], figures.intervals, figures.per_group
    if intervals is not None and not math.isnan(intervals.mAP.low):
        drawn = f"{intervals.draws:,} bootstrap draws of {intervals.units:,} {figures.unit}"
        ends = " to ".join(f"{100 * end:.2f}" for end in intervals.mAP)
        lines.append(f"mAP: {100 * intervals.level:.0f} % interval {ends} ({drawn})")
    if per_group is not None:
        said = percentages(per_group.metrics.as_dict())
        lines.append(f"per group ({per_group.groups:,} groups, {_WORDS[per_group.score]} of their images): {said}")
    return lines


def interval_texts(figures: UncertaintyFigures) -> list[str] | None:
    """The interval of the AP of each class in percent, `-` where there is none; None without intervals."""
    return None if figures.intervals is None else figures.intervals.texts()


def uncertainty_content(figures: UncertaintyFigures, classes: Sequence[str]) -> dict[str, Any]:
    """The same for a file: fractions, None where there is no interval."""
    content: dict[str, Any] = {"uncertainty": None, "per_group": None}
    if (found := figures.intervals) is not None:
        ends = zip(classes, found.low.tolist(), found.high.tolist(), strict=True)
        content["uncertainty"] = {
            **{"drawn": figures.unit, "units": found.units, "draws": found.draws, "level": found.level},
            "mAP": _ends(*found.mAP),
            "average_precision": {name: _ends(low, high) for name, low, high in ends},
        }
    if (rows := figures.per_group) is not None:
        precision = zip(classes, rows.metrics.per_class.tolist(), strict=True)
        content["per_group"] = {
            **{"groups": rows.groups, "scores": rows.score, "test": rows.metrics.as_dict()},
            "average_precision": {name: defined(value) for name, value in precision},
        }
    return content


def _ends(low: float, high: float) -> list[float] | None:
    return None if math.isnan(low) else [low, high]


_WORDS = {"max": "highest score", "mean": "mean score"}
