"""Splits of the lines of a table: a column of names of splits, or columns that mark one split each. L lines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data.datasets.table.decided import MARKED_SPLITS
from data.datasets.table.labelled import NO_SPLIT, TEST, TRAIN, VALIDATION
from data.datasets.table.roles import quoted
from data.datasets.table.seen import code_of
from data.datasets.table.sheet import Sheet
from utils.checks import UserError
from utils.types import PRESENT

# fmt: off
SPLITS = {
    "train": TRAIN, "training": TRAIN, "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION,
    "test": TEST, "testing": TEST,
}
# fmt: on


def line_splits(sheet: Sheet, titles: Sequence[str]) -> NDArray[np.int8]:
    """(L,) the split of each line, by a column of names or by columns that mark one split each.

    Raises: UserError for a cell that names no split, or a line that is marked for two.
    """
    splits = np.full(sheet.rows, NO_SPLIT, dtype=np.int8)
    marked = [title for title in titles if title.lower() in MARKED_SPLITS]
    if marked:
        return _marked_splits(sheet, marked)
    for title in titles:
        column = sheet.column(title)
        for text, cell in enumerate(column.texts):
            if cell.lower() not in SPLITS:
                raise UserError(
                    f"{sheet.where(column.row_of(text))}: {cell[:40]!r} in column {title!r} must be train, val or test "
                    f"(name another column with --split_column)"
                )
        splits = np.array([SPLITS[cell.lower()] for cell in column.texts], dtype=np.int8)[column.at]
    return splits


def _marked_splits(sheet: Sheet, titles: Sequence[str]) -> NDArray[np.int8]:
    """(L,) splits by columns such as `is_valid`; a line that none marks is for training, or what else is left."""
    marks = {}
    for title in titles:
        column = sheet.column(title)
        codes = [code_of(text) for text in column.texts]
        if None in codes:
            text = codes.index(None)
            raise UserError(
                f"{sheet.where(column.row_of(text))}: {column.texts[text][:40]!r} in column {title!r} must be 1 or 0"
            )
        marks[MARKED_SPLITS[title.lower()]] = np.array([code == PRESENT for code in codes])[column.at]
    left = next(split for split in (TRAIN, TEST, VALIDATION) if split not in marks) if len(marks) < 3 else NO_SPLIT
    splits = np.full(sheet.rows, left, dtype=np.int8)
    twice = np.sum(list(marks.values()), axis=0) > 1
    if twice.any():
        raise UserError(f"{sheet.where(int(np.argmax(twice)))}: is marked for two splits in {quoted(titles)}")
    for split, mark in marks.items():
        splits[mark] = split
    if (splits == NO_SPLIT).any():
        raise UserError(
            f"{sheet.where(int(np.argmax(splits == NO_SPLIT)))}: is marked for no split in {quoted(titles)}"
        )
    return splits
