"""EM and EM + APL: `losses.py` and `main.py` of Correr-Zhou/SPML-AckTheUnknown.

../shared/spec/next/em_apl.md. Probabilities first, then -log(p + 1e-5). One matrix holds 1 for an observed label, 0 for
an unknown one, and minus the soft label of one that has been given it; after every epoch from the w-th on more entries
of each class get theirs. Left out: the flips of the images that are scored for that, and what happens in an epoch of
one batch, where nothing is ever given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from tests.equivalence.plain import IMAGENET, Given, LinearHead, Net, Outcome, scaled, scores
from tests.equivalence.transcriptions import validated
from tests.equivalence.transcriptions.ignore import minus_log


def matrix_loss(p: Tensor, labels: Tensor, alpha: float, beta: float) -> Tensor:
    """Mean over B*C, of probabilities and rows of that matrix, (B, C) each."""
    entropy = p * minus_log(p) + (1 - p) * minus_log(1 - p)
    soft = -labels * minus_log(p) + (1 + labels) * minus_log(1 - p)
    losses = torch.where(labels == 1, minus_log(p), torch.where(labels == 0, -alpha * entropy, beta * soft))
    return losses.sum() / losses.numel()


def give_labels(labels: Tensor, p: Tensor, numbers: list[int]) -> None:
    """One round, class by class: the lowest probabilities (N, C) of unknown labels are entered, less than 0."""
    for label, number in enumerate(numbers):
        unknown = (labels[:, label] == 0).nonzero()[:, 0]
        chosen = unknown[p[unknown, label].argsort()[:number]]
        labels[chosen, label] = -p[chosen, label]


def train(
    given: Given,
    *,
    apl: bool = False,
    epochs: int = 10,
    lr: float = 1e-5,
    entropy_weight: float = 0.2,
    pseudo_weight: float = 0.02,
    neg_proportion: float = 0.9,
    apl_warmup: int = 5,
    first: bool = False,
) -> Outcome:
    """The whole run; with `first` it ends after an epoch that is no new best."""
    net, best, epoch = Net(LinearHead(given.observed.shape[1]), given.start), [-math.inf], [0]
    labels = (given.observed == 1).double()
    unknown = (labels == 0).sum(dim=0).tolist()
    rounds = epochs - apl_warmup
    numbers = [int(neg_proportion * number / rounds) for number in unknown] if apl else []
    images = scaled(given.pixels["train"], IMAGENET)

    def after_epoch(row: Mapping[str, float]) -> bool:
        epoch[0] += 1
        if apl and epoch[0] >= apl_warmup:
            logits = torch.from_numpy(scores(net, images, given.batch_size))
            give_labels(labels, torch.sigmoid(logits), numbers)
        stop = first and row["validation_mAP"] <= best[0]
        best[0] = max(best[0], row["validation_mAP"])
        return stop

    return validated.run(
        given,
        net,
        validated.two_rates(net, lr, 1),
        lambda images, rows, epoch: matrix_loss(
            torch.sigmoid(net(images)), labels[rows], entropy_weight, pseudo_weight
        ),
        after_epoch=after_epoch,
        state=lambda: {"soft": (-labels).clamp(min=0)} if apl else {},
    )
