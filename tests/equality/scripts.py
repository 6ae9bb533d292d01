"""Whole runs of the scripts as ranks, and what is in their folders. BatchNorm keeps the statistics it starts with."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.commands.scene import cut_off, run, state
from tests.equality.processes import as_rank
from tests.kills.methods import words_of

STEADY = ("--norm_eval", "--precision", "fp64", "--augment", "none", "--no-figures", "--no-check_images")
RUNS = (
    *("bce+ema", "bce+record+clip", "bce+plateau", "bce+early_stop", "bce+linear_init", "bce+fixed_features"),
    *("db", "cap", "LL-Cp+record", "cls+ema+record", "role+plateau", "cones+ema+val"),
)
"""What a run may keep besides a method's state: averages, records, schedules by scores, early ends, other samplers."""


def words(name: str, output: Path, *more: str) -> list[str]:
    """Script and flags of a run, in float64 and without BatchNorm's statistics of batches."""
    script, line = words_of(name, output)
    return [f"{script}.py", *line, *STEADY, *more]


def train(rank: int | None, folder: Path, name: str, label: str, *more: str) -> None:
    """Make a whole run, in a folder of its own, on the processes that there are."""
    with as_rank(rank):
        done = run(folder, *words(name, folder / f"{name}-{label}", *more))
    assert done.returncode == 0, (name, done.stderr)


def stop_after(rank: int | None, folder: Path, name: str, label: str, saves: int, *more: str) -> None:
    """Make or go on with a run that is interrupted after so many saves."""
    with as_rank(rank):
        cut_off(folder, *words(name, folder / f"{name}-{label}", *more), saves=saves)


def left(folder: Path) -> dict[str, Any]:
    """Numbers and arrays that a finished run has left, without times and speeds."""
    saved = state(folder)
    with (folder / "metrics.csv").open() as file:
        log = [
            {name: value for name, value in row.items() if name != "images_per_second"} for row in csv.DictReader(file)
        ]
    told = json.loads((folder / "result.json").read_text())
    best = torch.load(folder / "best.pth", weights_only=True)
    arrays = dict(np.load(folder / "labels.npz")) if (folder / "labels.npz").exists() else {}
    return {
        "log": log,
        "result": {name: told[name] for name in ("test", "last", "selected_epoch", "epochs_trained", "label_hash")},
        "best": {"model": best["model"], "epoch": best["epoch"]},
        "labels": arrays,
        **{part: saved["loop"][part] for part in ("model", "criterion", "averaging", "optimizer")},
        "recorder": saved["recorder"],
    }


def apart(found: Any, expected: Any, trail: str = "") -> Iterator[str]:
    """Where two nested contents differ by more than rounding."""
    if isinstance(expected, dict):
        if found.keys() != expected.keys():
            yield f"{trail}: {sorted(found)} and {sorted(expected)}"
            return
        for name in expected:
            yield from apart(found[name], expected[name], f"{trail}/{name}")
    elif isinstance(expected, list | tuple):
        if len(found) != len(expected):
            yield f"{trail}: {len(found)} and {len(expected)} entries"
            return
        for number, pair in enumerate(zip(found, expected, strict=True)):
            yield from apart(*pair, f"{trail}/{number}")
    elif not _alike(found, expected):
        yield f"{trail}: {found} and {expected}"


def _alike(found: Any, expected: Any) -> bool:
    """True for numbers or arrays that are equal to rounding, and all else that is equal."""
    one, other = _numbers(found), _numbers(expected)
    if one is None or other is None:
        return bool(found == expected)
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-6, atol=1e-7, equal_nan=True)


def _numbers(value: Any) -> np.ndarray | None:
    if isinstance(value, Tensor):
        return value.double().numpy()
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    return np.asarray(value, dtype=float) if isinstance(value, int | float | np.ndarray) else None
