"""What a dataset reader is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from data.datasets.table.config import TableConfig
from data.files.cache import Cache


@dataclass(frozen=True)
class DatasetSource:
    """Where a dataset is read from, and what is wanted of it."""

    path_images: Path
    """Folder of the dataset."""
    path_lists: Path
    """Folder of the lists that come from elsewhere (long-tailed splits)."""
    seed: int
    """For datasets that are generated or split by chance."""
    cache: Cache
    """Where parsed annotations and pictures already checked are remembered."""
    need_images: bool
    """False when only the annotations are wanted: then missing pictures do not matter."""
    table: TableConfig = field(default_factory=TableConfig)
    """For people's own data: where the labels stand, and how they are written."""
