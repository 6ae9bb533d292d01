"""Labels that are read as a dense table: whether memory holds it. N rows, C classes."""

from __future__ import annotations

from pathlib import Path

from utils.checks import require
from utils.free_memory import usable_memory

COPIES = 4
"""Bytes of memory that a label takes at most while it is read, sorted and divided (`benchmarks/tables.py`)."""


def require_room(path: Path, rows: int, classes: int, kind: str = "images") -> None:
    """Check that memory holds a dense table of labels, before it is made.

    Args:
        path: the file or folder that is read, for the message.
        rows: N.
        classes: C.
        kind: what the rows are.

    Raises:
        UserError: it does not.
    """
    size, free = COPIES * rows * classes, usable_memory()
    require(
        size <= free,
        f"{path}: {rows:,} {kind} of {classes:,} classes take {size / 2**30:,.1f} GiB to read, of which "
        f"{free / 2**30:,.1f} are free; leave rare classes out, or write the labels in the form of "
        "--dataset openimages, which is never read as a whole table",
    )
