"""Vectors that some heads make their logits of, of images or classes. B batch, C classes, D width of a vector."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F


class ClassVectors(NamedTuple):
    """A vector of each class in each image, and the linear layer by which a head scores such vectors."""

    vectors: Tensor  # (B, C, D)
    weights: Tensor  # (C, D)
    bias: Tensor | None = None  # (C,)

    def classify(self, vectors: Tensor) -> Tensor:
        """Logits (B, C) of any vectors (B, C, D) of the classes: each by the weights of its class."""
        scores = (vectors * self.weights).sum(dim=2)
        return scores if self.bias is None else scores + self.bias


class PooledFeatures(NamedTuple):
    """The one vector of each image that a head reads, and the linear layer that makes its logits of it."""

    vectors: Tensor  # (B, D)
    weights: Tensor  # (C, D)
    bias: Tensor | None = None  # (C,)

    def classify(self, vectors: Tensor) -> Tensor:
        """Logits (n, C) of any vectors (n, D)."""
        return F.linear(vectors, self.weights, self.bias)
