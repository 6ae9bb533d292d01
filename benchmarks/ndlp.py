"""What does NDLP cost beside a training step? `python -m benchmarks.ndlp [--output FILE]` (minutes).

The step is a whole one of a ResNet-50 of the published recipe in its first epoch, when it has one pass: from the
pictures to the update of the weights. From the second epoch on a step has two passes and takes up to twice as long, so
shares of it would be smaller. Beside it stand, of the last epoch,

- labels: all between the logits and the loss that is about labels, with the loss: pseudo labels, choice of images,
  distribution, confidences, and the targets of the mixtures. The goal is for this: less than 3 % of the step;
- with pictures: the same, and mixing the pictures of the images that were chosen.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import in_turns, machine, seconds
from engine.training.optim import OptimConfig, build_optimizer
from losses.ndlp import NDLP, NDLPConfig
from models.build import Architecture, build_model
from utils.types import ABSENT, PRESENT, Batch, ClassCounts, CriterionInfo, LabelTable, ModelOutput

BATCH, SIZE, EPOCHS = 32, 224, 10
GOAL = 0.03
HEADINGS = ("training set", "variant", "chosen", "labels", "with pictures", "whole step", "labels / step", "goal")


class Case(NamedTuple):
    """The size of a training set, and its candidate labels."""

    name: str
    rows: int
    classes: int
    most: int  # images of the most frequent class; the least frequent one has a hundredth of them
    rate: float


CASES = (
    Case("VOC-MLT, rate .3", 1_142, 20, 775, 0.3),
    Case("COCO-MLT, rate .05", 1_909, 80, 1_128, 0.05),
    Case("all of COCO, rate .05", 82_081, 80, 45_000, 0.05),
)


class Cost(NamedTuple):
    """Seconds that a batch takes."""

    name: str
    variant: str
    chosen: float  # share of the batch
    labels: float
    pictures: float
    step: float

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        share = self.labels / self.step
        goal = f"{GOAL:.0%}" if share < GOAL else f"{GOAL:.0%} (missed)"
        return self.name, self.variant, f"{self.chosen:.0%}", *map(seconds, self[3:]), f"{100 * share:.2g} %", goal


class Given(nn.Module):
    """Stands for a network whose logits are there already, so that only the method takes time."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(BATCH, classes) - 2)

    def forward(self, images: Tensor, want: frozenset[str] = frozenset()) -> ModelOutput:
        """As many rows of logits (B, C) as there are images."""
        return ModelOutput(self.logits[: len(images)])


def candidate_labels(case: Case) -> LabelTable:
    """Labels whose frequencies fall in equal ratios, each image with one at least, and wrong candidates beside them."""
    rng = np.random.default_rng(0)
    chances = case.most / case.rows * np.geomspace(1, 0.01, case.classes)
    true = rng.random((case.rows, case.classes)) < chances
    true[np.arange(case.rows), rng.choice(case.classes, case.rows, p=chances / chances.sum())] = True
    wrong = rng.random(true.shape) < case.rate
    return LabelTable(np.where(true | wrong, PRESENT, ABSENT).astype(np.int8))


def criterion_of(variant: str, labels: LabelTable, epoch: int) -> NDLP:
    """The method at the start of an epoch."""
    info = CriterionInfo(
        observed=labels,
        classes=[str(label) for label in range(labels.num_classes)],
        epochs=EPOCHS,
        steps_per_epoch=-(-len(labels) // BATCH),
        feature_width=2048,
        class_counts=ClassCounts(labels.counts(), "candidate"),
        seed=0,
    )
    criterion = NDLP(NDLPConfig(prior="candidate", variant=variant), info)  # type: ignore[arg-type]
    criterion.on_epoch_start(epoch)
    return criterion


def random_batch(labels: LabelTable, side: int) -> Batch:
    """Pictures of noise, with the labels of rows drawn at random."""
    index = np.random.default_rng(1).choice(len(labels), BATCH, replace=False)
    observed = torch.from_numpy(labels.rows(index)).float()
    return Batch(torch.rand(BATCH, 3, side, side), observed, torch.from_numpy(index))


def training_step(labels: LabelTable) -> Callable[[], None]:
    """A step as `main_ndlp.py` takes it in its first epoch: forward, loss, backward, update by SGD."""
    recipe = Architecture.of(model="resnet50", weights="none", head="pfc", frozen_stages=1, norm_eval=True)
    model = build_model(recipe, labels.num_classes, seed=0).train()
    criterion, batch = criterion_of("fixed", labels, 1), random_batch(labels, SIZE)
    groups: list[dict[str, Any]] = [{"params": [one for one in model.parameters() if one.requires_grad]}]
    optimizer = build_optimizer(OptimConfig(optimizer="sgd", lr=0.02), groups)

    def step() -> None:
        loss = criterion(model, batch)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()

    return step


def costs(turns: int) -> Iterator[Cost]:
    """Each training set under each variant; in epoch 1 the step of both is the same but for some microseconds."""
    torch.manual_seed(0)
    for case in CASES:
        labels = candidate_labels(case)
        given, step = Given(case.classes), training_step(labels)
        ways = {}
        for variant in ("fixed", "reference"):
            criterion = criterion_of(variant, labels, EPOCHS)
            ways[variant] = [partial(criterion, given, random_batch(labels, side)) for side in (1, SIZE)]
        whole = in_turns(step, ways["fixed"][0], turns=turns)[0]
        for variant, (on_labels, on_pictures) in ways.items():
            times = in_turns(on_labels, on_pictures, turns=9)
            yield Cost(case.name, variant, float(on_labels().parts["chosen"]), *times, whole)


def main() -> int:
    """Measure, print, write. A missed goal is no error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ndlp", description=__doc__, allow_abbrev=False)
    parser.add_argument("--output", type=Path, help="also write the table to this Markdown file")
    parser.add_argument("--turns", type=int, default=3, help="steps of the network that are timed for each line")
    given = parser.parse_args()
    rows = [HEADINGS, ("---",) * len(HEADINGS), *(cost.cells() for cost in costs(given.turns))]
    what = (
        f"ResNet-50, batch {BATCH}, {SIZE} x {SIZE} pixels, PFC head, first stage frozen; the step is one of epoch 1,"
        f" with one pass,\nlabels and pictures are of epoch {EPOCHS}."
    )
    text = "\n".join([f"{machine()}.", "", what, "", *(f"| {' | '.join(row)} |" for row in rows), ""])
    print(text)
    if given.output is not None:
        given.output.write_text(
            f"# NDLP beside a training step\n\nWritten by `python -m benchmarks.ndlp`.\n\n{text}", encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
