"""Parts of a set of images in which every class has its share of the positives. N images, C classes, K parts.

Iterative stratification: Sechidis, Tsoumakas and Vlahavas, On the Stratification of Multi-Label Data (ECML PKDD 2011),
Algorithm 1. The draws are those of the package iterative-stratification, whose time grows with N C^2 and which has all
N x C labels in memory several times; here both grow with the number of positives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array


def stratified_parts(present: csr_array, shares: Sequence[float], seed: int) -> NDArray[np.int64]:
    """(N,) the part, 0 to K - 1, of each image, drawn so that parts have their shares of images and of each class.

    Args:
        present: (N, C), whose stored entries are the positives, each once.
        shares: of the K parts; their sum is 1.
        seed: below 2^32.
    """
    rng = np.random.RandomState(seed)  # the generator of scikit-learn's splitters
    order = np.arange(present.shape[0])
    rng.shuffle(order)
    parts = np.empty(len(order), dtype=np.int64)
    parts[order] = _in_this_order(csr_array(present[order]), np.asarray(shares, dtype=np.float64), rng)
    return parts


def _in_this_order(present: csr_array, shares: NDArray[np.float64], rng: np.random.RandomState) -> NDArray[np.int64]:
    """(N,) the parts of images that are taken class by class, the rarest of those left first."""
    images, classes = present.shape
    of_class, left = present.tocsc(), np.bincount(present.indices, minlength=classes)
    state = _Wanted(shares * images, np.outer(shares, left), rng)
    parts = np.full(images, -1, dtype=np.int64)
    while left.any():
        rarest = _one_of(np.flatnonzero(left == left[left > 0].min()), rng)
        rows = np.sort(of_class.indices[of_class.indptr[rarest] : of_class.indptr[rarest + 1]])
        for row in rows[parts[rows] < 0].tolist():
            labels = present.indices[present.indptr[row] : present.indptr[row + 1]]
            parts[row] = state.taken(state.of_class[:, rarest], labels)
            left[labels] -= 1
    nothing = np.empty(0, dtype=np.int64)
    for row in np.flatnonzero(parts < 0).tolist():  # images without any class
        parts[row] = state.taken(np.zeros(len(shares)), nothing)
    return parts


class _Wanted:
    """How many images, and how many positives of each class, each part still wants.

    Args:
        images: (K,).
        of_class: (K, C).
        rng: for parts that want as much.
    """

    def __init__(self, images: NDArray[np.float64], of_class: NDArray[np.float64], rng: np.random.RandomState) -> None:
        self.images, self.of_class, self._rng = images, of_class, rng

    def taken(self, wanted: NDArray[np.float64], labels: NDArray[np.integer]) -> int:
        """The part that takes an image: it wants most of `wanted` (K,), then most images.

        Args:
            wanted: (K,).
            labels: of the image.
        """
        most = np.flatnonzero(wanted == wanted.max())
        if len(most) > 1:
            most = most[self.images[most] == self.images[most].max()]
        part = _one_of(most, self._rng)
        self.of_class[part, labels] -= 1
        self.images[part] -= 1
        return part


def _one_of(choices: NDArray[np.int64], rng: np.random.RandomState) -> int:
    """One of some numbers; nothing is drawn for one."""
    return int(choices[0] if len(choices) == 1 else choices[rng.choice(len(choices))])
