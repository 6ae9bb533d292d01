"""The list of images that a folder of shards is made of: written once, and read from there by every loader process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from engine.prediction.walking import line_of, name_of
from utils.safe_files import open_file, write_atomically


class ListMark(NamedTuple):
    """What a list of images is known by."""

    images: int
    sha256: str


def mark_of(names: Iterable[str]) -> ListMark:
    """The mark of images in their order."""
    count, digest = 0, hashlib.sha256()
    for name in names:
        digest.update(line_of(name))
        count += 1
    return ListMark(count, digest.hexdigest())


def write_list(path: Path, names: Iterable[str]) -> ListMark:
    """Write a list, whole or not at all; returns its mark. Raises: RunError when the disk refuses; what `names` do."""
    marks: list[ListMark] = []

    def write(file: BinaryIO) -> None:
        """Write each name as it is summed up."""
        marks.append(mark_of(_passing(names, file)))

    write_atomically(path, write)
    return marks[0]


def read_list(path: Path) -> Iterator[str]:
    """The images of a list, in order. Raises: UserError when it cannot be read."""
    with open_file(path) as file:
        yield from map(name_of, file)


def _passing(names: Iterable[str], file: BinaryIO) -> Iterator[str]:
    """The names, each written as it passes."""
    for name in names:
        file.write(line_of(name))
        yield name
