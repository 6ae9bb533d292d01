"""The rows of a file of features that belong to the images of a dataset, by id.

In this order: the very id; the id without an ending of images on either side; the name alone of the image's file,
without folders and ending. The last two only where they are unique on both sides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.files.accents import composed
from data.images.suffixes import SUFFIXES
from utils.checks import UserError
from utils.types import Annotations, Index

_NAMED = 3  # ids in a message


class ImageName(NamedTuple):
    """What an image is called."""

    id: str
    file: str
    """The path of its file, which need not be there."""


def image_names(annotations: Annotations) -> list[ImageName]:
    """Id and file of each image of a split."""
    return [ImageName(one, annotations.images.name(row)) for row, one in enumerate(annotations.ids)]


class FoundRows(NamedTuple):
    """The row of each image (M,), and lines to print."""

    rows: Index
    notes: list[str]


def without_ending(name: str) -> str:
    """An id without an ending of images, its accents composed."""
    start, dot, ending = name.rpartition(".")
    return composed(start if start and f"{dot}{ending}".lower() in SUFFIXES else name)


def name_alone(name: str) -> str:
    """The last part of a path, without an ending of images."""
    return without_ending(name.replace("\\", "/").rpartition("/")[2])


class _Way(NamedTuple):
    words: str
    of_image: Callable[[ImageName], str]
    of_row: Callable[[str], str]


_WAYS = (
    _Way("by their id without ending", lambda image: without_ending(image.id), without_ending),
    _Way("by the name of the file alone", lambda image: name_alone(image.file), name_alone),
)


def find_rows(
    path: Path,
    ids: Sequence[str],
    images: Sequence[ImageName],
    others: Sequence[ImageName] = (),
    what: str = "features",
) -> FoundRows:
    """The row in a file of features of each of M images of a dataset.

    Args:
        path: the file, for messages.
        ids: (N,) of its rows, all different.
        images: the images.
        others: images of the dataset that need no features; a name that one of them has too is not unique.
        what: what the file holds, for messages.

    Raises:
        UserError: the file lacks images.
    """
    row_of = {one: row for row, one in enumerate(ids)}
    rows = np.array([row_of.get(image.id, -1) for image in images], dtype=np.int64)
    notes = []
    for way in _WAYS:
        if not (rows < 0).any():
            break
        unique = _unique(list(map(way.of_image, [*images, *others])))
        there = {unique[key]: row for key, row in _unique(list(map(way.of_row, ids))).items() if key in unique}
        found = {place: row for place, row in there.items() if place < len(rows) and rows[place] < 0}
        rows[list(found)] = list(found.values())
        if found:
            place, row = next(iter(found.items()))
            notes.append(
                f"{path}: {len(found):,} of {len(images):,} images found {way.words} ({images[place].id}: {ids[row]})"
            )
    _require_all(path, ids, images, rows, what)
    return FoundRows(rows, notes)


def _unique(keys: Sequence[str]) -> dict[str, int]:
    """Place of each key that occurs once."""
    counts = Counter(keys)
    return {key: place for place, key in enumerate(keys) if counts[key] == 1}


def _require_all(path: Path, ids: Sequence[str], images: Sequence[ImageName], rows: Index, what: str) -> None:
    absent = np.flatnonzero(rows < 0)
    if len(absent):
        raise UserError(
            f"{path}: has no {what} of {len(absent):,} of {len(images):,} images of the dataset "
            f"({_some([images[place].id for place in absent[: _NAMED + 1]])}), neither by id nor by name without "
            f"folder and ending; its ids are like {ids[0][:80]!r}: add these rows, or drop the images"
        )


def passed_over(path: Path, ids: Sequence[str], rows: Index) -> list[str]:
    """A line on the rows that are of no image; none where there are none."""
    unused = np.ones(len(ids), dtype=np.bool_)
    unused[rows] = False
    left = np.flatnonzero(unused)
    if not len(left):
        return []
    named = _some([ids[row] for row in left[: _NAMED + 1]])
    return [f"{path}: {len(left):,} of {len(ids):,} rows are of no image of a split, and passed over ({named})"]


def _some(names: Sequence[str]) -> str:
    return ", ".join(name[:80] for name in names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
