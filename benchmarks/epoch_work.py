"""Seconds of what an epoch does beside steps and forward passes: order, label rows, scores, figures, saving.

N training images, C classes. The engine's own functions do the work; what stands in is the network, whose logits are
given, so that what is left of scoring a split is everything but its forward passes and its images.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu.trainer import EPOCHS, LATE, Case, Shape, Trainer, observed_codes
from data.loading.samplers import ShuffledBatches
from engine.core.checkpoint import save_model, save_state
from engine.core.distributed import Runtime
from engine.core.scoring import EvalResult, calibration_figures, measure
from engine.training.loaders import scoring_loader
from losses.cones_prototypes import PrototypeBank
from models.peers import Network
from utils.types import LabelTable, ModelOutput

TURNS = 3


class Sizes(NamedTuple):
    """Numbers of images of the splits, classes, and images in a batch."""

    train: int
    validation: int
    test: int
    classes: int
    batch: int


COCO = Sizes(82_081, 8_208, 40_137, 80, 16)
"""COCO 2014; the validation split is a tenth of the training set."""


class GivenLogits(nn.Module):
    """Network whose input is its output."""

    def forward(self, images: Tensor) -> ModelOutput:
        """Logits (B, C) of what has the shape (B, C, 1, 1)."""
        return ModelOutput(images.flatten(1))


def seconds_of(work: Callable[[], Any], turns: int = TURNS) -> float:
    """Median seconds of a call."""
    taken = []
    for _ in range(turns):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def order(sizes: Sizes) -> float:
    """Seconds in which the training set is shuffled and dealt out in batches."""
    batches = ShuffledBatches(sizes.train, sizes.batch, seed=0)
    return seconds_of(lambda: sum(len(batch) for batch in batches))


def label_rows(sizes: Sizes) -> float:
    """Seconds in which all batches of an epoch are given their observed and their true labels."""
    observed, truth = (LabelTable(observed_codes(kind, sizes.train, sizes.classes)) for kind in ("partial", "full"))
    rows = np.random.default_rng(0).permutation(sizes.train)

    def look_up() -> None:
        for first in range(0, len(rows), sizes.batch):
            index = rows[first : first + sizes.batch]
            torch.from_numpy(observed.rows(index)).float()
            truth.rows(index)

    return seconds_of(look_up, 1)


class Scored(NamedTuple):
    """A split whose logits are given, and what measures it."""

    truth: LabelTable
    measure: Callable[[], EvalResult]


def scored(rows: int, sizes: Sizes, runtime: Runtime, seed: int) -> Scored:
    """Random logits of a split, as a loader gives them and the engine measures them."""
    truth = LabelTable(observed_codes("full", rows, sizes.classes, seed))
    logits = np.random.default_rng(seed).standard_normal((rows, sizes.classes), dtype=np.float32) + truth.dense()
    loader = scoring_loader(logits, truth, sizes.batch, runtime)
    return Scored(truth, lambda: measure(GivenLogits(), loader, truth, runtime))


def scoring(sizes: Sizes, runtime: Runtime) -> Iterator[tuple[str, float]]:
    """Seconds of measuring both splits but for their forward passes, and of what a whole run adds at its end."""
    validation = scored(sizes.validation, sizes, runtime, 1)
    test = scored(sizes.test, sizes, runtime, 2)
    yield "scores and figures of validation", seconds_of(validation.measure)
    yield "scores and figures of test", seconds_of(test.measure)
    given = test.measure(), test.truth, validation.measure(), validation.truth
    yield "calibration of test", seconds_of(lambda: calibration_figures(*given), 1)


def saving(trainer: Trainer, folder: Path) -> Iterator[tuple[str, float]]:
    """Seconds of writing the state of a run, and the network as the best of it."""
    network: Network = trainer.network
    classes = tuple(f"c{number}" for number in range(trainer.shape.classes))
    whole = {"loop": trainer.loop.state_dict(), "recorder": {}, "label_hash": ""}
    yield "state of the run", seconds_of(lambda: save_state(folder / "state.pth", whole, folder / "previous.pth"))
    yield "best network", seconds_of(lambda: save_model(folder / "best.pth", network, classes, {}, 1))


def epoch_start(case: Case, sizes: Sizes, runtime: Runtime) -> float:
    """Seconds of a method's own work before an epoch, scores of the training set given; the longest of all epochs."""
    trainer = Trainer(case, runtime, Shape("resnet50", 32, sizes.batch, sizes.classes), rows=sizes.train)
    criterion = trainer.criterion
    fill(getattr(criterion, "bank", None))
    scores = torch.randn(sizes.train, sizes.classes, generator=torch.Generator().manual_seed(0))
    return max(
        seconds_of(partial(criterion.on_epoch_start, epoch, scores if criterion.wants_train_scores(epoch) else None), 1)
        for epoch in (1, 2, 3, LATE, EPOCHS)
    )


def fill(bank: PrototypeBank | None) -> None:
    """Put noise into all of a bank of prototypes, which is empty before the first epoch."""
    if bank is not None:
        bank.rows.uniform_(generator=torch.Generator().manual_seed(0))
        bank.written.fill_(bank.rows.shape[1])
