"""How probable it is that a label is wrong, by scores out of fold, and which labels are counted as suspicious.

N images, C classes. Thresholds are those of confident learning (Northcutt, Jiang and Chuang, Journal of Artificial
Intelligence Research 2021): the mean probability of the images that are labelled present, and of those labelled absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from utils.types import ABSENT, PRESENT, UNKNOWN, Codes, Index

Probabilities = NDArray[np.float64]

KINDS = {"missing": ABSENT, "wrong": PRESENT, "unknown": UNKNOWN}
"""Kinds of suspicious labels, and how those are given: absent and probably present, present and probably absent,
unknown and probably present."""

_WEAK = 10.0  # inverse of a penalty that only classes of a few labels feel
_LEAST_MEAN = 0.05  # probability of a class beside another that is worth a line


class Thresholds(NamedTuple):
    """Probabilities (C,) from which on a label contradicts its class, NaN for a class that is not ranked."""

    present: Probabilities
    """Mean of the images labelled present: an absent label at or above is counted as missing."""
    absent: Probabilities
    """Mean of the images labelled absent: a present label at or below is counted as wrong."""


class Ranking(NamedTuple):
    """Labels of one kind, the most suspicious first. L labels."""

    kind: str
    image: Index
    """(L,)"""
    label: Index
    """(L,)"""
    score: Probabilities
    """(L,) probability that the label is the opposite, or present where it is unknown."""
    rank: Index
    """(L,) from 1, within the class."""
    sure: NDArray[np.bool_]
    """(L,) whether the probability is beyond the threshold of the class."""


def calibrated(evidence: Sequence[NDArray[np.floating]], codes: Codes) -> Probabilities:
    """(N, C) probability that a label is given as present: one logistic regression per class on what speaks for it.

    It makes classes comparable: a head that is too sure of one class ranks it no higher.

    Args:
        evidence: each (N, C), such as logits out of fold.
        codes: (N, C); each class has a present and an absent label.
    """
    # Imported here because it takes most of a second.
    from sklearn.linear_model import LogisticRegression

    found = np.empty(codes.shape, dtype=np.float64)
    for label in range(codes.shape[1]):
        inputs = np.stack([part[:, label].astype(np.float64) for part in evidence], axis=1)
        deviation = inputs.std(axis=0)
        inputs = (inputs - inputs.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
        known = codes[:, label] != UNKNOWN
        model = LogisticRegression(C=_WEAK).fit(inputs[known], codes[known, label] == PRESENT)
        found[:, label] = expit(inputs @ model.coef_[0] + model.intercept_[0])
    return found


def thresholds(probabilities: Probabilities, codes: Codes) -> Thresholds:
    """The mean probabilities of labels of each kind; NaN where there is none, or where probabilities are NaN."""
    means = []
    for code in (PRESENT, ABSENT):
        given = codes == code
        with np.errstate(invalid="ignore"):
            means.append(np.where(given, probabilities, 0).sum(axis=0) / given.sum(axis=0))
    return Thresholds(*means)


def margins(kind: str, probabilities: Probabilities, limits: Thresholds) -> Probabilities:
    """(N, C) how far probabilities are beyond the threshold of a kind, 0 and above if they are.

    In units of the distance between both thresholds of the class, so that classes that are hard to tell compare. NaN
    for a class on which labels say nothing: images labelled present are no more probable there than those absent.
    """
    span = limits.present - limits.absent
    beyond = limits.absent - probabilities if kind == "wrong" else probabilities - limits.present
    return beyond / np.where(span > 0, span, np.nan)


def suspicion(kind: str, probabilities: Probabilities) -> Probabilities:
    """(N, C) probability that a label of a kind is the opposite of what is given."""
    return 1 - probabilities if kind == "wrong" else probabilities


def ranked(kind: str, probabilities: Probabilities, codes: Codes, limits: Thresholds) -> Ranking:
    """All labels of a kind, by probability, then class and image. Classes whose probability is NaN are left out.

    Args:
        kind: a key of `KINDS`.
        probabilities: (N, C) that a label is present.
        codes: (N, C).
        limits: of the classes.
    """
    scores = suspicion(kind, probabilities)
    image, label = np.nonzero((codes == KINDS[kind]) & np.isfinite(scores))
    score = scores[image, label]
    order = np.lexsort((image, label, -score))
    image, label, score = image[order], label[order], score[order]
    sure = margins(kind, probabilities, limits)[image, label] >= 0
    return Ranking(kind, image, label, score, _rank_within(label), sure)


def _rank_within(label: Index) -> Index:
    """(L,) from 1: how many labels of its class there are up to each."""
    order = np.argsort(label, kind="stable")
    grouped = label[order]
    starts = np.flatnonzero(np.r_[True, grouped[1:] != grouped[:-1]]) if len(label) else np.empty(0, dtype=np.int64)
    sizes = np.diff(np.r_[starts, len(label)])
    rank = np.empty(len(label), dtype=np.int64)
    rank[order] = np.arange(len(label)) - np.repeat(starts, sizes) + 1
    return rank


class AlikePair(NamedTuple):
    """A class, and one that its images look like although they are labelled without it."""

    label: int
    other: int
    images: int
    """Images labelled with the class and without the other."""
    mean: float
    """Mean probability of the other on those."""
    usual: float
    """Mean probability of the other on all images that are labelled without it."""
    swapped: int
    """Of the images, those on which the class is probably wrong and the other probably missing."""


def alike_classes(probabilities: Probabilities, codes: Codes, limits: Thresholds, least: int = 5) -> list[AlikePair]:
    """Pairs of classes that images do not tell apart well, the most alike first.

    A pair is listed if the other class is at least twice as probable beside the class as elsewhere, and 0.05 and more.

    Args:
        probabilities: (N, C).
        codes: (N, C).
        limits: of the classes.
        least: images that a pair needs.
    """
    absent = (codes == ABSENT) & np.isfinite(probabilities)
    values = np.where(absent, probabilities, 0)
    swap_from = (codes == PRESENT) & (margins("wrong", probabilities, limits) >= 0)
    swap_to = absent & (margins("missing", probabilities, limits) >= 0)
    found = []
    for label in range(codes.shape[1]):
        mine = codes[:, label] == PRESENT
        images, total = absent[mine].sum(axis=0), values[mine].sum(axis=0)
        for other in np.flatnonzero(images >= least).tolist():
            mean, usual = total[other] / images[other], values[:, other].sum() / absent[:, other].sum()
            if other != label and mean >= max(_LEAST_MEAN, 2 * usual):
                swapped = int((swap_from[:, label] & swap_to[:, other]).sum())
                found.append(AlikePair(label, other, int(images[other]), float(mean), float(usual), swapped))
    return sorted(found, key=lambda pair: (-pair.mean, pair.label, pair.other))


class Contradiction(NamedTuple):
    """A class that is present on one of two nearly equal images and absent on the other."""

    pair: int
    label: int
    present: int
    """The image that is labelled present."""
    absent: int
    """The image that is labelled absent."""


def contradictions(pairs: Index, codes: Codes) -> list[Contradiction]:
    """Classes on which pairs (P, 2) of nearly equal images disagree, pair by pair, of labels (N, C)."""
    first, second = codes[pairs[:, 0]], codes[pairs[:, 1]]
    found = []
    for pair, label in np.argwhere((first != second) & (first != UNKNOWN) & (second != UNKNOWN)).tolist():
        one, other = pairs[pair].tolist()
        found.append(Contradiction(pair, label, *((one, other) if first[pair, label] == PRESENT else (other, one))))
    return found
