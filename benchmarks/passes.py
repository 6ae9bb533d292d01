"""The forward passes that a method's step takes, taken down, and a step of nothing but these.

Methods of several networks or views compute more than a bare step does. What they are to be measured against is a step
of the same networks with the same passes, BCE, backward and optimiser, without the method.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.gpu.trainer import SGD, Shape
from engine.core.distributed import Runtime
from engine.training.optim import build_optimizer
from losses.common.functional import weighted_bce
from models.build import Architecture, build_model
from models.peers import Peers


class Pass(NamedTuple):
    """One forward pass."""

    network: int
    """0, or 1 for the second of a pair."""
    images: int
    learns: bool
    """True where gradients are wanted."""


def networks_of(model: nn.Module) -> Sequence[nn.Module]:
    """The network, or both of a pair."""
    return (model.f, model.g) if isinstance(model, Peers) else (model,)


@contextmanager
def taken_down(model: nn.Module) -> Iterator[list[Pass]]:
    """A block in which the forward passes of a network, or of a pair, are put into a list."""
    passes: list[Pass] = []

    def hook(number: int) -> Any:
        def note(_: nn.Module, given: tuple[Any, ...]) -> None:
            passes.append(Pass(number, len(given[0]), torch.is_grad_enabled()))

        return note

    networks = networks_of(model)
    handles = [network.register_forward_pre_hook(hook(number)) for number, network in enumerate(networks)]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


def is_bare(passes: Sequence[Pass], batch: int) -> bool:
    """True where one network sees the batch once, as in a bare step."""
    return list(passes) == [Pass(0, batch, learns=True)]


class BareStep:
    """Networks that learn by BCE from random images, with any passes: nothing of a method, and nothing of the loop.

    Memory layout, kernels and optimiser are those of the engine.
    """

    def __init__(self, shape: Shape, runtime: Runtime, networks: int = 1) -> None:
        self.shape, self.device = shape, runtime.device
        architecture = Architecture.of(model=shape.model, weights="none")
        bare = [build_model(architecture, shape.classes, seed) for seed in range(networks)]
        self.networks = [runtime.wrap(network).train() for network in bare]
        parameters = [parameter for network in bare for parameter in network.parameters()]
        self.optimizer = build_optimizer(SGD, [{"params": parameters}])
        self._images: dict[int, Tensor] = {}

    def prepare(self, passes: Sequence[Pass]) -> None:
        """Have the images that these passes need, so that a step makes none."""
        for count in {each.images for each in passes} - self._images.keys():
            images = torch.rand(count, 3, self.shape.size, self.shape.size, device=self.device)
            self._images[count] = images.to(memory_format=torch.channels_last)

    def __call__(self, passes: Sequence[Pass]) -> None:
        """Take a step of the passes, which `prepare` has seen."""
        self.optimizer.zero_grad()
        losses = []
        for each in passes:
            with torch.set_grad_enabled(each.learns):
                logits = self.networks[each.network](self._images[each.images]).logits
            if each.learns:
                losses.append(weighted_bce(logits, torch.zeros_like(logits)))
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
