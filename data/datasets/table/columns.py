"""Tables of a user's own labels: one row per image, in `.csv`, `.tsv` or `.parquet`.

Labels are one column of class names, or a column per class: 1 present, 0 absent, -1 or an empty cell unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.datasets.table.config import TableConfig
from data.datasets.table.labelled import (
    NO_SPLIT,
    TEST,
    TRAIN,
    VALIDATION,
    OwnLabels,
    check_classes,
    check_id,
    choose_classes,
    sorted_by_id,
)
from data.datasets.table.sheet import Sheet, read_sheet
from data.files.text_files import relative_path
from utils.checks import UserError, require
from utils.types import ABSENT, PRESENT, UNKNOWN, Codes

IMAGE_COLUMNS = ("image", "file", "filename", "file_name", "filepath", "path", "img", "image_path", "picture")
LABEL_COLUMNS = ("labels", "label", "classes", "tags")
SPLIT_COLUMNS = ("split", "set", "subset", "phase")

# fmt: off
_CODES = {
    "1": PRESENT, "1.0": PRESENT, "true": PRESENT, "0": ABSENT, "0.0": ABSENT, "false": ABSENT,
    "-1": UNKNOWN, "-1.0": UNKNOWN, "": UNKNOWN,
}
_SPLITS = {
    "train": TRAIN, "training": TRAIN, "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION,
    "test": TEST, "testing": TEST,
}
# fmt: on
_OTHER_SEPARATORS = ",;|"


class ColumnRoles(NamedTuple):
    """Names of the columns by their role."""

    image: str
    labels: str | None
    split: str | None
    rest: tuple[str, ...]


def read_spreadsheet(path: Path, config: TableConfig, fixed: tuple[str, ...] | None) -> OwnLabels:
    """Read one table.

    Args:
        path: the file.
        config: names of the columns, separator of class names.
        fixed: the names of `classes.txt`, for labels written as names; None without that file.

    Raises:
        UserError: the file is missing, damaged, empty or lacks a column, or a cell has an invalid value.
    """
    sheet = read_sheet(path)
    roles = find_roles(sheet, config)
    ids = _ids(sheet, roles.image)
    splits = _splits(sheet, roles.split)
    if roles.labels is None:
        classes, codes = read_class_columns(sheet, roles.rest, config.label_separator)
        return sorted_by_id(OwnLabels(ids, classes, codes, splits, closed=True))
    classes, codes = read_name_column(sheet, roles.labels, config.label_separator, fixed)
    separator_notes = () if fixed else _separator_notes(classes, config.label_separator, path)
    notes = (*_unread_notes(sheet, roles), *separator_notes)
    return sorted_by_id(OwnLabels(ids, classes, codes, splits, closed=fixed is not None, notes=notes))


def find_roles(sheet: Sheet, config: TableConfig) -> ColumnRoles:
    """Find the columns of the paths, of the class names if there is one, and of the split if there is one.

    Raises: UserError when a requested column or one of paths does not exist, or one column has two roles.
    """
    image = _find(sheet, "image_column", config.image_column, IMAGE_COLUMNS)
    if image is None:
        usual = ", ".join(IMAGE_COLUMNS)
        raise UserError(
            f"{sheet.path}: no column of image paths ({usual}); it has {_quoted(sheet.header)}: name it with "
            f"--image_column"
        )
    split = _find(sheet, "split_column", config.split_column, SPLIT_COLUMNS)
    labels = _find(sheet, "label_column", config.label_column, LABEL_COLUMNS)
    if labels is not None and config.label_column is None and None not in map(_code, set(sheet.column(labels))):
        labels = None  # a class column with this name
    taken = [name for name in (image, labels, split) if name is not None]
    twice = next((name for name in taken if taken.count(name) > 1), None)
    require(twice is None, f"{sheet.path}: column {twice!r} cannot be two of path, labels and split")
    rest = tuple(name for name in sheet.header if name not in taken)
    require(
        labels is not None or bool(rest),
        f"{sheet.path}: no column of labels; it has {_quoted(sheet.header)}: add one called labels, or one per class",
    )
    return ColumnRoles(image, labels, split, rest)


def read_class_columns(sheet: Sheet, names: Sequence[str], separator: str) -> tuple[tuple[str, ...], Codes]:
    """Read classes and codes (N, C) of a table with a column per class.

    Raises: UserError for an invalid class name, or a cell other than 1, 0, -1 and empty.
    """
    where = f"{sheet.path}, column"
    classes = check_classes(((name, f"{where} {sheet.header.index(name) + 1}") for name in names), separator)
    codes = np.empty((len(sheet.numbers), len(names)), dtype=np.int8)
    for label, name in enumerate(names):
        cells = sheet.column(name)
        code_of = {text: code for text in set(cells) if (code := _code(text)) is not None}
        row = next((row for row, text in enumerate(cells) if text not in code_of), None)
        if row is not None:
            raise UserError(
                f"{sheet.where(row)}: column {name!r} holds {cells[row][:40]!r}, must be 1, 0, -1 or empty; leave out "
                f"columns that are no classes, or name the column of class names with --label_column"
            )
        codes[:, label] = [code_of[text] for text in cells]
    return classes, codes


def read_name_column(
    sheet: Sheet, column: str, separator: str, fixed: tuple[str, ...] | None
) -> tuple[tuple[str, ...], Codes]:
    """Read classes and codes (N, C) of a column of class names: named classes are PRESENT, the others ABSENT.

    Raises: UserError for an invalid name, a name twice in a cell, or one that is not in `fixed`.
    """
    cells = sheet.column(column)
    used: dict[str, str] = {}  # name: file and line of its first occurrence
    for row, cell in enumerate(cells):
        names = _split_names(cell, separator)
        for name in names:
            used.setdefault(name, sheet.where(row))
        if "" in names or len(set(names)) < len(names):
            fault = "has an empty name" if "" in names else "names a class twice"
            raise UserError(f"{sheet.where(row)}: {cell[:80]!r} in column {column!r} {fault}; correct it")
    classes = choose_classes(used, fixed, separator)
    require(bool(classes), f"{sheet.path}: column {column!r} names no class in any row")
    label_of = {name: label for label, name in enumerate(classes)}
    codes = np.full((len(cells), len(classes)), ABSENT, dtype=np.int8)
    for row, cell in enumerate(cells):
        codes[row, [label_of[name] for name in _split_names(cell, separator)]] = PRESENT
    return classes, codes


def _ids(sheet: Sheet, column: str) -> tuple[str, ...]:
    seen: dict[str, str] = {}
    for row, text in enumerate(sheet.column(column)):
        where = sheet.where(row)
        check_id(relative_path(text, where), where, seen)
    return tuple(seen)


def _splits(sheet: Sheet, column: str | None) -> NDArray[np.int8]:
    splits = np.full(len(sheet.numbers), NO_SPLIT, dtype=np.int8)
    for row, text in enumerate(() if column is None else sheet.column(column)):
        split = _SPLITS.get(text.lower())
        if split is None:
            raise UserError(
                f"{sheet.where(row)}: {text[:40]!r} in column {column!r} must be train, val or test (name another "
                f"column with --split_column)"
            )
        splits[row] = split
    return splits


def _find(sheet: Sheet, setting: str, requested: str | None, usual: Sequence[str]) -> str | None:
    """Return the column `requested`, or the first with a usual name; None if there is none."""
    if requested is None:
        return next((name for name in sheet.header if name.lower() in usual), None)
    require(
        requested in sheet.header,
        f"{sheet.path}: --{setting} {requested}: no such column; it has {_quoted(sheet.header)}",
    )
    return requested


def _code(text: str) -> int | None:
    return _CODES.get(text.lower())


def _split_names(cell: str, separator: str) -> list[str]:
    """Return the names of a cell; several spaces separate like one."""
    if separator.isspace() or not cell:
        return cell.split()
    return [name.strip() for name in cell.split(separator)]


def _unread_notes(sheet: Sheet, roles: ColumnRoles) -> list[str]:
    """Return a note if other columns beside the class names are not read."""
    rest = _quoted(roles.rest)
    return [f"{sheet.path}: labels are those of column {roles.labels!r}; not read: {rest}"] if roles.rest else []


def _separator_notes(classes: Sequence[str], separator: str, path: Path) -> list[str]:
    """Return a note if a name looks like several names."""
    other = next((name for name in classes if any(one in name for one in _OTHER_SEPARATORS)), None)
    return (
        [] if other is None else [f"{path}: {other!r} counts as one class; is --label_separator {separator!r} right?"]
    )


def _quoted(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)} in all)"
