"""Bytes that a process holds of each training image, and what a start does with each. N images, C classes."""

from __future__ import annotations

from typing import NamedTuple

INT32 = 2**31
"""Entries from which on a sparse table needs indices of 8 bytes."""
ID = 73
"""Bytes of an id of 16 letters in a tuple, with its place there."""
PATH = 100
"""Bytes of a path of some 80 letters among those of all files."""


LINE = 8.8e-6
"""Seconds of a core for a line of a table: benchmarks/results/tables.md."""


class Dataset(NamedTuple):
    """Numbers of images, classes, labels known of an image, and candidates of it."""

    images: int
    classes: int
    known: int
    candidates: int


def label_bytes(data: Dataset) -> int:
    """Of a sparse table: a code and a class for each known label, and where the labels of an image begin."""
    index = 4 if data.images * data.known < INT32 else 8
    return data.images * (data.known * (1 + index) + index)


def id_bytes(data: Dataset) -> int:
    """Of the ids."""
    return data.images * ID


def path_bytes(data: Dataset) -> int:
    """Of the paths of the files."""
    return data.images * PATH


def order_bytes(data: Dataset) -> int:
    """Of the order of an epoch; while it is made for several processes there are two."""
    return 2 * 8 * data.images


def memory_bytes(data: Dataset) -> dict[str, int]:
    """Of what methods keep of each label, as docs/training.md says it."""
    wide = 1 if data.classes <= 2**8 - 1 else 2 if data.classes < 2**15 else 4
    entries = data.images * data.candidates
    return {
        "CoNeS": entries * (4 + wide) + 8 * data.images,
        "NDLP": entries * (8 + wide) + 8 * data.images,
        "LL-Cp": data.images * -(-data.classes // 8),
        "--record all": 7 * data.images * data.classes,
    }
