"""Residual attention: `main.py` of Kevinz-code/CSRA (../shared/spec/cones.md, section 6): the loop of CoNeS' BCE.

Its head learns ten times as fast. Source of the head: `pipeline/csra.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.equivalence.plain import Given, Net, Outcome
from tests.equivalence.transcriptions.cones_bce import SgdLoop, candidate_bce

MAXIMUM = 99
"""The temperature that stands for the maximum."""
TEMPERATURES = {1: [1], 2: [1, MAXIMUM], 4: [1, 2, 4, MAXIMUM]}


class AttentionHead(nn.Module):
    """Mean score plus `lam` times an attention, summed over heads of different temperature."""

    def __init__(self, classes: int, heads: int, lam: float, width: int = 96) -> None:
        super().__init__()
        self.lam, self.temperatures = lam, TEMPERATURES[heads]
        self.weights = nn.ParameterList(torch.zeros(classes, width, 1, 1) for _ in range(heads))

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C)."""
        logits = torch.zeros((), dtype=features.dtype)
        for weight, temperature in zip(self.weights, self.temperatures, strict=True):
            length = weight.square().sum(dim=(1, 2, 3)).sqrt()
            score = (F.conv2d(features, weight) / length[None, :, None, None]).flatten(2)
            if temperature == MAXIMUM:
                attention = score.max(dim=2).values
            else:
                attention = (score * torch.softmax(temperature * score, dim=2)).sum(dim=2)
            logits = logits + score.mean(dim=2) + self.lam * attention
        return logits


def train(given: Given, *, num_heads: int = 1, lam: float = 0.1, lr: float = 0.01, step_size: int = 4) -> Outcome:
    """The whole run."""
    net = Net(AttentionHead(given.observed.shape[1], num_heads, lam), given.start)
    loop = SgdLoop(given, net, lr=lr, head_times=10, warmup_epoch=2, step_size=step_size)
    return loop.run(lambda net, images, rows: candidate_bce(net(images), given.observed[rows]))
