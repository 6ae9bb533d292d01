"""Formulas of NDLP: pseudo labels among the candidates, reliable images, and classes that recent batches lack.

B batch, C classes, N training images, d distribution (C,). Source: NDLP, published code zhongjingyu1/NDLP,
`main/PML_Confidence.py` and `main/train.py`. Formulas: docs/methods/ndlp.md. They compute in float64, hold no state,
change no input and never wait for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from losses.common.candidate_memory import ClassTotals
from losses.common.memory import first_places

Confidence = Literal["softmax", "sigmoid"]
Repeats = Literal["mean", "last"]

EPS = 1e-8
"""The published code's guard against division by 0."""


def class_thresholds(totals: ClassTotals) -> Tensor:
    """(C,) phi, the mean confidence of each class over the images whose confidence is not 0.

    +inf for a class without any confidence, where the published code has NaN: neither is ever exceeded.
    """
    return torch.where(totals.counts > 0, totals.sums / totals.counts, math.inf)


def moved_totals(totals: ClassTotals, before: Tensor, after: Tensor, index: Tensor) -> ClassTotals:
    """Totals of all confidences after a step in which those of some images have changed.

    Args:
        totals: before the step.
        before: (B, C) confidences of the batch then.
        after: (B, C) afterwards.
        index: (B,) long, the images; of one that comes more than once the first row counts.
    """
    first = (first_places(index) == torch.arange(len(index), device=index.device))[:, None]
    sums = ((after - before) * first).sum(dim=0)
    counts = (((after != 0).long() - (before != 0).long()) * first).sum(dim=0)
    return ClassTotals(totals.sums + sums, totals.counts + counts)


def sharpened(confidence: Tensor, gamma: float) -> Tensor:
    """Confidences to the power `gamma`, divided by their sum over an image.

    Args:
        confidence: (B, C), 0 or more.
        gamma: above 0; above 1 it increases differences, 1 changes nothing but the sum.

    Returns:
        (B, C) q, rows that sum to 1; rows of zeros stay so. Large exponents do not underflow to empty rows.
    """
    peak = confidence.amax(dim=1, keepdim=True)
    powers = (confidence / peak.where(peak > 0, 1)) ** gamma
    return powers / powers.sum(dim=1, keepdim=True).clamp(min=1)  # the peak's own power is 1


def sharpened_each(confidence: Tensor, gamma: float) -> Tensor:
    """Independent confidences to the power `gamma`: P^g / (P^g + (1 - P)^g), P in [0, 1].

    Ours; the same shape (B, C), 0 and 1 stay, 1/2 stays, and 1 for `gamma` changes nothing.
    """
    return torch.sigmoid(gamma * torch.logit(confidence))


def pseudo_labels(soft: Tensor, thresholds: Tensor) -> Tensor:
    """(B, C) bool: sharpened confidences (B, C) that strictly exceed the thresholds (C,). A row may be empty."""
    return soft > thresholds


@torch.no_grad()
def predicted_confidence(logits: Tensor, candidates: Tensor) -> Tensor:
    """Softmax over an image's candidates alone: the softmax over all classes, cut to the candidates, renormalised.

    Args:
        logits: (B, C) any finite values.
        candidates: (B, C) bool.

    Returns:
        (B, C) float64, rows that sum to 1; rows without candidates are 0.
    """
    scores = logits.double().masked_fill(~candidates, -math.inf)
    return torch.softmax(scores, dim=1).where(candidates, 0)


@torch.no_grad()
def predicted_confidence_each(logits: Tensor, candidates: Tensor) -> Tensor:
    """(B, C) float64 sigmoid of the logits (B, C) on the candidates (B, C) bool, else 0. Ours."""
    return torch.sigmoid(logits.double()).where(candidates, 0)


class ConfidenceRules(NamedTuple):
    """Functions that sharpen confidences, and that turn logits into confidences."""

    sharpened: Callable[[Tensor, float], Tensor]
    predicted: Callable[[Tensor, Tensor], Tensor]


RULES: Mapping[Confidence, ConfidenceRules] = {
    "softmax": ConfidenceRules(sharpened, predicted_confidence),
    "sigmoid": ConfidenceRules(sharpened_each, predicted_confidence_each),
}


