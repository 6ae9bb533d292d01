"""Selection of entries by the size of their loss. An entry is a label (a class of an image) or a whole image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_ROUNDING = 1e-9  # 0.94 * 2150 is 2020.999... in floating point, and means 2021


def share_count(size: Tensor, rate: float) -> Tensor:
    """Number of entries in a share of them, rounded down; on the device of `size`.

    Args:
        size: number of entries, integer of any shape.
        rate: in [0, 1].
    """
    return (size.double() * rate + _ROUNDING).floor().long()


def smallest(losses: Tensor, candidates: Tensor, count: Tensor) -> Tensor:
    """The `count` candidates with the smallest losses, the first of equal ones. Nothing waits for the device.

    Args:
        losses: of any shape, finite.
        candidates: bool of that shape, the entries that may be chosen.
        count: scalar, at most the number of candidates.

    Returns:
        Bool of that shape.
    """
    order = losses.masked_fill(~candidates, math.inf).flatten().argsort(stable=True)
    chosen = torch.arange(len(order), device=order.device) < count
    return torch.empty_like(chosen).scatter(0, order, chosen).view_as(candidates) & candidates
