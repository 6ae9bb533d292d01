"""Images named on the command line: files, folders with everything below them, and lists of images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data.images.suffixes import SUFFIXES, is_heic_name, is_image_name
from engine.prediction.walking import files_below, shown
from utils.checks import UserError, require

_STEM = 100  # bytes kept of a file name, as names of files made of it are longer
_BOM = b"\xef\xbb\xbf"  # of UTF-8, which some editors put in front


class ImageFile(NamedTuple):
    """An image file, and the name of the files made of it."""

    path: Path
    name: Path  # below the folder it was found in, without suffix; unique within a command


class FoundImages(NamedTuple):
    """The images to predict."""

    sources: list[ImageFile]
    skipped: int  # number of files in folders that are no images


class NamedImages:
    """The images named, and those in folders named: sorted folder by folder, each once, without hidden ones.

    Each iteration looks anew, and keeps nothing of what it has handed out.

    Raises:
        UserError: a path does not exist; while iterating, a folder cannot be read, or there is no image at all.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        for given in paths:
            require(given.exists(), f"{shown(given)}: no such file or folder")
        self._paths = paths
        self.skipped = 0
        """Number of files in folders that are no images, once an iteration has ended."""

    def __iter__(self) -> Iterator[str]:
        return (path for path, _ in self.with_folders())

    def with_folders(self) -> Iterator[tuple[str, Path]]:
        """Each image, with the folder named that it is in, or else its own."""
        self.skipped, found = 0, 0
        seen = _Seen(self._paths)
        for given in self._paths:
            is_folder = given.is_dir()
            for path in self._images_below(given, seen) if is_folder else seen.new_file(given):
                found += 1
                yield path, given if is_folder else given.parent
        named = ", ".join(shown(path) for path in self._paths[:3])
        require(found > 0, f"{named}: no images there ({', '.join(SUFFIXES)}), but {self.skipped} other files")

    def _images_below(self, folder: Path, seen: _Seen) -> Iterator[str]:
        """The images in a folder that have not been handed out."""
        is_new = seen.new_below(folder)
        if is_new is None:
            return
        for path in files_below(str(folder)):
            if not _is_image(path):
                self.skipped += 1
            elif is_new(path):
                yield path


class _Seen:
    """What was named and has been handed out, without a list of all that is in folders."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._named = {path.absolute() for path in paths if not path.is_dir()}
        self._files: set[Path] = set()  # of those
        self._folders: set[Path] = set()

    def new_file(self, path: Path) -> Iterator[str]:
        """A file that is named, unless it has been handed out."""
        if path.absolute() not in self._files:
            self._files.add(path.absolute())
            yield str(path)

    def new_below(self, folder: Path) -> Callable[[str], bool] | None:
        """Function that tells whether a file below a folder is new; None for a folder that was gone through."""
        whole = folder.absolute()
        if any(each in self._folders and _reaches(each, whole) for each in (whole, *whole.parents)):
            return None
        inner = {each for each in self._folders if whole in each.parents}
        self._folders.add(whole)
        if not inner and not self._named:
            return lambda path: True
        return lambda path: self._is_new(Path(path).absolute(), inner)

    def _is_new(self, path: Path, inner: set[Path]) -> bool:
        if path in self._files or any(parent in inner for parent in path.parents):
            return False
        if path in self._named:
            self._files.add(path)
        return True


class ListedImages:
    """The images in a text file, one path in each line; empty lines are passed over. Each iteration reads it anew.

    Raises:
        UserError: while iterating, the file cannot be read, or lists nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[str]:
        found = 0
        try:
            with self._path.open("rb") as file:
                for number, line in enumerate(file):
                    if name := (line.removeprefix(_BOM) if number == 0 else line).rstrip(b"\r\n"):
                        found += 1
                        yield os.fsdecode(name)
        except OSError as error:
            raise UserError(f"--image_list {shown(self._path)}: cannot be read ({error.strerror})") from None
        require(found > 0, f"--image_list {shown(self._path)}: lists no image; write one path in each line")


def find_images(paths: Sequence[Path]) -> FoundImages:
    """The images of `NamedImages`, and names for what is made of them. Raises: UserError as there."""
    named = NamedImages(paths)
    files = [(Path(path), Path(path).relative_to(folder)) for path, folder in named.with_folders()]
    return FoundImages(_distinct(files), named.skipped)


def _reaches(folder: Path, other: Path) -> bool:
    """True if who goes through a folder comes to another one below it: no link, and nothing hidden, lies between."""
    between = [each for each in (other, *other.parents) if folder in each.parents]
    return not any(each.name.startswith(".") or each.is_symlink() for each in between)


def _is_image(path: str) -> bool:
    """True if a file found in a folder counts as an image; a broken link does, so that it is reported."""
    name = os.path.basename(path)  # noqa: PTH119 - a `Path` of each of a million files would take seconds
    return (is_image_name(name) or is_heic_name(name)) and (os.path.isfile(path) or not os.path.exists(path))  # noqa: PTH110, PTH113


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
