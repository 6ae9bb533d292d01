"""Hill and SPLC: `train.py` and `src/loss_functions/losses.py` of xinyu1205/robust-loss-mlml; ASL's loop, other losses.

The cycle is laid out for 80 epochs, of which 31 are trained. Every label that is not an observed positive counts as
absent, and for SPLC from the second epoch on as present where its probability is above a threshold. Raw and averaged
weights are scored after every epoch, and the best of all is printed: here the averaged, of the last, as in ours. Left
out: half precision, RandAugment, Cutout. Hill's logarithm of a sigmoid is exact here, as theirs is where it is finite.
B batch, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tests.equivalence.plain import Given, LinearHead, Net, Outcome
from tests.equivalence.transcriptions.asl import cycle, groups_of

MARGIN, GAMMA, HEIGHT = 1.0, 2.0, 1.5


def positive(logits: Tensor) -> Tensor:
    """Focal loss (B, C) of labels that are present."""
    return -((1 - torch.sigmoid(logits)) ** GAMMA) * -torch.log1p(torch.exp(-logits))


def hill(logits: Tensor, labels: Tensor) -> Tensor:
    """Losses (B, C): positives with a margin, others along a hill."""
    p = torch.sigmoid(logits)
    return torch.where(labels == 1, positive(logits - MARGIN), p * p * (HEIGHT - p))


def splc(logits: Tensor, labels: Tensor, epoch: int, tau: float) -> Tensor:
    """Losses (B, C) in an epoch, counted from 0 as theirs: the margin first, then corrections of what is sure."""
    shifted = logits - MARGIN * (labels == 1)
    sure = (torch.sigmoid(shifted) > tau) & (epoch >= 1)
    return torch.where((labels == 1) | sure, positive(shifted), positive(-shifted))


def train(
    given: Given,
    *,
    loss: str = "hill",
    tau: float = 0.6,
    lr: float = 1e-4,
    w_d: float = 1e-4,
    ema: float = 0.9997,
    schedule_epochs: int = 80,
) -> Outcome:
    """The whole run."""
    net = Net(LinearHead(given.observed.shape[1]), given.start)
    optimizer = torch.optim.Adam(groups_of(net, w_d), lr=lr, weight_decay=0)
    steps, per_epoch = iter(range(1 << 30)), len(given.order[0])

    def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
        epoch = next(steps) // per_epoch
        return (hill(logits, labels) if loss == "hill" else splc(logits, labels, epoch, tau)).sum()

    return cycle(given, net, optimizer, loss_of, lr=lr, epochs=schedule_epochs, ema=ema)
