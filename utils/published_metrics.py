"""Figures as the code of CSRA, and CoNeS after it, or of L48 computes them, for comparisons with published tables.

N images, C classes. Source: Kevinz-code/CSRA, `utils/evaluation/cal_mAP.py` and `cal_PR.py`; how they differ from
`utils.metrics`: docs/training.md. All values are fractions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.metrics import Scores, Tally, average_precision, count_predictions, with_f1
from utils.types import PRESENT, UNKNOWN, Codes


def published_figures(logits: Scores, truth: Codes) -> dict[str, float]:
    """mAP, CP, CR, CF1, OP, OR, OF1 by the published evaluators.

    Scores are sigmoids in single precision, so that saturated ones are equal; of equal scores whichever the sorting
    algorithm leaves first is first. A class in which nothing is predicted counts as one false prediction. A class
    without positives, which stops the published code, is left out of mAP, CR and CF1.

    Args:
        logits: (N, C).
        truth: (N, C) 1 present, 0 absent, -1 unknown; unknown entries are left out of their class.
    """
    scores = sigmoid(logits)
    present, known = truth == PRESENT, truth != UNKNOWN
    precisions = [
        arbitrary_average_precision(scores[rows, label], present[rows, label])
        for label, rows in enumerate(known.T)
        if present[rows, label].any()
    ]
    counts = count_predictions(scores >= 0.5, present, known)
    return {"mAP": float(np.mean(precisions)) if precisions else 0.0, **_ratios(counts)}


def full_row_figures(logits: Scores, truth: Codes) -> dict[str, float] | None:
    """MAP over the images without any unknown label, a class without a positive among them counting 0.

    Source: cvl-umass/l48-benchmarking (L48), which leaves out images, not entries, and averages scikit-learn's average
    precision over all classes.

    Args:
        logits: (N, C).
        truth: (N, C) 1 present, 0 absent, -1 unknown.

    Returns:
        `mAP`, a fraction; None without such an image.
    """
    rows = (truth != UNKNOWN).all(axis=1)
    if not rows.any():
        return None
    precisions = [average_precision(logits[rows, label], truth[rows, label]) for label in range(truth.shape[1])]
    return {"mAP": float(np.nan_to_num(precisions).mean())}


def sigmoid(logits: Scores) -> NDArray[np.float64]:
    """Probabilities of logits, computed in single precision."""
    values = np.asarray(logits, dtype=np.float32)
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-values)), dtype=np.float64)


def arbitrary_average_precision(scores: NDArray[np.float64], present: NDArray[Any]) -> float:
    """Mean precision at the rank of each positive of one class, equal scores in the order NumPy's sort gives them."""
    hits = present[np.argsort(-scores)].astype(bool)
    return float(np.mean(np.cumsum(hits)[hits] / (np.flatnonzero(hits) + 1)))


def _ratios(counts: Tally) -> dict[str, float]:
    """Precision, recall and F1 with one prediction for each class that has none."""
    chosen, some = np.maximum(counts.chosen, 1), counts.positives > 0
    recalls = counts.true[some] / counts.positives[some]
    by_class = with_f1(float(np.mean(counts.true / chosen)), float(recalls.mean()) if recalls.size else 0.0)
    overall = with_f1(
        float(counts.true.sum() / chosen.sum()), float(counts.true.sum() / max(counts.positives.sum(), 1))
    )
    return dict(zip(("CP", "CR", "CF1", "OP", "OR", "OF1"), (*by_class, *overall), strict=True))
