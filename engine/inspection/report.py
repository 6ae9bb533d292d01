"""What was found in a dataset, as one plain structure (report.json) and as text for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.inspection import (
    BoxStats,
    CoOccurrence,
    DuplicateGroup,
    ImageStats,
    LabelStats,
    NoiseStats,
    strongest_pairs,
)
from data.labels.regime import Regime
from utils.long_tail import class_groups
from utils.types import Annotations, Index, LabelTable

Report = dict[str, Any]

LISTED = 1000
"""Files, duplicates or pairs listed in report.json; their number is given in full."""

_FEWEST = 2, 0.001  # images, and share of the images, in which a pair of classes must be seen to be named
_WORDS = {"train": "training", "validation": "validation", "test": "test"}


class DataRead(NamedTuple):
    """A dataset as a training run would have it."""

    dataset: str
    parts: Mapping[str, Annotations]  # train, validation (where one is split off), test
    observed: LabelTable  # the labels of `train` that training sees
    regime: Regime
    label_file: Path | None
    groups: Mapping[str, Index]  # groups of classes that the dataset itself defines


@dataclass(frozen=True)
class Findings:
    """A dataset, and all that was found in it; mappings are by split."""

    data: DataRead
    labels: Mapping[str, LabelStats]
    observed: LabelStats
    noise: NoiseStats
    together: CoOccurrence
    missing: Mapping[str, Index]
    """Rows without a picture file."""
    pictures: Mapping[str, ImageStats] | None
    """None where pictures were not looked at."""
    duplicates: Sequence[DuplicateGroup]
    boxes: Mapping[str, BoxStats]


def report(found: Findings, *, skip_missing: bool) -> Report:
    """Findings as a structure of texts, finite numbers, lists and null.

    Args:
        found: what was found.
        skip_missing: whether rows without a picture will be left out, so that they are no error unless all are.
    """
    problems = [*_errors(found, skip_missing), *_notes(found, skip_missing)]
    data = found.data
    return {
        "dataset": data.dataset,
        "labels": {
            "regime": data.regime.describe(),
            "seed": data.regime.seed if data.regime.is_drawn else None,
            "file": None if data.label_file is None else str(data.label_file),
        },
        "splits": {name: _split(found, name) for name in data.parts},
        "observed": {**_label_figures(found.observed, data.parts["train"].classes), **_noise(found)},
        "classes": _classes(found),
        "co_occurrence": _together(found),
        "duplicates": _duplicates(found),
        "problems": problems,
        "usable": not any(problem["level"] == "error" for problem in problems),
    }


def _split(found: Findings, name: str) -> Report:
    part = found.data.parts[name]
    figures = _label_figures(found.labels[name], part.classes)
    if name == "train":
        for key, groups in (
            ("class_groups", class_groups(found.labels[name].present)),
            ("dataset_groups", found.data.groups),
        ):
            figures[key] = {group: [part.classes[k] for k in chosen.tolist()] for group, chosen in groups.items()}
    boxes = None
    if name in found.boxes and part.boxes is not None:
        facts = found.boxes[name]
        boxes = {"boxes": len(part.boxes.row), "without_area": len(facts.empty), "outside": len(facts.outside)}
    return {**figures, "pictures": _pictures(found, name), "boxes": boxes}


def _label_figures(facts: LabelStats, classes: Sequence[str]) -> Report:
    return {
        "images": facts.rows,
        "labels_an_image": facts.cardinality,
        "label_density": facts.density,
        "images_by_labels": facts.per_row.tolist(),
        "images_without_positive": int(facts.per_row[:1].sum()),
        "images_all_unknown": facts.all_unknown,
        "present": int(facts.counts[2].sum()),
        "absent": int(facts.counts[1].sum()),
        "unknown": int(facts.counts[0].sum()),
        "imbalance": facts.imbalance,
        "classes_without_positives": [classes[int(k)] for k in np.flatnonzero(facts.present == 0)],
    }


def _noise(found: Findings) -> Report:
    """Sums over classes, and the shares a person choosing a regime asks for."""
    noise, true = found.noise, int(found.labels["train"].present.sum())
    sums = {name: int(getattr(noise, name).sum()) for name in noise.__dataclass_fields__}
    return {
        **sums,
        "wrong_share": _share(sums["wrong"], sums["labelled"]),
        "lost_share": _share(sums["unlabelled"] + sums["denied"], true),
        "present_among_unknown": _share(sums["unlabelled"], sums["unknown"]),
    }


def _classes(found: Findings) -> list[Report]:
    """A row a class, in the dataset's order."""
    noise, codes = found.noise, ("unknown", "absent", "present")
    return [
        {
            "name": name,
            **{
                split: dict(zip(codes, facts.counts[:, k].tolist(), strict=True))
                for split, facts in found.labels.items()
            },
            "observed": {field: int(getattr(noise, field)[k]) for field in noise.__dataclass_fields__},
        }
        for k, name in enumerate(found.data.parts["train"].classes)
    ]


def _together(found: Findings) -> Report:
    classes, facts = found.data.parts["train"].classes, found.labels["train"]
    least = max(_FEWEST[0], round(_FEWEST[1] * facts.rows))
    return {
        "classes": [classes[k] for k in found.together.classes],
        "together": found.together.together.tolist(),
        "pairs_share_at_least": least,
        "pairs": [
            {
                "given": classes[pair.given],
                "then": classes[pair.then],
                "share": pair.share,
                "images": pair.rows,
                "of": pair.given_rows,
                "lift": pair.share * facts.rows / int(facts.present[pair.then]),
            }
            for pair in strongest_pairs(found.together, LISTED, least)
        ],
    }


