"""Chances of wrong labels of a run: those that a file gives it, and those that its method has estimated. C classes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.labels.class_rates import read_noise_rates
from losses.common.noise_rates import NoiseRateConfig
from utils.class_facts import NoiseRates
from utils.console import say
from utils.safe_files import write_text

RATES_FILE = "noise_rates.csv"
"""Name in a run folder of the file of estimated rates."""


def rates_from_file(config: Any, classes: Sequence[str]) -> NDArray[np.float64] | None:
    """(C, 2) the rates of the file that the settings of a method name; None where they name none. Raises: UserError."""
    path = config.rates_file if isinstance(config, NoiseRateConfig) else None
    return None if path is None else read_noise_rates(path, classes)


def report_rates(found: NoiseRates | None, classes: Sequence[str], folder: Path) -> dict[str, Any]:
    """The part of `result.json` that tells rates and their origin, none without; estimated ones also become a file."""
    if found is None:
        return {}
    names = ("rho_neg", "rho_pos", "origin")
    rows = [(*map(float, rates), origin) for rates, origin in zip(found.values, found.origin, strict=True)]
    if set(found.origin) != {"given"}:
        write_text(folder / RATES_FILE, _as_csv(classes, rows))
        say(f"{folder / RATES_FILE}: the chances of wrong labels that were estimated, for --rates_file")
    told = [dict(zip(names, row, strict=True)) for row in rows]
    return {"noise_rates": dict(zip(classes, told, strict=True))}


def _as_csv(classes: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> str:
    """A line per class, as `--rates_file` reads it."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("class", "rho_neg", "rho_pos", "origin"))
    writer.writerows((name, *row) for name, row in zip(classes, rows, strict=True))
    return table.getvalue()
