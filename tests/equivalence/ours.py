"""A script of ours, run to its end, with every step on record."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor

import losses.label_mask
import losses.ndlp
from data.build import Data
from engine.core.run_results import CALIBRATION
from engine.training.run import Run
from tests.commands.scene import succeed
from tests.equivalence.plain import Given, Outcome, state_of
from tests.equivalence.scene import SIDE, Scene
from utils.types import Batch, LossOutput

SMALL = (
    *("--model", "scenenet", "--weights", "none", "--img_size", SIDE, "--augment", "none", "--threads", 1),
    *("--precision", "fp64", "--device", "cpu", "--num_workers", 0, "--no-check_images"),
)
"""One tiny network, images as they are, and float64."""


class Recorded(NamedTuple):
    """Our side, and what the other needs of it."""

    given: Given
    outcome: Outcome
    reported: dict[str, float]
    """Test figures in `result.json`."""
    best_on_test: float
    """The highest mAP of an epoch on the test set, which stands there too."""
    log: list[dict[str, float]]
    """`metrics.csv`."""


class Recorder:
    """Notes what a run does, from its start to its last step."""

    def __init__(self, state: Callable[[Any], dict[str, Tensor]]) -> None:
        self.state_of_criterion = state
        self.epochs: list[int] = []
        self.rows: list[Tensor] = []
        self.losses: list[float] = []
        self.states: list[dict[str, Tensor]] = []
        self.drawn: dict[str, Any] = {"second_views": [], "mixtures": [], "known": []}
        self.start: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}
        self.data: Data | None = None

    def train(self, run: Run) -> None:
        """Train a run and record it."""
        self.data, criterion = run.data, run.criterion
        self.start = state_of(run.network)
        self.drawn["criterion"] = state_of(criterion)
        hooks = run.loop.hooks

        def after_step(epoch: int, batch: Batch, output: LossOutput) -> None:
            hooks.after_step(epoch, batch, output)
            self.epochs.append(epoch)
            self.rows.append(batch.index.clone())
            self.losses.append(output.total.item())
            self.states.append({name: value.clone() for name, value in self.state_of_criterion(criterion).items()})
            if batch.second_view is not None:
                self.drawn["second_views"].append(batch.second_view.clone())

        run.loop.hooks = hooks._replace(after_step=after_step)
        TRAIN(run)
        self.weights = state_of(run.network)
        if run.ema is not None:
            self.weights |= {f"average.{name}": value for name, value in state_of(run.ema.network).items()}

    def noting(self, name: str, draw: Callable[..., Any]) -> Callable[..., Any]:
        """A function that draws, with what it has drawn noted under a name."""

        def noted(*arguments: Any) -> Any:
            self.drawn[name].append(draw(*arguments))
            return self.drawn[name][-1]

        return noted

    def order(self) -> list[list[Tensor]]:
        """Rows of each batch, epoch by epoch."""
        found: list[list[Tensor]] = [[] for _ in range(max(self.epochs))]
        for epoch, rows in zip(self.epochs, self.rows, strict=True):
            found[epoch - 1].append(rows)
        return found


TRAIN = Run.train


def run_ours(
    folder: Path,
    scene: Scene,
    script: str,
    words: Sequence[object],
    state: Callable[[Any], dict[str, Tensor]],
    batch_size: int,
) -> Recorded:
    """Run a script on a scene and record it."""
    recorder = Recorder(state)
    with (
        mock.patch.object(Run, "train", lambda run: recorder.train(run)),
        mock.patch.object(Run, "_write_report"),  # half of the time of a run of four steps
        mock.patch.object(losses.ndlp, "draw_mixture", recorder.noting("mixtures", losses.ndlp.draw_mixture)),
        mock.patch.object(
            losses.label_mask, "revealed_labels", recorder.noting("known", losses.label_mask.revealed_labels)
        ),
    ):
        succeed(folder, script, *scene.words, *SMALL, "--batch_size", batch_size, *words, "--output", "run")
    result = json.loads((folder / "run" / "result.json").read_text())
    log = _log(folder / "run")
    figures = [{name: value for name, value in row.items() if _is_compared(name)} for row in log]
    outcome = Outcome(recorder.losses, recorder.states, recorder.weights, figures, result["selected_epoch"])
    return Recorded(_given(recorder, scene, batch_size), outcome, result["test"], result["best_on_test"]["mAP"], log)


def _is_compared(column: str) -> bool:
    """True for the figures of a split that published trainers have too: no calibration."""
    split, _, name = column.partition("_")
    return split in ("validation", "test") and name not in CALIBRATION


def _given(recorder: Recorder, scene: Scene, batch_size: int) -> Given:
    data = recorder.data
    assert data is not None
    ids = {"train": data.train.ids, "test": scene.test}
    if data.validation is not None:
        ids["validation"] = data.validation.ids
    pixels = {split: torch.stack([scene.pixels[one] for one in names]) for split, names in ids.items()}
    truth = {split: np.stack([scene.truth[one] for one in names]) for split, names in ids.items()}
    observed = torch.from_numpy(data.observed.dense()).double()
    return Given(recorder.start, pixels, truth, observed, recorder.order(), batch_size, recorder.drawn)


def _log(folder: Path) -> list[dict[str, float]]:
    """The rows of `metrics.csv`."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: float(value) for name, value in row.items() if value} for row in rows]
