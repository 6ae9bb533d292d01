"""Uncertainty of average precision by the bootstrap: images drawn anew, whole groups of them where there are groups.

N images, C classes, U units (groups, or images without groups), D draws. A draw takes U units with replacement and
keeps the scores as they are. Images of one patient, burst or recording are no independent evidence: drawn one by one
they make intervals that are too narrow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from utils.types import ABSENT, PRESENT, UNKNOWN, Codes, Index

Floats = NDArray[np.float64]
Weights = NDArray[np.float32]

DRAWS = 1000
"""Enough for the ends of a 95 % interval."""
_HELD = 10_000_000  # weights held at a time, 40 MB


class Interval(NamedTuple):
    """Ends of an interval, NaN where there is none."""

    low: float
    high: float


class Uncertainty(NamedTuple):
    """Percentile intervals of average precision and its mean."""

    units: int
    draws: int
    level: float
    mAP: Interval  # noqa: N815 - the field's own spelling
    low: Floats
    """(C,) ends of the interval of each class; NaN of a class with positives, or negatives, in fewer than two units."""
    high: Floats

    def texts(self) -> list[str]:
        """The interval of each class in percent, `-` where there is none."""
        ends = zip(self.low.tolist(), self.high.tolist(), strict=True)
        return ["-" if np.isnan(low) else f"{100 * low:.1f}-{100 * high:.1f}" for low, high in ends]


def bootstrap(
    scores: NDArray[np.floating[Any]],
    truth: Codes,
    groups: Index | None,
    *,
    draws: int,
    seed: int = 0,
    level: float = 0.95,
) -> Uncertainty:
    """Uncertainty of the average precision of each class, and of their mean, by the percentile bootstrap.

    A draw without a positive, or without a negative, of a class says nothing of it and is left out there; the mean of a
    draw is over the classes that it has.

    Args:
        scores: (N, C) higher means more likely present.
        truth: (N, C) 1 present, 0 absent, -1 unknown, which is left out of its class.
        groups: (N,) what each image belongs to; None where each stands for itself.
        draws: D, at least 1.
        seed: of the draws.
        level: share of the draws within the interval.

    Raises: ValueError when shapes differ, or there is no image or draw.
    """
    if scores.shape != truth.shape or not len(scores) or draws < 1:
        raise ValueError(f"scores {scores.shape} and truth {truth.shape} must both be (N, C), N and draws at least 1")
    unit = np.arange(len(scores)) if groups is None else np.unique(groups, return_inverse=True)[1]
    units = int(unit.max()) + 1
    parts = [
        np.stack([_drawn_precision(*column, weights) for column in zip(scores.T, truth.T, strict=True)])
        for weights in drawn_weights(unit, units, draws, seed)
    ]
    values = np.concatenate(parts, axis=1)
    several = np.array([_is_in_several(column, unit) for column in truth.T])
    low, high = _ends(np.where(several[:, None], values, np.nan), level)
    of_mean = _ends(_means(values)[None], level)
    return Uncertainty(units, draws, level, Interval(*(float(end[0]) for end in of_mean)), low, high)


def drawn_weights(unit: Index, units: int, draws: int, seed: int) -> Iterator[Weights]:
    """(N, d) how often each image is in each of some draws, until there were D.

    Args:
        unit: (N,) the unit of each image, from 0.
        units: U.
        draws: D.
        seed: of the draws; the first ones are the same however many follow.
    """
    rng = np.random.default_rng(seed)
    at_a_time = max(1, _HELD // len(unit))
    for start in range(0, draws, at_a_time):
        count = min(at_a_time, draws - start)
        taken = np.empty((count, units), dtype=np.float32)
        for draw in range(count):
            taken[draw] = np.bincount(rng.integers(0, units, units), minlength=units)
        yield np.ascontiguousarray(taken.T)[unit]


def weighted_average_precision(
    scores: NDArray[np.floating[Any]], present: NDArray[np.bool_], weights: Weights, rows: Index | None = None
) -> Floats:
    """(d,) average precision of one class where each image counts as often as its weight; equal scores enter together.

    For each positive: (weight of the positives scoring at least as much) / (weight of all that do), averaged by the
    weights of the positives. NaN without positives.

    Args:
        scores: (M,).
        present: (M,).
        weights: (N, d) of d draws.
        rows: (M,) the rows of `weights` that scores are of; None where these are all, in order.
    """
    rows = np.arange(len(scores)) if rows is None else rows
    levels = np.unique(scores[present])  # only there can a positive enter
    if not len(levels):
        return np.full(weights.shape[1], np.nan)
    reached = len(levels) - np.searchsorted(levels, scores, side="right")  # 0: scores at least the highest level
    every = np.cumsum(_sums(reached, rows, weights, len(levels)), axis=0)
    gained = _sums(reached[present], rows[present], weights, len(levels))
    precision = np.cumsum(gained, axis=0) / np.maximum(every, 1)
    total = gained.sum(axis=0)
    return np.where(total > 0, (gained * precision).sum(axis=0) / np.maximum(total, 1), np.nan)


def _sums(level: Index, rows: Index, weights: Weights, levels: int) -> Floats:
    """(L, d) sums of the weights (N, d) of the M `rows` of each of L levels, those of further levels left out."""
    kept = level < levels
    ones = np.ones(int(kept.sum()), dtype=np.float32)
    adding = csr_array((ones, (level[kept], rows[kept])), shape=(levels, len(weights)))
    return np.asarray(adding @ weights, dtype=np.float64)


def _drawn_precision(scores: NDArray[np.floating[Any]], truth: NDArray[np.int8], weights: Weights) -> Floats:
    """(d,) average precision of one class in some draws; NaN in those without a positive or without a negative."""
    known = np.flatnonzero(truth != UNKNOWN)
    values = weighted_average_precision(scores[known], truth[known] == PRESENT, weights, known)
    negatives = (truth == ABSENT).astype(np.float32) @ weights
    return np.where(negatives > 0, values, np.nan)


def _is_in_several(truth: NDArray[np.int8], unit: Index) -> bool:
    """True for a class with positives in two units or more, and with negatives in two or more."""
    known = truth != UNKNOWN
    return all(len(np.unique(unit[known & (truth == code)])) > 1 for code in (PRESENT, ABSENT))


def _means(values: Floats) -> Floats:
    """(D,) means over the classes of values (C, D), NaN left out; NaN where there is no other."""
    told = ~np.isnan(values)
    sums, counts = np.where(told, values, 0.0).sum(axis=0), told.sum(axis=0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _ends(values: Floats, level: float) -> tuple[Floats, Floats]:
    """(K,) ends of the intervals of values (K, D), NaN left out; NaN where there is no other."""
    ends = np.full((2, len(values)), np.nan)
    some = ~np.isnan(values).all(axis=1)
    if some.any():
        ends[:, some] = np.nanquantile(values[some], [(1 - level) / 2, (1 + level) / 2], axis=1)
    return ends[0], ends[1]
