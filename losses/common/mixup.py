"""Mixup (Zhang et al., ICLR 2018, arXiv 1710.09412, equation 1): training on convex combinations of images and targets.

n images. One mixture is drawn for all processes of a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Beta
from torch.nn.modules.batchnorm import _BatchNorm

from utils.collectives import of_first
from utils.types import Model


class Mixture(NamedTuple):
    """Partner of each image, and the portion of the image itself."""

    portion: Tensor  # float64 scalar in [1/2, 1], of the image itself
    partners: Tensor  # (n,) long, a permutation

    def of(self, values: Tensor, partners: Tensor) -> Tensor:
        """The mixtures portion * values + (1 - portion) * partners, of the type of `values`, both (n, ...)."""
        portion = self.portion.to(values.dtype)
        return portion * values + (1 - portion) * partners


def draw_mixture(count: int, beta: float, device: torch.device) -> Mixture:
    """Draw max(p, 1 - p) for a portion p of Beta(beta, beta), and a permutation of `count`; rank 0's on every rank.

    It uses torch's global generator of `device`, and nothing waits for the device.
    """
    parameter = torch.full((), beta, dtype=torch.float64, device=device)
    portion = Beta(parameter, parameter, validate_args=False).sample()  # checking the arguments would wait
    partners = torch.randperm(count, device=device)
    drawn = torch.cat([torch.maximum(portion, 1 - portion)[None], partners])  # float64 holds the numbers exactly
    drawn = of_first(drawn)
    return Mixture(drawn[0], drawn[1:].long())


@contextmanager
def running_statistics_kept(model: Model) -> Iterator[None]:
    """A block in which the model's BatchNorm layers normalise as they would, but do not learn their statistics."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    layers = [layer for layer in modules if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
