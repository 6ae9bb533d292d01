"""Cost of the masked images of IGNORE: `python -m benchmarks.ignore [--output FILE]` (minutes).

The goal is for the forward pass on masked images, which has no gradient: not more than one forward pass at inference of
the same network on the same images. Measured too: all that rejection adds to a step (maps, masks, that pass, gap and
thresholds), and whole steps, from two views of the images to the update of the weights, against those of naive AN.

Times are CPU time of one thread. The functions take turns; a ratio is the median of the ratios of single turns.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping
from time import process_time
from typing import Any, Literal, NamedTuple

import torch

from benchmarks.measure import finish, machine, markdown_table, options, seconds, verdict
from benchmarks.steps import Step, criterion_info, head_times_ten, training_step
from benchmarks.threshold import CLASSES, single_positives
from losses.assume_negative import AN, ANConfig
from losses.common.base import Criterion
from losses.common.global_batch import GlobalBatch
from losses.ignore import Ignore, IgnoreConfig
from models.build import Architecture, build_model
from models.classifier import Classifier
from utils.types import PRESENT, Batch, CriterionInfo, LabelTable

BATCH, SIZE = 4, 448
EPOCH = 4  # the first in which labels are rejected
EPOCHS = 10
GOAL = 1.0
Timed = Callable[[], object]


class CpuTime(NamedTuple):
    """CPU seconds of a function, and their ratio to those of the first function."""

    seconds: float
    ratio: float


def in_turns(functions: Mapping[str, Timed], turns: int) -> dict[str, CpuTime]:
    """Time the functions in `turns` turns of all, after one turn to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(turns + 1):
        for name, function in functions.items():
            start = process_time()
            function()
            if turn:
                taken[name].append(process_time() - start)
    first = next(iter(taken.values()))
    return {
        name: CpuTime(
            statistics.median(times),
            statistics.median(own / other for own, other in zip(times, first, strict=True)),
        )
        for name, times in taken.items()
    }


def network() -> Classifier:
    """ResNet-50 with random weights, in the memory layout of its images."""
    model = build_model(Architecture.of(model="resnet50", weights="none"), CLASSES, seed=0)
    return model.to(memory_format=torch.channels_last)


def random_batch(labels: LabelTable) -> Batch:
    """Two views of noise images, with the labels of the first rows."""
    views = torch.randn(2, BATCH, 3, SIZE, SIZE)
    first, second = (view.to(memory_format=torch.channels_last) for view in views)  # as the loader makes them
    index = torch.arange(BATCH)
    return Batch(first, torch.from_numpy(labels.rows(index.numpy())).float(), index, second)


def info_of(labels: LabelTable) -> CriterionInfo:
    """Information about the training set, for a criterion."""
    return criterion_info(labels, "observed", epochs=EPOCHS, batch_size=BATCH)


def criterion_of(labels: LabelTable, **settings: Any) -> Ignore:
    """Return the method in an epoch in which it rejects."""
    criterion = Ignore(IgnoreConfig(**settings), info_of(labels))
    criterion.on_epoch_start(EPOCH)
    return criterion


def passes(labels: LabelTable, batch: Batch) -> dict[str, Timed]:
    """An inference forward pass; the masked one in both BatchNorm modes, and all that rejection adds with it."""
    model = network()
    functions: dict[str, Timed] = {"inference forward": lambda: _forward(model.eval(), batch)}
    modes: tuple[Literal["train", "eval"], ...] = ("train", "eval")
    for masked_bn in modes:
        criterion = criterion_of(labels, masked_bn=masked_bn)
        functions[f"masked forward, --masked_bn {masked_bn}"] = _masked(model, batch, masked_bn)
        functions[f"all of the rejection, --masked_bn {masked_bn}"] = _rejection(criterion, model, batch)
    return functions


def _forward(model: Classifier, batch: Batch) -> None:
    with torch.no_grad():
        model(batch.images)


def _masked(model: Classifier, batch: Batch, masked_bn: str) -> Timed:
    """Forward pass on images of which the middle is left; in this network the modes differ in BatchNorm only."""
    kept = torch.zeros(BATCH, 1, SIZE, SIZE, dtype=torch.bool)
    kept[:, :, SIZE // 3 : 2 * SIZE // 3, SIZE // 3 : 2 * SIZE // 3] = True
    masked = batch._replace(images=batch.images * kept)
    return lambda: _forward(model.train(masked_bn == "train"), masked)


def _rejection(criterion: Ignore, model: Classifier, batch: Batch) -> Timed:
    """All that `Ignore` does between its pass over the weak view and its loss."""
    with torch.no_grad():
        weak = model.eval()(batch.images, want=frozenset({"cam"}))

    def reject() -> None:
        criterion._reject(model.train(), batch, weak, GlobalBatch(batch))

    return reject


def steps(labels: LabelTable, batch: Batch) -> dict[str, Step]:
    """Whole training steps."""
    return {
        "naive AN": ignore_step(AN(ANConfig(), info_of(labels)), batch),
        "IGNORE, --no-ignore": ignore_step(criterion_of(labels, ignore=False), batch),
        "IGNORE": ignore_step(criterion_of(labels), batch),
        "IGNORE, --masked_bn eval": ignore_step(criterion_of(labels, masked_bn="eval"), batch),
    }


def ignore_step(criterion: Criterion, batch: Batch) -> Step:
    """Training step of `main_ignore.py`."""
    model = network().train()
    return training_step(lambda: criterion(model, batch).total, head_times_ten(model))


def report(turns: int) -> str:
    """Measure everything; return the tables."""
    torch.manual_seed(0)
    labels = single_positives()
    batch = random_batch(labels)
    assert int((batch.observed == PRESENT).sum()) == BATCH
    found = in_turns(passes(labels, batch), turns)
    rows = [
        (name, seconds(one.seconds), f"{one.ratio:.3f}", verdict(one.ratio, GOAL) if name.startswith("masked") else "")
        for name, one in found.items()
    ]
    whole = [
        (name, seconds(one.seconds), f"{one.ratio:.2f}") for name, one in in_turns(steps(labels, batch), turns).items()
    ]
    setting = f"ResNet-50, batch {BATCH}, {SIZE} x {SIZE} pixels, {CLASSES} classes, single positives"
    return "\n\n".join(
        [
            f"{machine()}.",
            f"{setting}; CPU time of one thread, median of {turns} turns.",
            "## The masked forward",
            markdown_table(("pass", "time", "of inference", "goal"), rows),
            "## A whole step",
            markdown_table(("step", "time", "of naive AN"), whole),
        ]
    )


def main() -> int:
    """Measure, print, write. A missed goal is no error."""
    parser = options("ignore", __doc__)
    parser.add_argument("--turns", type=int, default=5, help="number of timed turns")
    given = parser.parse_args()
    finish("ignore", "IGNORE's masked images", report(given.turns), given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
