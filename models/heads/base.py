"""The interface of heads: feature map (B, D, h, w) in, logits (B, C) and class activation maps (B, C, h, w) out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.amp.autocast_mode import is_autocast_available

from utils.head_vectors import ClassVectors, PooledFeatures
from utils.types import LabelTable


class LabelInfo(NamedTuple):
    """Information on the labels that some heads are built from."""

    classes: Sequence[str]
    """The C class names."""
    observed: LabelTable
    """The training set's labels as training sees them, (N, C)."""


_WITH_AUTOCAST = frozenset(kind for kind in ("cpu", "cuda", "mps", "xpu") if is_autocast_available(kind))
"""Known here, since torch before 2.12 cannot export or compile a network that asks."""


def outside_autocast(features: Tensor) -> AbstractContextManager[object]:
    """The context of a head's last layer: bfloat16 has so few values that rounded logits tie and cost mAP."""
    kind = features.device.type
    return torch.autocast(kind, enabled=False) if kind in _WITH_AUTOCAST else nullcontext()


class Head(nn.Module):
    """Map features to logits and to class activation maps.

    In half precision the last layer runs in float32: see `outside_autocast`.
    """

    needs_maps: ClassVar[bool] = False
    """True if training reads more than the mean of a map, whether evaluation does or not."""

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, D, h, w) to logits (B, C)."""
        raise NotImplementedError

    def cam(self, features: Tensor) -> Tensor:
        """Features (B, D, h, w) to class activation maps (B, C, h, w), computed without gradient."""
        raise NotImplementedError

    def with_cam(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and maps of the same features, in one pass where that saves work."""
        return self(features), self.cam(features)

    def class_vectors(self, features: Tensor) -> ClassVectors:
        """A vector of each class in each image of features (B, D, h, w), and the weights that score it.

        Raises: ValueError of a head that has none.
        """
        raise ValueError(f"{type(self).__name__} has no vector of each class")

    def with_class_vectors(self, features: Tensor) -> tuple[Tensor, ClassVectors]:
        """Logits and class vectors of the same features, in one pass where that saves work."""
        return self(features), self.class_vectors(features)

    def with_pooled(self, features: Tensor) -> tuple[Tensor, PooledFeatures]:
        """Logits, and the one vector of each image of features (B, D, h, w) that a linear layer makes them of.

        Raises: ValueError of a head whose logits are made otherwise.
        """
        raise ValueError(f"{type(self).__name__} makes its logits of more than one vector of an image")

    def with_divergence(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits, and the divergence (B,) of distributions that they are drawn from; None of a head without any."""
        return self(features), None

    def with_labels(self, features: Tensor, known: Tensor) -> Tensor:
        """Features and labels known beforehand (B, C), PRESENT, ABSENT or UNKNOWN, to logits (B, C).

        Raises: ValueError of a head that does not take labels.
        """
        raise ValueError(f"{type(self).__name__} takes no labels")
