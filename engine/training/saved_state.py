"""What a save says of the progress of a run, checked: a file may say anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from utils.checks import is_number
from utils.metrics import FIGURES

_IN_A_ROW = ("epoch", "loss", "images_per_second")


def checked_position(position: Mapping[str, Any], epochs: int, steps: int) -> dict[str, Any]:
    """The fields of a `TrainState` as they are.

    Args:
        position: what was saved.
        epochs: number of epochs of the run.
        steps: number of steps of an epoch.

    Raises: ValueError naming the first that cannot be; KeyError or TypeError where one is missing or of another kind.
    """
    epoch, history = position["epoch"], position["history"]
    fits: dict[str, Callable[[Any], bool]] = {
        **dict.fromkeys(("images", "best_epoch"), lambda value: type(value) is int and value >= 0),
        **dict.fromkeys(("sums", "plateau"), _are_numbers),
        "epoch": lambda value: type(value) is int and 1 <= value <= epochs + 1,
        "step": lambda value: type(value) is int and 0 <= value <= steps,
        "history": lambda value: len(value) == epoch - 1 and all(map(_is_row, value)),
        "seconds": lambda value: is_number(value) and 0 <= value < math.inf,
        "best_score": lambda value: is_number(value) and not math.isnan(value),
        "stopped": lambda value: type(value) is bool,
    }
    wrong = [name for name, value in position.items() if not fits[name](value)]
    if wrong:
        raise ValueError(f"its {wrong[0]} cannot be")
    return {**position, "history": list(history)}


def _are_numbers(values: Any) -> bool:
    """True for numbers by name."""
    return isinstance(values, Mapping) and all(isinstance(name, str) and is_number(values[name]) for name in values)


def _is_row(row: Any) -> bool:
    """True for a row of the log of an epoch, in which a split that was scored has all of its figures."""
    if not _are_numbers(row):
        return False
    scored = [split for split in ("validation", "test") if f"{split}_mAP" in row]
    return all(name in row for name in (*_IN_A_ROW, *(f"{split}_{name}" for split in scored for name in FIGURES)))
