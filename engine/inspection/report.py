"""Report of a dataset as one plain structure, the content of report.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.datasets.table.described import TableReport
from data.inspection import (
    BoxStats,
    CoOccurrence,
    DuplicateGroup,
    ImageStats,
    LabelStats,
    NoiseStats,
    strongest_pairs,
    untold_classes,
)
from data.labels.regime import Regime
from engine.inspection.near import NearDuplicate
from utils.long_tail import class_groups
from utils.perceptual_hash import BITS, RADIUS
from utils.types import Annotations, Index, LabelTable

ReportDict = dict[str, Any]
"""Content of report.json or of a part of it: texts, finite numbers, lists and null by key."""

LISTED = 1000
"""Largest number of files, duplicates or pairs listed in report.json; the true number stands beside them."""

_LEAST_SHARED = 2, 0.001  # number and share of the images that a pair of classes must share to be listed
_WORDS = {"train": "training", "validation": "validation", "test": "test"}


class DataRead(NamedTuple):
    """A dataset as a training run would have it."""

    dataset: str
    parts: Mapping[str, Annotations]  # train, validation (where there is one), test
    observed: LabelTable  # the labels of `train` that training sees
    regime: Regime
    label_file: Path | None
    groups: Mapping[str, Index]  # groups of classes that the dataset itself defines
    table: TableReport = TableReport()  # what was decided about the columns of a user's own table

    @property
    def has_truth_apart(self) -> bool:
        """True if the truth is known besides the labels that training sees; people's own labels are both."""
        own = self.regime.name == "given" and self.parts["train"].given is None
        return not own or self.label_file is not None


@dataclass(frozen=True)
class Findings:
    """A dataset and its statistics; mappings are by split."""

    data: DataRead
    labels: Mapping[str, LabelStats]
    observed: LabelStats
    noise: NoiseStats
    co_occurrence: CoOccurrence
    missing: Mapping[str, Index]
    """Rows without an image file."""
    images: Mapping[str, ImageStats] | None
    """None if images were not decoded."""
    duplicates: Sequence[DuplicateGroup]
    near: Sequence[NearDuplicate] | None
    """None if images were not compared by what they look like."""
    boxes: Mapping[str, BoxStats]


def report(findings: Findings, *, skip_missing: bool, skip_bad: bool = False) -> ReportDict:
    """Findings as a structure of texts, finite numbers, lists and null.

    Args:
        findings: the statistics.
        skip_missing: True if rows without an image will be left out, so that they are no error unless all are.
        skip_bad: the same for rows whose image cannot be read.
    """
    notes = [*_notes(findings, skip_missing, skip_bad), *_alike(findings)]
    problems = [*_errors(findings, skip_missing, skip_bad), *notes]
    data = findings.data
    return {
        "dataset": data.dataset,
        "labels": {
            "regime": data.regime.describe(),
            "seed": data.regime.seed if data.regime.is_drawn else None,
            "file": None if data.label_file is None else str(data.label_file),
        },
        "columns": [column._asdict() for column in data.table.columns],
        "entries": _entries(data.table),
        "splits": {name: _split(findings, name) for name in data.parts},
        "observed": {**_label_figures(findings.observed, data.parts["train"].classes), **_noise(findings)},
        "classes": _classes(findings),
        "co_occurrence": _co_occurrence(findings),
        "duplicates": _duplicates(findings),
        "near_duplicates": _near_duplicates(findings),
        "problems": problems,
        "usable": not any(problem["level"] == "error" for problem in problems),
    }


def _entries(table: TableReport) -> list[ReportDict]:
    """Of each class of a user's table, what it holds before a policy turns it into labels."""
    rows: dict[str, ReportDict] = {}
    for found in table.entries:
        for label, name in enumerate(found.classes):
            row = rows.setdefault(name, {"class": name, "uncertain": 0, "blank": 0, "soft": 0, "agreement": None})
            row["uncertain"] += int(found.uncertain[label])
            row["blank"] += int(found.blank[label])
            row["soft"] += int(found.soft[label])
            agreed = None if found.agreement is None else float(found.agreement[label])
            row["agreement"] = agreed if agreed is not None and np.isfinite(agreed) else row["agreement"]
    return list(rows.values())


def _split(findings: Findings, name: str) -> ReportDict:
    part = findings.data.parts[name]
    figures = _label_figures(findings.labels[name], part.classes)
    if name == "train":
        for key, groups in (
            ("class_groups", class_groups(findings.labels[name].present)),
            ("dataset_groups", findings.data.groups),
        ):
            figures[key] = {group: [part.classes[k] for k in chosen.tolist()] for group, chosen in groups.items()}
    boxes = None
    if part.boxes is not None:
        stats = findings.boxes[name]
        boxes = {"boxes": len(part.boxes.row), "without_area": len(stats.empty), "outside": len(stats.outside)}
    return {**figures, "pictures": _images(findings, name), "boxes": boxes}


