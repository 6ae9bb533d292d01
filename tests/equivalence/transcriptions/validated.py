"""The loop of the single-positive trainers: constant rate, validation after every epoch, the best one tested."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tests.equivalence.plain import IMAGENET, Given, Net, Outcome, best_epoch, evaluated, scaled, state_of


def two_rates(net: Net, lr: float, head_times: float, more: list[dict[str, Any]] | None = None) -> torch.optim.Adam:
    """Adam as it comes over backbone and head, and over further groups."""
    groups = [{"params": net.backbone.parameters(), "lr": lr}, {"params": net.head.parameters(), "lr": lr * head_times}]
    return torch.optim.Adam([*groups, *(more or [])])


def run(
    given: Given,
    net: Net,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[Tensor, Tensor, int], Tensor],
    *,
    after_step: Callable[[], None] = lambda: None,
    after_epoch: Callable[[Mapping[str, float]], bool] = lambda row: False,
    state: Callable[[], dict[str, Tensor]] = dict,
    whole_batches: bool = False,
) -> Outcome:
    """All epochs, or those before one that says to stop.

    Args:
        given: what both sides share.
        net: the network.
        optimizer: over all that learns.
        loss_of: from images, their rows and the epoch to the loss of a step.
        after_step: what follows the optimiser's step.
        after_epoch: what follows validation; True ends the run.
        state: what is kept of labels.
        whole_batches: True leaves out the last batch of an epoch, and of what is scored, if it is not full.
    """
    if whole_batches:
        given = _in_whole_batches(given)
    losses, states, figures = [], [], []
    images = {split: scaled(pixels, IMAGENET) for split, pixels in given.pixels.items()}
    for epoch, batches in enumerate(given.order, start=1):
        net.train()
        for rows in batches:
            loss = loss_of(images["train"][rows], rows, epoch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            after_step()
            losses.append(loss.item())
            states.append({name: value.detach().clone() for name, value in state().items()})
        figures.append(evaluated(net, given, images))
        if after_epoch(figures[-1]):
            break
    return Outcome(losses, states, state_of(net), figures, best_epoch(figures))


def _in_whole_batches(given: Given) -> Given:
    size = given.batch_size
    ends = {split: len(codes) // size * size for split, codes in given.truth.items() if split != "train"}
    pixels = {split: each[: ends.get(split)] for split, each in given.pixels.items()}
    truth = {split: each[: ends.get(split)] for split, each in given.truth.items()}
    order = [batches[: len(given.truth["train"]) // size] for batches in given.order]
    return given._replace(pixels=pixels, truth=truth, order=order)
