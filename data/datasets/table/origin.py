"""Where a user's table names an image, for messages. The table is read again then: they are rare, and rows are many."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from data.datasets.table.columns import find_roles
from data.datasets.table.config import TableConfig
from data.datasets.table.sheet import read_sheet
from data.files.cache import stamp
from data.files.text_files import relative_path
from utils.checks import UserError


@dataclass(frozen=True)
class TableOrigin:
    """Finds the line of a table that names an image file.

    Args:
        table: a `.csv`, `.tsv` or `.parquet` file.
        config: names of its columns.
        folder: what its paths start from.
    """

    table: Path
    config: TableConfig
    folder: Path

    def __call__(self, path: str) -> str:
        """File and line for the path of an image; "" if the table does not name it, or cannot be read any more."""
        return _places(self, stamp(self.table)).get(unicodedata.normalize("NFC", path), "")


@lru_cache(maxsize=1)
def _places(origin: TableOrigin, _stamp: str) -> Mapping[str, str]:
    """File and line of each image by its path; how accents are encoded makes no difference, the first line counts."""
    places: dict[str, str] = {}
    try:
        sheet = read_sheet(origin.table)
        for row, text in enumerate(sheet.column(find_roles(sheet, origin.config).image)):
            name = unicodedata.normalize("NFC", f"{origin.folder}/{relative_path(text, '')}")
            places.setdefault(name, sheet.where(row))
    except UserError:
        return {}
    return places
