"""The pictures that a command line names: files, and folders with all that is below them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from utils.checks import UserError, require

ENDINGS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
)
"""Endings of picture files, lower case: what a folder is searched for. A file that is named itself may have any."""

_STEM = 100  # bytes kept of a file's name, for what is made of it has a longer one


class ImageFile(NamedTuple):
    """A picture file, and what the files made of it are called."""

    path: Path
    name: Path  # below the folder it was found in, without ending; no two of a command are alike


class FoundImages(NamedTuple):
    """What is to be predicted."""

    sources: list[ImageFile]
    skipped: int  # files in folders that are no pictures


def find_images(paths: Sequence[Path]) -> FoundImages:
    """The pictures named, and those in folders named: sorted folder by folder, each once, hidden ones left out.

    Raises:
        UserError: a path does not exist, a folder cannot be read, or there is no picture at all.
    """
    places: dict[Path, tuple[Path, Path]] = {}
    skipped = 0
    for given in paths:
        require(given.exists(), f"{shown(given)}: no such file or folder")
        for path in _below(given) if given.is_dir() else [given]:
            if given.is_dir() and not _is_picture(path):
                skipped += 1
                continue
            below = path.relative_to(given) if given.is_dir() else Path(path.name)
            places.setdefault(path.absolute(), (path, below))
    named = ", ".join(shown(path) for path in paths[:3])
    require(bool(places), f"{named}: no pictures there ({', '.join(sorted(ENDINGS))}), but {skipped} other files")
    return FoundImages(_distinct(list(places.values())), skipped)


def shown(path: str | Path) -> str:
    """A path as one printable line, whatever bytes it is made of."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _below(folder: Path) -> Iterator[Path]:
    """All files below a folder; those of a folder before those of its folders, both sorted."""
    for place, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files))


def _is_picture(path: Path) -> bool:
    """Whether a file found in a folder is taken for a picture; a link that leads nowhere is, so that it is named."""
    fits = path.suffix.lower() in ENDINGS and not path.name.startswith(".")
    return fits and (path.is_file() or not path.exists())


def _distinct(places: Sequence[tuple[Path, Path]]) -> list[ImageFile]:
    """Sources with names of their own: a number is added to a name that an earlier one has."""
    sources: list[ImageFile] = []
    taken: set[Path] = set()
    seen: Counter[Path] = Counter()
    for path, below in places:
        first = name = below.with_name(_cut(below.stem))
        while name in taken:
            seen[first] += 1
            name = first.with_name(f"{first.name}-{seen[first] + 1}")
        taken.add(name)
        sources.append(ImageFile(path, name))
    return sources


def _cut(stem: str) -> str:
    """The first bytes of a name, no letter halved."""
    raw = os.fsencode(stem)
    return stem if len(raw) <= _STEM else raw[:_STEM].decode("utf-8", "ignore")


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"{shown(error.filename)}: cannot be read ({error.strerror})") from None
