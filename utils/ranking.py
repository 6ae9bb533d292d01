"""Recall and precision at the top of each image's ranking, metrics of the single-positive papers beside mAP.

N images, C classes. After Cole et al. (CVPR 2021, arXiv 2106.09708; published code
elijahcole/single-positive-multi-label, `metrics.py`). All values are fractions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from utils.metrics import Scores, top_mask
from utils.types import PRESENT, UNKNOWN, Codes

RANKS = (1, 3, 5)
"""The k that the papers report."""


class AtRank(NamedTuple):
    """Metrics of the k labels that score highest in an image; means over images."""

    rec: float
    """Present labels among the k, divided by all present labels; 0 for an image without any."""
    prec: float
    """Present labels among the k, divided by k."""
    top: float
    """Share of images with a present label among the k."""


def at_rank(scores: Scores, truth: Codes, k: int) -> AtRank:
    """Recall and precision of the k highest scores of each image, averaged over images.

    Of equal scores the class listed last comes first, as in a stable sort read backwards. Labels of unknown truth are
    ranked too, because a prediction must not depend on the truth, but those among the k count neither as correct nor as
    wrong: precision is then of the rest of the k, 0 where that is none. Where there are fewer classes than k all are
    taken, and precision still divides by k.

    Args:
        scores: (N, C) higher means more likely present.
        truth: (N, C) 1 present, 0 absent, -1 unknown.
        k: at least 1.

    Returns:
        The metrics; all 0 without images.

    Raises:
        ValueError: shapes differ, a score is NaN, or k is below 1.
    """
    if scores.shape != truth.shape or scores.ndim != 2:
        raise ValueError(f"scores {scores.shape} and truth {truth.shape} must both be (N, C)")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN, which has no rank")
    if not scores.size:
        return AtRank(0.0, 0.0, 0.0)
    chosen = top_mask(scores[:, ::-1], k)[:, ::-1]  # `top_mask` takes the first of equal scores
    present = truth == PRESENT
    hits = (chosen & present).sum(axis=1)
    known = k - (chosen & (truth == UNKNOWN)).sum(axis=1)
    recall = hits / np.maximum(present.sum(axis=1), 1)
    return AtRank(float(recall.mean()), float((hits / np.maximum(known, 1)).mean()), float((hits > 0).mean()))


def ranking_figures(scores: Scores, truth: Codes, ranks: Sequence[int] = RANKS) -> dict[str, float]:
    """`at_rank` at several k, each metric by its name: "rec@1", "prec@1", "top@1", "rec@3", ..."""
    found = {k: at_rank(scores, truth, k)._asdict() for k in ranks}
    return {f"{name}@{k}": value for k, figures in found.items() for name, value in figures.items()}
