"""Cost of CLS against two plain networks: `python -m benchmarks.co_label [--output FILE]` (minutes).

A step is a whole one, from the images to the update of the weights. Times are CPU time of the one thread in use, so
that other programs on the machine do not count. Memory is counted, not measured: the bytes of all tensors alive at the
same moment, weights, gradients and moments of Adam included.
"""

from __future__ import annotations

import statistics
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from time import process_time
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.measure import MIB, TURN, finish, machine, markdown_table, options, seconds, verdict
from benchmarks.steps import FixedLogits, Step, criterion_info, training_step
from engine.training.optim import OptimConfig, build_optimizer
from losses.assume_negative import BCE, BCEConfig
from losses.cls import CLS, CLSConfig, select
from models.build import Architecture
from models.peers import Peers, build_peers
from utils.types import PRESENT, UNKNOWN, Batch, CriterionInfo, LabelTable

SIZE, CLASSES = 224, 80
STEPS = {"resnet18": (16, 9), "resnet50": (8, 5)}  # images per batch, turns
POOLED = ((120, 80), (288, 5000))  # batch and classes: of the paper, and of a large vocabulary
PAPER_BATCH = 120
EPOCH = 10  # from which on the rates have their full size
PRESENT_RATE = 0.01  # of all labels: COCO's positives with 25 % of them left
GOAL_TIME, GOAL_MEMORY = 1.05, 1.10
PAPER = OptimConfig(optimizer="adam", lr=4e-5, w_d=1e-4)


class FixedPeers(NamedTuple):
    """Pair of networks with given logits."""

    f: FixedLogits
    g: FixedLogits


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Record, while active, of the bytes of all living tensors together, and of their peak."""

    def __init__(self, existing: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._living: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        for tensor in existing:
            self._count(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation; tensors that share memory count once."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if torch.is_tensor(leaf):
                self._count(leaf)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._living:
            self._living[key] = weakref.ref(storage, lambda _: self._forget(key, size))
            self.now += size
            self.peak = max(self.peak, self.now)

    def _forget(self, key: int, size: int) -> None:
        del self._living[key]
        self.now -= size


def random_batch(shape: tuple[int, int], side: int = SIZE) -> Batch:
    """Noise images with labels of which few are known to be present and the rest unknown."""
    drawn = np.random.default_rng(0).random(shape) < PRESENT_RATE
    observed = torch.from_numpy(np.where(drawn, PRESENT, UNKNOWN)).float()
    return Batch(torch.rand(shape[0], 3, side, side), observed, torch.arange(shape[0]))


def info_of(shape: tuple[int, int]) -> CriterionInfo:
    """Information about a training set of one batch, for a criterion; its size does not matter here."""
    labels = LabelTable(np.full(shape, UNKNOWN, dtype=np.int8))
    return criterion_info(labels, "observed", epochs=EPOCH, batch_size=shape[0])


def selecting(shape: tuple[int, int]) -> CLS:
    """CLS with the paper's rates for COCO, at their final values."""
    criterion = CLS(CLSConfig(), info_of(shape))
    criterion.on_epoch_start(EPOCH)
    return criterion


def step_of(loss: Callable[[], Tensor], parameters: Iterable[nn.Parameter]) -> Step:
    """Training step with an optimiser of its own."""
    return training_step(loss, build_optimizer(PAPER, [{"params": list(parameters)}]))


def peers_of(model: str) -> Peers:
    """Two networks with random weights, in training mode."""
    return build_peers(Architecture.of(model=model, weights="none"), CLASSES, seed=0).train()


class Steps(NamedTuple):
    """Three training steps of the same two networks on one batch."""

    cls: Step
    together: Step  # both by BCE in one step
    in_turn: Step  # a step of f by BCE, then one of g


def steps(peers: Peers, batch: Batch) -> Steps:
    """Steps on a batch of images (B, 3, H, W) and labels (B, C)."""
    shape = (len(batch.index), CLASSES)
    criterion, bce = selecting(shape), BCE(BCEConfig(), info_of(shape))
    f, g = (step_of(partial(_bce, bce, each, batch), each.parameters()) for each in (peers.f, peers.g))

    def in_turn() -> None:
        f()
        g()

    return Steps(
        step_of(lambda: criterion(peers, batch).total, peers.parameters()),
        step_of(lambda: _bce(bce, peers.f, batch) + _bce(bce, peers.g, batch), peers.parameters()),
        in_turn,
    )


def _bce(criterion: BCE, network: nn.Module, batch: Batch) -> Tensor:
    total: Tensor = criterion(network, batch).total
    return total


def cpu_seconds(functions: Sequence[Callable[[], object]], turns: int) -> list[float]:
    """Median CPU seconds of one call of each function, in turns; short calls are repeated within a turn."""
    numbers = [max(1, round(TURN / max(_cpu_seconds_of(each, 1), 1e-9))) for each in functions]  # the warm-up as well
    taken = [
        [_cpu_seconds_of(each, number) / number for each, number in zip(functions, numbers, strict=True)]
        for _ in range(turns)
    ]
    return [statistics.median(times) for times in zip(*taken, strict=True)]


