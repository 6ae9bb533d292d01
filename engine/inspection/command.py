"""`inspect_data.py`: a dataset read, its pictures checked, and what was found as text, JSON and pictures."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from scipy.sparse import csr_array

from data.build import LABEL_FOLDER, DatasetConfig, load_splits
from data.inspection import (
    CoOccurrence,
    DuplicateGroup,
    ImageStats,
    box_stats,
    co_occurrence,
    digest,
    duplicates,
    examine,
    image_stats,
    label_stats,
    noise_stats,
    shared_sizes,
)
from data.labels.files import native_path, published_path, resolve_labels
from data.labels.regime import observe
from data.subsets.splits import SplitConfig, split_rows
from engine.core.settings import parse_settings
from engine.inspection.report import DataRead, Findings, report
from engine.inspection.text import as_text
from engine.training.config import TRAINING_CONFIGS
from utils.checks import RunError, UserError, require
from utils.console import Progress, say
from utils.options import option
from utils.plots import Card, plot_bars, plot_contact_sheet, plot_counts, plot_heat_map
from utils.safe_files import write_atomically
from utils.types import PRESENT, UNKNOWN, Annotations, Index, LabelTable

_IMBALANCED = 30  # from here on bars are drawn on a logarithmic scale
_SQUARE, _SQUARE_SPARSE = 80, 60  # classes in the table of what appears together
_FEW = 10  # where more classes of a picture are unknown, they say nothing about it and are not written beside it
_BLOCK = 4096  # pictures handed to the threads at a time

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class InspectionConfig:
    """What is looked at, and where the report goes."""

    output: Path | None = option(None, "folder of the report (default runs/inspect-<dataset>)")
    check_images: bool = option(True, "decode every picture and look for duplicates")
    samples: int = option(16, "training pictures on the contact sheet, 0 for none")
    top: int = option(10, "entries named in each list of the text; report.json has all")
    seed: int = option(0, "seed of a generated dataset, of splits and labels, and of the contact sheet")

    def __post_init__(self) -> None:
        require(0 <= self.samples <= 1000, f"--samples {self.samples}: must be in 0 .. 1000")
        require(self.top >= 1, f"--top {self.top}: must be at least 1")
        require(0 <= self.seed < 2**32, f"--seed {self.seed}: must be in 0 .. 2^32 - 1")


def inspect_command(argv: Sequence[str] | None = None, *, program: str) -> int:
    """Look at a dataset, print and write what there is to say. Returns 0 when it is usable as it is, else 1."""
    sections = {"data": DatasetConfig, "split": SplitConfig, "inspection": InspectionConfig}
    settings = parse_settings(sections, argv, program=program, defaults={}, elsewhere=TRAINING_CONFIGS)
    config: InspectionConfig = settings.sections["inspection"]
    dataset: DatasetConfig = settings.sections["data"]
    folder = config.output or Path("runs") / f"inspect-{dataset.dataset}"
    data = read(dataset, settings.sections["split"], config.seed)
    _make_folder(folder)
    findings = look(data, config.check_images)
    found = report(findings, skip_missing=dataset.missing_images == "skip")
    text = as_text(found, config.top)
    _write(folder / "report.json", json.dumps(found, indent=1, allow_nan=False) + "\n")
    _write(folder / "report.txt", text + "\n")
    draw(findings, config, folder)
    say(f"written: {folder}\n\n{text}")
    return 0 if found["usable"] else 1


def read(dataset: DatasetConfig, split: SplitConfig, seed: int) -> DataRead:
    """Read a dataset and the labels that training would see of it; whether pictures are there does not matter yet.

    Raises:
        UserError: annotations or labels cannot be read.
    """
    splits = load_splits(dataset, seed, need_images=False)
    labels, file = _labels(splits.train, dataset, seed)
    rows, held_out = split_rows(splits.train, split, seed)
    parts = {"train": splits.train.take(rows)}
    if len(held_out):
        parts["validation"] = splits.train.take(held_out)
    parts["test"] = splits.test
    return DataRead(dataset.dataset, parts, labels.take(rows), dataset.regime(seed), file, splits.groups)


def look(data: DataRead, check_images: bool) -> Findings:
    """Everything there is to find."""
    parts, train = data.parts, data.parts["train"].truth
    missing = {name: part.images.missing() for name, part in parts.items()}
    pictures = _check(parts, missing) if check_images else None
    return Findings(
        data=data,
        labels={name: label_stats(part.truth) for name, part in parts.items()},
        observed=label_stats(data.observed),
        noise=noise_stats(train, data.observed),
        together=co_occurrence(train, _SQUARE_SPARSE if isinstance(train.codes, csr_array) else _SQUARE),
        missing=missing,
        pictures=pictures,
        duplicates=[] if pictures is None else _duplicates(parts, pictures),
        boxes={
            name: box_stats(part.boxes, None if pictures is None else pictures[name].sides)
            for name, part in parts.items()
            if part.boxes is not None
        },
    )


def _labels(train: Annotations, dataset: DatasetConfig, seed: int) -> tuple[LabelTable, Path | None]:
    """The labels that a training run would find or draw, and their file if there is one; none is written."""
    regime = dataset.regime(seed)
    files = [native_path(LABEL_FOLDER, dataset.dataset, regime, train)] if regime.is_drawn else []
    if regime.name == "candidate" and regime.rng == "published":
        files.append(published_path(LABEL_FOLDER, dataset.dataset, regime, train))
    if dataset.label_file is None and not any(file.is_file() for file in files):
        return observe(train, regime), None
    found = resolve_labels(train, dataset.dataset, regime, LABEL_FOLDER, dataset.label_file)
    return found.table, found.path


def _check(parts: Mapping[str, Annotations], missing: Mapping[str, Index]) -> dict[str, ImageStats]:
    """Decode every picture that is there."""
    found = {}
    for name, part in parts.items():
        rows = np.setdiff1d(np.arange(len(part)), missing[name], assume_unique=True).tolist()
        looked = _in_threads(partial(examine, part.images), rows, f"checking {name} pictures")
        found[name] = image_stats(len(part), zip(rows, looked, strict=True))
    return found


def _duplicates(parts: Mapping[str, Annotations], pictures: Mapping[str, ImageStats]) -> list[DuplicateGroup]:
    """The same picture in several places: by content, read only where sizes agree."""
    shared = shared_sizes({name: facts.sizes for name, facts in pictures.items()})
    places = [(name, row) for name, rows in shared.items() for row in rows.tolist()]
    return duplicates(
        _in_threads(lambda place: (*place, digest(parts[place[0]].images, place[1])), places, "looking for duplicates")
    )


def _in_threads(work: Callable[[Item], Result], items: Sequence[Item], label: str) -> Iterator[Result]:
    """`work` of each item, in order, with a bar on a terminal."""
    bar = Progress(range(0, len(items), _BLOCK), total=len(items), label=label, unit="img", shown=True)
    with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) + 1)) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # decoders complain of odd metadata, which harms nobody
        for start in bar:
            for result in pool.map(work, items[start : start + _BLOCK]):
                bar.advance(1)
                yield result


def draw(findings: Findings, config: InspectionConfig, folder: Path) -> None:
    """Write the pictures of a report, and remove those of an earlier one that cannot be drawn now."""
    train = findings.data.parts["train"]
    present = {name: facts.present for name, facts in findings.labels.items()}
    order = np.argsort(-present["train"], kind="stable")
    log = (findings.labels["train"].imbalance or 1) > _IMBALANCED
    named = [train.classes[k] for k in order]
    plot_bars(named, {name: counts[order] for name, counts in present.items()}, folder / "frequency.png", log=log)
    counts = {f"{name}, true": facts.per_row for name, facts in findings.labels.items()}
    counts["train, seen in training"] = findings.observed.per_row
    plot_counts(counts, folder / "cardinality.png", xlabel="labels an image")
    _draw_together(train.classes, findings.together, folder / "cooccurrence.png")
    cards = contact_sheet(findings, config.samples, config.seed)
    if cards:
        plot_contact_sheet(cards, folder / "contact_sheet.png")
    else:
        (folder / "contact_sheet.png").unlink(missing_ok=True)


def _draw_together(classes: Sequence[str], found: CoOccurrence, path: Path) -> None:
    if len(found.classes):
        title = "share of the images with the class of the row that have the class of the column"
        plot_heat_map([classes[k] for k in found.classes], found.conditional(), path, title=title)
    else:
        path.unlink(missing_ok=True)


def contact_sheet(findings: Findings, count: int, seed: int) -> list[Card]:
    """Up to `count` training pictures in a seeded order with their labels, passing over those that do not open."""
    train = findings.data.parts["train"]
    bad = set(findings.missing["train"].tolist())
    bad.update(findings.pictures["train"].faults if findings.pictures else ())
    cards: list[Card] = []
    for row in np.random.default_rng(seed).permutation(len(train)).tolist():
        if len(cards) == count:
            break
        if row not in bad:
            cards.extend(_card(train, findings.data.observed, row))
    return cards


def _card(train: Annotations, observed: LabelTable, row: int) -> list[Card]:
    """One picture with its labels, the true ones first; none where it does not open."""
    try:
        picture = train.images.open(row)
    except RunError:
        return []
    place = np.array([row])
    truth, seen = train.truth.rows(place)[0], observed.rows(place)[0]
    kinds = {
        "right": (truth == PRESENT) & (seen == PRESENT),
        "hidden": (truth == PRESENT) & (seen != PRESENT),
        "wrong": (truth != PRESENT) & (seen == PRESENT),
        "unknown": (truth == UNKNOWN) & (seen != PRESENT),
    }
    if kinds["unknown"].sum() > _FEW:
        del kinds["unknown"]
    labels = [(train.classes[k], kind) for kind, mask in kinds.items() for k in np.flatnonzero(mask)]
    return [Card(picture, labels)]


def _make_folder(folder: Path) -> None:
    """Make the folder and try whether files can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be written ({error.strerror}); name another folder") from None


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))
