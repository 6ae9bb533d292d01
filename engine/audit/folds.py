"""Folds in which every class has its share, and no group is taken apart. N images, C classes, U units, K folds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from data.subsets.stratification import stratified_parts
from utils.seeding import derive_seed
from utils.types import ABSENT, PRESENT, Codes, Index


def joined_groups(groups: Index | None, pairs: Index, images: int) -> Index:
    """(N,) the number of the unit of each image: images of one group, or of one pair, are in one unit.

    Args:
        groups: (N,) what each image belongs to; None where each stands for itself.
        pairs: (P, 2) images that belong together besides.
        images: N.
    """
    own = np.arange(images) if groups is None else np.unique(groups, return_inverse=True)[1]
    first = np.full(int(own.max(initial=-1)) + 1, images, dtype=np.int64)
    np.minimum.at(first, own, np.arange(images))
    edges = np.concatenate([np.stack([np.arange(images), first[own]], axis=1), pairs.reshape(-1, 2)])
    graph = csr_array((np.ones(len(edges), dtype=bool), (edges[:, 0], edges[:, 1])), shape=(images, images))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def stratified_folds(codes: Codes, units: Index, folds: int, seed: int) -> Index:
    """(N,) the fold, 0 to K - 1, of each image: whole units, by iterative stratification of the labels of units.

    Args:
        codes: (N, C).
        units: (N,) which images stay together, numbered from 0.
        folds: K, at most the number of units.
        seed: of the choice.

    Raises:
        ValueError: there are fewer units than folds.
    """
    number = int(units.max(initial=-1)) + 1
    if number < folds:
        raise ValueError(f"{number} units make no {folds} folds")
    labels = np.hstack([_any(codes == PRESENT, units, number), _any(codes == ABSENT, units, number)])
    shares = folds * [1 / folds]
    return stratified_parts(csr_array(labels), shares, derive_seed("audit folds", seed) % 2**32)[units]


def least_outside(codes: Codes, folds: Index) -> Index:
    """(C,) the smallest number of present, or of absent, labels that any fold leaves for the others to learn from."""
    smallest = np.full(codes.shape[1], len(codes), dtype=np.int64)
    for fold in np.unique(folds):
        others = codes[folds != fold]
        for code in (PRESENT, ABSENT):
            smallest = np.minimum(smallest, (others == code).sum(axis=0))
    return smallest


def _any(marks: NDArray[np.bool_], units: Index, number: int) -> NDArray[np.bool_]:
    """(U, C) whether any image of a unit has a mark (N, C)."""
    found = np.zeros((number, marks.shape[1]), dtype=bool)
    np.logical_or.at(found, units, marks)
    return found
