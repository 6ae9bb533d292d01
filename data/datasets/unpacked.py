"""Where the parts of a published dataset lie: as its readers expect them, or as archives were unpacked.

A part is a file or folder by its path in the dataset. It is looked for in the folder given, up to three levels below
it, and in the folder around it where an images folder was given. Parts may lie in different archives.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from data.datasets.source import DatasetSource
from data.images.suffixes import is_image_name
from utils.checks import UserError, require
from utils.console import say

LEVELS = 3
"""How many folders below the one given are looked at."""
_MANY = 2000  # entries of a folder above which it holds images and no other folders
_IMAGE_FOLDERS = ("jpegimages", "images", "image", "train2014", "val2014", "train2017", "val2017", "vg_100k", "flickr")


class Unpacked:
    """The folders in which parts of a dataset may lie.

    Args:
        given: what `--path_images` says.
        fits: which of the folders may belong to the dataset; by default all.
    """

    def __init__(self, given: Path, fits: Callable[[Path], bool] = lambda folder: True) -> None:
        self.given = given
        self._fits = fits
        self._said: set[Path] = set()

    @cached_property
    def folders(self) -> list[Path]:
        """The folders, the one given first, then the nearest; each once, however many links lead to it."""
        seen: set[str] = set()
        found = []
        above = [self.given.parent] if self._is_images_folder() else []
        for start in (self.given, *above):
            for folder in _below(start):
                real = os.path.realpath(folder)
                if real not in seen and self._fits(folder):
                    seen.add(real)
                    found.append(folder)
        return found

    def starts(self) -> Iterator[Path]:
        """The folder given and then, looked for only if they are asked for, the others."""
        yield self.given
        yield from self.folders

    def every(self, part: str) -> list[Path]:
        """Every place where a part lies, the nearest first, the same file or folder once."""
        found = {
            os.path.realpath(folder / part): folder / part
            for folder in reversed(self.folders)
            if (folder / part).exists()
        }
        return list(reversed(found.values()))

    def file(self, *parts: str) -> Path | None:
        """The file of a part; several names are tried in order, each first where a reader expects it. None if none is.

        Raises: UserError for two files of a name that differ, neither of which is where it is expected.
        """
        for part in parts:
            if (self.given / part).is_file():
                return self.given / part
            found = [path for path in self.every(part) if path.is_file()]
            if found:
                other = next((path for path in found if not _same(found[0], path)), None)
                require(
                    other is None,
                    f"{other}: differs from {found[0]}; both are the {part} of the dataset: give --path_images the "
                    "folder of the one that is meant",
                )
                return self._told(found[0], (part,))
        return None

    def folder(self, *parts: str) -> Path | None:
        """The folder of a part, with images in it if one of those that are there has any; None if there is none.

        An archive that was unpacked into a folder of its own name has the folder within itself.
        """
        found = [path for part in parts for path in self.every(part) if path.is_dir()]
        if not found:
            return None
        filled = next((path for path in found if has_images(path)), found[0])
        return self._told(filled, parts)

    def images(self, root: Path, split: str, *, needed: bool) -> Path | None:
        """The folder of the images of a split: `images/<split>` or `<split>` in `root`, else as `folder` finds them.

        Args:
            root: the folder of the dataset.
            split: name of the split.
            needed: True to look for another folder where the expected one has no images.

        Returns: None if there is no such folder.
        """
        expected = next((path for path in (root / "images" / split, root / split) if path.is_dir()), None)
        if expected is not None and (not needed or has_images(expected)):
            return expected
        return self.folder(f"images/{split}", split) or expected

    def _told(self, path: Path, parts: Sequence[str]) -> Path:
        """The path, after saying where it was found if that is not where a reader expects it."""
        if path not in self._said and path not in [self.given / part for part in parts]:
            self._said.add(path)
            say(f"{parts[0]}: found at {path}")
        return path

    def _is_images_folder(self) -> bool:
        """Whether the folder given is one of images, so that the rest of the dataset may lie beside it."""
        return Path(os.path.realpath(self.given)).name.lower() in _IMAGE_FOLDERS or has_images(self.given)


def relocated(source: DatasetSource, *markers: str) -> DatasetSource:
    """The source with the folder in which one of the files `markers` lies, if none lies where it is expected.

    Raises: UserError for two files of a name that differ.
    """
    given = source.path_images
    if any((given / marker).is_file() for marker in markers):
        return source
    unpacked = Unpacked(given)
    for marker in markers:
        found = unpacked.file(marker)
        if found is not None:
            return replace(source, path_images=found.parents[marker.count("/")])
    return source


def not_found(given: Path, message: str) -> UserError:
    """The refusal of a folder in which a dataset is not found; one that does not exist is named so."""
    return UserError(message if given.exists() else message.replace(f"{given}: ", f"{given}: no such folder; ", 1))


def _below(start: Path) -> Iterator[Path]:
    """A folder and those below it, level by level, sorted; hidden ones are passed over."""
    level = [start] if start.is_dir() else []
    for depth in range(LEVELS + 1):
        yield from level
        if depth < LEVELS:
            level = [folder for parent in level for folder in _folders(parent)]


def _folders(parent: Path) -> Sequence[Path]:
    """The folders in a folder; none where there are so many entries that they are images."""
    found, count = [], 0
    try:
        with os.scandir(parent) as entries:
            for entry in entries:
                count += 1
                if not entry.name.startswith(".") and entry.is_dir():
                    found.append(parent / entry.name)
                if count == _MANY and not found:
                    return ()
    except OSError:
        return ()
    return sorted(found)


def has_images(folder: Path) -> bool:
    """Whether a folder directly holds a file of an image."""
    try:
        with os.scandir(folder) as entries:
            return any(is_image_name(entry.name) for entry in entries)
    except OSError:
        return False


def _same(one: Path, other: Path) -> bool:
    """Whether two files hold the same."""
    return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()
