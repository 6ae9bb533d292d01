"""Where a user's table names an image, for messages. The table is read again then: they are rare, and rows are many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from data.datasets.table.columns import find_roles, image_lines
from data.datasets.table.config import TableConfig
from data.datasets.table.each import own_sheet
from data.datasets.table.matching import image_patterns, match_images
from data.files.accents import composed
from data.files.cache import stamp
from utils.checks import UserError

_KEPT = 8  # tables whose lines are kept


@dataclass(frozen=True)
class TableOrigin:
    """Finds the line of a table that names an image file.

    Args:
        table: the file.
        config: what was asked for of its columns.
        folder: the image folder.
        several: whether it is one of several tables.
    """

    table: Path
    config: TableConfig
    folder: Path
    several: bool = False

    def __call__(self, path: str) -> str:
        """File and line for the path of an image; "" if the table does not name it, or cannot be read any more."""
        return _places(self, stamp(self.table)).get(composed(path), "")


@dataclass(frozen=True)
class TableOrigins:
    """The same for several tables: each line that names an image."""

    tables: tuple[TableOrigin, ...]

    def __call__(self, path: str) -> str:
        """Files and lines for the path of an image; "" if no table names it."""
        return " and ".join(filter(None, (table(path) for table in self.tables)))


def table_origin(
    tables: Sequence[Path], config: TableConfig, folder: Path, *, several: bool
) -> TableOrigin | TableOrigins | None:
    """What finds the line of an image in some tables; None without a table."""
    origins = tuple(TableOrigin(table, config, folder, several) for table in tables)
    return TableOrigins(origins) if len(origins) > 1 else next(iter(origins), None)


@lru_cache(maxsize=_KEPT)
def _places(origin: TableOrigin, _stamp: str) -> Mapping[str, str]:
    """File and line of each image by its path; how accents are encoded makes no difference, the first line counts."""
    places: dict[str, str] = {}
    try:
        sheet, config = own_sheet(origin.table, origin.config, several=origin.several)
        images = image_lines(sheet, find_roles(sheet, config, origin.folder).images, origin.folder)
        found = [
            match_images(origin.folder, [pattern.replace("{}", one) for one in images.ids]).names
            for pattern in image_patterns(origin.config.image_pattern)
        ]
    except UserError:
        return {}
    for image, line in zip(images.image.tolist(), images.line.tolist(), strict=True):
        for names in found:
            places.setdefault(composed(f"{origin.folder}/{names[image]}"), sheet.where(line))
    return places
