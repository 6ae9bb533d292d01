"""Exponential moving average of the weights in training, often better than the last weights."""

from __future__ import annotations

from typing import cast

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from engine.core.distributed import Runtime
from models.peers import Network
from utils.types import StateDict


class EMA:
    """The exponential moving average of the weights of a network, over the optimiser's steps.

    After the first step the average a is the weights w, then a <- decay a + (1 - decay) w. BatchNorm statistics are
    averaged in the same way, and over processes at the end of an epoch.

    Args:
        source: the network in training, before the runtime wraps it; it is copied.
        decay: above 0 and below 1.
    """

    def __init__(self, source: Network, decay: float) -> None:
        self._source = source
        moving = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._average = AveragedModel(source, multi_avg_fn=moving, use_buffers=True)

    @property
    def network(self) -> Network:
        """The network of averaged weights."""
        return cast(Network, self._average.module)

    def update(self) -> None:
        """Update the average after a step of the optimiser."""
        self._average.update_parameters(self._source)

    def end_epoch(self, runtime: Runtime) -> None:
        """Average the BatchNorm statistics over processes."""
        self.network.train()
        runtime.average_buffers(self.network)

    def freeze_backbone(self, frozen: bool) -> None:
        """Freeze or free the same part as in the source."""
        self.network.freeze_backbone(frozen)

    def state_dict(self) -> StateDict:
        """Averaged weights and number of averaged steps."""
        return self._average.state_dict()

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a saved average."""
        self._average.load_state_dict(state)
