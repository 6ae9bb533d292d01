"""People's own data: pictures in a folder, labels in a table, a COCO-style json or a folder of VOC annotations.

Rows are ordered by image id: the path of the picture below its folder, or the name of an annotation without `.xml`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.datasets.source import DatasetSource
from data.datasets.table.annotations import annotation_files, list_files, picture_files, read_coco_style, read_voc_style
from data.datasets.table.columns import read_spreadsheet
from data.datasets.table.config import TableConfig
from data.datasets.table.labelled import (
    TEST,
    TRAIN,
    UNSAID,
    VALIDATION,
    Labelled,
    read_class_file,
    remembered,
    rows_of,
    with_classes,
)
from data.datasets.table.sheet import SUFFIXES
from data.files.cache import fingerprint
from data.images.files import FileImages
from utils.checks import UserError, require
from utils.console import say
from utils.seeding import derive_seed
from utils.types import ABSENT, PRESENT, Annotations, Codes, Index, LabelTable, Splits

READER = "table 1"
"""Part of the cache's fingerprint; another number whenever the same files would be read differently."""

_NAMED = 5  # classes that a note names


def load_table(source: DatasetSource) -> Splits:
    """The pictures and labels of `source.table`.

    Splits are those that the files name, or those of two tables; else `test_frac` of the pictures is held out for the
    test, by iterative stratification drawn with `source.seed` (`held_out_rows`). Without a `path_images` (or with ".")
    pictures are looked for beside the table, or in the folder `JPEGImages` of VOC annotations.

    Raises:
        UserError: a file, column or entry is missing or wrong, two splits share a picture, or one has none.
    """
    config = source.table
    table, test_table = config.table, config.test_table
    if table is None:
        raise UserError("--dataset table: say with --table where the labels of your pictures are")
    fixed = read_class_file(table, config.label_separator)
    found = _read(source, table, fixed)
    if test_table is None:
        whole = _annotations(source, table, found)
        train, validation, test = (whole.take(rows) for rows in split_rows(table, found, config.test_frac, source.seed))
    else:
        found, apart = combined(table, found, test_table, _read(source, test_table, fixed))
        whole, test = _annotations(source, table, found), _annotations(source, test_table, apart)
        train = whole.take(np.flatnonzero(found.parts != VALIDATION))
        validation = whole.take(rows_of(found.parts, VALIDATION))
        require(len(train) > 0, f"{table}: names no picture for training")
    _tell(table, train)
    return Splits(train, test, validation=validation if len(validation) else None)


def split_rows(table: Path, found: Labelled, fraction: float, seed: int) -> tuple[Index, Index, Index]:
    """Rows for training, for validation and for the test; val is the test set where the table names no test.

    Args:
        table: where the rows are from, for messages.
        found: the rows and the parts they belong to.
        fraction: share for the test where nothing says which part a row belongs to; there is no validation then.
        seed: of that choice.

    Raises:
        UserError: no row is left for training or for the test.
    """
    if (found.parts == UNSAID).all():
        test = held_out_rows(found.codes, fraction, seed)
        train = np.setdiff1d(np.arange(len(found.ids)), test)
        require(
            len(train) > 0 and len(test) > 0,
            f"{table}: {len(found.ids)} pictures cannot be split by --test_frac {fraction}; add some, or say in a "
            f"column called split which are for what",
        )
        return train, rows_of(found.parts, VALIDATION), test
    train, validation, test = (rows_of(found.parts, part) for part in (TRAIN, VALIDATION, TEST))
    if not len(test):
        validation, test = test, validation
    require(len(train) > 0, f"{table}: names no picture for training; it must name some for train and for test")
    require(len(test) > 0, f"{table}: names no picture for the test; say so of some, or leave the splits out")
    return train, validation, test


def held_out_rows(codes: Codes, fraction: float, seed: int) -> Index:
    """About `fraction` of the rows, sorted, so that each class has about that share of its positives there.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011) of the package
    iterative-stratification, which draws with `seed`.

    Args:
        codes: (N, C); PRESENT counts, the rest does not.
        fraction: above 0 and below 1.
        seed: of any size.

    Returns:
        (M,) row numbers; none where there are too few rows to choose from.
    """
    # Here, for it takes most of a second.
    from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

    if not 0 < np.ceil(fraction * len(codes)) < len(codes):
        return np.empty(0, dtype=np.int64)
    present = codes == PRESENT
    if present.shape[1] == 1:  # the library takes one column for another kind of task
        present = np.hstack([present, ~present])
    split = MultilabelStratifiedShuffleSplit(
        n_splits=1, test_size=fraction, random_state=derive_seed("test split", seed) % 2**32
    )
    _, held_out = next(split.split(present, present))
    return np.sort(held_out).astype(np.int64, copy=False)


