"""Images named on the command line: files, and folders with everything below them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from data.images.suffixes import SUFFIXES, is_image_name
from utils.checks import UserError, require

_STEM = 100  # bytes kept of a file name, as names of files made of it are longer


class ImageFile(NamedTuple):
    """An image file, and the name of the files made of it."""

    path: Path
    name: Path  # below the folder it was found in, without suffix; unique within a command


class FoundImages(NamedTuple):
    """The images to predict."""

    sources: list[ImageFile]
    skipped: int  # number of files in folders that are no images


def find_images(paths: Sequence[Path]) -> FoundImages:
    """The images named, and those in folders named: sorted folder by folder, each once, without hidden ones.

    Raises:
        UserError: a path does not exist, a folder cannot be read, or there is no image at all.
    """
    files: dict[Path, tuple[Path, Path]] = {}
    skipped = 0
    for given in paths:
        require(given.exists(), f"{shown(given)}: no such file or folder")
        for path in _below(given) if given.is_dir() else [given]:
            if given.is_dir() and not _is_image(path):
                skipped += 1
                continue
            below = path.relative_to(given) if given.is_dir() else Path(path.name)
            files.setdefault(path.absolute(), (path, below))
    named = ", ".join(shown(path) for path in paths[:3])
    require(bool(files), f"{named}: no images there ({', '.join(SUFFIXES)}), but {skipped} other files")
    return FoundImages(_distinct(list(files.values())), skipped)


def shown(path: str | Path) -> str:
    """A path as one printable line, whatever bytes it has."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _below(folder: Path) -> Iterator[Path]:
    """All files below a folder; those of a folder before those of its folders, both sorted."""
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(files))


def _is_image(path: Path) -> bool:
    """True if a file found in a folder counts as an image; a broken link does, so that it is reported."""
    return is_image_name(path.name) and (path.is_file() or not path.exists())


def _distinct(files: Sequence[tuple[Path, Path]]) -> list[ImageFile]:
    """Images with unique names: a number is added to a name that an earlier one has."""
    sources: list[ImageFile] = []
    taken: set[Path] = set()
    seen: Counter[Path] = Counter()
    for path, below in files:
        first = name = below.with_name(_cut(below.stem))
        while name in taken:
            seen[first] += 1
            name = first.with_name(f"{first.name}-{seen[first] + 1}")
        taken.add(name)
        sources.append(ImageFile(path, name))
    return sources


def _cut(stem: str) -> str:
    """The first bytes of a name, cut between characters."""
    raw = os.fsencode(stem)
    return stem if len(raw) <= _STEM else raw[:_STEM].decode("utf-8", "ignore")


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"{shown(error.filename)}: cannot be read ({error.strerror})") from None
