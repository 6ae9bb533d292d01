"""Exponential moving average of the weights in training, often better than the last weights."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor

from engine.core.distributed import Runtime
from models.peers import Network
from utils.types import StateDict


class EMA:
    """The exponential moving average of the weights of a network, over the optimiser's steps.

    After the first step the average a is the weights w, then a <- decay a + (1 - decay) w; or the latter in every step,
    from the weights before the first. BatchNorm statistics are averaged in the same way, and over processes at the end
    of an epoch; counters are copied. `AveragedModel` of PyTorch
    keeps its number of steps on one device and reads it on another, for which a GPU is waited for in every step.

    Args:
        source: the network in training, before the runtime wraps it; it is copied.
        decay: above 0 and below 1.
        from_initial: True begins with the weights before the first step.
    """

    def __init__(self, source: Network, decay: float, *, from_initial: bool = False) -> None:
        self._source, self._decay, self._from_initial = source, decay, from_initial
        self.network = copy.deepcopy(source)
        """The network of averaged weights."""
        self._steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Update the average after a step of the optimiser."""
        pairs = list(zip(_tensors(self.network), _tensors(self._source), strict=True))
        begun = self._from_initial or self._steps > 0
        moving = [pair for pair in pairs if begun and pair[0].is_floating_point()]
        copied = [pair for pair in pairs if not (begun and pair[0].is_floating_point())]
        if moving:
            averages, weights = (list(side) for side in zip(*moving, strict=True))
            torch._foreach_lerp_(averages, weights, 1 - self._decay)
        if copied:
            averages, weights = (list(side) for side in zip(*copied, strict=True))
            torch._foreach_copy_(averages, weights)
        self._steps += 1

    def end_epoch(self, runtime: Runtime) -> None:
        """Average the BatchNorm statistics over processes."""
        self.network.train()
        runtime.average_buffers(self.network)

    def freeze_backbone(self, frozen: bool) -> None:
        """Freeze or free the same part as in the source."""
        self.network.freeze_backbone(frozen)

    def state_dict(self) -> StateDict:
        """Averaged weights and number of averaged steps, named as `AveragedModel` of PyTorch names them."""
        weights = {f"module.{name}": value for name, value in self.network.state_dict().items()}
        return {"n_averaged": torch.tensor(self._steps), **weights}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a saved average."""
        self._steps = int(state["n_averaged"])
        weights = {name.removeprefix("module."): value for name, value in state.items() if name != "n_averaged"}
        self.network.load_state_dict(weights)


def _tensors(network: Network) -> list[Tensor]:
    """Parameters and buffers, in an order that two networks of one architecture share."""
    return list(chain(network.parameters(), network.buffers()))
