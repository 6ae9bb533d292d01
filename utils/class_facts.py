"""Facts about each class of a training set, each with its origin. C classes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class ClassCounts(NamedTuple):
    """Positives per class (C,) and their origin, so that clean counts are never used unnoticed."""

    values: NDArray[np.int64]
    origin: str  # observed | candidate | clean


class ClassPriors(NamedTuple):
    """Share of images that each class is in (C,), and its origin, so that estimates are never taken for counts."""

    values: NDArray[np.float64]
    origin: str  # given | observed | ignore_model | candidate_rate


class NoiseRates(NamedTuple):
    """Chances of wrong labels by class (C, 2): of an absent label to be seen as present, of a present one as absent."""

    values: NDArray[np.float64]
    origin: tuple[str, ...]  # of each class: given, or how it was estimated
