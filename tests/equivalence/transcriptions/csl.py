"""CSL: `train.py` and `src/loss_functions/partial_asymmetric_loss.py` of Alibaba-MIIL/PartialLabelingCSL; ASL's loop.

../shared/spec/next/csl_partial_bce.md. A whole cycle of 30 epochs, with averaged weights that are scored after every
epoch: here those of the last, as in ours. Class priors are told from outside, here the shares of present ones among
known labels. Left out: half precision, RandAugment, Cutout.
B batch, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tests.equivalence.plain import Given, LinearHead, Net, Outcome
from tests.equivalence.transcriptions.asl import cycle, groups_of

GUARD = 1e-8


def left_out(p: Tensor, labels: Tensor, frequent: Tensor, topk: int) -> Tensor:
    """(B, C) bool: unknown labels of frequent classes, and the likeliest `topk` per image of all of the batch."""
    gone = (labels == -1) & frequent
    unknown = (labels == -1).flatten().nonzero()[:, 0]
    likeliest = unknown[torch.argsort(1 - p.flatten()[unknown])[: topk * len(labels)]]
    gone.view(-1)[likeliest] = True
    return gone


def selective(
    logits: Tensor, labels: Tensor, frequent: Tensor, topk: int, gammas: tuple[float, float, float]
) -> Tensor:
    """Losses (B, C) of present, absent and unknown labels, each kind with its exponent; 0 where left out."""
    p = torch.sigmoid(logits)
    likelihood = torch.where(labels == 1, p, 1 - p)
    present, absent, unknown = gammas
    power = present * (labels == 1) + absent * (labels == 0) + unknown * (labels == -1)
    weight = (1 - likelihood.detach()) ** power
    losses = -weight * torch.log(likelihood.clamp(min=GUARD))
    return losses * ~left_out(p.detach(), labels, frequent, topk)


def train(
    given: Given,
    *,
    likelihood_topk: int = 5,
    prior_threshold: float = 0.5,
    gamma_neg: float = 1,
    lr: float = 2e-4,
    w_d: float = 1e-4,
    ema: float = 0.9997,
    schedule_epochs: int = 30,
) -> Outcome:
    """The whole run."""
    net = Net(LinearHead(given.observed.shape[1]), given.start)
    optimizer = torch.optim.Adam(groups_of(net, w_d), lr=lr, weight_decay=0)
    known = (given.observed != -1).sum(dim=0)
    frequent = (given.observed == 1).sum(dim=0) / known.clamp(min=1) > prior_threshold

    def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
        return selective(logits, labels, frequent, likelihood_topk, (0, gamma_neg, 4)).sum()

    return cycle(given, net, optimizer, loss_of, lr=lr, epochs=schedule_epochs, ema=ema)
