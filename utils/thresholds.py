"""Thresholds per class, chosen on images that no weight was trained on.

N images, C classes. Scores are (N, C) floats, truth is (N, C) int8: 1 present, 0 absent, -1 unknown, which is left out.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from utils.checks import UserError
from utils.metrics import Mask, Scores
from utils.types import PRESENT, UNKNOWN, Codes, Index

Floats = NDArray[np.float64]
Aim = Literal["f1", "precision", "recall", "youden"]

ENOUGH_POSITIVES = 10
"""Known positives that a class needs for a threshold, or a calibration, of its own."""


class Rule(NamedTuple):
    """What a threshold is chosen for.

    `f1`: the highest F1. `youden`: the highest recall minus false positive rate (Youden, Cancer 1950). `precision`: the
    highest recall with at least a precision of `least`. `recall`: the highest threshold with at least that recall.
    """

    aim: Aim
    least: float = 0.0

    @classmethod
    def of(cls, text: str) -> Rule:
        """The rule of a text: `f1`, `youden`, `precision=0.9` or `recall=0.9`. Raises: UserError."""
        aim, sign, value = text.partition("=")
        wanted = aim in ("precision", "recall")
        try:
            least = float(value) if wanted else 0.0
        except ValueError:
            least = math.nan
        if aim not in get_args(Aim) or bool(sign) != wanted or (wanted and not 0 < least <= 1):
            raise UserError(
                f"--choose_thresholds {text}: must be f1, youden, precision=P or recall=R, with a share above 0 and at "
                "most 1, such as precision=0.9"
            )
        return cls(aim, least)  # type: ignore[arg-type]  # one of `Aim`, as was just required

    def __str__(self) -> str:
        return f"{self.aim}={self.least:g}" if self.aim in ("precision", "recall") else self.aim


class Threshold(NamedTuple):
    """A threshold of one class, or of all together."""

    value: float
    """A score of at least this is a prediction; infinity where nothing is known to be present."""
    reached: bool
    """False if no threshold has the precision that was asked for: then this has the highest there is."""


class ClassThresholds(NamedTuple):
    """Thresholds of all classes."""

    values: Floats  # (C,)
    own: Mask
    """(C,) False where a class has too few positives, and so the threshold of all classes together."""
    reached: Mask  # (C,) as `Threshold.reached`
    positives: Index  # (C,) known positives that each was chosen with


def choose_threshold(scores: NDArray[np.floating], truth: NDArray[np.int8], rule: Rule) -> Threshold:
    """The threshold of one class.

    It lies halfway between the lowest score that is a prediction and the next lower one, so that rounding moves no
    image across it; where every image is a prediction it is the lowest score. Of thresholds that are equally good the
    highest is taken.

    Args:
        scores: (M,) higher means more likely present.
        truth: (M,) codes.
        rule: what it is chosen for.
    """
    cuts = _cuts(scores, truth)
    if not cuts.positives:
        return Threshold(math.inf, reached=True)
    best, reached = _best_cut(cuts, rule)
    lowest = cuts.lowest[best]
    below = cuts.lowest[min(best + 1, len(cuts.lowest) - 1)]
    return Threshold(float((lowest + below) / 2), reached)


def best_threshold(scores: NDArray[np.floating], truth: NDArray[np.int8]) -> float:
    """The score with the highest F1 as a threshold; the highest of equal ones.

    It is a score itself, so on the scores that it was chosen on nothing lies between it and the next.

    Args:
        scores: (M,) of one class, or of all entries together.
        truth: (M,) codes.

    Returns: a score, or infinity where nothing is present, so that nothing is predicted.
    """
    cuts = _cuts(scores, truth)
    return float(cuts.lowest[_best_cut(cuts, Rule("f1"))[0]]) if cuts.positives else math.inf


def class_thresholds(scores: Scores, truth: Codes) -> Floats:
    """(C,) `best_threshold` of each class, from scores and truth (N, C)."""
    return np.array([best_threshold(scores[:, k], truth[:, k]) for k in range(truth.shape[1])], dtype=np.float64)


class _Cuts(NamedTuple):
    """The ways to cut a ranking, the highest threshold first; (K,) each. Equal scores are on one side."""

    lowest: Floats
    """The lowest score that is a prediction."""
    true: Index
    """Predictions that are present."""
    chosen: Index
    """Predictions."""
    positives: int
    """All that are present."""
    negatives: int


def _cuts(scores: NDArray[np.floating], truth: NDArray[np.int8]) -> _Cuts:
    known = truth != UNKNOWN
    order = np.argsort(-scores[known], kind="stable")
    ranked, present = scores[known][order].astype(np.float64), truth[known][order] == PRESENT
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], len(ranked) > 0))
    positives = int(present.sum())
    return _Cuts(ranked[last], np.cumsum(present)[last], last + 1, positives, len(ranked) - positives)


def _best_cut(cuts: _Cuts, rule: Rule) -> tuple[int, bool]:
    """Number of the cut to take, and whether it is as wanted."""
    true, chosen = cuts.true, cuts.chosen
    precision, recall = true / chosen, true / cuts.positives
    if rule.aim == "f1":
        return int(np.argmax(2 * true / (chosen + cuts.positives))), True
    if rule.aim == "youden":
        return int(np.argmax(recall - (chosen - true) / max(cuts.negatives, 1))), True
    if rule.aim == "recall":
        return int(np.argmax(recall >= rule.least)), True
    enough = precision >= rule.least
    wanted = enough if enough.any() else precision == precision.max()
    return int(np.argmax(np.where(wanted, recall, -1.0))), bool(enough.any())


def choose_thresholds(
    scores: Scores, truth: Codes, rule: Rule, enough_positives: int = ENOUGH_POSITIVES
) -> ClassThresholds:
    """The threshold of every class; a class with too few known positives has that of all entries together.

    Args:
        scores: (N, C) logits or probabilities.
        truth: (N, C) codes.
        rule: what they are chosen for.
        enough_positives: fewer are too few.
    """
    common = choose_threshold(scores.ravel(), truth.ravel(), rule)
    positives = (truth == PRESENT).sum(axis=0)
    own = positives >= enough_positives
    each = [choose_threshold(scores[:, k], truth[:, k], rule) if own[k] else common for k in range(truth.shape[1])]
    return ClassThresholds(
        np.array([one.value for one in each], dtype=np.float64),
        own,
        np.array([one.reached for one in each], dtype=bool),
        positives,
    )
