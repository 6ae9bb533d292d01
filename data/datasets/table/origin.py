"""Where a user's table names an image, for messages. The table is read again then: they are rare, and rows are many."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

from data.datasets.table.columns import find_roles
from data.datasets.table.config import TableConfig
from data.datasets.table.sheet import Sheet, read_sheet
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
        """File and line for the path of an image; "" if the table does not name it, or has changed."""
        try:
            sheet = read_sheet(self.table)
            row = self._row(sheet, find_roles(sheet, self.config).image, path)
        except UserError:
            return ""
        return "" if row is None else sheet.where(row)

    def _row(self, sheet: Sheet, column: str, path: str) -> int | None:
        """The first row of an image; how accents are encoded makes no difference."""
        wanted = unicodedata.normalize("NFC", path)
        names = (f"{self.folder}/{relative_path(text, '')}" for text in sheet.column(column))
        return next((row for row, name in enumerate(names) if unicodedata.normalize("NFC", name) == wanted), None)
