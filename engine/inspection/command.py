"""`inspect_data.py`: read a dataset, check its images, and write a report as text, JSON and plots."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from data.build import (
    LABEL_FOLDER,
    DatasetConfig,
    load_splits_described,
    require_one_validation,
    training_and_validation_rows,
)
from data.images.files import in_threads
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
from data.labels.files import own_path, published_path, resolve_labels
from data.labels.regime import Regime, observe
from data.subsets.splits import SplitConfig
from engine.core.setting_table import training_names
from engine.core.settings import Command, parse_settings
from engine.inspection.near import near_duplicates
from engine.inspection.report import DataRead, Findings, report
from engine.inspection.text import as_text
from utils.checks import RunError, UserError, require
from utils.console import say
from utils.image_plots import Card, plot_contact_sheet
from utils.options import option
from utils.plots import plot_bars, plot_counts, plot_heat_map
from utils.safe_files import make_folder, write_text
from utils.types import PRESENT, UNKNOWN, Annotations, Index, LabelTable

_IMBALANCED = 30  # ratio above which bars have a logarithmic scale
_SQUARE, _SQUARE_SPARSE = 80, 60  # classes in the co-occurrence matrix
_FEW = 10  # if more classes of an image are unknown, they are not written beside it


@dataclass(frozen=True, kw_only=True)
class InspectionConfig:
    """Settings of the inspection and of its report."""

    output: Path | None = option(None, "folder of the report (default runs/inspect-<dataset>)")
    check_images: bool = option(True, "decode every image and look for duplicates")
    near_duplicates: bool = option(True, "--check_images: also look for images of two splits that look alike")
    samples: int = option(16, "training images on the contact sheet, 0 for none")
    top: int = option(10, "entries named in each list of the text; report.json has all")
    seed: int = option(0, "seed of a generated dataset, of splits and labels, and of the contact sheet")

    def __post_init__(self) -> None:
        require(0 <= self.samples <= 1000, f"--samples {self.samples}: must be in 0 .. 1000")
        require(self.top >= 1, f"--top {self.top}: must be at least 1")
        require(0 <= self.seed < 2**32, f"--seed {self.seed}: must be in 0 .. 2^32 - 1")


INSPECT = Command(
    program="inspect_data.py",
    about="The content of a dataset, and its faults: labels, noise of a label regime, images, duplicates, splits.",
    groups={"data": (DatasetConfig, SplitConfig), "labels": (Regime,), "inspection": (InspectionConfig,)},
)
COMMANDS = (INSPECT,)


def inspect_command(argv: Sequence[str] | None = None) -> int:
    """Inspect a dataset, print and write the report. Returns 0 when the dataset is usable as it is, else 1."""
    settings = parse_settings(INSPECT, argv, elsewhere=training_names())
    config, dataset = settings.of(InspectionConfig), settings.of(DatasetConfig)
    folder = config.output or Path("runs") / f"inspect-{dataset.dataset}"
    data = read_dataset(dataset, settings.of(Regime).with_seed(config.seed), settings.of(SplitConfig), config.seed)
    _require_writable(folder)
    findings = inspect_dataset(data, config.check_images, config.near_duplicates)
    content = report(findings, skip_missing=dataset.missing_images == "skip", skip_bad=dataset.bad_images == "skip")
    text = as_text(content, config.top)
    texts = {"report.json": json.dumps(content, indent=1, allow_nan=False), "report.txt": text}
    for name, written in texts.items():
        write_text(folder / name, written + "\n", errors="backslashreplace")
    draw(findings, config, folder)
    say(f"written: {folder}\n\n{text}")
    return 0 if content["usable"] else 1


def read_dataset(dataset: DatasetConfig, regime: Regime, split: SplitConfig, seed: int) -> DataRead:
    """Read a dataset and the labels that training would see of it; images may be missing.

    Raises:
        UserError: annotations or labels cannot be read, or a validation split is asked for where there is one.
    """
    splits, described = load_splits_described(dataset, seed)
    require_one_validation(dataset, splits, split.val_frac)
    labels, file = _labels(splits.train, dataset.dataset, regime)
    rows, held_out = training_and_validation_rows(splits.train, regime, split, seed)
    parts = {"train": splits.train.take(rows)}
    if splits.validation is not None:
        parts["validation"] = splits.validation
    elif len(held_out):
        parts["validation"] = splits.train.take(held_out).scored()
    parts["test"] = splits.test
    return DataRead(dataset.dataset, parts, labels.take(rows), regime, file, splits.groups, described)


def inspect_dataset(data: DataRead, check_images: bool, near: bool = True) -> Findings:
    """Compute all statistics of a dataset; images are decoded only with `check_images`, and compared with `near`."""
    parts, train = data.parts, data.parts["train"].truth
    missing = {name: part.images.missing() for name, part in parts.items()}
    images = _check(parts, missing) if check_images else None
    equal = [] if images is None else _duplicates(parts, images)
    return Findings(
        data=data,
        labels={name: label_stats(part.truth) for name, part in parts.items()},
        observed=label_stats(data.observed),
        noise=noise_stats(train, data.observed),
        co_occurrence=co_occurrence(train, _SQUARE_SPARSE if isinstance(train.codes, csr_array) else _SQUARE),
        missing=missing,
        images=images,
        duplicates=equal,
        near=None if images is None or not near else near_duplicates(parts, images, equal),
        boxes={
            name: box_stats(part.boxes, None if images is None else images[name].sides)
            for name, part in parts.items()
            if part.boxes is not None
        },
    )


def _labels(train: Annotations, dataset: str, regime: Regime) -> tuple[LabelTable, Path | None]:
    """The labels that a training run would read or draw, and their file if one exists; none is written."""
    files = [own_path(LABEL_FOLDER, dataset, regime, train)] if regime.is_drawn else []
    if regime.name == "candidate" and regime.rng == "published":
        files.append(published_path(LABEL_FOLDER, dataset, regime, train))
    if regime.label_file is None and not any(file.is_file() for file in files):
        return observe(train, regime), None
    resolved = resolve_labels(train, dataset, regime, LABEL_FOLDER, regime.label_file)
    return resolved.table, resolved.path


def _check(parts: Mapping[str, Annotations], missing: Mapping[str, Index]) -> dict[str, ImageStats]:
    """Decode every image that exists."""
    stats = {}
    for name, part in parts.items():
        rows = np.setdiff1d(np.arange(len(part)), missing[name]).tolist()
        examined = in_threads(partial(examine, part.images), rows, f"checking {name} images")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # decoders complain of odd metadata, which is harmless
            stats[name] = image_stats(len(part), zip(rows, examined, strict=True))
    return stats


def _duplicates(parts: Mapping[str, Annotations], images: Mapping[str, ImageStats]) -> list[DuplicateGroup]:
    """Groups of equal images: compared by content, which is read only where sizes agree."""
    shared = shared_sizes({name: stats.sizes for name, stats in images.items()})
    candidates = [(name, row) for name, rows in shared.items() for row in rows.tolist()]

    def with_digest(candidate: tuple[str, int]) -> tuple[str, int, bytes]:
        """Split, row and digest of an image."""
        name, row = candidate
        return name, row, digest(parts[name].images, row)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return duplicates(in_threads(with_digest, candidates, "looking for duplicates"))


def draw(findings: Findings, config: InspectionConfig, folder: Path) -> None:
    """Write the plots of a report, and remove those of an earlier one that cannot be drawn now."""
    train = findings.data.parts["train"]
    present = {name: stats.present for name, stats in findings.labels.items()}
    order = np.argsort(-present["train"], kind="stable")
    imbalance = findings.labels["train"].imbalance
    log = imbalance is not None and imbalance > _IMBALANCED
    named = [train.classes[k] for k in order]
    plot_bars(named, {name: counts[order] for name, counts in present.items()}, folder / "frequency.png", log=log)
    counts = {f"{name}, true": stats.per_row for name, stats in findings.labels.items()}
    counts["train, seen in training"] = findings.observed.per_row
    plot_counts(counts, folder / "cardinality.png", xlabel="labels per image")
    _draw_co_occurrence(train.classes, findings.co_occurrence, folder / "cooccurrence.png")
    cards = contact_sheet(findings, config.samples, config.seed)
    if cards:
        plot_contact_sheet(cards, folder / "contact_sheet.png")
    else:
        (folder / "contact_sheet.png").unlink(missing_ok=True)


def _draw_co_occurrence(classes: Sequence[str], together: CoOccurrence, path: Path) -> None:
    if len(together.classes):
        title = "share of the images with the class of the row that have the class of the column"
        plot_heat_map([classes[k] for k in together.classes], together.conditional(), path, title=title)
    else:
        path.unlink(missing_ok=True)


def contact_sheet(findings: Findings, count: int, seed: int) -> list[Card]:
    """Up to `count` training images in a seeded order with their labels; images that do not open are skipped."""
    train = findings.data.parts["train"]
    bad = set(findings.missing["train"].tolist())
    bad.update(findings.images["train"].faults if findings.images else ())
    order = np.random.default_rng(seed).permutation(len(train)).tolist()
    cards = (card for row in order if row not in bad for card in _card(train, findings.data.observed, row))
    return list(islice(cards, count))


def _card(train: Annotations, observed: LabelTable, row: int) -> list[Card]:
    """One image with its labels, the true ones first; none if it does not open."""
    try:
        image = train.images.open(row)
    except RunError:
        return []
    index = np.array([row])
    truth, seen = train.truth.rows(index)[0], observed.rows(index)[0]
    kinds = {
        "right": (truth == PRESENT) & (seen == PRESENT),
        "hidden": (truth == PRESENT) & (seen != PRESENT),
        "wrong": (truth != PRESENT) & (seen == PRESENT),
        "unknown": (truth == UNKNOWN) & (seen != PRESENT),
    }
    if kinds["unknown"].sum() > _FEW:
        del kinds["unknown"]
    labels = [(train.classes[k], kind) for kind, mask in kinds.items() for k in np.flatnonzero(mask)]
    return [Card(image, labels, Path(train.images.name(row)).name)]


def _require_writable(folder: Path) -> None:
    """Make the folder and check that files can be written there. Raises: UserError."""
    make_folder(folder, "--output")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be written ({error.strerror}); name another folder") from None
