"""From settings to annotations, observed labels and splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np

from data.datasets import DATASETS, SYNONYMS, DatasetSource
from data.datasets.table.codes import read_name_list
from data.datasets.table.config import TableConfig
from data.datasets.table.described import TableReport
from data.datasets.table.reader import load_described
from data.files.cache import Cache
from data.files.text_files import is_plain_text
from data.images.reading import AS_STORED, ReadFromFiles, Reading, ReadingConfig
from data.labels.files import ResolvedLabels, resolve_labels
from data.labels.hierarchy import read_hierarchy
from data.labels.implied import completed
from data.labels.regime import Regime, observe
from data.labels.regimes import full_labels
from data.subsets.long_tail import LongTailConfig, subsample_long_tail
from data.subsets.overlap import check_disjoint, without_bad, without_missing
from data.subsets.splits import SplitConfig, TrainingSplitConfig, split_rows
from utils.checks import UserError, require
from utils.console import say
from utils.options import option
from utils.seeding import derive_seed
from utils.types import ABSENT, Annotations, Index, LabelTable, Splits

LABEL_FOLDER = Path("pre-processed-data")


@dataclass(frozen=True, kw_only=True)
class DatasetConfig(TableConfig, LongTailConfig, ReadingConfig):
    """The dataset, and where its files are; shared by every command that reads a dataset."""

    dataset: str = option("digits", "name of the dataset", choices=DATASETS, synonyms=SYNONYMS, common=True)
    path_images: Path | None = option(None, "folder of the dataset", aliases=("data_dir",), common=True)
    path_lists: Path = option(Path("appendix"), "folder of the lists of the long-tailed splits")
    split: Literal["published", "train-val"] = option(
        "published", "voc07: train on train and val and test on test, or train on train and test on val (no test kit)"
    )
    l48_labels: Literal["full", "target", "geo", "checklist"] = option(
        "target", "l48, --labels given: the target where it is heard, with geo or checklist species that are not listed"
    )
    l48_rows: Literal["labelled", "with_positive", "all"] = option(
        "labelled", "l48: clips that train, those with a known label, those with a present one, or all"
    )
    num_cls: int | None = option(None, "number of classes; only checked against the dataset")
    missing_images: Literal["error", "skip"] = option("error", "rows whose image file is not there")
    bad_images: Literal["error", "skip"] = option("error", "rows whose image file is damaged or of a kind not read")
    hierarchy: Path | None = option(
        None, "which class is a kind of which: .json as of OpenImages, or .csv headed class,parent; adds what follows"
    )
    cache_dir: Path | None = option(None, "where parsed annotations are kept (default: ~/.cache/partial-truth)")

    def __post_init__(self) -> None:
        TableConfig.__post_init__(self)
        LongTailConfig.__post_init__(self)
        ReadingConfig.__post_init__(self)
        known = ", ".join(DATASETS)
        require(self.dataset in DATASETS, f"--dataset {self.dataset}: no such dataset; there are {known}")
        for name, usual in (("l48_labels", "target"), ("l48_rows", "labelled")):
            value = getattr(self, name)
            require(
                value == usual or self.dataset == "l48",
                f"--{name} {value}: is for l48, not for {self.dataset}; leave the flag out",
            )
        require(
            self.split == "published" or self.dataset in ("voc07", "voc12"),
            f"--split {self.split}: is for voc07 (voc12 has no other), not for {self.dataset}; leave the flag out",
        )

    def usable_rows(self, annotations: Annotations, split: str) -> Index:
        """(M,) the rows of a split whose images are to be used: without those that the settings leave out."""
        rows = np.arange(len(annotations))
        if self.missing_images == "skip":
            rows = without_missing(annotations, split)
        return rows[without_bad(annotations.take(rows), split)] if self.bad_images == "skip" else rows


class Data(NamedTuple):
    """The splits that a run trains and is evaluated on. `observed` holds the rows of `train`, in its order."""

    train: Annotations
    observed: LabelTable
    validation: Annotations | None
    test: Annotations
    groups: Mapping[str, Index]
    labels: ResolvedLabels
    regime: Regime
    found: Mapping[str, str] = MappingProxyType({})
    """Settings that the reader found in the files."""
    undivided: Annotations | None = None
    """The images of `train` and `validation` together, ordered by id; None where the latter was not taken off."""

    def hashes(self) -> dict[str, str]:
        """SHA-256 of ids, classes and labels by split: two runs of equal ones saw and were scored on the same."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split.content_hash() for name, split in splits.items() if split is not None}


