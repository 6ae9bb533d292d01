"""A network whose weights are a moving average of those in training, which are often better than the last ones."""

from __future__ import annotations

from typing import cast

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from engine.core.distributed import Runtime
from models.peers import Network
from utils.types import StateDict


class EMA:
    """The exponential moving average of the weights of a network, over the optimiser's steps.

    After the first step it is the network's weights w, then a <- decay a + (1 - decay) w. BatchNorm statistics are
    averaged likewise, and are those of all processes from the end of an epoch on.

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
        """Take in the weights as they are after another step of the optimiser."""
        self._average.update_parameters(self._source)

    def end_epoch(self, runtime: Runtime) -> None:
        """Give all processes the mean of their statistics."""
        self.network.train()
        runtime.average_buffers(self.network)

    def freeze_backbone(self, frozen: bool) -> None:
        """Freeze here what is frozen in the source."""
        self.network.freeze_backbone(frozen)

    def state_dict(self) -> StateDict:
        """The averaged weights, and over how many steps."""
        return self._average.state_dict()

    def load_state_dict(self, state: StateDict) -> None:
        """Go on from there."""
        self._average.load_state_dict(state)
