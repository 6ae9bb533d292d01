"""Published lists of labels: a text file with a line `NAME,CLASS CLASS ...` per image, classes as numbers from 0.

Those of Hill and SPLC (xinyu1205/robust-loss-mlml, `dataset/coco_train_*.txt`). A list names present labels alone; what
the others are, the regime says. N images, C classes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from data.files.text_files import read_lines
from data.labels.regime import Regime
from data.labels.validation import require_fit
from utils.checks import UserError, require
from utils.types import ABSENT, PRESENT, UNKNOWN, Annotations, Index, LabelTable

SUFFIX = ".txt"

_OTHERS = {"single": UNKNOWN, "dropped": UNKNOWN, "given": UNKNOWN, "full": ABSENT, "candidate": ABSENT}
"""What a label that is not listed is, in the regimes that present labels alone can describe."""

_TOLERANCE = 0.1  # by which the share of labels left may differ from what --drop_rate says, besides five deviations
_SHOWN = 60  # characters of a line in a message


class ListedImage(NamedTuple):
    """A line of a list."""

    line: int  # from 1
    name: str
    classes: tuple[int, ...]


def read_list(path: Path, annotations: Annotations, regime: Regime) -> LabelTable:
    """The labels (N, C) of a list, its images found by name: file name, file name without suffix or number in it is id.

    Args:
        path: the list.
        annotations: rows, classes and true labels. Rows of the whole published set (`Annotations.listed`) that are not
            among them are passed over.
        regime: `single`, `dropped` or `given`, in which other labels are unknown, or `full` or `candidate`, where they
            are absent.

    Raises:
        UserError: the list is missing, cut off or malformed, lacks an image or has one that there is not, is of another
            regime or number of labels, or does not fit the true labels.
    """
    require(
        regime.name in _OTHERS,
        f"{path}: a list names present labels alone, which {regime.name} labels are not; take --labels "
        f"{', '.join(_OTHERS)}",
    )
    images = list(_images(path, len(annotations.classes)))
    rows = _rows(path, images, annotations)
    table = _table(images, rows, annotations, _OTHERS[regime.name])
    require_fit(path, table, annotations, regime)
    _require_number(path, images, rows, annotations.truth, regime)
    return table


def _images(path: Path, classes: int) -> Iterator[ListedImage]:
    """The lines of a list. Raises: UserError naming a line without labels, or with other than `classes` classes."""
    for number, text in read_lines(path, "--label_file names it as a list of labels"):
        name, _, labels = text.rpartition(",")
        if not name or not re.fullmatch(r"\d{1,9}( +\d{1,9})*", labels.strip(), re.ASCII):
            raise UserError(
                f"{path}, line {number}: {text[:_SHOWN]!a} is not of the form NAME,CLASS CLASS ...: the list is cut "
                "off or edited; get it anew"
            )
        found = tuple(map(int, labels.split()))
        require(max(found) < classes, f"{path}, line {number}: class {max(found)}, there are 0 to {classes - 1}")
        require(len(set(found)) == len(found), f"{path}, line {number}: names a class twice; get the list anew")
        yield ListedImage(number, name.strip(), found)


def _rows(path: Path, images: list[ListedImage], annotations: Annotations) -> Index:
    """(M,) the row of each listed image, -1 where it is one of the whole published set only.

    Raises: UserError when a line names no image of the set or one that another line has named, or an image has no line.
    """
    row_of, others = {one: row for row, one in enumerate(annotations.ids)}, frozenset(annotations.listed)
    found: dict[str, int] = {}
    for image in images:
        key = _id_of(image.name, row_of, others)
        if key is None:
            raise UserError(
                f"{path}, line {image.line}: {image.name[:_SHOWN]!a} is none of the {len(row_of)} training images; the "
                "list is for another set"
            )
        if key in found:
            raise UserError(f"{path}, line {image.line}: image {key} is in line {found[key]} too; get the list anew")
        found[key] = image.line
    missing = [one for one in annotations.ids if one not in found]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of {len(row_of)} training images are not in it (image {missing[0]}): the list is "
            "cut off, or for another set"
        )
    return np.array([row_of.get(key, -1) for key in found], dtype=np.int64)


def _id_of(name: str, *known: Collection[str]) -> str | None:
    """The id of an image by its name in a list; None where there is none."""
    file = PurePosixPath(name)
    number = re.search(r"\d{1,18}$", file.stem, re.ASCII)
    keys = (name, file.name, file.stem, *([str(int(number[0]))] if number else []))
    return next((key for key in keys if any(key in ids for ids in known)), None)


def _require_number(path: Path, images: list[ListedImage], rows: Index, truth: LabelTable, regime: Regime) -> None:
    """Raise UserError unless there are as many labels as the regime leaves: one per image, or a share of them."""
    if regime.name == "single":
        for image in images:
            require(
                len(image.classes) == 1,
                f"{path}, line {image.line}: {len(image.classes)} labels, --labels single is one per image; take "
                "--labels dropped and its --drop_rate",
            )
    if regime.name == "dropped":
        rate, present = regime.drop_rate, int(truth.counts().sum())
        left = sum(len(image.classes) for image, row in zip(images, rows, strict=True) if row >= 0) / present
        require(
            abs(1 - left - rate) <= _TOLERANCE + 5 * math.sqrt(rate * (1 - rate) / present),
            f"{path}: {left:.0%} of the {present} true labels are in it, --drop_rate {rate} leaves {1 - rate:.0%}; "
            f"give --drop_rate {max(1 - left, 0):.2g}",
        )


def _table(images: list[ListedImage], rows: Index, annotations: Annotations, other: int) -> LabelTable:
    """The labels (N, C), stored as the true ones are: PRESENT where listed, else `other`."""
    row = np.repeat(rows, [len(image.classes) for image in images])
    column = np.array([label for image in images for label in image.classes], dtype=np.int64)
    row, column = row[row >= 0], column[row >= 0]
    shape = (len(annotations), len(annotations.classes))
    if isinstance(annotations.truth.codes, csr_array):
        return LabelTable(csr_array((np.full(len(row), PRESENT, np.int8), (row, column)), shape=shape), default=other)
    codes = np.full(shape, other, dtype=np.int8)
    codes[row, column] = PRESENT
    return LabelTable(codes)
