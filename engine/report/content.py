"""What a report shows: plain values, ready to be put into a page."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from utils.metrics import Scores
from utils.types import PRESENT, UNKNOWN, Codes

WORST = 5
"""Classes with the lowest average precision that are named at the top."""
BINS = 10
"""Bars of the distribution of probabilities."""
MOST_CLASSES = 1000
"""Rows of the table of classes: of more, the best and the worst half of these."""


class Picture(NamedTuple):
    """A picture inside of the page."""

    title: str
    description: str
    """What it shows, for who does not see it."""
    png: str
    """The file in base64."""


class SettingLine(NamedTuple):
    """A setting, its value as text, and where it comes from."""

    name: str
    value: str
    origin: str


class Bin(NamedTuple):
    """Labels whose probability lies in a range: shares of all present and of all absent ones."""

    low: float
    high: float
    present: float
    absent: float


class Step(NamedTuple):
    """Something to do with a run, and the command that does it."""

    what: str
    command: str


class Suspicious(NamedTuple):
    """A label that the network disagreed with most."""

    image: str
    label: str
    given: str
    loss: float
    truth: str
    """The true label where that is another one; empty where it is the same, or unknown."""


class Table(NamedTuple):
    """Cells as texts below their headings."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class RunReport(NamedTuple):
    """The report of one run."""

    title: str
    subtitle: str
    figures: Sequence[tuple[str, str]]
    """Name and value of the main figures."""
    facts: Sequence[tuple[str, str]]
    notes: Sequence[str]
    worst: Sequence[str]
    classes: Sequence[Mapping[str, Any]]
    """One entry per class, the one with the highest average precision first; fractions, None where not defined."""
    left_out: int
    """Classes in the middle that are not shown."""
    pictures: Sequence[Picture]
    confidence: Sequence[Bin]
    epochs: Table
    """Changes of labels by epoch; without rows where the method changes none."""
    suspicious: Sequence[Suspicious]
    steps: Sequence[Step]
    given: Sequence[SettingLine]
    """Settings that are not the defaults."""
    defaults: Sequence[SettingLine]


class ComparisonReport(NamedTuple):
    """Several runs side by side."""

    title: str
    runs: Table
    means: str
    """Means over seeds as aligned text; empty where no settings have run with several seeds."""
    notes: Sequence[str]
    differing: Table
    """Settings that are not the same in all runs."""
    classes: Table
    best: Sequence[int]
    """The column with the highest average precision in each row of `classes`; 0 where none is."""
    pictures: Sequence[Picture]


def picture(path: Path, title: str, description: str) -> Picture | None:
    """A PNG file as a picture of the page; None where it was not drawn."""
    if not path.is_file():
        return None
    return Picture(title, description, base64.b64encode(path.read_bytes()).decode())


def ranked_classes(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Classes with the highest average precision first; those without any last, in their order."""
    return sorted(rows, key=lambda row: math.inf if row["AP"] is None else -row["AP"])


def shown_classes(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], int]:
    """The ranked classes that the table has room for, and how many it leaves out."""
    ranked = ranked_classes(rows)
    if len(ranked) <= MOST_CLASSES:
        return ranked, 0
    half = MOST_CLASSES // 2
    return [*ranked[:half], *ranked[-half:]], len(ranked) - 2 * half


def worst_classes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The classes with the lowest average precision, the lowest first; none of fewer than twice as many."""
    scored = [row for row in ranked_classes(rows) if row["AP"] is not None]
    if len(scored) < 2 * WORST:
        return []
    return [f"{row['class']} {percent(row['AP'])}" for row in reversed(scored[-WORST:])]


def confidence(logits: Scores | None, codes: Codes | None) -> list[Bin]:
    """Probabilities of present and of absent labels in bins of equal width; empty without scores or labels of both.

    Args:
        logits: (N, C) of the network; None where they are not dense.
        codes: (N, C) true labels.
    """
    if logits is None or codes is None:
        return []
    known = codes != UNKNOWN
    probability, present = expit(logits[known].astype(np.float64)), codes[known] == PRESENT
    if not present.any() or present.all():
        return []
    edges = np.linspace(0, 1, BINS + 1)
    of = [np.histogram(probability[part], bins=edges)[0] / part.sum() for part in (present, ~present)]
    columns = (edges[:-1].tolist(), edges[1:].tolist(), of[0].tolist(), of[1].tolist())
    return [Bin(*row) for row in zip(*columns, strict=True)]


def percent(value: float | None) -> str:
    """A fraction as a percentage with two decimals, `-` where it is not defined."""
    return "-" if value is None else f"{100 * value:.2f}"
