"""ASL: `train.py` and `src/helper_functions` of Alibaba-MIIL/ASL; the loop that Query2Label took over.

Adam, whose weight decay leaves out biases and norms; one-cycle rate and beta 1, laid out for 80 epochs of which 41 are
trained; a sum as loss, its focusing weight a constant; a moving average from the network before the first step, moved
behind the schedule. After every epoch raw and averaged weights are scored, and the best of all is printed: here the
averaged, of the last, as in ours. Left out: half precision, RandAugment, Cutout. Counters of BatchNorm, which nothing
reads, are copied to the average; the release rounds theirs down to 0.
B batch, C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.equivalence.plain import Given, LinearHead, Net, Outcome, evaluated, scaled, state_of

Normalise = tuple[tuple[float, ...], tuple[float, ...]]


def asymmetric(logits: Tensor, labels: Tensor, *, gamma_neg: float, margin: float, eps: float) -> Tensor:
    """Losses (B, C): a weight on negatives alone, which is a constant, and none below the margin."""
    p = torch.sigmoid(logits)
    absent = (1 - p + margin).clamp(max=1)
    weight = torch.where(labels == 1, 1, (1 - absent.detach()) ** gamma_neg)
    likelihood = torch.where(labels == 1, p, absent)
    return -weight * torch.log(likelihood.clamp(min=eps))


def groups_of(net: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Parameters by whether they decay: not where they are a vector, or end a name with `bias`."""
    decay, plain = [], []
    for name, parameter in net.named_parameters():
        (plain if parameter.dim() == 1 or name.endswith(".bias") else decay).append(parameter)
    return [{"params": plain, "weight_decay": 0.0}, {"params": decay, "weight_decay": weight_decay}]


@torch.no_grad()
def move(average: nn.Module, net: nn.Module, decay: float) -> None:
    """The moving average after a step, of weights and statistics."""
    for own, new in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
        own.copy_(decay * own + (1 - decay) * new if own.is_floating_point() else new)


def cycle(
    given: Given,
    net: Net,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    *,
    lr: float,
    epochs: int,
    ema: float,
    normalise: Normalise | None = None,
) -> Outcome:
    """All epochs of a run under one cycle, which is laid out for `epochs`; the average is scored, the last reported.

    `loss_of` gets logits (B, C) and labels (B, C): 1 present, 0 absent, -1 unknown.
    """
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=lr, steps_per_epoch=len(given.order[0]), epochs=epochs, pct_start=0.2
    )
    images = {split: scaled(pixels, normalise) for split, pixels in given.pixels.items()}
    losses, figures, average = [], [], copy.deepcopy(net)
    for batches in given.order:
        net.train()
        for rows in batches:
            loss = loss_of(net(images["train"][rows]), given.observed[rows])
            net.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            move(average, net, ema)
            losses.append(loss.item())
        figures.append(evaluated(average, given, images))
    weights = state_of(net) | {f"average.{name}": value for name, value in state_of(average).items()}
    return Outcome(losses, [{} for _ in losses], weights, figures, len(figures))


def train(
    given: Given, *, lr: float = 1e-4, w_d: float = 1e-4, ema: float = 0.9997, schedule_epochs: int = 80
) -> Outcome:
    """The whole run."""
    net = Net(LinearHead(given.observed.shape[1]), given.start)
    optimizer = torch.optim.Adam(groups_of(net, w_d), lr=lr, weight_decay=0)

    def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
        return asymmetric(logits, labels, gamma_neg=4, margin=0.05, eps=1e-8).sum()

    return cycle(given, net, optimizer, loss_of, lr=lr, epochs=schedule_epochs, ema=ema)
