"""A user's own data: images in a folder, labels in a table, a COCO-style json or a folder of VOC annotations.

Rows are ordered by image id: the path of the image below its folder, or the name of an annotation without `.xml`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.datasets.source import DatasetSource
from data.datasets.table.annotations import annotation_files, by_name, list_files, read_coco_style, read_voc_style
from data.datasets.table.columns import (
    TableRead,
    TableReport,
    described_columns,
    entries_of,
    labels_of,
    read_table,
)
from data.datasets.table.config import TableConfig
from data.datasets.table.folders import is_yolo, read_folders, read_yolo
from data.datasets.table.labelled import (
    NO_SPLIT,
    TEST,
    TRAIN,
    USUAL_SEPARATOR,
    VALIDATION,
    OwnLabels,
    cached_labels,
    read_class_file,
    rows_in_split,
    with_classes,
)
from data.datasets.table.matching import image_patterns, match_images
from data.datasets.table.origin import TableOrigin
from data.datasets.table.sheet import SUFFIXES
from data.datasets.table.voc_images import voc_images
from data.files.cache import fingerprint
from data.images.channels import ChannelImages
from data.images.files import FileImages
from utils.checks import UserError, require
from utils.console import say
from utils.seeding import derive_seed
from utils.types import ABSENT, PRESENT, Annotations, Codes, Images, Index, LabelTable, Splits

READER = "table 2"
"""Part of the cache's fingerprint; another number whenever the same files would be read differently."""

_MOST_NAMED = 5  # classes that a note names


def load_table(source: DatasetSource) -> Splits:
    """Read the images and labels of `source.table`.

    Splits are those that the files name, or those of two tables; else `test_frac` of the images is held out for the
    test, by iterative stratification with `source.seed` (`held_out_rows`). Without a `path_images` (or with ".")
    images are expected beside the table, or in the folder `JPEGImages` of VOC annotations.

    Raises:
        UserError: a file, column or entry is missing or wrong, two splits share an image, or one has none.
    """
    config = source.table
    if config.labels_from == "folders":
        return _load_folders(source)
    table, test_table = config.table, config.test_table
    if table is None:
        raise UserError("--dataset table: give the labels of your images with --table (or --labels_from folders)")
    fixed = read_class_file(table, _separator(config))
    labels = _read(source, table, fixed)
    if test_table is None:
        whole = _annotations(source, table, labels)
        split_rows = split_table_rows(table, labels, config.test_frac, source.seed)
        train, validation, test = (whole.take(rows) for rows in split_rows)
    else:
        labels, test_labels = combine_tables(table, labels, test_table, _read(source, test_table, fixed))
        same = {name: text for name, text in labels.found.items() if test_labels.found.get(name) == text}
        labels = labels._replace(found=same)
        whole, test = _annotations(source, table, labels), _annotations(source, test_table, test_labels)
        train = whole.take(np.flatnonzero(labels.splits != VALIDATION))
        validation = whole.take(rows_in_split(labels.splits, VALIDATION))
        require(len(train) > 0, f"{table}: names no image for training")
    _report_classes_without_images(table, train)
    return Splits(train, test, validation=validation if len(validation) else None, found=labels.found)


def _load_folders(source: DatasetSource) -> Splits:
    """Read images whose labels are the names of their folders. Raises: UserError as `read_folders` does."""
    folder = source.path_images
    labels = read_folders(folder, source.table.label_separator)
    for note in labels.notes:
        say(note)
    files = FileImages([f"{folder}/{name}" for name in labels.ids], source.cache)
    whole = Annotations(files, labels.ids, labels.classes, LabelTable(labels.codes))
    split_rows = split_table_rows(folder, labels, source.table.test_frac, source.seed)
    train, validation, test = (whole.take(rows) for rows in split_rows)
    _report_classes_without_images(folder, train)
    return Splits(train, test, validation=validation if len(validation) else None)


def describe_tables(source: DatasetSource) -> TableReport:
    """What is decided about the columns of a user's tables, and what they hold of each class; nothing for other forms.

    Raises: UserError as `load_table` does.
    """
    config = source.table
    tables = [path for path in (config.table, config.test_table) if path is not None and path.is_file()]
    reads = [
        _table_read(source, path, read_class_file(path, _separator(config)))
        for path in tables
        if path.suffix.lower() in SUFFIXES
    ]
    return TableReport(
        tuple(column for read in reads for column in described_columns(read)),
        tuple(entries_of(read) for read in reads),
    )