def _pictures(found: Findings, name: str) -> Report:
    """What the pictures of a split are, as far as they were looked at."""
    images, missing = found.data.parts[name].images, found.missing[name]
    figures: Report = {"missing": len(missing), "missing_files": [images.name(int(row)) for row in missing[:LISTED]]}
    if found.pictures is None:
        return {**figures, "checked": False}
    facts = found.pictures[name]
    good = facts.sizes > 0
    return {
        **figures,
        "checked": True,
        "broken": len(facts.faults),
        "broken_files": [
            {"file": images.name(row), "fault": fault} for row, fault in list(facts.faults.items())[:LISTED]
        ],
        "width": _range(facts.sides[good, 0]),
        "height": _range(facts.sides[good, 1]),
        "bytes": _range(facts.sizes[good]),
        "modes": _tally(facts.modes[good]),
        "files": _tally(facts.forms[good]),
    }


def _duplicates(found: Findings) -> Report:
    """How many pictures are in two splits, how many are in one several times, and where."""
    across: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for places in found.duplicates:
        splits = Counter(split for split, _ in places)
        across.update(f"{one} and {other}" for one, other in combinations(splits, 2))
        within.update(split for split, count in splits.items() if count > 1)
    ordered = sorted(found.duplicates, key=lambda places: len({split for split, _ in places}), reverse=True)
    return {
        "checked": found.pictures is not None,
        "across_splits": dict(across),
        "within_split": dict(within),
        "pictures": [
            [{"split": split, "file": found.data.parts[split].images.name(row)} for split, row in places]
            for places in ordered[:LISTED]
        ],
    }


def _errors(found: Findings, skip_missing: bool) -> Iterator[Report]:
    """What keeps a run from starting, or makes its figures worthless."""
    for name, part in found.data.parts.items():
        missing = found.missing[name]
        if len(missing) and not (skip_missing and len(missing) < len(part)):
            text = f"{len(missing):,} of {len(part):,} {_WORDS[name]} pictures are missing"
            yield _problem("error", text, (part.images.name(int(row)) for row in missing[:LISTED]))
        faults = {} if found.pictures is None else found.pictures[name].faults
        if faults:
            files = (f"{part.images.name(row)} {fault}" for row, fault in list(faults.items())[:LISTED])
            yield _problem("error", f"{len(faults):,} of {len(part):,} {_WORDS[name]} pictures are broken", files)
    for one, other in combinations(found.data.parts, 2):
        shared = [places for places in found.duplicates if {one, other} <= {split for split, _ in places}]
        if shared:
            text = f"{len(shared):,} {_plural('picture is', 'pictures are', len(shared))} in {one} and in {other}"
            yield _problem("error", text, _same(found, shared))


def _notes(found: Findings, skip_missing: bool) -> Iterator[Report]:
    """What a person should know and may accept."""
    for name, part in found.data.parts.items():
        facts, word = found.labels[name], _WORDS[name]
        if skip_missing and 0 < len(found.missing[name]) < len(part):
            text = f"{len(found.missing[name]):,} of {len(part):,} {word} rows will be left out: no picture"
            yield _problem("note", text, (part.images.name(int(row)) for row in found.missing[name][:LISTED]))
        empty = np.flatnonzero(facts.present == 0)
        if len(empty):
            text = f"{len(empty):,} of {len(facts.present):,} classes have no positive in {name}"
            yield _problem("note", text, (part.classes[k] for k in empty))
        if facts.per_row[:1].sum():
            yield _problem("note", f"{int(facts.per_row[0]):,} {word} images have no positive label", ())
        within = [places for places in found.duplicates if sum(split == name for split, _ in places) > 1]
        if within:
            text = f"{len(within):,} {_plural('picture is', 'pictures are', len(within))} in {name} more than once"
            yield _problem("note", text, _same(found, within))
        for rows, what in zip(found.boxes.get(name, ()), ("without area", "outside their picture"), strict=False):
            if len(rows):
                yield _problem("note", f"{len(rows):,} {word} boxes {what}", _boxed(part, rows[:LISTED]))


def _problem(level: str, text: str, files: Iterator[str] | Sequence[str]) -> Report:
    return {"level": level, "text": text, "which": list(files)}


def _same(found: Findings, several: Sequence[DuplicateGroup]) -> Iterator[str]:
    for places in several[:LISTED]:
        yield " = ".join(f"{found.data.parts[split].images.name(row)} ({split})" for split, row in places)


def _boxed(part: Annotations, places: Index) -> Iterator[str]:
    assert part.boxes is not None
    for place in places.tolist():
        corners = ", ".join(f"{value:g}" for value in part.boxes.corners[place].tolist())
        name = part.classes[int(part.boxes.label[place])][:40]
        yield f"{part.images.name(int(part.boxes.row[place]))}: {name} ({corners})"


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _range(values: Index) -> Report | None:
    if not len(values):
        return None
    return {"min": int(values.min()), "median": float(np.median(values)), "max": int(values.max())}


def _tally(values: NDArray[np.str_]) -> dict[str, int]:
    """How often each text occurs, the most frequent first."""
    return {str(text): count for text, count in Counter(values.tolist()).most_common()}


def _plural(one: str, many: str, count: int) -> str:
    return one if count == 1 else many