def _label_figures(stats: LabelStats, classes: Sequence[str]) -> ReportDict:
    return {
        "images": stats.rows,
        "labels_an_image": stats.cardinality,
        "label_density": stats.density,
        "images_by_labels": stats.per_row.tolist(),
        "images_without_positive": int(stats.per_row[:1].sum()),
        "images_all_unknown": stats.all_unknown,
        "present": int(stats.counts[2].sum()),
        "absent": int(stats.counts[1].sum()),
        "unknown": int(stats.counts[0].sum()),
        "imbalance": stats.imbalance,
        "classes_without_positives": [classes[int(k)] for k in np.flatnonzero(stats.present == 0)],
    }


def _noise(findings: Findings) -> ReportDict:
    """Sums over classes, and the shares that matter for the choice of a regime; None for what nobody knows."""
    noise, true = findings.noise, int(findings.labels["train"].present.sum())
    sums = {name: int(getattr(noise, name).sum()) for name in noise.__dataclass_fields__}
    apart = findings.data.has_truth_apart
    return {
        **sums,
        "compared": apart,
        "wrong_share": _share(sums["wrong"], sums["judged"]) if apart else None,
        "lost_share": _share(sums["unlabelled"] + sums["denied"], true) if apart else None,
        "present_among_unknown": _share(sums["unlabelled"], sums["hiding"]) if apart else None,
    }


def _classes(findings: Findings) -> list[ReportDict]:
    """One entry per class, in the order of the dataset."""
    noise, codes = findings.noise, ("unknown", "absent", "present")
    return [
        {
            "name": name,
            **{
                split: dict(zip(codes, stats.counts[:, k].tolist(), strict=True))
                for split, stats in findings.labels.items()
            },
            "observed": {field: int(getattr(noise, field)[k]) for field in noise.__dataclass_fields__},
        }
        for k, name in enumerate(findings.data.parts["train"].classes)
    ]


def _co_occurrence(findings: Findings) -> ReportDict:
    classes, stats = findings.data.parts["train"].classes, findings.labels["train"]
    least = max(_LEAST_SHARED[0], round(_LEAST_SHARED[1] * stats.rows))
    return {
        "classes": [classes[k] for k in findings.co_occurrence.classes],
        "together": findings.co_occurrence.counts.tolist(),
        "pairs_share_at_least": least,
        "pairs": [
            {
                "given": classes[pair.given],
                "then": classes[pair.then],
                "share": pair.share,
                "images": pair.rows,
                "of": pair.given_rows,
                "lift": pair.share * stats.rows / int(stats.present[pair.then]),
            }
            for pair in strongest_pairs(findings.co_occurrence, LISTED, least)
        ],
    }


def _images(findings: Findings, name: str) -> ReportDict:
    """Statistics of the images of a split, as far as they were checked."""
    images, missing = findings.data.parts[name].images, findings.missing[name]
    missing_files = [images.name(int(row)) for row in missing[:LISTED]]
    figures: ReportDict = {"missing": len(missing), "missing_files": missing_files}
    if findings.images is None:
        return {**figures, "checked": False}
    stats = findings.images[name]
    good = stats.sizes != 0
    return {
        **figures,
        "checked": True,
        "broken": len(stats.faults),
        "broken_files": [
            {"file": images.name(row), "fault": fault} for row, fault in list(stats.faults.items())[:LISTED]
        ],
        "width": _range(stats.sides[good, 0]),
        "height": _range(stats.sides[good, 1]),
        "bytes": _range(stats.sizes[good]),
        "modes": _tally(stats.modes[good]),
        "files": _tally(stats.forms[good]),
    }


def _duplicates(findings: Findings) -> ReportDict:
    """Numbers of images in two splits and of images several times in one split, and their files."""
    across: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for group in findings.duplicates:
        splits = Counter(split for split, _ in group)
        across.update(f"{one} and {other}" for one, other in combinations(splits, 2))
        within.update(split for split, count in splits.items() if count > 1)
    ordered = sorted(findings.duplicates, key=lambda group: len({split for split, _ in group}), reverse=True)
    return {
        "checked": findings.images is not None,
        "across_splits": dict(across),
        "within_split": dict(within),
        "pictures": [
            [{"split": split, "file": findings.data.parts[split].images.name(row)} for split, row in group]
            for group in ordered[:LISTED]
        ],
    }


def _near_duplicates(findings: Findings) -> ReportDict:
    """Numbers of images that look like one of another split, and their files, the most alike first."""
    near = findings.near or ()
    return {
        "checked": findings.near is not None,
        **{"bits": BITS, "at_most": RADIUS},
        "across_splits": dict(Counter(f"{one.of_split} and {one.split}" for one in near)),
        "pictures": [
            {
                "differing_bits": one.bits,
                "pictures": [
                    {"split": split, "file": findings.data.parts[split].images.name(row)}
                    for split, row in ((one.of_split, one.of_row), (one.split, one.row))
                ],
            }
            for one in sorted(near, key=attrgetter("bits"))[:LISTED]
        ],
    }


def _alike(findings: Findings) -> Iterator[ReportDict]:
    """Notes on images that look like one of another split."""
    for one, other in combinations(findings.data.parts, 2):
        near = [each for each in findings.near or () if (each.of_split, each.split) == (one, other)]
        if near:
            count = f"{len(near):,} {_plural('image', 'images', len(near))}"
            text = f"{count} of {other} {_plural('looks', 'look', len(near))} like one of {one}"
            yield _problem("note", text, _pairs_alike(findings, near))


