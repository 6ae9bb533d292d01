"""The settings of people's own data: a table of labels, and how it is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from utils.checks import require
from utils.options import option


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """Where the labels of someone's own pictures stand, and how they are written. Raises: UserError for a bad value."""

    table: Path | None = option(
        None, "own labels: a .csv, .tsv or .parquet table, a COCO-style .json, or a folder of VOC annotations"
    )
    test_table: Path | None = option(None, "the same for the test pictures, where they stand apart")
    image_column: str | None = option(
        None, "column of the pictures' paths (default: one called image, file, path, ...)"
    )
    label_column: str | None = option(
        None, "column of class names (default: one called labels, label, classes or tags, else a column per class)"
    )
    label_separator: str = option(";", "what stands between two class names of a cell")
    split_column: str | None = option(
        None, "column that says train, val or test (default: one called split, set, subset or phase, if there)"
    )
    test_frac: float = option(0.2, "share of the pictures held out for the test where the table has no splits")

    def __post_init__(self) -> None:
        require(0 < self.test_frac < 1, f"--test_frac {self.test_frac}: must be above 0 and below 1")
        separator = self.label_separator
        require(
            len(separator) == 1 and not separator.isalnum() and separator not in "\"'_-\r\n\0",
            f"--label_separator {separator!r}: must be one character, and none that names are written with",
        )
        require(
            self.test_table is None or self.table is not None,
            f"--test_table {self.test_table}: say with --table where the training labels are",
        )
