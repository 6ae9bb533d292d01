"""The argument of every dataset reader."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from data.datasets.table.config import TableConfig
from data.files.cache import Cache


@dataclass(frozen=True)
class DatasetSource:
    """Folders, seed, cache and options that a dataset is read with."""

    path_images: Path
    """Folder of the dataset."""
    path_lists: Path
    """Folder of lists from another source (long-tailed splits)."""
    seed: int
    """Seed of datasets that are generated or split at random."""
    cache: Cache
    """Keeps parsed annotations, and which images are already checked."""
    need_images: bool
    """False when only the annotations are needed: then missing image folders are no error."""
    table: TableConfig = field(default_factory=TableConfig)
    """Settings of a user's own data: path and format of the labels."""
    train_val: bool = False
    """True for a test on the official validation list, for VOC 2007 without its test kit."""
    l48_labels: Literal["full", "target", "geo", "checklist"] = "target"
    """What is known of each training clip of L48."""
    l48_rows: Literal["labelled", "with_positive", "all"] = "labelled"
    """Which of them train."""
    skip_missing: bool = False
    """True if images without the annotation that a list promises are left out and counted."""