def _source(config: DatasetConfig, seed: int, *, need_images: bool) -> DatasetSource:
    return DatasetSource(
        path_images=config.path_images or Path(),
        path_lists=config.path_lists,
        seed=seed,
        cache=Cache(config.cache_dir),
        need_images=need_images,
        table=config,
        train_val=config.split == "train-val",
        l48_labels=config.l48_labels,
        l48_rows=config.l48_rows,
        skip_missing=config.missing_images == "skip",
    )


def load_splits(config: DatasetConfig, seed: int, *, need_images: bool, new: bool = False) -> Splits:
    """Read the dataset, and thin its training set out to a long tail where the settings ask for that.

    Only training labels stay soft.

    Args:
        config: the dataset.
        seed: of a generated dataset, and of the long tail.
        need_images: False where none is opened: then no image file need be there.
        new: True where no earlier run or checkpoint says how its images are read; that they are turned upright is
            then in `found`.

    Raises: UserError when a folder, file or entry is missing or wrong, or when two splits share an image.
    """
    splits = DATASETS[config.dataset](_source(config, seed, need_images=need_images))
    return _checked(read_as(splits, config, new=new), config, seed)


def load_splits_described(config: DatasetConfig, seed: int) -> tuple[Splits, TableReport]:
    """The same, new and without need of images, and what was decided about a user's table; nothing for others.

    Raises: UserError as `load_splits` does.
    """
    if config.dataset != "table":
        return load_splits(config, seed, need_images=False, new=True), TableReport()
    splits, described = load_described(_source(config, seed, need_images=False))
    return _checked(read_as(splits, config, new=True), config, seed), described


def read_as(splits: Splits, config: DatasetConfig, *, new: bool) -> Splits:
    """The splits with images that are read as the settings say; `new` as in `load_splits`.

    Boxes are of the pixels as they are stored: where images are turned upright, there are none.

    Raises: UserError where images are to be turned that are cut out of files by boxes.
    """
    reading, boxed = config.reading, any(part is not None and part.boxes is not None for part in splits.parts())
    if new and config.exif is None and config.dataset == "table":
        if boxed:
            say(
                "--exif ignore: the boxes are of the pixels as they are stored, so no photograph is turned upright; "
                "--exif apply turns them and leaves the boxes out"
            )
        else:
            reading = reading._replace(exif="apply")
            splits = splits._replace(found={**splits.found, "exif": "apply"})
    elif boxed and reading.exif == "apply":
        say("--exif apply: the boxes are of the pixels as they are stored, and are left out")
    if reading == AS_STORED:
        return splits
    train, test, validation = (part and _part_read_as(part, reading) for part in splits.parts())
    assert train is not None
    assert test is not None
    return splits._replace(train=train, test=test, validation=validation)


def _part_read_as(part: Annotations, reading: Reading) -> Annotations:
    """A split with images that are read by these rules; without boxes where they are turned."""
    images = part.images.read_as(reading) if isinstance(part.images, ReadFromFiles) else part.images
    return replace(part, images=images, boxes=part.boxes if reading.exif == "ignore" else None)