def names_splits(source: DatasetSource) -> bool:
    """True if `source.table` names a test set, in a table of its own or in itself; else a share is held out for it."""
    config = source.table
    if config.labels_from == "folders":
        return not (read_folders(source.path_images, config.label_separator).splits == NO_SPLIT).all()
    if config.test_table is not None or config.table is None:
        return True
    labels = _read(source, config.table, read_class_file(config.table, _separator(config)))
    return not (labels.splits == NO_SPLIT).all()


def split_table_rows(table: Path, labels: OwnLabels, fraction: float, seed: int) -> tuple[Index, Index, Index]:
    """Return the rows for training, validation and test; val is the test set if the table names no test.

    Args:
        table: path of the table, for messages.
        labels: the rows and their splits.
        fraction: share for the test if the table names no splits; there is no validation then.
        seed: of that choice.

    Raises:
        UserError: no row is left for training or for the test.
    """
    if (labels.splits == NO_SPLIT).all():
        test = held_out_rows(labels.codes, fraction, seed, labels.groups)
        train = np.setdiff1d(np.arange(len(labels.ids)), test)
        require(
            len(train) > 0 and len(test) > 0,
            f"{table}: {len(labels.ids)} images cannot be split by --test_frac {fraction}; add some, or add a "
            f"column called split with train and test",
        )
        return train, rows_in_split(labels.splits, VALIDATION), test
    train, validation, test = (rows_in_split(labels.splits, split) for split in (TRAIN, VALIDATION, TEST))
    if not len(test):
        validation, test = test, validation
    require(len(train) > 0, f"{table}: names no image for training; it must name some for train and for test")
    require(len(test) > 0, f"{table}: names no image for the test; mark some as test, or leave the splits out")
    return train, validation, test


def held_out_rows(codes: Codes, fraction: float, seed: int, groups: Index | None = None) -> Index:
    """Return about `fraction` of the rows, sorted, with about that share of the positives of each class.

    Rows of one group stay together: groups are chosen like rows that have the labels of all of theirs.

    Args:
        codes: (N, C); only PRESENT entries count.
        fraction: above 0 and below 1.
        seed: of any size.
        groups: (N,) the group of each row; None where each is one of its own.

    Returns:
        (M,) row numbers; none where there are too few rows, or groups, to choose from.
    """
    if groups is None:
        return _stratified(codes == PRESENT, fraction, seed)
    labels, number = np.unique(groups, return_inverse=True)
    present = np.zeros((len(labels), codes.shape[1]), dtype=bool)
    np.logical_or.at(present, number, codes == PRESENT)
    return np.flatnonzero(np.isin(number, _stratified(present, fraction, seed)))


def _stratified(present: NDArray[np.bool_], fraction: float, seed: int) -> Index:
    """Rows by iterative stratification of (N, C) labels.

    Sechidis, Tsoumakas and Vlahavas (ECML PKDD 2011), from the package iterative-stratification.
    """
    # Imported here because it takes most of a second.
    from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

    if not 0 < np.ceil(fraction * len(present)) < len(present):
        return np.empty(0, dtype=np.int64)
    if present.shape[1] == 1:  # the library takes one column for a multi-class task
        present = np.hstack([present, ~present])
    split = MultilabelStratifiedShuffleSplit(
        n_splits=1, test_size=fraction, random_state=derive_seed("test split", seed) % 2**32
    )
    _, held_out = next(split.split(present, present))
    return np.sort(held_out).astype(np.int64)


def combine_tables(table: Path, train: OwnLabels, test_table: Path, test: OwnLabels) -> tuple[OwnLabels, OwnLabels]:
    """Return the labels of two tables, one for training and one for the test, with the same classes in the same order.

    The classes are those of a table that lists all of them (columns, categories, `classes.txt`), or else the names
    that occur in either table.

    Raises:
        UserError: an image is in both, a class is in only one of two tables that list all classes, or an image is
            marked for the other split.
    """
    shared = sorted(set(train.ids) & set(test.ids))
    if shared:
        raise UserError(f"{test_table}: image {shared[0]!r} is in {table} too ({len(shared)} such); keep it in one")
    for path, labels, split, flag in ((table, train, TEST, "--test_table"), (test_table, test, TRAIN, "--table")):
        wrong = rows_in_split(labels.splits, split)
        if len(wrong):
            purpose = "the test" if split == TEST else "training"
            raise UserError(f"{path}: image {labels.ids[wrong[0]]!r} is marked for {purpose}; move it to {flag}")
    complete = next((labels.classes for labels in (train, test) if labels.closed), None)
    classes = complete or tuple(sorted({*train.classes, *test.classes}))
    for path, labels in ((table, train), (test_table, test)):
        different = set(labels.classes) ^ set(classes) if labels.closed else set(labels.classes) - set(classes)
        if different:
            raise UserError(f"{path}: class {min(different)!r} is in only one of {table} and {test_table}")
    return with_classes(train, classes, ABSENT), with_classes(test, classes, ABSENT)


