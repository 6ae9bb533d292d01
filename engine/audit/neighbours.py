"""Images that look alike by their features: what labels they have, and which are nearly the same image.

N images, D features, C classes, J neighbours, P pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.audit.heads import Floats
from utils.types import PRESENT, UNKNOWN, Codes, Index

NEIGHBOURS = 30
_SHARPNESS = 10.0  # by which a neighbour of cosine 1 outweighs one of cosine 0.9: exp(1)
_PRIOR = 1.0  # neighbours whose votes the share of the class stands for
_BLOCK = 1024  # images whose cosines to all others are in memory at a time


class Neighbours(NamedTuple):
    """The images that are most alike."""

    rows: Index
    """(N, J) the nearest first."""
    cosine: Floats
    """(N, J); -1 where there is none left, as all others are in the unit of the image."""


def unit_vectors(features: NDArray[np.floating]) -> Floats:
    """Features (N, D) without their mean, each image's at length 1, those without any length as they are."""
    centred: Floats = features.astype(np.float32) - features.mean(axis=0, dtype=np.float64).astype(np.float32)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    centred /= np.where(length > 0, length, 1)
    return centred


def near_duplicates(vectors: Floats, least: float) -> tuple[Index, Floats]:
    """Pairs (P, 2) of images with a cosine of `least` and more, the lower row first, and their cosines (P,).

    Args:
        vectors: (N, D) of length 1.
        least: above 0.
    """
    pairs, cosines = [np.empty((0, 2), dtype=np.int64)], [np.empty(0, dtype=np.float32)]
    for start in range(0, len(vectors), _BLOCK):
        alike = vectors[start : start + _BLOCK] @ vectors[start:].T
        row, other = np.nonzero(alike >= least)
        kept = row < other
        pairs.append(np.stack([row[kept], other[kept]], axis=1).astype(np.int64) + start)
        cosines.append(alike[row[kept], other[kept]])
    return np.concatenate(pairs), np.concatenate(cosines)


def nearest(vectors: Floats, units: Index, count: int = NEIGHBOURS) -> Neighbours:
    """The nearest images of each that are not of its unit.

    Args:
        vectors: (N, D) of length 1.
        units: (N,) which images belong together.
        count: J, or fewer where there are fewer others.
    """
    count = min(count, len(vectors) - 1)
    rows, cosine = [np.empty((0, count), dtype=np.int64)], [np.empty((0, count), dtype=np.float32)]
    for start in range(0, len(vectors), _BLOCK):
        alike = vectors[start : start + _BLOCK] @ vectors.T
        alike[units[start : start + _BLOCK, None] == units[None, :]] = -1
        found = np.argpartition(-alike, count - 1, axis=1)[:, :count]
        values = np.take_along_axis(alike, found, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        rows.append(np.take_along_axis(found, order, axis=1))
        cosine.append(np.take_along_axis(values, order, axis=1))
    return Neighbours(np.concatenate(rows), np.concatenate(cosine))


def neighbour_votes(neighbours: Neighbours, codes: Codes) -> NDArray[np.float64]:
    """(N, C) share of the neighbours, by weight, that are labelled present, as a logit; who does not know has no vote.

    The share of the class among all known labels counts like one neighbour of mean weight.

    Args:
        neighbours: of each image.
        codes: (N, C); each class has a present and an absent label.
    """
    weight = np.exp(_SHARPNESS * neighbours.cosine.astype(np.float64)) * (neighbours.cosine > -1)
    base = (codes == PRESENT).sum(axis=0) / (codes != UNKNOWN).sum(axis=0)
    prior = _PRIOR * weight.mean(axis=1)
    prior = np.where(prior > 0, prior, 1.0)[:, None]
    votes = np.empty(codes.shape, dtype=np.float64)
    for label in range(codes.shape[1]):
        theirs = codes[:, label][neighbours.rows]
        present = (weight * (theirs == PRESENT)).sum(axis=1, keepdims=True)
        known = (weight * (theirs != UNKNOWN)).sum(axis=1, keepdims=True)
        share = (present + prior * base[label]) / (known + prior)
        votes[:, label] = np.log(share / (1 - share))[:, 0]
    return votes
