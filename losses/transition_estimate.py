"""Chances of wrong labels, estimated from noisy labels and the losses of a network early in training.

N training images, C classes; i a class, k another one beside it. Source: Li et al., "Estimating Noise Transition Matrix
with Label Correlations for Noisy Multi-Label Learning", NeurIPS 2022; published code
ShikunLi/Estimating_T_For_Noisy_Mutli-Labels. Formulas, and differences from that code: docs/methods/transition.md.
"""

from __future__ import annotations

import warnings
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

KnownZero = Literal["none", "rho_neg", "rho_pos"]
"""The side of the noise that is known to be none."""

HOW = ("pairs", "anchors", "none")
"""Ways in which the rates of a class are found, by number."""

LEAST_CHOSEN = 50
"""Present and absent labels of a class that must be chosen as clean for it to be compared with others."""

_SLACK = 0.3  # divided by C: a rate that is less below 0 counts as 0
_ROWS = 65_536  # that are counted at a time

Booleans = NDArray[np.bool_]
Floats = NDArray[np.float64]


class NoiseEstimate(NamedTuple):
    """What is found of each class."""

    rates: Floats
    """(C, 2) chance of an absent label to be seen as present, and of a present one to be seen as absent."""
    how: NDArray[np.int8]
    """(C,) numbers of `HOW`."""


class LabelCounts(NamedTuple):
    """How often noisy labels come together, in all rows and in those that class i has a clean label in."""

    rows: int
    present: Floats
    """(C,) rows in which a class is present."""
    both: Floats
    """(C, C) rows in which both are."""
    clean_present: Floats
    """(C,) rows in which i is present by a clean label."""
    clean_absent: Floats
    """(C,) rows in which i is absent by a clean label."""
    present_with: Floats
    """(C, C) rows in which i is present by a clean label, and k present."""
    absent_with: Floats
    """(C, C) rows in which i is absent by a clean label, and k present."""


