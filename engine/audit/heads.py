"""Linear heads on frozen features, one per class, that learn from known labels alone, and their scores out of fold.

N images, D features, C classes, K folds. All classes of a fold share one bound of the Hessian (Böhning and Lindsay,
Annals of the Institute of Statistical Mathematics 1988), so that one factorisation serves all of their steps. That is
the reason for a solver of our own: a library's fits one class at a time, on rows of its own where labels are unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, eigh
from scipy.special import expit

from utils.types import PRESENT, UNKNOWN, Codes, Index

Floats = NDArray[np.float32]

STRENGTHS = (30.0, 100.0, 300.0, 1000.0, 3000.0)
"""Penalties of squared weights that are tried, beside the sum of the losses."""
_MOST_FEATURES = 512  # directions that are kept; the others hold little, and time grows with the number
STEPS = 100
_TOLERATED = 1.05
_FREE = 1e-4  # of the penalty, for biases: enough to keep a matrix from being singular
_BLOCK = 4096  # images that are projected at a time


class Heads(NamedTuple):
    """Weights (D, C) and biases (C,)."""

    weights: Floats
    biases: Floats

    def logits(self, features: Floats) -> Floats:
        """(B, C) of features (B, D)."""
        found: Floats = features @ self.weights + self.biases
        return found


def principal(features: NDArray[np.floating], most: int = _MOST_FEATURES) -> Floats:
    """Features (N, D), each with mean 0 and variance 1, in the directions (N, min(D, most)) in which they vary most.

    The directions are sorted by what they hold, and have the sign that makes their largest part positive.
    """
    mean, deviation = (part(axis=0, dtype=np.float64) for part in (features.mean, features.std))
    scaled = features.astype(np.float32) - mean.astype(np.float32)
    scaled /= np.where(deviation > 0, deviation, 1).astype(np.float32)
    width = scaled.shape[1]
    first = max(0, width - most)
    _, directions = eigh(scaled.T @ scaled, subset_by_index=(first, width - 1))
    directions = directions[:, ::-1]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=0)[None], axis=0)
    directions = (directions * np.sign(largest)).astype(np.float32)
    parts = [scaled[start : start + _BLOCK] @ directions for start in range(0, len(scaled), _BLOCK)]
    return np.concatenate(parts) if parts else scaled


def fit_heads(features: Floats, codes: Codes, strength: float, steps: int = STEPS) -> Heads:
    """Logistic regressions of C classes, each on the images of which its label is known.

    Nesterov's accelerated gradient, preconditioned by the shared bound of the Hessian; biases are as good as free.

    Args:
        features: (N, D).
        codes: (N, C) labels; each class has a present and an absent one.
        strength: penalty of squared weights, above 0: half of it times their sum, beside the sum of the losses.
        steps: number of steps.
    """
    inputs = np.hstack([features, np.ones((len(features), 1), dtype=np.float32)])
    known, present = (codes != UNKNOWN).astype(np.float32), (codes == PRESENT).astype(np.float32)
    penalty = np.full(inputs.shape[1], strength, dtype=np.float32)
    penalty[-1] *= _FREE
    inverse = _inverse_bound(inputs, penalty)
    share = present.sum(axis=0) / known.sum(axis=0)
    weights = np.zeros((len(penalty), codes.shape[1]), dtype=np.float32)
    weights[-1] = np.log(share / (1 - share))
    ahead, momentum = weights, 1.0
    for _ in range(steps):
        residual = known * (expit(inputs @ ahead) - present)
        new = ahead - inverse @ (inputs.T @ residual + penalty[:, None] * ahead)
        grown = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + np.float32((momentum - 1) / grown) * (new - weights)
        weights, momentum = new, grown
    return Heads(weights[:-1], weights[-1])


def _inverse_bound(inputs: Floats, penalty: Floats) -> Floats:
    """(D, D) inverse of what no Hessian of these inputs (N, D) exceeds, whichever labels are known."""
    bound = inputs.T @ inputs / 4 + np.diag(penalty)
    found: Floats = cho_solve(cho_factor(bound), np.eye(len(bound), dtype=np.float32))
    return found


def out_of_fold(features: Floats, codes: Codes, folds: Index, strength: float) -> Floats:
    """Logits (N, C) of each image by heads that have not learned from its fold.

    Args:
        features: (N, D).
        codes: (N, C).
        folds: (N,) the fold of each image; every class has a present and an absent label outside of each.
        strength: as in `fit_heads`.
    """
    logits = np.empty(codes.shape, dtype=np.float32)
    for fold in np.unique(folds):
        logits[folds == fold] = _logits_of(features, codes, folds == fold, strength)
    return logits


def choose_strength(features: Floats, codes: Codes, folds: Index, strengths: Sequence[float] = STRENGTHS) -> float:
    """The highest strength whose loss on the known labels of the first fold is at most 5 % above the lowest.

    Stronger heads follow wrong labels less; on corrupted photographs they find more of them at a slightly higher loss.

    Args:
        features: (N, D).
        codes: (N, C).
        folds: (N,).
        strengths: those that are tried.
    """
    held_out = folds == folds.min()
    losses = {one: _loss(_logits_of(features, codes, held_out, one), codes[held_out]) for one in strengths}
    enough = _TOLERATED * min(losses.values())
    return max(one for one, loss in losses.items() if loss <= enough)


def _logits_of(features: Floats, codes: Codes, held_out: NDArray[np.bool_], strength: float) -> Floats:
    """Logits of the images that are held out, by heads that learn from the others."""
    return fit_heads(features[~held_out], codes[~held_out], strength).logits(features[held_out])


def _loss(logits: Floats, codes: Codes) -> float:
    """Mean binary cross-entropy of known labels."""
    values = logits.astype(np.float64)
    losses = np.logaddexp(0, values) - values * (codes == PRESENT)
    return float(losses[codes != UNKNOWN].mean())
