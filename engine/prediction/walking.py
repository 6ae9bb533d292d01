"""Files below a folder and texts in order, in memory that does not grow with their number."""

from __future__ import annotations

import heapq
import os
import re
import tempfile
from collections.abc import Iterator
from itertools import chain
from typing import IO, NoReturn

from utils.checks import UserError

_HELD = 100_000  # names held in memory at a time, some 10 MB
_ESCAPES = {b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r"}
_UNESCAPES = {escape: plain for plain, escape in _ESCAPES.items()}


class SortedNames:
    """File names that are added in any order and come out sorted; beyond 100,000 they wait in temporary files."""

    def __init__(self) -> None:
        self._held: list[str] = []
        self._runs: list[IO[bytes]] = []

    def add(self, name: str) -> None:
        """Add a name."""
        self._held.append(name)
        if len(self._held) >= _HELD:
            self._runs.append(_written(sorted(self._held)))
            self._held = []

    def __iter__(self) -> Iterator[str]:
        yield from heapq.merge(sorted(self._held), *(map(name_of, run) for run in self._runs))
        for run in self._runs:
            run.close()


def files_below(folder: str) -> Iterator[str]:
    """Paths of all files below a folder; those of a folder before those of its folders, both sorted.

    Hidden folders and links to folders are left out.

    Raises:
        UserError: a folder cannot be read.
    """
    files, folders = SortedNames(), SortedNames()
    for entry in _entries(folder):
        if not _is_folder(entry):
            files.add(entry.name)
        elif not (entry.name.startswith(".") or entry.is_symlink()):
            folders.add(entry.name)
    yield from (os.path.join(folder, name) for name in files)  # noqa: PTH118 - a `Path` of each would take seconds
    yield from chain.from_iterable(files_below(os.path.join(folder, name)) for name in folders)  # noqa: PTH118


def line_of(name: str) -> bytes:
    r"""A path as a line of a file, its end included; a line break within it becomes `\n`, a backslash `\\`."""
    return re.sub(rb"[\\\n\r]", lambda found: _ESCAPES[found[0]], os.fsencode(name)) + b"\n"


def name_of(line: bytes) -> str:
    """The path of such a line."""
    return os.fsdecode(re.sub(rb"\\[\\nr]", lambda found: _UNESCAPES[found[0]], line.rstrip(b"\n")))


def shown(path: str | os.PathLike[str]) -> str:
    """A path as one printable line, whatever bytes it has."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _written(names: list[str]) -> IO[bytes]:
    """A temporary file of these names, at its beginning."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by who reads it
    file.writelines(map(line_of, names))
    file.seek(0)
    return file


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """What is in a folder, in the order of the disk."""
    try:
        with os.scandir(folder) as found:
            yield from found
    except OSError as error:
        _refuse(error)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """True for a folder, and a link to one; not for a link to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"{shown(error.filename)}: cannot be read ({error.strerror})") from None
