"""Settings of a user's own data: the table of labels and its form."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.datasets.table.soft import soft_policy
from utils.checks import require
from utils.options import option

FOUND = ("image_column", "label_column", "class_columns", "label_separator", "split_column")
"""Settings that are found in the table where nobody gives them; a run keeps what it found."""


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """Path and form of the labels of a user's own images. Raises: UserError for an invalid value."""

    table: Path | None = option(
        None,
        "own labels: a table (.csv, .tsv, .parquet, .xlsx, .jsonl), a COCO-style .json, a folder of VOC "
        "annotations or a YOLO export",
    )
    labels_from: Literal["table", "folders"] = option(
        "table", "folders: the names of all folders between --path_images and an image are its classes, without --table"
    )
    test_table: Path | None = option(None, "the same for the test images, if they are in a file or folder of their own")
    image_column: str | None = option(
        None, "column of the image paths, or several as A,B (default: by title, else the one whose cells are files)"
    )
    image_pattern: str | None = option(
        None, "path of the image of an id, such as img/{}.png, or of one file per channel: {}_r.png,{}_g.png,{}_b.png"
    )
    label_column: str | None = option(
        None, "column of class names (default: by title, else a column per class, else the only one left)"
    )
    label_separator: str | None = option(None, "what stands between two class names of a cell (default: found)")
    class_columns: str | None = option(None, "columns of one class each, as A,B (default: all of 1, 0, -1 and blanks)")
    ignore_columns: str | None = option(None, "columns that are not read, as A,B")
    class_names: Path | None = option(
        None, ".csv with a title line and an id and a name per line: names of the classes, their order, all there are"
    )
    empty_names: str | None = option(None, "names that stand for none of the classes, as A,B: No Finding")
    blank: Literal["unknown", "absent"] | None = option(
        None, "blank cells of a column per class (default: unknown; absent where the only mark is x)"
    )
    uncertain: str = option(
        "unknown", "what -1 is: unknown, present, absent, or a .csv headed class,uncertain that says it for each class"
    )
    repeated: Literal["refuse", "union", "majority", "unknown", "first"] = option(
        "refuse", "images that stand in several lines, each with all its labels (unknown: where the lines differ)"
    )
    soft_labels: str = option(
        "refuse",
        "values between 0 and 1: refuse, threshold=T (present from T on), or keep (as targets of bce, an, asl, ...)",
    )
    value_column: str | None = option(None, "a line per image and class: column of 1 (present) and 0 (absent)")
    split_column: str | None = option(
        None, "column of train, val or test (default: split, set, subset, phase, or is_train, is_valid, is_test)"
    )
    group_column: str | None = option(None, "column of what images have in common (patient, site): never split apart")
    encoding: str | None = option(None, "of a text file that is not UTF-8, such as cp1252 or gb18030")
    test_frac: float = option(0.2, "share of the images held out for the test if the table has no splits")

    def __post_init__(self) -> None:
        require(0 < self.test_frac < 1, f"--test_frac {self.test_frac}: must be above 0 and below 1")
        soft_policy(self.soft_labels)
        separator = self.label_separator
        require(
            separator is None or (1 <= len(separator) <= 3 and not any(map(_in_names, separator))),
            f"--label_separator {separator!r}: must be one to three characters that are no letters, digits or quotes",
        )
        require(
            self.labels_from == "table" or self.table is None,
            f"--labels_from folders: takes the labels from names of folders, not from --table {self.table}; give one",
        )
        require(
            self.test_table is None or self.table is not None,
            f"--test_table {self.test_table}: give the training labels with --table",
        )


def split_list(text: str | None) -> tuple[str, ...]:
    """The parts of a setting that is one CSV line."""
    return () if text is None else tuple(part.strip() for part in next(csv.reader([text], skipinitialspace=True), []))


def joined_list(names: Sequence[str]) -> str:
    """Names as one CSV line, which `split_list` takes apart."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(names)
    return line.getvalue()


def _in_names(character: str) -> bool:
    """True for what no separator may hold."""
    return character.isalnum() or character in "\"'\r\n\0"
