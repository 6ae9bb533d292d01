"""Figures of several seeds: mean, standard deviation, and paired differences with a t interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Spread(NamedTuple):
    """The figures of some seeds."""

    seeds: int
    mean: float
    deviation: float | None
    """Standard deviation over n - 1; None of a single seed."""


class Difference(NamedTuple):
    """The mean of what one way gains over another by the same seeds, and its interval."""

    seeds: int
    mean: float
    low: float | None
    """Ends of the interval; None of a single seed."""
    high: float | None

    @property
    def is_clear(self) -> bool:
        """True if the interval leaves out zero."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation of at least one figure."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(len(values), float(np.mean(values)), deviation)


def paired_difference(ours: Mapping[int, float], base: Mapping[int, float], level: float = 0.95) -> Difference | None:
    """The gain over a baseline on the seeds that both have; None where they share none.

    Args:
        ours: figures by seed.
        base: those of the baseline.
        level: probability with which Student's t interval of the paired differences holds the true mean.
    """
    gains = [ours[seed] - base[seed] for seed in ours if seed in base]
    if not gains:
        return None
    found = spread(gains)
    if found.deviation is None:
        return Difference(1, found.mean, None, None)
    reach = float(stats.t.ppf((1 + level) / 2, found.seeds - 1)) * found.deviation / math.sqrt(found.seeds)
    return Difference(found.seeds, found.mean, found.mean - reach, found.mean + reach)
