"""Tables of people's own labels: one row a picture, in `.csv`, `.tsv` or `.parquet`.

Labels are one column of class names, or a column per class with 1 for present, 0 for absent, -1 or nothing for unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.datasets.table.config import TableConfig
from data.datasets.table.labelled import (
    TEST,
    TRAIN,
    UNSAID,
    VALIDATION,
    Labelled,
    check_classes,
    check_id,
    choose_classes,
    in_order,
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
_PARTS = {
    "train": TRAIN, "training": TRAIN, "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION,
    "test": TEST, "testing": TEST,
}
# fmt: on
_OTHER_SEPARATORS = ",;|"


class Roles(NamedTuple):
    """Which column is what."""

    image: str
    labels: str | None
    split: str | None
    rest: tuple[str, ...]


def read_spreadsheet(path: Path, config: TableConfig, fixed: tuple[str, ...] | None) -> Labelled:
    """Read one table.

    Args:
        path: the file.
        config: which columns are what, and what separates class names.
        fixed: the names of `classes.txt`, for labels written as names; None without that file.

    Raises:
        UserError: the file is missing, damaged, empty or lacks a column, or a cell does not hold what it should.
    """
    sheet = read_sheet(path)
    roles = find_roles(sheet, config)
    ids = _ids(sheet, roles.image)
    parts = _parts(sheet, roles.split)
    if roles.labels is None:
        classes, codes = read_columns(sheet, roles.rest, config.label_separator)
        return in_order(Labelled(ids, classes, codes, parts, closed=True))
    classes, codes = read_names(sheet, roles.labels, config.label_separator, fixed)
    doubts = () if fixed else _separator_doubt(classes, config.label_separator, path)
    notes = (*_unread(sheet, roles), *doubts)
    return in_order(Labelled(ids, classes, codes, parts, closed=fixed is not None, notes=notes))


def find_roles(sheet: Sheet, config: TableConfig) -> Roles:
    """Which column holds the paths, which the class names if one does, which the split if one does.

    Raises: UserError when a column that is asked for is not there, none can hold the paths, or two roles meet in one.
    """
    image = _find(sheet, "image_column", config.image_column, IMAGE_COLUMNS)
    if image is None:
        usual = ", ".join(IMAGE_COLUMNS)
        raise UserError(
            f"{sheet.path}: no column of picture paths ({usual}); it has {_listed(sheet.header)}: name it with "
            f"--image_column"
        )
    split = _find(sheet, "split_column", config.split_column, SPLIT_COLUMNS)
    labels = _find(sheet, "label_column", config.label_column, LABEL_COLUMNS)
    if labels is not None and config.label_column is None and None not in map(_code, set(sheet.column(labels))):
        labels = None  # a class that happens to be called so
    taken = [name for name in (image, labels, split) if name is not None]
    twice = next((name for name in taken if taken.count(name) > 1), None)
    require(twice is None, f"{sheet.path}: column {twice!r} cannot hold two of path, labels and split")
    rest = tuple(name for name in sheet.header if name not in taken)
    require(
        labels is not None or bool(rest),
        f"{sheet.path}: no column of labels; it has {_listed(sheet.header)}: add one called labels, or one per class",
    )
    return Roles(image, labels, split, rest)


def read_columns(sheet: Sheet, names: Sequence[str], separator: str) -> tuple[tuple[str, ...], Codes]:
    """Classes and codes (N, C) of a table with a column per class.

    Raises: UserError for an unfit class name, or a cell that is none of 1, 0, -1 and nothing.
    """
    where = f"{sheet.path}, column"
    classes = check_classes(((name, f"{where} {sheet.header.index(name) + 1}") for name in names), separator)
    codes = np.empty((len(sheet.places), len(names)), dtype=np.int8)
    for label, name in enumerate(names):
        cells = sheet.column(name)
        code_of = {text: code for text in set(cells) if (code := _code(text)) is not None}
        row = next((row for row, text in enumerate(cells) if text not in code_of), None)
        if row is not None:
            raise UserError(
                f"{sheet.where(row)}: column {name!r} holds {cells[row][:40]!r}, must be 1, 0, -1 or empty; leave out "
                f"columns that are no classes, or name the one of class names with --label_column"
            )
        codes[:, label] = [code_of[text] for text in cells]
    return classes, codes


def read_names(
    sheet: Sheet, column: str, separator: str, fixed: tuple[str, ...] | None
) -> tuple[tuple[str, ...], Codes]:
    """Classes and codes (N, C) of a column of class names: those named are PRESENT, the others ABSENT.

    Raises: UserError for an unfit name, one twice in a cell, or one that `fixed` lacks.
    """
    cells = sheet.column(column)
    found: dict[str, str] = {}
    for row, cell in enumerate(cells):
        names = _split(cell, separator)
        for name in names:
            found.setdefault(name, sheet.where(row))
        if "" in names or len(set(names)) < len(names):
            fault = "has an empty name" if "" in names else "names a class twice"
            raise UserError(f"{sheet.where(row)}: {cell[:80]!r} in column {column!r} {fault}; correct it")
    classes = choose_classes(found, fixed, separator)
    require(bool(classes), f"{sheet.path}: column {column!r} names no class in any row")
    place = {name: label for label, name in enumerate(classes)}
    codes = np.full((len(cells), len(classes)), ABSENT, dtype=np.int8)
    for row, cell in enumerate(cells):
        codes[row, [place[name] for name in _split(cell, separator)]] = PRESENT
    return classes, codes


def _ids(sheet: Sheet, column: str) -> tuple[str, ...]:
    seen: dict[str, str] = {}
    for row, text in enumerate(sheet.column(column)):
        where = sheet.where(row)
        check_id(relative_path(text, where), where, seen)
    return tuple(seen)


def _parts(sheet: Sheet, column: str | None) -> NDArray[np.int8]:
    parts = np.full(len(sheet.places), UNSAID, dtype=np.int8)
    for row, text in enumerate(() if column is None else sheet.column(column)):
        part = _PARTS.get(text.lower())
        if part is None:
            raise UserError(
                f"{sheet.where(row)}: {text[:40]!r} in column {column!r} must be train, val or test (another column "
                f"may say so: --split_column)"
            )
        parts[row] = part
    return parts


def _find(sheet: Sheet, setting: str, wanted: str | None, usual: Sequence[str]) -> str | None:
    """The column `wanted`, or the first whose name is a usual one; None where there is none."""
    if wanted is None:
        return next((name for name in sheet.header if name.lower() in usual), None)
    require(
        wanted in sheet.header,
        f"{sheet.path}: --{setting} {wanted}: no such column; it has {_listed(sheet.header)}",
    )
    return wanted


def _code(text: str) -> int | None:
    return _CODES.get(text.lower())


def _split(cell: str, separator: str) -> list[str]:
    """The names of a cell; runs of spaces separate as one does."""
    if separator.isspace() or not cell:
        return cell.split()
    return [name.strip() for name in cell.split(separator)]


def _unread(sheet: Sheet, roles: Roles) -> list[str]:
    """A note where columns beside that of the class names are not read."""
    rest = _listed(roles.rest)
    return [f"{sheet.path}: labels are those of column {roles.labels!r}; not read: {rest}"] if roles.rest else []


def _separator_doubt(classes: Sequence[str], separator: str, path: Path) -> list[str]:
    """A note where names look as if several were taken for one."""
    other = next((name for name in classes if any(one in name for one in _OTHER_SEPARATORS)), None)
    return (
        [] if other is None else [f"{path}: {other!r} counts as one class; is --label_separator {separator!r} right?"]
    )


def _listed(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)} in all)"
