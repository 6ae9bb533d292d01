"""The figures of a checkpoint by its own thresholds and calibration."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit

from engine.core.class_figures import ClassFigures, class_figures
from engine.core.decisions import Decisions
from engine.core.scoring import EvalResult
from utils.metrics import PrecisionRecall, calibration_error, precision_recall
from utils.types import PRESENT, UNKNOWN, LabelTable


class CalibrationErrors(NamedTuple):
    """Expected calibration error over all entries, and the mean of those of each class."""

    pooled: float
    by_class: float


class DecisionFigures(NamedTuple):
    """Figures of a test set that depend on thresholds or calibration, classes in the order of the dataset."""

    decisions: Decisions
    classes: ClassFigures
    """At the thresholds of the checkpoint, or at a probability of .5 without any."""
    at_thresholds: PrecisionRecall | None
    """Precision and recall at the thresholds of the checkpoint; None without any, or without dense scores."""
    uncalibrated: CalibrationErrors | None
    """Of the sigmoid of the logits; None without dense scores."""
    calibrated: CalibrationErrors | None
    """Of the calibrated probabilities; None without a calibration."""


def decision_figures(measured: EvalResult, truth: LabelTable, decisions: Decisions) -> DecisionFigures:
    """Figures of a split by the decisions of a checkpoint.

    Args:
        measured: the result of the evaluation.
        truth: the labels of the split.
        decisions: in the order of its classes.
    """
    scores = measured.scores
    if scores is None:
        return DecisionFigures(decisions, class_figures(measured, truth), None, None, None)
    codes = truth.dense()
    predicted = decisions.predicted(scores)
    at_thresholds = None
    if predicted is not None:
        at_thresholds = precision_recall(predicted, codes == PRESENT, codes != UNKNOWN)
    exact = scores.astype(np.float64)
    fitted = None
    if decisions.calibration is not None:
        fitted = CalibrationErrors(*calibration_error(decisions.probabilities(exact), codes))
    return DecisionFigures(
        decisions,
        class_figures(measured, truth, predicted),
        at_thresholds,
        CalibrationErrors(*calibration_error(expit(exact), codes)),
        fitted,
    )
