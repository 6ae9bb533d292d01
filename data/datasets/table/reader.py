"""A user's own data: images in a folder, labels in a table, a COCO-style json or a folder of VOC annotations.

Rows are ordered by image id: the path of the image below its folder, or the name of an annotation without `.xml`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from data.datasets.source import DatasetSource
from data.datasets.table.annotations import annotation_files, by_name
from data.datasets.table.config import found_in_both, named
from data.datasets.table.described import See, TableReport, collected
from data.datasets.table.folders import is_yolo, read_folders
from data.datasets.table.formats import image_folder, read_tables
from data.datasets.table.labelled import (
    NO_SPLIT,
    TEST,
    TRAIN,
    VALIDATION,
    OwnLabels,
    rows_in_split,
    with_classes,
)
from data.datasets.table.matching import image_patterns, match_images
from data.datasets.table.origin import table_origin
from data.datasets.table.sheet import is_sheet
from data.datasets.table.voc_images import voc_images
from data.images.channels import ChannelImages
from data.images.files import FileImages
from data.subsets.stratification import stratified_parts
from utils.checks import UserError, require
from utils.console import say
from utils.seeding import derive_seed
from utils.types import ABSENT, PRESENT, UNKNOWN, Annotations, Codes, Images, Index, LabelTable, Splits

_MOST_NAMED = 5  # classes that a note names


def load_table(source: DatasetSource) -> Splits:
    """Read the images and labels of `source.table`.

    Splits are those that the files name, or those of two tables; else `test_frac` of the images is held out for the
    test, by iterative stratification with `source.seed` (`held_out_rows`). Without a `path_images` (or with ".")
    images are expected beside the table, or in the folder `JPEGImages` of VOC annotations.

    Raises:
        UserError: a file, column or entry is missing or wrong, two splits share an image, or one has none.
    """
    return _load(source, lambda _: None)


def load_described(source: DatasetSource) -> tuple[Splits, TableReport]:
    """The same, and what was decided about the columns of the tables, and what they hold of each class.

    Raises: UserError as `load_table` does.
    """
    parts: list[TableReport] = []
    splits = _load(source, lambda report: parts.append(report()))
    return splits, collected(parts)


def _load(source: DatasetSource, see: See) -> Splits:
    """Read the images and labels; `see` may look at what was read of each table."""
    config = source.table
    if config.labels_from == "folders":
        return _load_folders(source)
    tables, test_tables = config.table, config.test_table
    if tables is None:
        raise UserError("--dataset table: give the labels of your images with --table (or --labels_from folders)")
    labels, place = read_tables(source, tables, see), named(tables)
    if test_tables is None:
        whole = _annotations(source, tables, labels)
        split_rows = split_table_rows(place, labels, config.test_frac, source.seed)
        train, validation, test = (whole.take(rows) for rows in split_rows)
    else:
        test_labels = read_tables(source, test_tables, see, rest=TEST)
        found = found_in_both(config, labels.found, test_labels.found)
        lacking = [UNKNOWN if len(paths) > 1 else ABSENT for paths in (tables, test_tables)]
        labels, test_labels = combine_tables(place, labels, named(test_tables), test_labels, lacking)
        labels = labels._replace(found=found)
        whole, test = _annotations(source, tables, labels), _annotations(source, test_tables, test_labels)
        train = whole.take(np.flatnonzero(labels.splits != VALIDATION))
        validation = whole.take(rows_in_split(labels.splits, VALIDATION))
        require(len(train) > 0, f"{place}: names no image for training")
    _report_classes_without_images(place, train)
    held_out = test_tables is None and _names_no_split(labels)
    own = validation if len(validation) else None
    return Splits(train, test, validation=own, found=labels.found, held_out=held_out)


def _load_folders(source: DatasetSource) -> Splits:
    """Read images whose labels are the names of their folders. Raises: UserError as `read_folders` does."""
    folder = source.path_images
    labels = read_folders(folder, source.table.label_separator)
    for note in labels.notes:
        say(note)
    files = FileImages([f"{folder}/{name}" for name in labels.ids], source.cache)
    whole = Annotations(files, labels.ids, labels.classes, LabelTable(labels.codes))
    split_rows = split_table_rows(str(folder), labels, source.table.test_frac, source.seed)
    train, validation, test = (whole.take(rows) for rows in split_rows)
    _report_classes_without_images(str(folder), train)
    own = validation if len(validation) else None
    return Splits(train, test, validation=own, held_out=_names_no_split(labels))


def _names_no_split(labels: OwnLabels) -> bool:
    """True if the files name no splits, so that a share is held out for the test."""
    return bool((labels.splits == NO_SPLIT).all())


def split_table_rows(table: str, labels: OwnLabels, fraction: float, seed: int) -> tuple[Index, Index, Index]:
    """Return the rows for training, validation and test; val is the test set if the table names no test.

    Args:
        table: the table, for messages.
        labels: the rows and their splits.
        fraction: share for the test if the table names no splits; there is no validation then.
        seed: of that choice.

    Raises:
        UserError: no row is left for training or for the test.
    """
    if _names_no_split(labels):
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
    column = labels.found.get("split_column")
    out = f"--ignore_columns {column}" if column else "leave the splits out"
    require(len(test) > 0, f"{table}: names no image for the test; mark some as test, or hold some out: {out}")
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
    """Rows by iterative stratification of (N, C) labels."""
    images, held_out = len(present), int(np.ceil(fraction * len(present)))
    if held_out >= images:
        return np.empty(0, dtype=np.int64)
    if present.shape[1] == 1:  # those without the class have their share too
        present = np.hstack([present, ~present])
    shares = ((images - held_out) / images, held_out / images)
    parts = stratified_parts(csr_array(present), shares, derive_seed("test split", seed) % 2**32)
    return np.flatnonzero(parts == 1)


def combine_tables(
    table: str, train: OwnLabels, test_table: str, test: OwnLabels, lacking: Sequence[int] = (ABSENT, ABSENT)
) -> tuple[OwnLabels, OwnLabels]:
    """Return the labels of two tables, one for training and one for the test, with the same classes in the same order.

    The classes are those of a table that lists all of them (columns, categories, `classes.txt`), or else the names
    that occur in either table. `lacking` says what a class is that the first, or the second, does not have.

    Raises:
        UserError: an image is in both, a class is in only one of two tables that list all classes, or an image is
            marked for the other split.
    """
    shared = set(train.ids).intersection(test.ids)
    if shared:
        raise UserError(f"{test_table}: image {min(shared)!r} is in {table} too ({len(shared)} such); keep it in one")
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
    return with_classes(train, classes, lacking[0]), with_classes(test, classes, lacking[1])


def _annotations(source: DatasetSource, tables: Sequence[Path], labels: OwnLabels) -> Annotations:
    folder = image_folder(source.path_images, tables[0])
    require(
        not source.need_images or folder.is_dir(),
        f"{folder}: no such folder; give --path_images the folder that the paths in {named(tables)} start from",
    )
    images, notes = _images(source, tables, folder, labels.ids)
    for note in (*labels.notes, *notes):
        say(note)
    truth = LabelTable(labels.codes, soft=labels.soft)
    return Annotations(images, labels.ids, labels.classes, truth, labels.boxes, groups=labels.groups)


def _images(
    source: DatasetSource, tables: Sequence[Path], folder: Path, ids: Sequence[str]
) -> tuple[Images, Sequence[str]]:
    """Return the images of the rows of a table, or of several as one, and lines to print about them."""
    table = tables[0]
    if table.is_dir() and not is_yolo(table):
        files, notes = voc_images(folder, ids, _annotated(source, table))
        return FileImages(files, source.cache), notes
    patterns = image_patterns(source.table.image_pattern)
    found = [match_images(folder, [pattern.replace("{}", one) for one in ids]) for pattern in patterns]
    notes = [note for matched in found for note in matched.notes]
    sheets = [path for path in tables if is_sheet(path)]
    origin = table_origin(sheets, source.table, folder, several=len(tables) > 1)
    channels = [FileImages([f"{folder}/{name}" for name in names], source.cache, origin) for names, _ in found]
    return channels[0] if len(channels) == 1 else ChannelImages(channels), notes


def _annotated(source: DatasetSource, table: Path) -> dict[str, Path]:
    """Return the annotations by name of all images in the folder of a table's images, which two tables may share."""
    both = (*(source.table.table or ()), *(source.table.test_table or ()))
    folders = [path for path in both if path.is_dir() and not is_yolo(path)]
    tables = folders if source.path_images != Path() else [table]
    return {name: file for path in tables for name, file in by_name(annotation_files(path)).items()}


def _report_classes_without_images(table: str, train: Annotations) -> None:
    """Print the classes that no training image has. Raises: UserError if these are all classes."""
    counts: NDArray[np.int64] = train.truth.counts()
    bare = [name for name, count in zip(train.classes, counts, strict=True) if not count]
    require(len(bare) < len(train.classes), f"{table}: no training image is labelled with any class; nothing to learn")
    if bare:
        shown = ", ".join(bare[:_MOST_NAMED]) + (", ..." if len(bare) > _MOST_NAMED else "")
        say(f"{table}: {len(bare)} of {len(train.classes)} classes are in no training image: {shown}")