def moved_confidence(confidence: Tensor, predicted: Tensor, mu: float) -> Tensor:
    """(1 - mu) confidence + mu predicted, all (B, C); a row without predictions stays as it was."""
    has_prediction = predicted.sum(dim=1, keepdim=True) > 0
    return torch.where(has_prediction, (1 - mu) * confidence + mu * predicted, confidence)


def one_per_image(values: Tensor, index: Tensor, repeats: Repeats) -> Tensor:
    """Values in which all rows of one image are equal: the mean of these rows, or the last of them.

    Args:
        values: (B, C) float64.
        index: (B,) long, the images.
        repeats: "mean" depends on no order; "last" is what writing the rows one after the other leaves.

    Returns:
        (B, C).
    """
    same = index[:, None] == index[None, :]
    if repeats == "last":
        reverse = same.flip(1).to(torch.uint8).argmax(dim=1)  # the first of equal maxima, by argmax's contract
        return values[len(index) - 1 - reverse]
    return same.to(values.dtype) @ values / same.sum(dim=1, keepdim=True)


def rows_wanted(distribution: Tensor, size: int | Tensor, alpha: float) -> Tensor:
    """(C,) number of reliable images of each class to choose from a batch: distribution (C,) * batch size * alpha."""
    return distribution * size * alpha


def reliable_rows(losses: Tensor, pseudo: Tensor, wanted: Tensor) -> Tensor:
    """Images whose pseudo labels are trusted: of each class those with the smallest losses.

    Of the m images with the pseudo label of a class, min(ceil(wanted), m) are taken and at least 1; none where m is 0.

    Args:
        losses: (B,) mean loss of an image over the classes; of equal ones the earlier row comes first.
        pseudo: (B, C) bool.
        wanted: (C,), see `rows_wanted`.

    Returns:
        (B,) bool, the images that are taken for any class.
    """
    order = losses.argsort(stable=True)
    ranked = pseudo[order]
    number = ranked.cumsum(dim=0)  # 1 for the image of a class with the smallest loss
    taken = (ranked & (number <= wanted.ceil().clamp(min=1))).any(dim=1)
    return torch.zeros_like(taken).index_copy(0, order, taken)


def class_shares(confidence: Tensor) -> Tensor:
    """(C,) share of each class in the total confidence of the rows (B, C); zeros where there is none."""
    totals = confidence.sum(dim=0)
    whole = totals.sum()
    return totals / whole.where(whole > 0, 1)


def refined_distribution(log_distribution: Tensor, shares: Tensor) -> Tensor:
    """One step of d <- d / (e + 1e-8), renormalised, as the published code takes it; exact in logarithms.

    e_j is the share of class j in the batch, or d_j where that is 0. The divisions add up over an epoch, so that a few
    classes soon have nearly all of d; the others fall below what a float64 can represent, but their logarithms do not.

    Args:
        log_distribution: (C,) log d.
        shares: (C,) shares of the classes in the batch.

    Returns:
        (C,) log d, renormalised.
    """
    absent = torch.logaddexp(log_distribution, torch.full_like(log_distribution, math.log(EPS)))
    divisor = torch.where(shares > 0, (shares + EPS).log(), absent)
    return torch.log_softmax(log_distribution - divisor, dim=0)


def bounded_distribution(log_distribution: Tensor, shares: Tensor, *, mu: float, max_ratio: float) -> Tensor:
    """One step of d <- d^(1-mu) g^mu, renormalised; g_j = 1 / (C e_j), kept within 1/max_ratio and max_ratio.

    So d favours the classes that were rare in about the last 1/mu batches, and no two classes ever differ by more than
    max_ratio^2. A class absent from the batch counts as one of the smallest share.

    Args:
        log_distribution: (C,) log d.
        shares: (C,) shares of the classes in the batch, e; zeros for all leave d as it is.
        mu: weight of this batch, in [0, 1].
        max_ratio: 1 or more; 1 keeps d uniform.

    Returns:
        (C,) log d, renormalised.
    """
    limit = math.log(max_ratio)
    target = -(shares * len(shares)).log().clamp(min=-limit, max=limit)
    moved = torch.log_softmax((1 - mu) * log_distribution + mu * target, dim=0)
    return torch.where(shares.sum() > 0, moved, log_distribution)
