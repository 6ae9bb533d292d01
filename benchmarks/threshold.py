"""Cost of large-loss methods in a training step: `python -m benchmarks.threshold [--output FILE]` (minutes).

The step is a whole one of a ResNet-50 under the method, from the images to the update of the weights. The method is all
that happens between its logits and its loss, selection by the threshold and the loss itself; naive AN has that loss and
no selection. The goal is for the method as a whole: less than 3 % of the step.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple, get_args

import numpy as np
import torch

from benchmarks.measure import finish, in_turns, machine, markdown_table, options, seconds
from benchmarks.steps import FixedLogits, Step, criterion_info, head_times_ten, noise_batch, training_step
from losses.assume_negative import BCE, BCEConfig
from losses.common.base import Criterion
from losses.large_loss import LargeLoss, LargeLossConfig, Scheme
from models.build import Architecture, build_model
from utils.types import PRESENT, UNKNOWN, Batch, LabelTable

BATCH, SIZE, CLASSES = 16, 448, 80
ROWS = 65_665  # COCO's training set as LargeLossMatters splits it
EPOCH = 10  # its last one, in which most labels are modified
DELTAS = {"LL-R": 0.5, "LL-Ct": 0.2, "LL-Cp": 0.1}  # those of configs/large_loss/coco.yaml
GOAL = 0.03
HEADINGS = ("scheme", "whole step", "logits to loss", "naive AN", "share of the step", "goal")


class SchemeCost(NamedTuple):
    """Seconds per batch under one scheme."""

    scheme: str
    step: float
    method: float  # from the logits to the loss
    naive: float  # the same of naive AN

    def cells(self) -> tuple[str, ...]:
        """Cells of the row of the table."""
        share = self.method / self.step
        goal = f"{GOAL:.0%}" if share < GOAL else f"{GOAL:.0%} (missed)"
        return self.scheme, *map(seconds, self[1:]), f"{100 * share:.2g} %", goal


def single_positives() -> LabelTable:
    """One label per row known to be present, all others unknown."""
    codes = np.full((ROWS, CLASSES), UNKNOWN, dtype=np.int8)
    codes[np.arange(ROWS), np.random.default_rng(0).integers(0, CLASSES, ROWS)] = PRESENT
    return LabelTable(codes)


def llm_step(criterion: Criterion, batch: Batch) -> Step:
    """Training step of `main_llm.py`."""
    model = build_model(Architecture.of(model="resnet50", weights="none"), CLASSES, seed=0).train()
    return training_step(lambda: criterion(model, batch).total, head_times_ten(model))


def costs() -> Iterator[SchemeCost]:
    """Measure the step and the method alone of every scheme, in turns."""
    torch.manual_seed(0)
    labels = single_positives()
    info = criterion_info(labels, "observed", epochs=EPOCH, batch_size=BATCH)
    batch, given = noise_batch(labels, BATCH, SIZE), FixedLogits(torch.randn(BATCH, CLASSES) - 2)
    naive = partial(BCE(BCEConfig(), info), given, batch)
    for scheme in get_args(Scheme):
        criterion = LargeLoss(LargeLossConfig(mod_scheme=scheme, delta_rel=DELTAS[scheme]), info)
        criterion.on_epoch_start(EPOCH)
        method = partial(criterion, given, batch)
        step, own = in_turns(llm_step(criterion, batch), method, turns=3)
        yield SchemeCost(scheme, step, own, in_turns(naive, method, turns=9)[0])


def main() -> int:
    """Measure, print, write. A missed goal is no error."""
    output = options("threshold", __doc__).parse_args().output
    setting = f"ResNet-50, batch {BATCH}, {SIZE} x {SIZE} pixels, {CLASSES} classes, single positives, epoch {EPOCH}."
    rows = markdown_table(HEADINGS, (cost.cells() for cost in costs()))
    finish("threshold", "Large loss beside a training step", f"{machine()}.\n\n{setting}\n\n{rows}", output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