def low_losses(losses: Floats) -> Booleans:
    """(M,) True for losses (M,) that are more likely of the lower one of two normal distributions; all if equal."""
    if len(losses) < 2 or losses.max() == losses.min():
        return np.ones(len(losses), dtype=np.bool_)
    from sklearn.mixture import GaussianMixture  # here, because it takes longer to import than all of our own code

    upper = losses >= _split(losses)
    parts = [losses[~upper], losses[upper]]
    mixture = GaussianMixture(
        2,
        max_iter=10,
        tol=1e-2,
        reg_covar=5e-4,
        weights_init=[len(part) / len(losses) for part in parts],
        means_init=[[part.mean()] for part in parts],
        precisions_init=[[[1 / (part.var() + 5e-4)]] for part in parts],
        init_params="random_from_data",  # of which nothing is used beside the values above
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ten rounds are what is wanted, whether or not they are enough
        chances = mixture.fit(losses[:, None]).predict_proba(losses[:, None])
    return np.asarray(chances[:, mixture.means_.argmin()] > 0.5)


def _split(values: Floats) -> float:
    """The least value of the upper one of two groups of values, not all equal, that k-means would make of them."""
    ordered = np.sort(values)
    below = np.arange(1, len(ordered))
    sums = ordered.cumsum()
    gaps = sums[:-1] / below - (sums[-1] - sums[:-1]) / (len(ordered) - below)
    apart = np.where(ordered[1:] > ordered[:-1], below * (len(ordered) - below) * gaps**2, -1.0)
    return float(ordered[1 + apart.argmax()])


def clean_labels(present: Booleans, losses: Floats, known_zero: KnownZero = "none") -> Booleans:
    """(N, C) True for labels that are taken for clean: of each class and value those of low loss.

    Args:
        present: (N, C) noisy labels.
        losses: (N, C) mean scaled losses.
        known_zero: "rho_neg": no absent label is seen as present, so all that are present are clean; "rho_pos": no
            present label is seen as absent, so all that are absent are.
    """
    chosen = np.zeros_like(present)
    for label in range(present.shape[1]):
        for value, sure in ((True, known_zero == "rho_neg"), (False, known_zero == "rho_pos")):
            rows = np.flatnonzero(present[:, label] == value)
            chosen[rows, label] = True if sure else low_losses(losses[rows, label].astype(np.float64))
    return chosen


def count_labels(present: Booleans, clean: Booleans) -> LabelCounts:
    """The counts of noisy labels (N, C), of which those in `clean` (N, C) are taken for clean."""
    rows, classes = present.shape
    both, present_with, absent_with = np.zeros((3, classes, classes))
    for start in range(0, rows, _ROWS):
        seen, chosen = present[start : start + _ROWS], clean[start : start + _ROWS]
        values = seen.astype(np.float64)
        both += values.T @ values
        present_with += (seen & chosen).T.astype(np.float64) @ values
        absent_with += (~seen & chosen).T.astype(np.float64) @ values
    clean_present = (present & clean).sum(axis=0).astype(np.float64)
    clean_absent = (~present & clean).sum(axis=0).astype(np.float64)
    present_sum = present.sum(axis=0).astype(np.float64)
    return LabelCounts(rows, present_sum, both, clean_present, clean_absent, present_with, absent_with)


def _two_by_two(both: Floats, ones: Floats, others: Floats, rows: int) -> Floats:
    """(C, C, 2, 2) frequencies of two labels, from (C, C) rows in which both, one and the other are present."""
    table = [[rows - ones - others + both, others - both], [ones - both, both]]
    return np.moveaxis(np.array(table), (0, 1), (2, 3)) / rows


class PairTables(NamedTuple):
    """What the labels of class i and of class k say of each other."""

    seen: Floats
    """E (C, C, 2, 2): frequencies of the noisy label of i and the noisy label of k."""
    joint: Floats
    """J (C, C, 2, 2): frequencies of the true label of i and the noisy label of k."""
    prior: Floats
    """pi (C, C): frequency of i, as k tells it; outside [0, 1] where k tells nothing."""


def pair_tables(counts: LabelCounts) -> PairTables:
    """E, J and pi from counts; not finite where they cannot be told."""
    ones, others = np.broadcast_arrays(counts.present[:, None], counts.present[None, :])
    seen = _two_by_two(counts.both, ones, others, counts.rows)
    with np.errstate(all="ignore"):
        by_absent = counts.absent_with / counts.clean_absent[:, None]
        by_present = counts.present_with / counts.clean_present[:, None]
        given = np.moveaxis(np.array([[1 - by_absent, by_absent], [1 - by_present, by_present]]), (0, 1), (2, 3))
        absent_k = seen[..., 0, 0] + seen[..., 1, 0]
        prior = (absent_k - given[..., 0, 0]) / (given[..., 1, 0] - given[..., 0, 0])
        joint = np.stack([1 - prior, prior], axis=-1)[..., None] * given
    return PairTables(seen, joint, prior)


def pair_rates(tables: PairTables, known_zero: KnownZero = "none") -> tuple[Floats, Booleans]:
    """The rates of each class that agree best with all others, of those that one other class gives.

    Args:
        tables: see `pair_tables`.
        known_zero: the side whose rate is 0.

    Returns:
        (C, 2) rates, and (C,) True where there are any.
    """
    classes = len(tables.prior)
    found, solved = np.zeros((classes, 2)), np.zeros(classes, dtype=np.bool_)
    with np.errstate(all="ignore"):
        scale, wanted = _equations(tables)
        given = wanted / scale[..., None]
    given[..., _zero_sides(known_zero)] = 0
    given[(given < 0) & (given > -_SLACK / classes)] = 0
    possible = (tables.prior >= 0) & (tables.prior <= 1) & (given >= 0).all(axis=2) & (given <= 1).all(axis=2)
    possible &= (given.sum(axis=2) < 1) & ~np.eye(classes, dtype=np.bool_)
    for label in np.flatnonzero(possible.any(axis=1)):
        offered = given[label, possible[label]]
        misses = np.abs(offered[:, None] * scale[label][None, :, None] - wanted[label][None]).sum(axis=2)
        misses[:, label] = 0
        found[label] = offered[np.nan_to_num(misses, nan=0.0, posinf=0.0).sum(axis=1).argmin()]
        solved[label] = True
    return found, solved


def _equations(tables: PairTables) -> tuple[Floats, Floats]:
    """D (C, C) and right-hand sides (C, C, 2) of rate * D = side, from the inverse of J, so that T = (E / J)^T."""
    seen, joint = tables.seen, tables.joint
    scale = joint[..., 0, 0] * joint[..., 1, 1] - joint[..., 0, 1] * joint[..., 1, 0]
    up = joint[..., 1, 1] * seen[..., 1, 0] - joint[..., 1, 0] * seen[..., 1, 1]
    down = joint[..., 0, 0] * seen[..., 0, 1] - joint[..., 0, 1] * seen[..., 0, 0]
    return scale, np.stack([up, down], axis=-1)


def anchor_rates(scores: Floats, present: Booleans) -> Floats:
    """(C, 2) rates by Dual-T: noisy labels given a network's guess, and its guess where it is surest.

    Args:
        scores: (N, C) probabilities.
        present: (N, C) noisy labels.
    """
    classes = np.arange(scores.shape[1])
    anchors = np.stack([scores.min(axis=0), scores.max(axis=0)])  # (2, C), of the surest absent and present image
    guessed = scores > 0.5
    seen = np.stack([_share(present, ~guessed, 0.0), _share(present, guessed, 1.0)])  # (2, C)
    to_present = (1 - anchors) * seen[0] + anchors * seen[1]
    return np.stack([to_present[0, classes], 1 - to_present[1, classes]], axis=1)


def _share(present: Booleans, rows: Booleans, otherwise: float) -> Floats:
    """(C,) share of present labels among the rows (N, C) of each class, where it has none `otherwise`."""
    number = rows.sum(axis=0)
    return np.where(number > 0, (present & rows).sum(axis=0) / np.maximum(number, 1), otherwise)


def estimate_noise(present: Booleans, clean: Booleans, scores: Floats, known_zero: KnownZero = "none") -> NoiseEstimate:
    """Rates of wrong labels: by pairs of classes, where that gives none by anchors, where that gives none 0.

    Args:
        present: (N, C) noisy labels.
        clean: (N, C) True for those that are taken for clean.
        scores: (N, C) probabilities early in training.
        known_zero: the side whose rate is known to be 0.
    """
    counts = count_labels(present, clean)
    rates, solved = pair_rates(pair_tables(counts), known_zero)
    solved &= np.minimum(counts.clean_present, counts.clean_absent) >= LEAST_CHOSEN
    anchored = anchor_rates(scores, present)
    anchored[:, _zero_sides(known_zero)] = 0
    usable = anchored.sum(axis=1) < 1
    found = np.where(solved[:, None], rates, np.where(usable[:, None], anchored, 0.0))
    return NoiseEstimate(found, np.where(solved, 0, np.where(usable, 1, 2)).astype(np.int8))


def _zero_sides(known_zero: KnownZero) -> list[bool]:
    """True for the column of rates that is known to be 0."""
    return [known_zero == name for name in ("rho_neg", "rho_pos")]
