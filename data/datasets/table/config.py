"""Settings of a user's own data: the table of labels and its format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from utils.checks import require
from utils.options import option


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """Path and format of the labels of a user's own images. Raises: UserError for an invalid value."""

    table: Path | None = option(
        None, "own labels: a .csv, .tsv or .parquet table, a COCO-style .json, or a folder of VOC annotations"
    )
    test_table: Path | None = option(None, "the same for the test images, if they are in a file or folder of their own")
    image_column: str | None = option(None, "column of the image paths (default: one called image, file, path, ...)")
    label_column: str | None = option(
        None, "column of class names (default: one called labels, label, classes or tags, else a column per class)"
    )
    label_separator: str = option(";", "character between two class names of a cell")
    split_column: str | None = option(
        None, "column of train, val or test (default: one called split, set, subset or phase, if there)"
    )
    test_frac: float = option(0.2, "share of the images held out for the test if the table has no splits")

    def __post_init__(self) -> None:
        require(0 < self.test_frac < 1, f"--test_frac {self.test_frac}: must be above 0 and below 1")
        separator = self.label_separator
        require(
            len(separator) == 1 and not separator.isalnum() and separator not in "\"'_-\r\n\0",
            f"--label_separator {separator!r}: must be one character that does not occur in names",
        )
        require(
            self.test_table is None or self.table is not None,
            f"--test_table {self.test_table}: give the training labels with --table",
        )