def _checked(splits: Splits, config: DatasetConfig, seed: int) -> Splits:
    """Splits that are what the settings say, thinned out to a long tail where they ask for that. Raises: UserError."""
    for name in splits.train.classes:
        require(
            is_plain_text(name),
            f"--dataset {config.dataset}: the class name {name!r} holds control characters or half a character; "
            "correct it in the files of the dataset",
        )
    found = len(splits.train.classes)
    if config.num_cls not in (None, found):
        raise UserError(f"--num_cls {config.num_cls}: {config.dataset} has {found} classes; leave the flag out")
    check_disjoint({"training": splits.train, "validation": splits.validation, "test": splits.test})
    scored = splits._replace(test=splits.test.scored(), validation=splits.validation and splits.validation.scored())
    return subsample_long_tail(_with_implied_labels(scored, config), config, seed)


def _with_implied_labels(splits: Splits, config: DatasetConfig) -> Splits:
    """The splits with the labels that follow by `--hierarchy`. Raises: UserError as `read_hierarchy` does."""
    if config.hierarchy is None:
        return splits
    require(
        splits.train.truth.soft is None,
        f"--hierarchy {config.hierarchy}: labels follow from labels that are present or absent, and these are soft "
        "(--soft_labels keep); take --soft_labels threshold=0.5",
    )
    listed = read_name_list(config.class_names, config.label_separator).of_id if config.class_names else {}
    hierarchy = read_hierarchy(config.hierarchy, splits.train.classes, {**splits.aliases, **listed})
    train, changes = completed(splits.train, hierarchy.above)
    test, more = completed(splits.test, hierarchy.above)
    changes, validation = changes.plus(more), splits.validation
    if validation is not None:
        validation, more = completed(validation, hierarchy.above)
        changes = changes.plus(more)
    for note in (*hierarchy.notes, f"{config.hierarchy}: {changes}"):
        say(note)
    return splits._replace(train=train, validation=validation, test=test)


def require_one_validation(config: DatasetConfig, splits: Splits, val_frac: float) -> None:
    """Raise UserError where a share is to be held out for validation beside a split of the dataset's own."""
    require(
        splits.validation is None or val_frac == 0,
        f"--val_frac {val_frac}: {config.dataset} has a validation split of its own; leave the flag out",
    )


def build_data(
    config: DatasetConfig,
    labels: Regime,
    split: TrainingSplitConfig,
    seed: int,
    *,
    need_images: bool = True,
    new: bool = False,
) -> Data:
    """Read the dataset, find or make its observed labels, take the validation split off, leave out images.

    Labels are drawn for the whole training set before anything is left out, so one label file serves every
    `--val_frac`, and a collection of which some images are missing.

    Args:
        config: the dataset.
        labels: the label regime; `seed` is used where it has no seed of its own.
        split: the rows that train and those that validate.
        seed: of the run.
        need_images: False where none is opened: then no image file need be there.
        new: as in `load_splits`.
    """
    labels = labels.with_seed(seed)
    splits = load_splits(config, seed, need_images=need_images, new=new)
    require_one_validation(config, splits, split.val_frac)
    resolved, regime = _training_labels(splits.train, config, labels, split)
    rows, held_out = training_and_validation_rows(splits.train, labels, split, seed)
    validation = _validation(splits, held_out, config, labels, split)
    train, test = splits.train.take(rows), splits.test
    if "skip" in (config.missing_images, config.bad_images):
        kept = config.usable_rows(train, "training")
        train, rows = train.take(kept), rows[kept]
        if validation is not None:
            kept = config.usable_rows(validation, "validation")
            validation, held_out = validation.take(kept), held_out[kept] if len(held_out) else held_out
        test = test.take(config.usable_rows(test, "test"))
    undivided = splits.train.take(np.union1d(rows, held_out)) if len(held_out) else None
    # One table where the labels are the truth: at the size of OpenImages each takes 0.8 GiB.
    observed = train.truth if resolved.table is splits.train.truth else resolved.table.take(rows)
    resolved = resolved._replace(table=observed)
    return Data(train, observed, validation, test, splits.groups, resolved, regime, splits.found, undivided)


