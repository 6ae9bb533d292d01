"""The page of several finished runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.analysis.finished_runs import FinishedRun
from engine.report.content import MOST_CLASSES, ComparisonReport, Table, percent, picture
from utils.options import as_words

_PICTURES = {
    "curves.png": ("Curves", "Training loss and mAP over epochs, a line per run"),
    "examples.png": ("Test images, with the labels of each run", "Test images beside the labels and maps of each run"),
}
_ELSEWHERE = frozenset({"output", "device", "threads", "num_workers", "print_freq", "cache_dir", "resume", "track"})
"""Settings that say where and how a run was computed."""


def comparison_report(
    labels: Sequence[str],
    runs: Sequence[FinishedRun],
    figures: Table,
    means: str,
    notes: Sequence[str],
    folder: Path,
) -> ComparisonReport:
    """Gather what the page shows.

    Args:
        labels: a name per run.
        runs: the runs.
        figures: their main figures.
        means: means over seeds, as text.
        notes: lines on what is not the same.
        folder: where the pictures of the comparison are.
    """
    classes, best = class_table(labels, runs)
    pictures = (picture(folder / name, *words) for name, words in _PICTURES.items())
    return ComparisonReport(
        title=f"{len(runs)} runs side by side" if len(runs) > 1 else labels[0],
        runs=figures,
        means=means,
        notes=notes,
        differing=differing_settings(labels, runs),
        classes=classes,
        best=best,
        pictures=[one for one in pictures if one is not None],
    )


def class_table(labels: Sequence[str], runs: Sequence[FinishedRun]) -> tuple[Table, list[int]]:
    """Average precision of each class by run, the classes with the largest spread first, and the best column of each.

    Empty where runs have other classes, or a result of before there were figures of classes.
    """
    columns = [_average_precisions(run.result) for run in runs]
    names = list(columns[0])
    if not names or any(list(column) != names for column in columns):
        return Table(["class", *labels], []), []
    values = np.array([[np.nan if column[name] is None else column[name] for column in columns] for name in names])
    scored = ~np.isnan(values).any(axis=1)
    spread = np.where(scored, values.max(axis=1) - values.min(axis=1), -1.0)
    order = np.argsort(-spread, kind="stable")[:MOST_CLASSES].tolist()
    rows = [[names[k], *(percent(None if np.isnan(value) else value) for value in values[k].tolist())] for k in order]
    several = len(runs) > 1
    best = [1 + int(values[k].argmax()) if several and scored[k] else 0 for k in order]
    return Table(["class", *labels], rows), best


def _average_precisions(result: Mapping[str, Any]) -> dict[str, float | None]:
    rows = result.get("per_class")
    return {row["class"]: row["AP"] for row in rows} if isinstance(rows, list) else {}


def differing_settings(labels: Sequence[str], runs: Sequence[FinishedRun]) -> Table:
    """The settings that are not the same in all runs; of methods that lack one nothing is shown."""
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    rows = []
    for name in names:
        texts = [as_words(run.settings[name]) if name in run.settings else "" for run in runs]
        if len(set(texts)) > 1 and name not in _ELSEWHERE:
            rows.append([name, *texts])
    return Table(["setting", *labels], rows)
