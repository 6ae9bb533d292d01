"""Co-label selection (../shared/spec/cls.md). No code was published: this is the paper's algorithm under its protocol.

Two networks, an Adam each, one rate that falls to 0 along a cosine, step by step. Each network's losses choose what the
other leaves out. What the paper leaves open is as docs/methods/cls.md says.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tests.equivalence.plain import IMAGENET, Given, LinearHead, Net, Outcome, figures, scaled, scores, state_of

EPOCHS_OF_RAMP = 10


def smallest(losses: Tensor, members: Tensor, share: float) -> Tensor:
    """(B, C) bool: the share of the members with the smallest losses, rounded down; the first of equal ones."""
    flat = members.flatten().nonzero().flatten()
    count = math.floor(share * len(flat) + 1e-9)
    taken = flat[losses.flatten()[flat].argsort(stable=True)[:count]]
    found = torch.zeros(members.numel(), dtype=torch.bool)
    found[taken] = True
    return found.view_as(members)


def selected_loss(own: Tensor, peer: Tensor, negatives: Tensor, high: float, low: float) -> Tensor:
    """Sum over the labels that are kept, divided by B."""
    credible = smallest(peer.detach(), negatives, high)
    informative = smallest(-own.detach(), credible, low)
    return (own * (informative | ~negatives)).sum() / len(own)


def ensemble(f: NDArray[np.float64], g: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logits of the mean of both probabilities."""
    p = (1 / (1 + np.exp(-f)) + 1 / (1 + np.exp(-g))) / 2
    found: NDArray[np.float64] = np.log(p / (1 - p))
    return found


def train(given: Given, *, epochs: int, lr: float = 4e-5, tau_h: float = 0.005, tau_l: float = 0.02) -> Outcome:
    """The whole run."""
    nets = [
        Net(LinearHead(given.observed.shape[1]), {n[2:]: v for n, v in given.start.items() if n.startswith(f"{one}.")})
        for one in "fg"
    ]
    optimizers = [torch.optim.Adam(net.parameters(), lr=lr, weight_decay=1e-4) for net in nets]
    images = {split: scaled(pixels, IMAGENET) for split, pixels in given.pixels.items()}
    total, taken = epochs * len(given.order[0]), 0
    losses, rows_of_log = [], []
    for epoch, batches in enumerate(given.order, start=1):
        high, low = (1 - min(epoch / EPOCHS_OF_RAMP * tau, tau) for tau in (tau_h, tau_l))
        for net in nets:
            net.train()
        for rows in batches:
            observed = given.observed[rows]
            f, g = (
                F.binary_cross_entropy_with_logits(
                    net(images["train"][rows]), (observed == 1).double(), reduction="none"
                )
                for net in nets
            )
            pair = [selected_loss(own, peer, observed == -1, high, low) for own, peer in ((f, g), (g, f))]
            for optimizer, loss in zip(optimizers, pair, strict=True):
                optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * taken / total))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            taken += 1
            losses.append(sum(loss.item() for loss in pair))
        rows_of_log.append(_figures(given, nets, images["test"]))
    weights = {
        f"{one}.{name}": value for one, net in zip("fg", nets, strict=True) for name, value in state_of(net).items()
    }
    return Outcome(losses, [{} for _ in losses], weights, rows_of_log, len(rows_of_log))


def _figures(given: Given, nets: list[Net], images: Tensor) -> dict[str, float]:
    """Those of f, of g and of both together."""
    f, g = (scores(net, images, given.batch_size) for net in nets)
    named = {"test": f, "test_g": g, "test_ensemble": ensemble(f, g)}
    return {
        name: value
        for split, each in named.items()
        for name, value in figures(split, each, given.truth["test"]).items()
    }
