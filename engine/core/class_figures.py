"""Figures of each class: average precision, area under the ROC curve, precision and recall of its predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from engine.core.scoring import EvalResult
from utils.metrics import Mask, Tally, area_under_roc, count_predictions, defined
from utils.thresholds import Floats
from utils.types import PRESENT, UNKNOWN, LabelTable


class ClassFigures(NamedTuple):
    """Figures per class, (C,) each: counts of known entries in `tally`, else fractions, NaN where there is none."""

    tally: Tally
    """Counts of known entries, and of the predictions that precision and recall are of."""
    AP: Floats
    AUROC: Floats
    precision: Floats
    recall: Floats
    F1: Floats

    @property
    def mean_auroc(self) -> float:
        """Mean over the classes that have positives and negatives; NaN where no class has both."""
        known = self.AUROC[~np.isnan(self.AUROC)]
        return float(known.mean()) if known.size else math.nan

    def as_dicts(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """One entry per class, with None for a figure that is not defined."""
        counts = {"positives": self.tally.positives, "known": self.tally.known, "predicted": self.tally.chosen}
        columns: dict[str, list[Any]] = {"class": list(classes)}
        columns |= {name: count.tolist() for name, count in counts.items()}
        for name in ("AP", "AUROC", "precision", "recall", "F1"):
            columns[name] = [defined(value) for value in getattr(self, name).tolist()]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def class_figures(measured: EvalResult, truth: LabelTable, predicted: Mask | None = None) -> ClassFigures:
    """The figures of each class of a split.

    Args:
        measured: the result of its evaluation.
        truth: its labels.
        predicted: (N, C) the predictions; by default those of a probability of at least .5. Without scores, where
            truth stores known entries only, these are the ones counted, and AUROC is not known.
    """
    tally, metrics = measured.metrics.tally, measured.metrics
    area = np.full(len(metrics.per_class), math.nan)
    if measured.scores is not None:
        codes = truth.dense()
        present, known = codes == PRESENT, codes != UNKNOWN
        columns = zip(measured.scores.T, present.T, known.T, strict=True)
        area = np.array([area_under_roc(score[told], true[told]) for score, true, told in columns], dtype=np.float64)
        tally = tally if predicted is None else count_predictions(predicted, present, known)
    return ClassFigures(
        tally,
        metrics.per_class,
        area,
        _ratio(tally.true, tally.chosen),
        _ratio(tally.true, tally.positives),
        _ratio(2 * tally.true, tally.chosen + tally.positives),
    )


def _ratio(part: Any, whole: Any) -> Floats:
    """Fractions, NaN where nothing is counted."""
    found: Floats = np.full(len(whole), math.nan)
    np.divide(part, whole, out=found, where=whole > 0)
    return found
