"""The losses of Cole et al.: `losses.py` and `train.py` of elijahcole/single-positive-multi-label.

../shared/spec/large_loss.md, sections 3 and 4. Probabilities first, then -log(p + 1e-5); a matrix summed and divided by
B*C. One Adam trains network and label estimates; the estimates learn ten times as fast. A last
batch that is not full is left out, in training as in scoring.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.equivalence.plain import Given, LinearHead, Net, Outcome
from tests.equivalence.transcriptions import validated
from tests.equivalence.transcriptions.ignore import minus_log

Matrix = Callable[[Tensor, Tensor], Tensor]
"""From probabilities and observed labels (B, C), 1, 0 or -1 (unknown), to losses (B, C)."""


def an(p: Tensor, observed: Tensor) -> Tensor:
    """Assume negative; on full labels the plain BCE."""
    return torch.where(observed == 1, minus_log(p), minus_log(1 - p))


def smoothed(p: Tensor, observed: Tensor) -> Tensor:
    """A tenth of the opposite label in each target, on both sides."""
    present, absent = minus_log(p), minus_log(1 - p)
    return torch.where(observed == 1, 0.9 * present + 0.1 * absent, 0.9 * absent + 0.1 * present)


def wan(p: Tensor, observed: Tensor) -> Tensor:
    """Negatives weighted 1 / (C - 1)."""
    return torch.where(observed == 1, minus_log(p), minus_log(1 - p) / (p.shape[1] - 1))


def positive(p: Tensor, observed: Tensor) -> Tensor:
    """Observed positives alone."""
    return torch.where(observed == 1, minus_log(p), 0)


def known(p: Tensor, observed: Tensor) -> Tensor:
    """IU: what is observed alone; with all true negatives it is IUN as it is meant."""
    return positive(p, observed) + torch.where(observed == 0, minus_log(1 - p), 0)


def ranking(p: Tensor, observed: Tensor) -> Tensor:
    """PR: each positive above each other label by 1."""
    margins = torch.relu(1 - p[:, :, None] + p[:, None, :]) * (observed != 1)[:, None, :]
    return margins.sum(dim=2) * (observed == 1)


def count_penalty(p: Tensor, expected: float) -> Tensor:
    """Squared difference of predicted and expected positives per image, divided by C squared."""
    return ((p.sum(dim=1).mean() - expected) / p.shape[1]) ** 2


def cross_entropy(target: Tensor, p: Tensor) -> Tensor:
    """Of p against a constant."""
    return target * minus_log(p) + (1 - target) * minus_log(1 - p)


MATRICES: dict[str, Matrix] = {
    "an": an,
    "an_ls": smoothed,
    "bce_ls": smoothed,
    "wan": wan,
    "epr": positive,
    "iu": known,
    "iun": known,
    "pr": ranking,
}


def train(given: Given, *, loss: str, lr: float = 1e-5, expected: float = 1.5) -> Outcome:
    """The whole run; the first estimates of ROLE are those that ours drew."""
    net = Net(LinearHead(given.observed.shape[1]), given.start)
    if loss == "role":
        return _role(given, net, lr, expected)

    def loss_of(images: Tensor, rows: Tensor, epoch: int) -> Tensor:
        p = torch.sigmoid(net(images))
        total = MATRICES[loss](p, given.observed[rows]).sum() / p.numel()
        return total + count_penalty(p, expected) if loss == "epr" else total

    return validated.run(given, net, validated.two_rates(net, lr, 1), loss_of, whole_batches=True)


def _role(given: Given, net: Net, lr: float, expected: float) -> Outcome:
    theta = nn.Parameter(given.drawn["criterion"]["estimates"].clone())
    optimizer = validated.two_rates(net, lr, 1, [{"params": [theta], "lr": 10 * lr}])

    def loss_of(images: Tensor, rows: Tensor, epoch: int) -> Tensor:
        p, observed = torch.sigmoid(net(images)), given.observed[rows]
        q = torch.sigmoid(theta[rows])
        known_part = positive(p, observed) + positive(q, observed)
        agreement = cross_entropy(q.detach(), p) + cross_entropy(p.detach(), q)
        penalty = count_penalty(p, expected) + count_penalty(q, expected)
        return 0.5 * (known_part + agreement).sum() / p.numel() + 0.5 * penalty

    return validated.run(given, net, optimizer, loss_of, state=lambda: {"estimates": theta}, whole_batches=True)
