"""Short runs of a method on as many processes as there are, and what they leave. N images, C classes, S steps.

The loop is the engine's. The network is small, computes in float64 and has no BatchNorm. Batches are uneven on two and
three processes, and the last of an epoch has fewer images than three.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu.trainer import CASES, SGD, VARIANTS, Case, codes_of
from data.loading.samplers import Sample, ShuffledBatches
from engine.core.distributed import Runtime
from engine.training.loop import Freezing, Hooks, Learner, Loop, StopRequest
from engine.training.optim import build_optimizer
from losses import CRITERIA
from losses.common.global_batch import GlobalBatch, share_of_all
from models.peers import Peers
from tests.losses.fake_model import FakeModel, info_for
from utils import collectives
from utils.class_facts import ClassCounts
from utils.types import Batch, LabelTable, LossOutput, ModelOutput

BATCH, CLASSES, EPOCHS = 5, 6, 4
ROWS = 12  # of which 5, 5 and 2 make a batch
OPTIONS: dict[str, dict[str, Any]] = {
    "cones": {"clusters": 2, "memory_per_class": 4, "beta": 0.5},
    "hst": {"prototypes": 2, "intra_margin": 0.3, "inter_margin": 0.3, "cooccurrence_width": 8},
    "lac": {"lac_warmup": 1, "queue_size": 16, "embedding_width": 4},
    "cap": {"cap_warmup": 1},
    "transition": {"transition_warmup": 2, "sample_epoch": 1},
    "large_loss": {"delta_rel": 10.0},
    "ndlp": {"candidate_epochs": 1, "eta": 5.0},
    "cdcr": {"candidate_threshold": 0.2},
    "ignore": {"gap_lambda": 0.1, "avg_lambda": 0.1},
}
"""Besides those of the measurements: so that a short run comes to everything that a method does."""
KNOWN_CASES = [
    Case("ignore", {"variant": "reference"}, "reference"),
    Case("db", {"weight_norm": "by_batch"}, "by_batch"),
    Case("csl", {"csl_mode": "negative"}, "negative"),
    Case("comes_rl", {"candidate_rate": 0.2, "flood": 0.5}, "flood"),
    Case("consistency", {"mean_over": "image"}, "by image"),
]
EVERY = {case.name: case for case in [*CASES, *VARIANTS, *KNOWN_CASES]}
"""The runs by name: every method that there is, and variants that exchange something else."""


class Left(NamedTuple):
    """What a run leaves, of all processes together but for its state, which is that of one of them."""

    losses: Tensor  # (S,)
    logits: Tensor  # (S, N, C), 0 for images of other batches
    selected: Tensor  # (S, N, C) bool, labels that a step modifies
    columns: dict[str, Tensor]  # of the log, by epoch
    memories: dict[str, Tensor]  # the state of the criterion
    weights: dict[str, Tensor]


class Told(FakeModel):
    """A network that also takes known labels."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.told = nn.Parameter(torch.linspace(-1, 1, num_classes * num_classes).view(num_classes, num_classes))

    def forward(self, images: Tensor, want: frozenset[str] = frozenset(), known: Tensor | None = None) -> ModelOutput:
        found = super().forward(images, want)
        assert known is not None
        return found._replace(logits=found.logits + known.to(self.told) @ self.told)


class ByRow:
    """A loader whose images follow from their rows."""

    num_classes = CLASSES

    def __init__(self, observed: LabelTable, batches: ShuffledBatches) -> None:
        self.observed, self.batches = observed, batches
        generator = torch.Generator().manual_seed(5)
        self.views = torch.randn(2, len(observed), 3, 8, 8, dtype=torch.float64, generator=generator)

    def __iter__(self) -> Iterator[list[Sample]]:
        return iter(self.batches)

    def to_batch(self, raw: list[Sample], device: torch.device) -> Batch:
        """The batch of these samples."""
        rows = np.array([sample.row for sample in raw])
        codes, index = torch.from_numpy(self.observed.rows(rows)), torch.from_numpy(rows)
        first, second = self.views[:, index]
        return Batch(first, codes.float(), index, second, codes, host_index=index)