def _cpu_seconds_of(function: Callable[[], object], number: int) -> float:
    start = process_time()
    for _ in range(number):
        function()
    return process_time() - start


class StepTime(NamedTuple):
    """CPU seconds of a step of two networks."""

    model: str
    batch: int
    plain: float  # two BCE steps
    cls: float

    def cells(self) -> tuple[str, ...]:
        """Cells of the row of the table."""
        ratio = self.cls / self.plain
        times = seconds(self.plain), seconds(self.cls)
        return f"{self.model}, {self.batch} images", *times, f"{ratio:.3f}", verdict(ratio, GOAL_TIME)


def step_times() -> Iterator[StepTime]:
    """Time a step of CLS and two plain ones, in turns."""
    for model, (size, turns) in STEPS.items():
        peers = peers_of(model).to(memory_format=torch.channels_last)  # as in training
        three = steps(peers, random_batch((size, CLASSES)))
        yield StepTime(model, size, *cpu_seconds((three.in_turn, three.cls), turns))


def random_logits(shape: tuple[int, int], seed: int) -> Tensor:
    """Logits around those of a rare class."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) - 3


def selection_times(shape: tuple[int, int]) -> list[float]:
    """CPU seconds, logits given, of two BCE losses, of CLS up to its loss, and of the two selections in it."""
    peers = FixedPeers(*(FixedLogits(random_logits(shape, seed)) for seed in (1, 2)))
    batch, criterion, bce = random_batch(shape, side=1), selecting(shape), BCE(BCEConfig(), info_of(shape))
    f, g = (each.logits.detach() for each in peers)  # they serve as losses: random numbers to be sorted
    negatives = batch.observed == UNKNOWN

    def both_selected() -> None:
        select(f, g, negatives, criterion.rates)
        select(g, f, negatives, criterion.rates)

    return cpu_seconds(
        (lambda: [bce(each, batch) for each in peers], partial(criterion, peers, batch), both_selected), 9
    )


def selection_rows(image: float) -> Iterator[tuple[str, ...]]:
    """Rows about the method alone; `image`: CPU seconds per image of two plain steps."""
    for batch, classes in POOLED:
        taken = selection_times((batch, classes))
        yield f"{batch} x {classes:,}", *map(seconds, taken), f"{100 * taken[1] / (image * batch):.2g} %"


def peak_of(step_name: str, model: str, size: int) -> float:
    """Peak MiB of all tensors alive at the same moment of a step that is not the first.

    Nothing is computed: the tensors have shapes but no values, so that the paper's batch fits any machine.
    """
    with FakeTensorMode():
        peers, batch = peers_of(model), random_batch((size, CLASSES))
        live = LiveBytes([*peers.parameters(), *peers.buffers(), batch.images, batch.observed, batch.index])
        step: Step = getattr(steps(peers, batch), step_name)
        with live:
            step()
            live.peak = live.now
            step()
    return live.peak / MIB


def memory_rows() -> Iterator[tuple[str, ...]]:
    """Rows about the memory of a step with the paper's batch."""
    for model in STEPS:
        cls, together, in_turn = (peak_of(name, model, PAPER_BATCH) for name in Steps._fields)
        ratio = cls / together
        cells = (f"{value:,.1f} MiB" for value in (together, cls))
        yield model, *cells, f"{ratio:.4f}", verdict(ratio, GOAL_MEMORY), f"{in_turn:,.1f} MiB"


def report() -> str:
    """Measure everything; return the tables."""
    torch.manual_seed(0)
    times = list(step_times())
    image = times[-1].plain / times[-1].batch
    setting = f"{SIZE} x {SIZE} pixels, {CLASSES} classes"
    parts = [
        f"{machine()}.",
        f'## Time of a step\n\n{setting}, CPU time of one thread; "two plain": a step of f by BCE, then one of g.',
        markdown_table(("networks", "two plain", "CLS", "ratio", "goal"), (each.cells() for each in times)),
        "## The method alone\n\nLogits given; CLS is from the logits to the loss, both networks, selection "
        "included. The share\nis that of two plain steps of ResNet-50 with as many images, from the table above.",
        markdown_table(
            ("batch x classes", "two BCE losses", "CLS", "selection in it", "CLS, of a step"), selection_rows(image)
        ),
        f"## Peak memory of a step\n\n{PAPER_BATCH} images of {setting}, fp32, Adam: all tensors alive at one moment.",
        markdown_table(
            ("networks", "both by BCE in one step", "CLS", "ratio", "goal", "one after the other by BCE"), memory_rows()
        ),
    ]
    return "\n\n".join(parts)


def main() -> int:
    """Measure, print, write. A missed goal is no error."""
    output = options("co_label", __doc__).parse_args().output
    finish("co_label", "CLS beside two plain networks", report(), output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
