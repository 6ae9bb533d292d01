"""What does the masked picture of IGNORE cost? `python -m benchmarks.ignore [--output FILE]` (minutes).

The goal is for the forward pass on masked pictures, which has no gradient: not more than one forward pass at inference
of the same network on the same pictures. Beside it stands all that rejection adds to a step: maps, masks, that pass,
gap and thresholds; and whole steps, from two views of pictures to the update of the weights, against naive AN's.

Times are CPU time of one thread. The ways take turns; a ratio is the median of the ratios of single turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import process_time
from typing import Any, Literal, NamedTuple

import torch

from benchmarks.co_label import table, verdict
from benchmarks.measure import machine, seconds
from benchmarks.threshold import CLASSES, known_to, single_positives
from engine.training.optim import OptimConfig, build_optimizer
from losses.assume_negative import AN, ANConfig
from losses.common.base import Criterion
from losses.common.global_batch import GlobalBatch
from losses.ignore import Ignore, IgnoreConfig
from models.build import Architecture, build_model
from models.classifier import Classifier
from utils.types import PRESENT, Batch, LabelTable

BATCH, SIZE = 4, 448
EPOCH = 4  # the first in which labels are rejected
GOAL = 1.0
Way = Callable[[], object]


class Timed(NamedTuple):
    """What one way takes, and how that compares with the first one."""

    seconds: float
    ratio: float


def in_turns(ways: Mapping[str, Way], turns: int) -> dict[str, Timed]:
    """CPU seconds of each way, in so many turns of all after one to warm up, and ratios to the first way."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, way in ways.items():
            start = process_time()
            way()
            if turn:
                taken[name].append(process_time() - start)
    first = next(iter(taken.values()))
    return {
        name: Timed(
            statistics.median(times),
            statistics.median(own / other for own, other in zip(times, first, strict=True)),
        )
        for name, times in taken.items()
    }


def network() -> Classifier:
    """A ResNet-50 with random weights, laid out as its pictures are."""
    model = build_model(Architecture.of(model="resnet50", weights="none"), CLASSES, seed=0)
    return model.to(memory_format=torch.channels_last)


def random_batch(labels: LabelTable) -> Batch:
    """Two views of noise, with the labels of the first rows."""
    views = torch.randn(2, BATCH, 3, SIZE, SIZE)
    first, second = (view.to(memory_format=torch.channels_last) for view in views)  # as the loader makes them
    index = torch.arange(BATCH)
    return Batch(first, torch.from_numpy(labels.rows(index.numpy())).float(), index, second)


def criterion_of(labels: LabelTable, **settings: Any) -> Ignore:
    """The method in an epoch in which it rejects."""
    criterion = Ignore(IgnoreConfig(**settings), known_to(labels))
    criterion.on_epoch_start(EPOCH)
    return criterion


def passes(labels: LabelTable, batch: Batch) -> dict[str, Way]:
    """An inference forward pass, the masked one under either BatchNorm, and all that rejection adds with it."""
    model = network()
    ways: dict[str, Way] = {"inference forward": lambda: _forward(model.eval(), batch)}
    modes: tuple[Literal["train", "eval"], ...] = ("train", "eval")
    for masked_bn in modes:
        criterion = criterion_of(labels, masked_bn=masked_bn)
        ways[f"masked forward, --masked_bn {masked_bn}"] = _masked(model, batch, masked_bn)
        ways[f"all of the rejection, --masked_bn {masked_bn}"] = _rejection(criterion, model, batch)
    return ways


def _forward(model: Classifier, batch: Batch) -> None:
    with torch.no_grad():
        model(batch.images)


def _masked(model: Classifier, batch: Batch, masked_bn: str) -> Way:
    """The pass on pictures of which the middle stays; only BatchNorm tells the modes apart in this network."""
    kept = torch.zeros(BATCH, 1, SIZE, SIZE, dtype=torch.bool)
    kept[:, :, SIZE // 3 : 2 * SIZE // 3, SIZE // 3 : 2 * SIZE // 3] = True
    pictures = batch._replace(images=batch.images * kept)
    return lambda: _forward(model.train(masked_bn == "train"), pictures)


def _rejection(criterion: Ignore, model: Classifier, batch: Batch) -> Way:
    """What `Ignore` does between its pass over the weak view and its loss."""
    with torch.no_grad():
        weak = model.eval()(batch.images, want=frozenset({"cam"}))

    def reject() -> None:
        whole = GlobalBatch(batch.index)
        criterion._reject(model.train(), batch, weak, whole.rows(batch.observed), whole)

    return reject


def steps(labels: LabelTable, batch: Batch) -> dict[str, Way]:
    """Whole training steps."""
    info = known_to(labels)
    return {
        "naive AN": training_step(AN(ANConfig(), info), batch),
        "IGNORE, --no-ignore": training_step(criterion_of(labels, ignore=False), batch),
        "IGNORE": training_step(criterion_of(labels), batch),
        "IGNORE, --masked_bn eval": training_step(criterion_of(labels, masked_bn="eval"), batch),
    }


def training_step(criterion: Criterion, batch: Batch) -> Way:
    """A step as `main_ignore.py` takes it: forward, loss, backward, update by Adam."""
    model = network().train()
    groups: list[dict[str, Any]] = [
        {"params": model.backbone_parameters()},
        {"params": model.head_parameters(), "lr_mult": 10},
    ]
    optimizer = build_optimizer(OptimConfig(optimizer="adam", lr=1e-5, w_d=0), groups)

    def step() -> None:
        """Forward, backward, update."""
        loss = criterion(model, batch)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()

    return step


def report(turns: int) -> str:
    """All that is measured."""
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
    pictures = f"ResNet-50, batch {BATCH}, {SIZE} x {SIZE} pixels, {CLASSES} classes, single positives"
    return "\n\n".join(
        [
            f"{machine()}.",
            f"{pictures}; CPU time of one thread, median of {turns} turns.",
            "## The masked forward",
            table(("pass", "time", "of inference", "goal"), rows),
            "## A whole step",
            table(("step", "time", "of naive AN"), whole),
        ]
    )


def main() -> int:
    """Measure, print, write. A missed goal is no error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ignore", description=__doc__, allow_abbrev=False)
    parser.add_argument("--output", type=Path, help="also write the tables to this Markdown file")
    parser.add_argument("--turns", type=int, default=5, help="how often everything is timed")
    given = parser.parse_args()
    text = report(given.turns)
    print(text)
    if given.output is not None:
        given.output.write_text(
            f"# IGNORE's masked pictures\n\nWritten by `python -m benchmarks.ignore`.\n\n{text}\n", encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
