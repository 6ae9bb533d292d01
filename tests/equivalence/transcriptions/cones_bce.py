"""BCE on candidate labels: `main_BCE.py` of zhongjingyu1/CoNeS (../shared/spec/cones.md, sections 4 and 5).

SGD with two groups, of which the second would learn ten times as fast but is empty there; the rate rises from 0 over
the first epochs, step by step, and falls to a tenth every few epochs, behind the scoring of the test set.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.equivalence.plain import Given, LinearHead, Net, Outcome, evaluated, scaled, state_of

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""From the network, the images and their rows to the loss of a step."""


def train(given: Given, *, lr: float = 0.01, warmup_epoch: int = 2, step_size: int = 4) -> Outcome:
    """The whole run."""
    net = Net(LinearHead(given.observed.shape[1]), given.start)
    loop = SgdLoop(given, net, lr=lr, head_times=1, warmup_epoch=warmup_epoch, step_size=step_size)
    return loop.run(lambda net, images, rows: candidate_bce(net(images), given.observed[rows]))


def candidate_bce(logits: Tensor, observed: Tensor) -> Tensor:
    """Mean over B*C; whatever is no candidate is absent."""
    return F.binary_cross_entropy_with_logits(logits, (observed == 1).double())


class SgdLoop:
    """The loop that CoNeS, its BCE and CSRA share."""

    def __init__(
        self,
        given: Given,
        net: Net,
        *,
        lr: float,
        head_times: float,
        warmup_epoch: int,
        step_size: int,
    ) -> None:
        self.given, self.net = given, net
        groups = [
            {"params": net.backbone.parameters(), "lr": lr},
            {"params": net.head.parameters(), "lr": lr * head_times},
        ]
        self.optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=1e-4)
        self.rates = [lr, lr * head_times]
        self.warmup_epoch, self.step_size = warmup_epoch, step_size
        self.images = {split: scaled(pixels, None) for split, pixels in given.pixels.items()}

    def run(
        self,
        loss_of: Loss,
        before_epoch: Callable[[int], None] = lambda epoch: None,
        state: Callable[[], dict[str, Tensor]] = dict,
    ) -> Outcome:
        """All epochs."""
        losses, states, figures = [], [], []
        warm_steps, taken = self.warmup_epoch * len(self.given.order[0]), 0
        if warm_steps:
            self._set_rates(0)
        for epoch, batches in enumerate(self.given.order, start=1):
            before_epoch(epoch)
            self.net.train()
            for rows in batches:
                loss = loss_of(self.net, self.images["train"][rows], rows)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                if epoch <= self.warmup_epoch:
                    taken += 1
                    self._set_rates(taken / (warm_steps + 1e-8))
                losses.append(loss.item())
                states.append({name: value.clone() for name, value in state().items()})
            figures.append(evaluated(self.net, self.given, self.images))
            if epoch % self.step_size == 0:
                for group in self.optimizer.param_groups:
                    group["lr"] *= 0.1
        return Outcome(losses, states, state_of(self.net), figures, len(figures))

    def _set_rates(self, factor: float) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
