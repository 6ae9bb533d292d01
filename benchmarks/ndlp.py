"""Cost of NDLP in a training step: `python -m benchmarks.ndlp [--output FILE]` (minutes).

The step is a whole one of a ResNet-50 of the published recipe in its first epoch, when it has one pass: from the
images to the update of the weights. From the second epoch on a step has two passes and takes up to twice as long, so
shares of it would be smaller. Beside it stand, of the last epoch,

- labels: all between the logits and the loss that is about labels, with the loss: pseudo labels, choice of images,
  distribution, confidences, and the targets of the mixtures. The goal is for this: less than 3 % of the step;
- with images: the same, and mixing the images that were chosen.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.measure import finish, in_turns, machine, markdown_table, options, seconds
from benchmarks.steps import FixedLogits, Step, criterion_info, noise_batch, training_step
from engine.training.optim import OptimConfig, build_optimizer
from losses.ndlp import NDLP, NDLPConfig
from models.build import Architecture, build_model
from utils.types import ABSENT, PRESENT, LabelTable

BATCH, SIZE, EPOCHS = 32, 224, 10
GOAL = 0.03
HEADINGS = ("training set", "variant", "chosen", "labels", "with images", "whole step", "labels / step", "goal")


class CandidateSet(NamedTuple):
    """Size of a training set, and frequency of its candidate labels."""

    name: str
    rows: int
    classes: int
    most: int  # images of the most frequent class; the least frequent one has a hundredth of them
    rate: float


CASES = (
    CandidateSet("VOC-MLT, rate .3", 1_142, 20, 775, 0.3),
    CandidateSet("COCO-MLT, rate .05", 1_909, 80, 1_128, 0.05),
    CandidateSet("all of COCO, rate .05", 82_081, 80, 45_000, 0.05),
)


class VariantCost(NamedTuple):
    """Seconds per batch under one variant."""

    name: str
    variant: str
    chosen: float  # share of the batch
    labels: float
    images: float
    step: float

    def cells(self) -> tuple[str, ...]:
        """Cells of the row of the table."""
        share = self.labels / self.step
        goal = f"{GOAL:.0%}" if share < GOAL else f"{GOAL:.0%} (missed)"
        return self.name, self.variant, f"{self.chosen:.0%}", *map(seconds, self[3:]), f"{100 * share:.2g} %", goal


def candidate_labels(case: CandidateSet) -> LabelTable:
    """Candidates: true labels with frequencies in equal ratios, at least one per image, and wrong ones."""
    rng = np.random.default_rng(0)
    chances = case.most / case.rows * np.geomspace(1, 0.01, case.classes)
    true = rng.random((case.rows, case.classes)) < chances
    true[np.arange(case.rows), rng.choice(case.classes, case.rows, p=chances / chances.sum())] = True
    wrong = rng.random(true.shape) < case.rate
    return LabelTable(np.where(true | wrong, PRESENT, ABSENT).astype(np.int8))


def criterion_of(variant: str, labels: LabelTable, epoch: int) -> NDLP:
    """Return the method at the start of an epoch."""
    info = criterion_info(labels, "candidate", epochs=EPOCHS, batch_size=BATCH)
    criterion = NDLP(NDLPConfig(prior="candidate", variant=variant), info)  # type: ignore[arg-type]
    criterion.on_epoch_start(epoch)
    return criterion


def first_epoch_step(labels: LabelTable) -> Step:
    """Training step of `main_ndlp.py` in its first epoch."""
    recipe = Architecture.of(model="resnet50", weights="none", head="pfc", frozen_stages=1, norm_eval=True)
    model = build_model(recipe, labels.num_classes, seed=0).train()
    criterion, batch = criterion_of("fixed", labels, 1), noise_batch(labels, BATCH, SIZE)
    learning = [one for one in model.parameters() if one.requires_grad]
    optimizer = build_optimizer(OptimConfig(optimizer="sgd", lr=0.02), [{"params": learning}])
    return training_step(lambda: criterion(model, batch).total, optimizer)


def costs(turns: int) -> Iterator[VariantCost]:
    """Measure each training set under each variant; in epoch 1 both take the same step but for microseconds."""
    torch.manual_seed(0)
    for case in CASES:
        labels = candidate_labels(case)
        given, step = FixedLogits(torch.randn(BATCH, case.classes) - 2), first_epoch_step(labels)
        ways = {}
        for variant in ("fixed", "reference"):
            criterion = criterion_of(variant, labels, EPOCHS)
            ways[variant] = [partial(criterion, given, noise_batch(labels, BATCH, side)) for side in (1, SIZE)]
        whole = in_turns(step, ways["fixed"][0], turns=turns)[0]
        for variant, (on_labels, on_images) in ways.items():
            times = in_turns(on_labels, on_images, turns=9)
            yield VariantCost(case.name, variant, float(on_labels().parts["chosen"]), *times, whole)


def main() -> int:
    """Measure, print, write. A missed goal is no error."""
    parser = options("ndlp", __doc__)
    parser.add_argument("--turns", type=int, default=3, help="timed steps of the network per line")
    given = parser.parse_args()
    setting = (
        f"ResNet-50, batch {BATCH}, {SIZE} x {SIZE} pixels, PFC head, first stage frozen; the step is one of epoch 1,"
        f" with one pass,\nlabels and images are of epoch {EPOCHS}."
    )
    rows = markdown_table(HEADINGS, (cost.cells() for cost in costs(given.turns)))
    finish("ndlp", "NDLP beside a training step", f"{machine()}.\n\n{setting}\n\n{rows}", given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
