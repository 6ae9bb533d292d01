"""Our trainer and a transcription on the same start, rows, labels and pixels, and how far they are apart."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tests.commands.scene import ROOT
from tests.equivalence.cases import CASES, Case
from tests.equivalence.ours import run_ours
from tests.equivalence.plain import Outcome
from tests.equivalence.scene import SCENES
from utils.options import as_text


class Differences(NamedTuple):
    """Greatest absolute differences of two runs."""

    steps: int
    losses: float
    weights: float
    """Of parameters."""
    buffers: float
    """Of BatchNorm's running statistics and counts."""
    state: float
    """Of float64 state."""
    float32_state: float
    """Of state that the method keeps in float32."""
    figures: float
    """Of validation and test, in every epoch and of the epoch that is reported."""
    seconds: float
    """That both took."""


class Bounds(NamedTuple):
    """What the differences may be."""

    losses: float = 1e-8
    weights: float = 1e-8
    buffers: float = 1e-8
    state: float = 1e-8
    float32_state: float = 1e-7
    figures: float = 1e-12


def epochs_of(case: Case, steps: int) -> tuple[int, int]:
    """Epochs, and steps in each, of a comparison of about `steps` steps: two of each at least."""
    epochs = min(case.epochs, max(2, steps // 2))
    return epochs, max(case.fewest, -(-steps // epochs))


def compared(name: str, folder: Path, *, seed: int = 0, steps: int = 16) -> Differences:
    """Run both sides of a case in a folder of its own; the last batch of an epoch is one image short."""
    case, begun = CASES[name], time.perf_counter()
    epochs, per_epoch = epochs_of(case, steps)
    beyond = 0 if case.scene == "voc-lt" else case.beyond  # a class-aware sampler makes whole batches alone
    scene = SCENES[case.scene](folder, per_epoch * case.batch_size + beyond, np.random.default_rng(seed))
    if not (folder / "configs").exists():
        (folder / "configs").symlink_to(ROOT / "configs")
    flags = [word for number, value in case.numbers.items() for word in (f"--{number}", as_text(value))]
    words = [*case.words, *flags, "--epochs", epochs, "--seed", seed]
    ours = run_ours(folder, scene, case.script, words, case.state, case.batch_size)
    idle = [column for column in case.acts if not any(row[column] for row in ours.log)]
    assert not idle, f"{name}, seed {seed}, {steps} steps: nothing happened that would count as {', '.join(idle)}"
    told = {"epochs": epochs} if case.epochs_known else {}
    theirs = case.train(ours.given, **case.numbers, **case.choices, **told)
    found = differences(ours.outcome, theirs, ours.reported, time.perf_counter() - begun)
    best = max(row["test_mAP"] for row in theirs.figures)
    return found._replace(figures=max(found.figures, abs(ours.best_on_test - best)))


def differences(ours: Outcome, theirs: Outcome, reported: Mapping[str, float], seconds: float) -> Differences:
    """The greatest of each kind; infinite where the two do not have the same things."""
    counted = {name for name in ours.weights if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    weights, buffers = (
        _tensors(*({n: v for n, v in side.weights.items() if (n in counted) == wanted} for side in (ours, theirs)))
        for wanted in (False, True)
    )
    single = {name for state in ours.states for name, value in state.items() if value.dtype == torch.float32}
    states, float32_states = (
        max(
            _tensors(*({n: v for n, v in each.items() if (n in single) == wanted} for each in pair))
            for pair in zip(ours.states, theirs.states, strict=True)
        )
        for wanted in (False, True)
    )
    figures = [_numbers(*pair) for pair in zip(ours.figures, theirs.figures, strict=True)]
    chosen = {name.removeprefix("test_"): value for name, value in theirs.figures[theirs.chosen - 1].items()}
    figures.append(_numbers(reported, {name: chosen[name] for name in reported}))
    return Differences(
        steps=len(theirs.losses),
        losses=_greatest(abs(one - other) for one, other in zip(ours.losses, theirs.losses, strict=True)),
        weights=weights,
        buffers=buffers,
        state=states,
        float32_state=float32_states,
        figures=max(figures) if ours.chosen == theirs.chosen else math.inf,
        seconds=seconds,
    )


def _tensors(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    if ours.keys() != theirs.keys():
        return math.inf
    return _greatest((ours[name].double() - theirs[name].double()).abs().max().item() for name in ours)


def _numbers(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float:
    if ours.keys() != theirs.keys():
        return math.inf
    return _greatest(abs(ours[name] - theirs[name]) for name in ours)


def _greatest(values: Iterable[float]) -> float:
    """The greatest, 0 of none; infinite where one is not a number."""
    found = [math.inf if math.isnan(value) else value for value in values]
    return max(found, default=0.0)