def combined(table: Path, found: Labelled, test_table: Path, apart: Labelled) -> tuple[Labelled, Labelled]:
    """The rows of two tables, one for training and one for the test, with the same classes in the same order.

    Names that were met in either are classes; a table that has all its classes (columns, categories, `classes.txt`)
    decides.

    Raises:
        UserError: a picture is in both, a class is in one of two such tables only, or a table's own splits say that
            its pictures are for the other purpose.
    """
    shared = sorted(set(found.ids) & set(apart.ids))
    if shared:
        raise UserError(f"{test_table}: picture {shared[0]!r} is in {table} too ({len(shared)} such); keep it in one")
    for path, rows, part, flag in ((table, found, TEST, "--test_table"), (test_table, apart, TRAIN, "--table")):
        wrong = rows_of(rows.parts, part)
        if len(wrong):
            purpose = "the test" if part == TEST else "training"
            raise UserError(f"{path}: picture {rows.ids[wrong[0]]!r} is marked for {purpose}; move it to {flag}")
    decisive = next((one.classes for one in (found, apart) if one.closed), None)
    classes = decisive or tuple(sorted({*found.classes, *apart.classes}))
    for path, rows in ((table, found), (test_table, apart)):
        different = set(rows.classes) ^ set(classes) if rows.closed else set(rows.classes) - set(classes)
        if different:
            raise UserError(f"{path}: class {min(different)!r} is in only one of {table} and {test_table}")
    return with_classes(found, classes, ABSENT), with_classes(apart, classes, ABSENT)


def picture_folder(path_images: Path, table: Path) -> Path:
    """The folder that the paths of `table` start from; "." counts as not given."""
    if path_images != Path():
        return path_images
    if not table.is_dir():
        return table.parent
    return table / "JPEGImages" if (table / "JPEGImages").is_dir() else table


def _read(source: DatasetSource, path: Path, fixed: tuple[str, ...] | None) -> Labelled:
    """The rows of one table, from the cache where none of its files has changed."""
    config = source.table
    files = [path]
    if path.is_dir():
        files = [*annotation_files(path), *list_files(path)]
    elif not path.is_file():
        raise UserError(f"{path}: no such file or folder; check --table and --test_table")
    columns = (config.image_column, config.label_column, config.label_separator, config.split_column)
    key = fingerprint(f"{READER} {columns} {fixed}", files)
    return remembered(source.cache, key, lambda: _parse(path, config, fixed))


def _parse(path: Path, config: TableConfig, fixed: tuple[str, ...] | None) -> Labelled:
    if path.is_dir():
        return read_voc_style(path, fixed, config.label_separator)
    if path.suffix.lower() == ".json":
        return read_coco_style(path, config.label_separator)
    if path.suffix.lower() in SUFFIXES:
        return read_spreadsheet(path, config, fixed)
    known = ", ".join((*SUFFIXES, ".json"))
    raise UserError(f"{path}: not one of {known} or a folder of VOC annotations; save a spreadsheet as CSV (UTF-8)")


def _annotations(source: DatasetSource, table: Path, found: Labelled) -> Annotations:
    folder = picture_folder(source.path_images, table)
    require(
        not source.need_images or folder.is_dir(),
        f"{folder}: no such folder; give --path_images the one that the paths in {table} start from",
    )
    files = picture_files(folder, found.ids) if table.is_dir() else [f"{folder}/{name}" for name in found.ids]
    for note in found.notes:
        say(note)
    return Annotations(FileImages(files, source.cache), found.ids, found.classes, LabelTable(found.codes), found.boxes)


def _tell(table: Path, train: Annotations) -> None:
    """Say which classes no training picture shows. Raises: UserError where that is all of them."""
    counts: NDArray[np.int64] = train.truth.counts()
    bare = [name for name, count in zip(train.classes, counts, strict=True) if not count]
    require(
        len(bare) < len(train.classes), f"{table}: no training picture is labelled with any class; nothing to learn"
    )
    if bare:
        named = ", ".join(bare[:_NAMED]) + (", ..." if len(bare) > _NAMED else "")
        say(f"{table}: {len(bare)} of {len(train.classes)} classes are in no training picture: {named}")