class Undisturbed(StopRequest):
    """No signal is waited for, which threads cannot do."""

    def __enter__(self) -> Undisturbed:
        return self


class InTurn(Runtime):
    """A runtime of ranks that take turns in one process; they average gradients by `utils.collectives`."""

    rank = property(lambda self: collectives.rank())
    world_size = property(lambda self: collectives.world_size())


def new_network(needs: frozenset[str]) -> nn.Module:
    """A network for a method with these needs."""
    if "peers" in needs:
        return Peers(FakeModel(CLASSES, seed=0), FakeModel(CLASSES, seed=1))
    return Told(CLASSES) if "labels" in needs else FakeModel(CLASSES)


def new_loop(case: Case, runtime: Runtime, rows: int, epochs: int, lr: float, hooks: Hooks) -> Loop:
    """The loop over the epochs of a run, as a run builds it."""
    kind = CRITERIA[case.method]
    network = new_network(kind.criterion.needs)
    observed = LabelTable(codes_of(case.method, rows, CLASSES))
    batches = ShuffledBatches(rows, BATCH, seed=0, rank=runtime.rank, world_size=runtime.world_size)
    clean = ClassCounts(codes_of("bce_ls", rows, CLASSES).sum(axis=0), "clean")
    info = replace(info_for(observed.dense()), epochs=EPOCHS, steps_per_epoch=len(batches), clean_counts=clean)
    config = kind.config(**{**OPTIONS.get(case.method, {}), **case.options})
    criterion = kind.criterion(config, info).in_float64()
    optim = replace(SGD, lr=lr)
    model = runtime.wrap(network)
    groups = [{"params": list(network.parameters())}, *criterion.parameter_groups()]
    by_hand = isinstance(runtime, InTurn)  # nothing is wrapped that would average gradients
    return Loop(
        runtime,
        Learner(model, criterion, build_optimizer(optim, groups), optim),
        ByRow(observed, batches),
        batches,
        epochs=epochs,
        seed=0,
        save_minutes=60,
        save_epochs=EPOCHS,
        print_freq=10**9,
        save=lambda state: None,
        freezing=Freezing(epochs if by_hand else 0, lambda frozen: None),
        hooks=hooks,
    )


def train(case: Case, runtime: Runtime, *, rows: int = ROWS, epochs: int = EPOCHS, lr: float = 0.05) -> Left:
    """Train a case on the processes that there are; collective."""
    torch.manual_seed(0)
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    log: list[dict[str, float]] = []

    def scores(epoch: int) -> Tensor | None:
        criterion, loader = loop.learner.criterion, loop.loader
        if not criterion.wants_train_scores(epoch):
            return None
        with torch.no_grad():
            found: Tensor = runtime.unwrap(loop.learner.model)(loader.views[0]).logits
        return found

    def after_step(epoch: int, batch: Batch, output: LossOutput) -> None:
        modified = torch.zeros_like(output.logits) if output.modified is None else output.modified
        whole, nothing = GlobalBatch(batch), torch.zeros(rows, CLASSES, dtype=torch.float64)
        both = [nothing.index_copy(0, whole.index, whole.rows(each.double())) for each in (output.logits, modified)]
        steps.append((collectives.all_sum(share_of_all(batch) * output.total.detach().double()), *both))

    loop = new_loop(case, runtime, rows, epochs, lr, Hooks(train_scores=scores, after_step=after_step))
    loop.stop = Undisturbed()
    loop.run(lambda epoch, row: log.append(row))
    names = [name for name in log[-1] if name not in ("epoch", "lr", "images_per_second")]
    losses, logits, modified = (torch.stack(values) for values in zip(*steps, strict=True))
    return Left(
        losses,
        logits,
        modified > 0,
        {name: torch.tensor([row.get(name, 0.0) for row in log], dtype=torch.float64) for name in names},
        _tensors(loop.learner.criterion),
        _tensors(runtime.unwrap(loop.learner.model)),
    )


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items() if isinstance(value, Tensor)}