def image_folder(path_images: Path, table: Path) -> Path:
    """Return the folder that the paths of `table` start from; "." counts as not given."""
    if path_images != Path():
        return path_images
    if not table.is_dir():
        return table.parent
    return table / "JPEGImages" if (table / "JPEGImages").is_dir() and not is_yolo(table) else table


def _read(source: DatasetSource, path: Path, fixed: tuple[str, ...] | None) -> OwnLabels:
    """Read one table; annotations of objects come from the cache if none of their files has changed."""
    config = source.table
    require(path.is_dir() or path.is_file(), f"{path}: no such file or folder; check --table and --test_table")
    if path.suffix.lower() in SUFFIXES and path.is_file():
        return labels_of(_table_read(source, path, fixed), config)
    if path.is_dir() and is_yolo(path):
        return read_yolo(path)
    files = [*annotation_files(path), *list_files(path)] if path.is_dir() else [path]
    key = fingerprint(f"{READER} {_separator(config)} {fixed} {source.skip_missing}", files)
    return cached_labels(source.cache, key, lambda: _parse(path, source, fixed))


def _separator(config: TableConfig) -> str:
    """What no class name of a file other than a table may hold."""
    return config.label_separator or USUAL_SEPARATOR


def _table_read(source: DatasetSource, path: Path, fixed: tuple[str, ...] | None) -> TableRead:
    return read_table(path, source.table, fixed, image_folder(source.path_images, path))


def _parse(path: Path, source: DatasetSource, fixed: tuple[str, ...] | None) -> OwnLabels:
    separator = _separator(source.table)
    if path.is_dir():
        return read_voc_style(path, fixed, separator, skip_missing=source.skip_missing)
    if path.suffix.lower() == ".json":
        return read_coco_style(path, separator)
    known = ", ".join((*SUFFIXES, ".json"))
    raise UserError(f"{path}: not one of {known} or a folder of VOC annotations; save a spreadsheet as CSV (UTF-8)")


def _annotations(source: DatasetSource, table: Path, labels: OwnLabels) -> Annotations:
    folder = image_folder(source.path_images, table)
    require(
        not source.need_images or folder.is_dir(),
        f"{folder}: no such folder; give --path_images the folder that the paths in {table} start from",
    )
    images, notes = _images(source, table, folder, labels.ids)
    for note in (*labels.notes, *notes):
        say(note)
    truth = LabelTable(labels.codes, soft=labels.soft)
    return Annotations(images, labels.ids, labels.classes, truth, labels.boxes, groups=labels.groups)


def _images(source: DatasetSource, table: Path, folder: Path, ids: Sequence[str]) -> tuple[Images, Sequence[str]]:
    """Return the images of the rows of one table, and lines to print about them."""
    if table.is_dir() and not is_yolo(table):
        files, notes = voc_images(folder, ids, _annotated(source, table))
        return FileImages(files, source.cache), notes
    patterns = image_patterns(source.table.image_pattern)
    found = [match_images(folder, [pattern.replace("{}", one) for one in ids]) for pattern in patterns]
    notes = [note for matched in found for note in matched.notes]
    is_sheet = table.suffix.lower() in SUFFIXES
    origin = TableOrigin(table, source.table, folder) if is_sheet else None
    channels = [FileImages([f"{folder}/{name}" for name in names], source.cache, origin) for names, _ in found]
    return channels[0] if len(channels) == 1 else ChannelImages(channels), notes


def _annotated(source: DatasetSource, table: Path) -> dict[str, Path]:
    """Return the annotations by name of all images in the folder of a table's images, which two tables may share."""
    both = (source.table.table, source.table.test_table)
    folders = [path for path in both if path is not None and path.is_dir() and not is_yolo(path)]
    tables = folders if source.path_images != Path() else [table]
    return {name: file for path in tables for name, file in by_name(annotation_files(path)).items()}


def _report_classes_without_images(table: Path, train: Annotations) -> None:
    """Print the classes that no training image has. Raises: UserError if these are all classes."""
    counts: NDArray[np.int64] = train.truth.counts()
    bare = [name for name, count in zip(train.classes, counts, strict=True) if not count]
    require(len(bare) < len(train.classes), f"{table}: no training image is labelled with any class; nothing to learn")
    if bare:
        named = ", ".join(bare[:_MOST_NAMED]) + (", ..." if len(bare) > _MOST_NAMED else "")
        say(f"{table}: {len(bare)} of {len(train.classes)} classes are in no training image: {named}")
