"""Probabilities of all labels of a dataset by what the labels of other images say. N images, D features, C classes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.audit.folds import joined_groups, least_outside, stratified_folds
from engine.audit.heads import Floats, choose_strength, out_of_fold, principal
from engine.audit.neighbours import Neighbours, near_duplicates, nearest, neighbour_votes, unit_vectors
from engine.audit.ranking import Probabilities, Thresholds, calibrated, thresholds
from utils.checks import require
from utils.types import ABSENT, PRESENT, Codes, Index


class Plan(NamedTuple):
    """How images are scored."""

    folds: int
    least: int
    """Present, and absent, labels that a class needs to be ranked."""
    duplicates: float
    """Cosine of features from which on two images are nearly the same."""
    seed: int


class Scored(NamedTuple):
    """Probabilities of all labels, and what was found on the way."""

    probabilities: Probabilities
    """(N, C) that a label is given as present, by images of other units; NaN for classes that are not ranked."""
    limits: Thresholds
    ranked: NDArray[np.bool_]
    """(C,) the classes with enough labels."""
    pairs: Index
    """(P, 2) images that are nearly the same."""
    cosines: Floats
    """(P,)."""
    units: Index
    """(N,) images of one group, or nearly the same."""
    vectors: Floats
    """(N, D') of length 1, for distances between images; D' 0 where there are no features."""
    logits: Floats
    """(N, C) out of fold, NaN where not ranked; what the probabilities are made of besides neighbours."""
    neighbours: Neighbours | None = None
    """Of each image; None where there are no features."""


def ranked_classes(codes: Codes, least: int) -> NDArray[np.bool_]:
    """(C,) True for each class with `least` present and as many absent labels."""
    counts = np.stack([(codes == code).sum(axis=0) for code in (PRESENT, ABSENT)])
    found: NDArray[np.bool_] = counts.min(axis=0) >= least
    return found


def score_features(features: NDArray[np.floating], codes: Codes, groups: Index | None, plan: Plan) -> Scored:
    """Score the labels of images by their features: heads out of fold, and neighbours.

    Images of one group, and such as are nearly the same, are scored by the labels of other images only.

    Args:
        features: (N, D).
        codes: (N, C).
        groups: (N,) what each image belongs to; None where each stands for itself.
        plan: how.

    Raises:
        UserError: so many images are nearly the same that folds cannot be made of the others.
    """
    vectors = unit_vectors(features)
    pairs, cosines = near_duplicates(vectors, plan.duplicates)
    units = joined_groups(groups, pairs, len(codes))
    _require_parts(units, joined_groups(groups, pairs[:0], len(codes)), plan)
    folds = stratified_folds(codes, units, plan.folds, plan.seed)
    usable = ranked_classes(codes, plan.least) & (least_outside(codes, folds) > 0)
    logits = np.full(codes.shape, np.nan, dtype=np.float32)
    probabilities = np.full(codes.shape, np.nan)
    neighbours = nearest(vectors, units)
    if usable.any():
        labels, inputs = np.ascontiguousarray(codes[:, usable]), principal(features)
        logits[:, usable] = out_of_fold(inputs, labels, folds, choose_strength(inputs, labels, folds))
        votes = neighbour_votes(neighbours, labels)
        probabilities[:, usable] = _probabilities(logits[:, usable], votes, labels)
    limits = thresholds(probabilities, codes)
    return Scored(probabilities, limits, usable, pairs, cosines, units, vectors, logits, neighbours)


def _require_parts(units: Index, groups: Index, plan: Plan) -> None:
    """Raise UserError where images that are nearly the same are chained to a unit that fills a fold.

    Args:
        units: (N,) images of one group, or nearly the same.
        groups: (N,) images of one group.
        plan: how images are scored.
    """
    largest, usual = (int(np.bincount(each).max()) for each in (units, groups))
    require(
        largest <= max(usual, len(units) // plan.folds) and int(units.max()) + 1 >= plan.folds,
        f"--duplicates {plan.duplicates}: {largest:,} of {len(units):,} images are nearly the same as another of them, "
        "one by one; give a higher cosine, up to 1",
    )


def _probabilities(logits: Floats, votes: NDArray[np.float64], codes: Codes) -> Probabilities:
    """(N, C) that labels are given as present, by heads and neighbours.

    Neighbours find more of the missing labels; where a label is given as present they mislead more often, for of a rare
    class few of them are labelled present and some of these wrongly. There the mean with the heads alone is taken.
    """
    together = calibrated([logits, votes], codes)
    return np.where(codes == PRESENT, (together + calibrated([logits], codes)) / 2, together)


def score_given(logits: NDArray[np.floating], codes: Codes, groups: Index | None, plan: Plan) -> Scored:
    """Score the labels of images by logits (N, C) that come from elsewhere, made comparable between classes.

    Nothing is known of what looks alike: there are no pairs.
    """
    usable = ranked_classes(codes, plan.least)
    probabilities = np.full(codes.shape, np.nan)
    if usable.any():
        probabilities[:, usable] = calibrated([logits[:, usable]], codes[:, usable])
    pairs = np.empty((0, 2), dtype=np.int64)
    units, nothing = joined_groups(groups, pairs, len(codes)), np.empty((len(codes), 0), dtype=np.float32)
    known = np.where(usable, logits, np.nan).astype(np.float32)
    limits = thresholds(probabilities, codes)
    return Scored(probabilities, limits, usable, pairs, np.empty(0, dtype=np.float32), units, nothing, known)
