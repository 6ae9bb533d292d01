"""Multi-label metrics of scores against truth that may hold unknown entries.

N images, C classes. Scores are (N, C) floats, truth is (N, C) int8: 1 present, 0 absent, -1 unknown. An unknown entry
is left out of its class, in average precision as in precision and recall. All values are fractions. Where few entries
are known, these M entries with their scores are enough: `evaluate_known` gives the same metrics from them.
Calibration is judged by `calibration_error` and `reliability`; thresholds are chosen in `utils.thresholds`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from utils.types import PRESENT, UNKNOWN, Codes, Index

Scores = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

TOP = 3
"""Labels per image that the top-k metrics of the multi-label papers count as predicted."""


class PrecisionRecall(NamedTuple):
    """Precision, recall and F1 of a set of predicted labels: averaged over classes (C), or over all labels (O)."""

    CP: float
    CR: float
    CF1: float
    OP: float
    OR: float
    OF1: float


class Tally(NamedTuple):
    """Counts per class, (C,) each, of entries whose truth is known: precision, recall and F1 follow from them."""

    true: Index  # predicted and present
    chosen: Index  # predicted
    positives: Index  # present
    known: Index  # all

    @property
    def untold(self) -> Mask:
        """(C,) True for a class with positives whose absence is known of no image: any ranking of it is perfect."""
        return np.asarray((self.positives > 0) & (self.positives == self.known))


class Metrics(NamedTuple):
    """Result of an evaluation. `per_class` is (C,) average precision, NaN for a class without positives or negatives.

    Where no image is known to be without a class, every ranking has an average precision of 1 and so says nothing.
    """

    mAP: float  # noqa: N815 - the field's own spelling; mean over the classes that have positives and negatives
    mAP_all: float  # noqa: N815 - the same with those without positives, which count as 0
    per_class: NDArray[np.float64]
    at_threshold: PrecisionRecall
    at_top: PrecisionRecall
    classes_without_positives: tuple[int, ...]
    classes_without_negatives: tuple[int, ...]
    """Classes with positives and no image that is known to be without them."""
    known: Mask
    """(C,) False if a class was not evaluated: it has no known entries, or positives alone."""
    tally: Tally
    """Counts of the predictions at the threshold."""

    def as_dict(self) -> dict[str, float]:
        """Metrics by their usual names: mAP, mAP_all, CP, CR, CF1, OP, OR, OF1, and the top-3 ones as "CP@3"."""
        top = {f"{name}@{TOP}": value for name, value in self.at_top._asdict().items()}
        return {"mAP": self.mAP, "mAP_all": self.mAP_all, **self.at_threshold._asdict(), **top}


FIGURES = ("mAP", "mAP_all", *PrecisionRecall._fields, *(f"{name}@{TOP}" for name in PrecisionRecall._fields))
"""Names of `Metrics.as_dict`."""


class KnownScores(NamedTuple):
    """The M known entries of a truth (N, C), in any order, and their scores."""

    label: Index  # (M,) the class
    present: Mask  # (M,) the truth
    score: Scores  # (M,)
    in_top: Mask  # (M,) True if the entry is one of the `TOP` highest of its image, unknown ones included
    num_classes: int


def average_precision(scores: Scores, truth: NDArray[Any]) -> float:
    """Area under the precision-recall steps of one class; equal scores enter together, as in scikit-learn.

    For each positive, with score s: (positives scoring at least s) / (images scoring at least s), averaged over the
    positives. Every ordering of tied scores gives the same value.

    Args:
        scores: (N,) higher means more likely present.
        truth: (N,) 1 or True for positives, 0 or False for negatives; no unknown entries.

    Returns: a fraction, or NaN without positives.
    Raises: ValueError when a score is NaN.
    """
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN, which has no rank")
    positive = np.sort(scores[truth.astype(bool)])
    if not positive.size:
        return float("nan")
    at_least = scores.size - np.searchsorted(np.sort(scores), positive, side="left")
    positives_at_least = positive.size - np.searchsorted(positive, positive, side="left")
    return float(np.mean(positives_at_least / at_least))


def area_under_roc(scores: Scores, truth: NDArray[Any]) -> float:
    """Area under the ROC curve of one class: the share of pairs of a positive and a negative that are in order.

    A pair of equal scores counts one half, as in scikit-learn.

    Args:
        scores: (N,) higher means more likely present.
        truth: (N,) 1 or True for positives, 0 or False for negatives; no unknown entries.

    Returns: a fraction, or NaN without positives or without negatives.
    """
    positive, negative = scores[truth.astype(bool)], np.sort(scores[~truth.astype(bool)])
    if not positive.size or not negative.size:
        return float("nan")
    below = np.searchsorted(negative, positive, side="left")
    not_above = np.searchsorted(negative, positive, side="right")
    return float((below + not_above).sum() / (2 * positive.size * negative.size))


def precision_recall(predicted: Mask, present: Mask, known: Mask) -> PrecisionRecall:
    """Precision, recall and F1 over the known entries.

    CP averages TP/predicted over classes with a known entry, 0 where nothing is predicted. CR averages TP/positives
    over classes with positives. CF1 is the harmonic mean of CP and CR, not a mean of F1s. OP, OR and OF1 pool all
    labels first. A ratio or mean over nothing is 0.

    The published evaluators (CSRA, utils/evaluation/cal_PR.py, and its descendants) count one false prediction for a
    class without any, which lowers their OP a little; pooled precision here counts actual predictions only.

    Args:
        predicted: (N, C) True where a label is predicted.
        present: (N, C) True where it is true.
        known: (N, C) True where the truth is known.
    """
    return _ratios(count_predictions(predicted, present, known))


def count_predictions(predicted: Mask, present: Mask, known: Mask) -> Tally:
    """Predictions (N, C), True where a label is predicted, counted over the known entries; as `precision_recall`."""
    return Tally(
        true=(predicted & present & known).sum(axis=0),
        chosen=(predicted & known).sum(axis=0),
        positives=(present & known).sum(axis=0),
        known=known.sum(axis=0),
    )


def evaluate_scores(scores: Scores, truth: Codes, threshold: float = 0.0) -> Metrics:
    """All metrics of an evaluation.

    Args:
        scores: (N, C) logits or probabilities. Prefer logits for ranking: a saturated sigmoid makes ties.
        truth: (N, C) 1 present, 0 absent, -1 unknown.
        threshold: a score of at least this is a prediction: 0 for logits (sigmoid 0.5), 0.5 for probabilities.

    Returns: the metrics; mAP is 0 when no class has both positives and negatives.
    Raises: ValueError when shapes differ or a score is NaN, known or not.
    """
    if scores.shape != truth.shape or scores.ndim != 2:
        raise ValueError(f"scores {scores.shape} and truth {truth.shape} must both be (N, C)")
    if np.isnan(scores).any():
        row, label = np.argwhere(np.isnan(scores))[0]
        raise ValueError(f"scores hold NaN, first in row {row}, class {label}")
    present, known = truth == PRESENT, truth != UNKNOWN
    per_class = np.array(
        [_known_average_precision(scores[:, k], present[:, k], known[:, k]) for k in range(truth.shape[1])]
    )
    return _metrics(
        per_class,
        count_predictions(scores >= threshold, present, known),
        at_top=precision_recall(top_mask(scores, TOP), present, known),
    )


def known_scores(scores: Scores, truth: Codes) -> KnownScores:
    """Input of `evaluate_known` from scores and truth (B, C), of a batch for example."""
    row, label = np.nonzero(truth != UNKNOWN)
    in_top = top_mask(scores, TOP)[row, label]
    return KnownScores(label, truth[row, label] == PRESENT, scores[row, label], in_top, truth.shape[1])


def evaluate_known(entries: KnownScores, threshold: float = 0.0) -> Metrics:
    """Result of `evaluate_scores` from the known entries alone: neither scores nor truth are ever (N, C).

    Args:
        entries: the known entries and their scores.
        threshold: a score of at least this is a prediction.

    Raises:
        ValueError: the parts of `entries` differ in length, or a score is NaN.
    """
    label, present, score, in_top, classes = entries
    if not len(label) == len(present) == len(score) == len(in_top):
        raise ValueError(f"{len(label)} labels, {len(present)} truths, {len(score)} scores and {len(in_top)} top marks")
    order = np.argsort(label, kind="stable")
    ends = np.cumsum(np.bincount(label, minlength=classes))
    per_class = np.array([average_precision(score[one], present[one]) for one in np.split(order, ends)[:classes]])
    return _metrics(
        per_class,
        _count_known(entries, score >= threshold),
        at_top=_ratios(_count_known(entries, in_top)),
    )


def calibration_error(probabilities: Scores, truth: Codes, bins: int = 15) -> tuple[float, float]:
    """Expected calibration error of binary predictions (Naeini et al., AAAI 2015), pooled and averaged over classes.

    Entries are put into `bins` bins of equal width by probability, a bin being open below and closed above. The error
    is the mean over entries of |share of present entries of its bin - mean probability of its bin|.

    Args:
        probabilities: (N, C) in [0, 1].
        truth: (N, C) 1 present, 0 absent, -1 unknown, which is left out.
        bins: number of bins.

    Returns: over the entries of all classes together; and the mean over classes of each class by itself, without those
        that have no known entry. NaN where nothing is known.
    """
    classes = truth.shape[1]
    row, label = np.nonzero(truth != UNKNOWN)
    value, present = probabilities[row, label].astype(np.float64), truth[row, label] == PRESENT
    bin_of, shape = _bin_of(value, bins), (classes, bins)
    # In a bin, count * |mean of present - mean of value| is the sum of their differences.
    gaps = np.bincount(label * bins + bin_of, weights=present - value, minlength=classes * bins).reshape(shape)
    known = np.bincount(label, minlength=classes)
    per_class = np.abs(gaps).sum(axis=1)[known > 0] / known[known > 0]
    if not per_class.size:
        return float("nan"), float("nan")
    return float(np.abs(gaps.sum(axis=0)).sum() / known.sum()), float(per_class.mean())


class Reliability(NamedTuple):
    """Entries by probability, (K,) each: bins without entries are left out."""

    entries: Index
    probability: NDArray[np.float64]  # mean of the bin
    present: NDArray[np.float64]  # share of the bin's entries that are present


def reliability(probabilities: Scores, truth: Codes, bins: int = 15) -> Reliability:
    """What a reliability diagram shows: the entries of all classes in the bins of `calibration_error`.

    Args:
        probabilities: (N, C) in [0, 1].
        truth: (N, C) 1 present, 0 absent, -1 unknown, which is left out.
        bins: number of bins.
    """
    known = truth != UNKNOWN
    value, present = probabilities[known].astype(np.float64), truth[known] == PRESENT
    bin_of = _bin_of(value, bins)
    entries, sums, positives = (
        np.bincount(bin_of, weights=weights, minlength=bins) for weights in (None, value, present)
    )
    some = entries > 0
    return Reliability(entries[some].astype(np.int64), (sums[some] / entries[some]), positives[some] / entries[some])


def _bin_of(value: NDArray[np.float64], bins: int) -> Index:
    """(M,) number of the bin of each probability; a bin is open below and closed above."""
    return np.clip(np.ceil(value * bins).astype(np.int64) - 1, 0, bins - 1)


def f1_at(scores: Scores, truth: Codes, threshold: float | NDArray[np.float64]) -> tuple[float, float]:
    """CF1 and OF1, as in `precision_recall`, of the predictions at one threshold or at one per class, (C,)."""
    found = precision_recall(scores >= threshold, truth == PRESENT, truth != UNKNOWN)
    return found.CF1, found.OF1


def defined(value: float) -> float | None:
    """A figure as a file has it: None for NaN, which stands for a figure that is not defined."""
    return None if np.isnan(value) else value


def group_map(per_class: NDArray[np.float64], known: Mask, groups: Mapping[str, Index]) -> dict[str, float]:
    """Mean average precision of each group of classes, as large-vocabulary test sets are reported.

    A class that has known entries but no positive counts as 0; one without known entries, or with positives alone, is
    left out. That is the rule
    of Kim et al. (CVPR 2022, Table 3; published code, snucml/LargeLossMatters, instrumentation.py). There, a class that
    is left out shifts all later classes by one, so that some fall into other groups; here none moves.

    Args:
        per_class: (C,) average precision, or NaN: `Metrics.per_class`.
        known: (C,) True if a class was evaluated: `Metrics.known`.
        groups: the classes of each group.

    Returns: a fraction per group; NaN for a group without known entries.
    """
    values = np.nan_to_num(per_class, nan=0.0)
    chosen = {name: values[classes[known[classes]]] for name, classes in groups.items()}
    return {name: float(part.mean()) if part.size else float("nan") for name, part in chosen.items()}


def top_mask(scores: Scores, count: int) -> Mask:
    """(N, C) True at the `count` highest scores of each row, all of them in a row of fewer classes.

    Among equal scores the class listed first is taken. Unknown entries are treated like known ones: a prediction must
    not depend on the truth.
    """
    left = np.array(scores, dtype=np.result_type(scores, np.float16))
    np.maximum(left, np.finfo(left.dtype).min, out=left)  # so that -inf can mark entries that are taken
    taken = np.zeros(scores.shape, dtype=bool)
    rows = np.arange(len(scores))
    for _ in range(min(count, scores.shape[1])):
        best = left.argmax(axis=1)
        taken[rows, best] = True
        left[rows, best] = -np.inf
    return taken


def _metrics(per_class: NDArray[np.float64], tally: Tally, *, at_top: PrecisionRecall) -> Metrics:
    """Metrics of an evaluation with their means over classes."""
    some, untold = tally.positives > 0, tally.untold
    judged = np.where(untold, np.nan, per_class)
    return Metrics(
        mAP=_mean(judged[some & ~untold]),
        mAP_all=_mean(np.where(some, judged, 0.0)[~untold]),
        per_class=judged,
        at_threshold=_ratios(tally),
        at_top=at_top,
        classes_without_positives=tuple(np.flatnonzero(~some).tolist()),
        classes_without_negatives=tuple(np.flatnonzero(untold).tolist()),
        known=(tally.known > 0) & ~untold,
        tally=tally,
    )


def _count_known(entries: KnownScores, predicted: Mask) -> Tally:
    """Counts of predictions (M,) at the known entries."""
    label, present = entries.label, entries.present
    parts = (label[predicted & present], label[predicted], label[present], label)
    true, chosen, positives, known = (np.bincount(part, minlength=entries.num_classes) for part in parts)
    return Tally(true, chosen, positives, known)


def _ratios(count: Tally) -> PrecisionRecall:
    """Precision, recall and F1 of counted entries."""
    has_positives, known = count.positives > 0, count.known > 0
    class_precision = _mean(count.true[known] / np.maximum(count.chosen[known], 1))
    class_recall = _mean(count.true[has_positives] / count.positives[has_positives])
    overall_precision = count.true.sum() / max(count.chosen.sum(), 1)
    overall_recall = count.true.sum() / max(count.positives.sum(), 1)
    return PrecisionRecall(*with_f1(class_precision, class_recall), *with_f1(overall_precision, overall_recall))


def _known_average_precision(scores: Scores, present: Mask, known: Mask) -> float:
    """Average precision over the known entries of one class."""
    return average_precision(scores[known], present[known])


def with_f1(precision: float, recall: float) -> tuple[float, float, float]:
    """Precision, recall and their harmonic mean, 0 when both are 0."""
    total = precision + recall
    return float(precision), float(recall), float(2 * precision * recall / total) if total else 0.0


def _mean(values: NDArray[np.float64]) -> float:
    """The mean, 0 of nothing."""
    return float(values.mean()) if values.size else 0.0
