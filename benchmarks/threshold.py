"""What do large-loss methods cost beside a training step? `python -m benchmarks.threshold [--output FILE]` (minutes).

The step is a whole one of a ResNet-50 under the method, from the pictures to the update of the weights. The method is
all that happens between its logits and its loss, selection by the threshold and the loss itself; naive AN has that loss
and no selection. The goal is for the method as a whole: less than 3 % of the step.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import in_turns, machine, seconds
from engine.training.optim import OptimConfig, build_optimizer
from losses.assume_negative import BCE, BCEConfig
from losses.common.base import Criterion
from losses.large_loss import LargeLoss, LargeLossConfig, Scheme
from models.build import Architecture, build_model
from utils.types import PRESENT, UNKNOWN, Batch, ClassCounts, CriterionInfo, LabelTable, ModelOutput

BATCH, SIZE, CLASSES = 16, 448, 80
ROWS = 65_665  # COCO's training set as LargeLossMatters splits it
EPOCH = 10  # its last one, in which most labels are modified
DELTAS = {"LL-R": 0.5, "LL-Ct": 0.2, "LL-Cp": 0.1}  # those of configs/large_loss/coco.yaml
GOAL = 0.03
HEADINGS = ("scheme", "whole step", "logits to loss", "naive AN", "share of the step", "goal")


class Cost(NamedTuple):
    """Seconds that a batch takes under one scheme."""

    scheme: str
    step: float
    method: float  # from the logits to the loss
    naive: float  # the same of naive AN

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        share = self.method / self.step
        goal = f"{GOAL:.0%}" if share < GOAL else f"{GOAL:.0%} (missed)"
        return self.scheme, *map(seconds, self[1:]), f"{100 * share:.2g} %", goal


class Given(nn.Module):
    """Stands for a network whose logits are there already, so that only the method takes time."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(BATCH, CLASSES) - 2)

    def forward(self, images: Tensor, want: frozenset[str] = frozenset()) -> ModelOutput:
        """The logits (B, C)."""
        return ModelOutput(self.logits)


def single_positives() -> LabelTable:
    """One label known to be present a row, all others unknown."""
    codes = np.full((ROWS, CLASSES), UNKNOWN, dtype=np.int8)
    codes[np.arange(ROWS), np.random.default_rng(0).integers(0, CLASSES, ROWS)] = PRESENT
    return LabelTable(codes)


def known_to(labels: LabelTable) -> CriterionInfo:
    """What a method may know of a training set with these labels."""
    return CriterionInfo(
        observed=labels,
        classes=[str(label) for label in range(CLASSES)],
        epochs=EPOCH,
        steps_per_epoch=-(-ROWS // BATCH),
        feature_width=2048,
        class_counts=ClassCounts(labels.counts(), "observed"),
        seed=0,
    )


def random_batch(labels: LabelTable) -> Batch:
    """Pictures of noise, with the labels of rows drawn at random."""
    index = np.random.default_rng(1).choice(ROWS, BATCH, replace=False)
    observed = torch.from_numpy(labels.rows(index)).float()
    return Batch(torch.rand(BATCH, 3, SIZE, SIZE), observed, torch.from_numpy(index))


def training_step(criterion: Criterion, batch: Batch) -> Callable[[], None]:
    """A step as `main_llm.py` takes it: forward, loss, backward, update by Adam."""
    model = build_model(Architecture.of(model="resnet50", weights="none"), CLASSES, seed=0).train()
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


def costs() -> Iterator[Cost]:
    """Every scheme: its step and the part in it that is the method's, measured in turns."""
    torch.manual_seed(0)
    labels = single_positives()
    info, batch, given = known_to(labels), random_batch(labels), Given()
    naive = partial(BCE(BCEConfig(), info), given, batch)
    for scheme in get_args(Scheme):
        criterion = LargeLoss(LargeLossConfig(mod_scheme=scheme, delta_rel=DELTAS[scheme]), info)
        criterion.on_epoch_start(EPOCH)
        method = partial(criterion, given, batch)
        step, own = in_turns(training_step(criterion, batch), method, turns=3)
        yield Cost(scheme, step, own, in_turns(naive, method, turns=9)[0])


def main() -> int:
    """Measure, print, write. A missed goal is no error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threshold", description=__doc__, allow_abbrev=False)
    parser.add_argument("--output", type=Path, help="also write the table to this Markdown file")
    output: Path | None = parser.parse_args().output
    rows = [HEADINGS, ("---",) * len(HEADINGS), *(cost.cells() for cost in costs())]
    what = f"ResNet-50, batch {BATCH}, {SIZE} x {SIZE} pixels, {CLASSES} classes, single positives, epoch {EPOCH}."
    text = "\n".join([f"{machine()}.", "", what, "", *(f"| {' | '.join(row)} |" for row in rows), ""])
    print(text)
    if output is not None:
        output.write_text(
            f"# Large loss beside a training step\n\nWritten by `python -m benchmarks.threshold`.\n\n{text}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
