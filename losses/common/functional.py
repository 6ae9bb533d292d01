"""Formulas that several methods share. They hold no state, change no input and never compute in half precision.

B batch, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.types import PRESENT


def at_least_float32(values: Tensor) -> Tensor:
    """`values` of any shape in single precision at least: half types become float32, float64 stays."""
    return values if values.dtype == torch.float64 else values.float()


def present(observed: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, C) 1 where a label is PRESENT, else 0: UNKNOWN is read as ABSENT."""
    return (observed == PRESENT).to(dtype)


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
