"""Which images several tables name, each once, and where. N images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.datasets.table.labelled import OwnLabels
from data.datasets.table.matching import same_but_for_ending, stem
from utils.types import Index


class TableLabels(NamedTuple):
    """One of several tables."""

    path: Path
    labels: OwnLabels
    where: Callable[[str], str]
    """File and line of an image that it names."""
    group_texts: tuple[str, ...] | None = None
    """What its groups are called, by their numbers; None where each line is one."""

    def place(self, row: int) -> str:
        """File and line of one of its images."""
        return self.where(self.labels.ids[row])


class JoinedImages(NamedTuple):
    """The images of several tables, each once."""

    ids: tuple[str, ...]
    """Sorted; of two spellings that of the first table."""
    rows: tuple[Index, ...]
    """Of each table, which of the images each of its own is."""
    notes: tuple[str, ...] = ()

    @property
    def shared(self) -> NDArray[np.bool_]:
        """(N,) whether an image is in more than one table."""
        return np.bincount(np.concatenate(self.rows), minlength=len(self.ids)) > 1


Files = Callable[[Sequence[str]], Mapping[str, str]]
"""From images of a table to the file of each, of those that have one."""


def joined_images(tables: Sequence[TableLabels], files: Files = lambda ids: {}) -> JoinedImages:
    """The images of all tables, each once.

    One that a table calls with an ending and another without is one image, and so are two names of one file.

    Args:
        tables: the tables.
        files: the files of images.
    """
    known: dict[str, None] = {}
    called: list[Mapping[str, str]] = []
    notes = []
    for table in tables:
        other = _called_otherwise(table.labels.ids, known)
        if other:
            one, first = next(iter(other.items()))
            notes.append(f"{table.path}: {len(other)} images have another ending in a table before ({one}: {first})")
        same = _same_file([one for one in table.labels.ids if one not in other], known, files)
        if same:
            one, first = next(iter(same.items()))
            notes.append(f"{table.path}: {len(same)} images are called otherwise in a table before ({one}: {first})")
        called.append({**other, **same})
        known.update(dict.fromkeys(called[-1].get(one, one) for one in table.labels.ids))
    ids = tuple(sorted(known))
    row_of = {name: row for row, name in enumerate(ids)}
    rows = tuple(
        np.array([row_of[other.get(one, one)] for one in table.labels.ids], dtype=np.int64)
        for table, other in zip(tables, called, strict=True)
    )
    return JoinedImages(ids, rows, tuple(notes))


def _called_otherwise(ids: Sequence[str], known: Collection[str]) -> dict[str, str]:
    """Of images that have another ending, or other accents, in tables before: what they are called there."""
    ending = PurePath(ids[0]).suffix if ids else ""
    if ending and all(one.endswith(ending) and one.isascii() for one in chain(ids, known)):
        return {}  # as in most tables, and ten times as quick
    before = _by_stem(known)
    return {
        one: other
        for name, one in _by_stem(ids).items()
        if (other := before.get(name, one)) != one and same_but_for_ending(one, other)
    }


def _same_file(ids: Sequence[str], known: Collection[str], files: Files) -> dict[str, str]:
    """Of images that no table before names so: what the image of their file is called there."""
    new, own = [one for one in ids if one not in known], set(ids)
    rest = [one for one in known if one not in own]
    if not new or not rest:
        return {}
    of_file = {file: one for one, file in files(rest).items()}
    return {one: of_file[file] for one, file in files(new).items() if file in of_file}


def _by_stem(ids: Iterable[str]) -> dict[str, str]:
    """The images whose path without ending no other has, by that."""
    found: dict[str, list[str]] = {}
    for one in ids:
        found.setdefault(stem(one), []).append(one)
    return {name: same[0] for name, same in found.items() if len(same) == 1}


def naming(tables: Sequence[TableLabels], images: JoinedImages, image: int) -> Iterator[tuple[TableLabels, int]]:
    """The tables that name an image, and which of their own it is there."""
    for table, rows in zip(tables, images.rows, strict=True):
        own = np.flatnonzero(rows == image)
        if len(own):
            yield table, int(own[0])
