"""Formulas that several methods share. They hold no state, change no input and never compute in half precision.

B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.types import PRESENT, Batch


def at_least_float32(values: Tensor) -> Tensor:
    """`values` of any shape in single precision at least: half types become float32, float64 stays."""
    return values if values.dtype == torch.float64 else values.float()


def present(observed: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, C) 1 where a label is PRESENT, else 0: UNKNOWN is read as ABSENT."""
    return (observed == PRESENT).to(dtype)


def soft_targets(batch: Batch, dtype: torch.dtype) -> Tensor:
    """(B, C) in [0, 1] the soft targets of a batch, or `present` where labels are hard: UNKNOWN is read as ABSENT."""
    return present(batch.observed, dtype) if batch.soft is None else batch.soft.clamp(min=0).to(dtype)


def expected_losses(losses: Callable[[Tensor], Tensor], batch: Batch, dtype: torch.dtype) -> Tensor:
    """The losses (B, C) of hard targets; of a soft target y their mean if the label is present with probability y.

    So a soft target of 0 or 1 costs what the hard one costs, and the mean is linear in y whatever the formula is.

    Args:
        losses: the formula, from targets (B, C) of 0 and 1 to losses (B, C).
        batch: its labels; UNKNOWN is read as ABSENT.
        dtype: of the targets.

    Returns:
        (B, C).
    """
    targets = soft_targets(batch, dtype)
    if batch.soft is None:
        return losses(targets)
    return targets * losses(torch.ones_like(targets)) + (1 - targets) * losses(torch.zeros_like(targets))


def weighted_bce(logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over B*C of weight * binary cross-entropy; finite for any finite logit.

    Args:
        logits: (B, C) raw scores.
        targets: (B, C) in [0, 1].
        weight: (B, C), all 1 if None; the mean divides by B*C, not by the sum of the weights.

    Returns:
        Scalar.
    """
    return F.binary_cross_entropy_with_logits(logits, targets, weight=weight)