def training_and_validation_rows(
    annotations: Annotations, labels: Regime, split: SplitConfig, seed: int
) -> tuple[Index, Index]:
    """Rows (sorted) that train and rows that validate, drawn apart from what the label regime draws.

    `semi` labels the images at the front of a permutation, and those at the end of one validate. By the same seed it
    would be the same one, and no labelled image would ever validate; so then the split has a seed of its own.
    """
    if labels.labels == "semi":
        given = seed if split.split_seed is None else split.split_seed
        split = replace(split, split_seed=derive_seed(given, "validation") % 2**32)
    return split_rows(annotations, split, seed)


def held_out_images(
    splits: Splits, config: DatasetConfig, labels: Regime, split: TrainingSplitConfig, seed: int
) -> Annotations | None:
    """The validation split that `build_data` makes with these settings; None where there is none.

    No label is drawn for training, and so none written.
    """
    require_one_validation(config, splits, split.val_frac)
    _, held_out = training_and_validation_rows(splits.train, labels, split, seed)
    if not len(held_out) and splits.validation is None:
        return None
    validation = _validation(splits, held_out, config, labels.with_seed(seed), split)
    return validation and validation.take(config.usable_rows(validation, "validation"))


def _validation(
    splits: Splits, held_out: Index, config: DatasetConfig, labels: Regime, split: TrainingSplitConfig
) -> Annotations | None:
    """The validation split with the labels that it is to be compared with; None where there is none."""
    validation = splits.train.take(held_out) if len(held_out) else splits.validation
    if split.val_set_variant != "clean":
        validation = _with_labels_of_training(splits, held_out, config, labels, split.val_set_variant)
    return validation and validation.scored()


def _training_labels(
    train: Annotations, config: DatasetConfig, labels: Regime, split: TrainingSplitConfig
) -> tuple[ResolvedLabels, Regime]:
    """The labels to train on, of the whole training set, and their regime; the true ones where "clean" is wanted."""
    if split.train_set_variant == "observed":
        return resolve_labels(train, config.dataset, labels, LABEL_FOLDER, labels.label_file), labels
    require(
        labels.label_file is None or split.val_set_variant != "clean",
        f"--train_set_variant clean: trains on the true labels, not on --label_file {labels.label_file}; give one",
    )
    clean = Regime(labels="full", label_seed=labels.seed)
    return resolve_labels(train, config.dataset, clean, LABEL_FOLDER), clean


def _with_labels_of_training(
    splits: Splits, held_out: Index, config: DatasetConfig, labels: Regime, variant: str
) -> Annotations:
    """The validation split with labels as the regime shows them in place of the true ones.

    Unknown labels are read as absent, except in a table of known labels only; with the variant "known" they stay
    unknown, and are left out by all that scores. A validation split of the dataset's own gets labels from a generator
    of the same seed.

    Raises: UserError when there is no validation split, or nothing in it that is known to be absent.
    """
    if len(held_out):
        drawn = resolve_labels(splits.train, config.dataset, labels, LABEL_FOLDER, labels.label_file)
        validation, table = splits.train.take(held_out), drawn.table.take(held_out)
    elif splits.validation is not None:
        validation, table = splits.validation, observe(splits.validation, labels)
    else:
        raise UserError(f"--val_set_variant {variant}: there is no validation split; give --val_frac")
    if variant == "observed":
        return replace(validation, truth=full_labels(table))
    require(
        bool(table.counts(ABSENT).any()),
        f"--val_set_variant known: --labels {labels.labels} tells of no label that it is absent, so nothing can be "
        "compared; give observed, which reads unknown labels as absent, or clean",
    )
    return replace(validation, truth=table)


def check_images(data: Data) -> None:
    """Decode every image once (remembered in the cache). Raises: UserError naming the first that is damaged."""
    for part in (data.train, data.validation, data.test):
        if part is not None:
            part.images.check()