def _pairs_alike(findings: Findings, near: Sequence[NearDuplicate]) -> Iterator[str]:
    parts = findings.data.parts
    for each in sorted(near, key=attrgetter("bits"))[:LISTED]:
        names = parts[each.of_split].images.name(each.of_row), parts[each.split].images.name(each.row)
        yield f"{names[0]} ({each.of_split}) ~ {names[1]} ({each.split}), {each.bits} of {BITS} bits differ"


def _errors(findings: Findings, skip_missing: bool, skip_bad: bool) -> Iterator[ReportDict]:
    """Problems that keep a run from starting, or make its figures worthless."""
    for name, part in findings.data.parts.items():
        missing = findings.missing[name]
        if len(missing) and not (skip_missing and len(missing) < len(part)):
            text = f"{len(missing):,} of {len(part):,} {_WORDS[name]} images are missing"
            yield _problem("error", text, (part.images.name(int(row)) for row in missing[:LISTED]))
        faults = _faults(findings, name)
        if faults and not (skip_bad and len(faults) + len(missing) < len(part)):
            text = f"{len(faults):,} of {len(part):,} {_WORDS[name]} images are broken"
            yield _problem("error", text, _faulty(part, faults))
    for one, other in combinations(findings.data.parts, 2):
        shared = [group for group in findings.duplicates if {one, other} <= {split for split, _ in group}]
        if shared:
            text = f"{len(shared):,} {_plural('image is', 'images are', len(shared))} in {one} and in {other}"
            yield _problem("error", text, _same(findings, shared))


def _notes(findings: Findings, skip_missing: bool, skip_bad: bool) -> Iterator[ReportDict]:
    """Notes that a person should know and may accept."""
    for name, part in findings.data.parts.items():
        stats, word = findings.labels[name], _WORDS[name]
        if skip_missing and 0 < len(findings.missing[name]) < len(part):
            text = f"{len(findings.missing[name]):,} of {len(part):,} {word} rows will be left out: no image"
            yield _problem("note", text, (part.images.name(int(row)) for row in findings.missing[name][:LISTED]))
        faults = _faults(findings, name)
        if skip_bad and 0 < len(faults) < len(part) - len(findings.missing[name]):
            text = f"{len(faults):,} of {len(part):,} {word} rows will be left out: image cannot be read"
            yield _problem("note", text, _faulty(part, faults))
        empty = np.flatnonzero(stats.present == 0)
        if len(empty):
            text = f"{len(empty):,} of {len(stats.present):,} classes have no positive in {name}"
            yield _problem("note", text, (part.classes[k] for k in empty))
        if name != "train" and (line := untold_classes(word, part)):
            yield _problem("note", line, ())
        if stats.per_row[:1].sum():
            yield _problem("note", f"{int(stats.per_row[0]):,} {word} images have no positive label", ())
        within = [group for group in findings.duplicates if sum(split == name for split, _ in group) > 1]
        if within:
            text = f"{len(within):,} {_plural('image is', 'images are', len(within))} in {name} more than once"
            yield _problem("note", text, _same(findings, within))
        for rows, what in zip(findings.boxes.get(name, ()), ("without area", "outside their image"), strict=False):
            if len(rows):
                yield _problem("note", f"{len(rows):,} {word} boxes {what}", _boxed(part, rows[:LISTED]))


def _faults(findings: Findings, name: str) -> Mapping[int, str]:
    return {} if findings.images is None else findings.images[name].faults


def _faulty(part: Annotations, faults: Mapping[int, str]) -> list[str]:
    """The files with a fault, each with it, the first `LISTED` of them."""
    return [f"{part.images.name(row)} {fault}" for row, fault in list(faults.items())[:LISTED]]


def _problem(level: str, text: str, files: Iterator[str] | Sequence[str]) -> ReportDict:
    return {"level": level, "text": text, "which": list(files)}


def _same(findings: Findings, groups: Sequence[DuplicateGroup]) -> Iterator[str]:
    for group in groups[:LISTED]:
        yield " = ".join(f"{findings.data.parts[split].images.name(row)} ({split})" for split, row in group)


def _boxed(part: Annotations, indices: Index) -> Iterator[str]:
    assert part.boxes is not None
    for index in indices.tolist():
        corners = ", ".join(f"{value:g}" for value in part.boxes.corners[index].tolist())
        name = part.classes[int(part.boxes.label[index])][:40]
        yield f"{part.images.name(int(part.boxes.row[index]))}: {name} ({corners})"


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _range(values: Index) -> ReportDict | None:
    if not len(values):
        return None
    return {"min": int(values.min()), "median": float(np.median(values)), "max": int(values.max())}


def _tally(values: NDArray[np.str_]) -> dict[str, int]:
    """Number of occurrences of each text, the most frequent first."""
    return {str(text): count for text, count in Counter(values.tolist()).most_common()}


def _plural(one: str, many: str, count: int) -> str:
    return one if count == 1 else many
