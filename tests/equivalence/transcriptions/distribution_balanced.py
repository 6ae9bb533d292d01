"""Distribution-balanced loss: wutong16/DistributionBalancedLoss under mmcv's runner and hooks.

../shared/spec/ndlp.md, sections 3, 4 and 6. `ResampleLoss` with rebalancing, logit regularisation and focal factor;
the PFC neck; stage 1 of the backbone frozen, all its BatchNorm in evaluation mode; gradients of all parameters cut to a
joint norm before the step; the rate set before every step of the warm-up, then once an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.equivalence.plain import IMAGENET, Given, Net, Outcome, evaluated_tail, scaled, state_of


class Frequencies(NamedTuple):
    """Training images of each class (C,), and all of them."""

    positives: Tensor
    images: int


class BalancedLoss(NamedTuple):
    """The loss of every label; the numbers are those of VOC-MLT."""

    frequencies: Frequencies
    map_alpha: float = 0.1
    map_beta: float = 10.0
    map_gamma: float = 0.3
    init_bias: float = 0.05
    neg_scale: float = 5.0
    focal_gamma: float = 2.0
    balance: float = 2.0

    @property
    def bias(self) -> Tensor:
        """v (C,), added to the logits."""
        n, images = self.frequencies
        return -torch.log(images / n - 1) * self.init_bias / self.neg_scale

    def each(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(B, C) losses; labels may be soft."""
        inverse = 1 / self.frequencies.positives
        rate = inverse / (labels * inverse).sum(dim=1, keepdim=True)
        weight = torch.sigmoid(self.map_beta * (rate - self.map_gamma)) + self.map_alpha
        shifted = logits + self.bias
        shifted = shifted * ((1 - labels) * self.neg_scale + labels)
        weight = weight * ((1 - labels) / self.neg_scale + labels)
        entropy = F.binary_cross_entropy_with_logits(shifted, labels, reduction="none")
        return self.balance * (1 - torch.exp(-entropy)) ** self.focal_gamma * (weight * entropy)


class NeckHead(nn.Module):
    """PFC and its classifier: mean, linear, BatchNorm, no ReLU, dropout 0, linear."""

    def __init__(self, classes: int, neck: int, width: int = 96) -> None:
        super().__init__()
        self.fc, self.bn, self.fc_cls = nn.Linear(width, neck), nn.BatchNorm1d(neck), nn.Linear(neck, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C)."""
        logits: Tensor = self.fc_cls(self.bn(self.fc(features.mean(dim=(2, 3)))))
        return logits


class FrozenNet(Net):
    """The network with its first layer and first stage frozen, and BatchNorm of the backbone in evaluation mode."""

    def __init__(self, given: Given, neck: int) -> None:
        super().__init__(NeckHead(given.observed.shape[1], neck), given.start)
        for part in (self.backbone.conv1, self.backbone.bn1, self.backbone.layer1):
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> FrozenNet:
        """The head alone changes its mode."""
        super().train(mode)
        for module in self.backbone.modules():
            module.eval()
        return self


def counted(labels: Tensor) -> Frequencies:
    """Frequencies of labels (N, C)."""
    return Frequencies(labels.sum(dim=0), len(labels))


def train(
    given: Given,
    *,
    neck_width: int = 256,
    lr: float = 0.02,
    clip_grad: float = 35.0,
    warmup_steps: int = 500,
    warmup_ratio: float = 1 / 3,
    milestones: Sequence[int] = (5, 7),
) -> Outcome:
    """The whole run; the order is that of our class-aware sampler."""
    net, loss = FrozenNet(given, neck_width), BalancedLoss(counted(given.observed))
    learning = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=lr, momentum=0.9, weight_decay=1e-4)
    images = {split: scaled(pixels, IMAGENET) for split, pixels in given.pixels.items()}
    losses, figures, taken = [], [], 0
    for epoch, batches in enumerate(given.order):
        regular = lr * 0.1 ** sum(epoch >= milestone for milestone in milestones)
        net.train()
        for rows in batches:
            warm = (1 - taken / warmup_steps) * (1 - warmup_ratio) if taken < warmup_steps else 0.0
            optimizer.param_groups[0]["lr"] = regular * (1 - warm)
            mean = loss.each(net(images["train"][rows]), given.observed[rows]).mean()
            optimizer.zero_grad()
            mean.backward()
            nn.utils.clip_grad_norm_(learning, clip_grad)
            optimizer.step()
            taken += 1
            losses.append(mean.item())
        figures.append(evaluated_tail(net, given, images))
    return Outcome(losses, [{} for _ in losses], state_of(net), figures, len(figures))
