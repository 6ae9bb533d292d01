"""A variational bottleneck: what a head knows of a class is drawn from a Gaussian. B batch, C classes, K its width.

Source: MIME (Liu et al., ICML 2023); published code palm-biaoliu/mime, lib_lagc/models/LEModel.py.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

DRAWS = 10
"""Draws that are averaged, as published; their mean is drawn at once."""
_LOWEST, _HIGHEST = -6.0, 6.0  # of the logarithm of a deviation, as published


class Gaussian(NamedTuple):
    """Independent normal distributions."""

    mean: Tensor  # (B, C, K)
    log_std: Tensor  # (B, C, K)

    def drawn(self) -> Tensor:
        """(B, C, K) mean of `DRAWS` draws, which is a draw of a deviation as many roots smaller, with gradient."""
        return self.mean + self.log_std.exp() * torch.randn_like(self.mean) / math.sqrt(DRAWS)

    def divergence(self) -> Tensor:
        """(B,) divergence from standard normal distributions, the mean over classes and numbers."""
        each = -0.5 * (1 + 2 * self.log_std - self.mean.square() - (2 * self.log_std).exp())
        return each.mean(dim=(1, 2))


class Bottleneck(nn.Module):
    """Two linear layers from vectors (B, C, width) to a Gaussian of size K for each."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2 * size))

    def forward(self, vectors: Tensor) -> Gaussian:
        """The Gaussian of each class, in single precision at least."""
        statistics = self.layers(vectors)
        mean, spread = statistics.to(torch.promote_types(statistics.dtype, torch.float32)).chunk(2, dim=2)
        return Gaussian(mean, (spread / 2).clamp(_LOWEST, _HIGHEST))
