"""Images of a dataset, as files or as arrays in memory. Both open as RGB, whatever is stored."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from data.files.cache import Cache, stamp
from data.images.opening import MISSING, UNREADABLE, decode, explained, fault, reason
from data.images.reading import AS_STORED, Reading
from utils.checks import RunError, UserError
from utils.types import Index

Item = TypeVar("Item")
Result = TypeVar("Result")

_SECONDS_BEFORE_A_BAR = 2.0


class FileImages:
    """One file per row.

    Args:
        paths: N files.
        cache: remembers the files that `check` found good; None to check anew each time.
        origin: tells where a path was named, such as a line of a table, for messages; "" if it cannot.
        reading: the rules by which they become pixels.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        cache: Cache | None = None,
        origin: Callable[[str], str] | None = None,
        reading: Reading = AS_STORED,
    ) -> None:
        self._paths = np.array(
            [os.fsencode(path) for path in paths], dtype=np.bytes_
        )  # strings would take four times the memory
        self._cache, self._origin, self.reading = cache, origin, reading

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, row: int) -> str:
        """The path of one row."""
        return os.fsdecode(self._paths[row])

    def label(self, row: int) -> str:
        """The image of one row in a message: its path, and where it was named or else the row."""
        where = self._origin(self.name(row)) if self._origin else ""
        return f"image {self.name(row)} ({where or f'row {row}'})"

    def open(self, row: int) -> Image.Image:
        """The image of one row, decoded, RGB. Raises: RunError naming file and row when it cannot be read."""
        return decoded(self.name(row), partial(self.label, row), self.reading)

    def encoded(self, row: int) -> bytes:
        """The bytes of the file of one row. Raises: RunError naming file and row when it cannot be read."""
        try:
            return Path(self.name(row)).read_bytes()
        except OSError as error:
            raise RunError(f"{self.label(row)} cannot be read: {reason(error)}") from error

    def take(self, index: Index) -> FileImages:
        """The images of the rows at `index`."""
        taken = FileImages((), self._cache, self._origin, self.reading)
        taken._paths = self._paths[index]
        return taken

    def read_as(self, reading: Reading) -> FileImages:
        """The same images, read by other rules."""
        same = FileImages((), self._cache, self._origin, reading)
        same._paths = self._paths
        return same

    def missing(self) -> Index:
        """(M,) the rows whose file does not exist. Each folder is listed once, not asked for every file."""
        listed: dict[str, set[str]] = {}
        missing = []
        for row, path in enumerate(self._names()):
            folder, name = os.path.split(path)
            if folder not in listed:
                listed[folder] = _listed(folder)
            if name not in listed[folder]:
                missing.append(row)
        return np.array(missing, dtype=np.int64)

    def faults(self) -> list[tuple[int, str]]:
        """Rows whose file is missing or cannot be read, in order, each with its fault as the end of a sentence.

        Every file is decoded to its end, except those that an earlier check found good and that have not changed.
        """
        marks = file_marks(self._names())
        rules = Reading(value_range=self.reading.value_range)  # orientation is no fault
        good = _recall(self._cache, {_folder(path) for path in self._names()}, rules)
        first = np.sort(np.unique(marks, return_index=True)[1])  # a file may have many rows
        todo: list[int] = first[~np.isin(marks[first], good)].tolist()
        texts = in_threads(lambda row: fault(self.name(row), reading=rules), todo, "checking images")
        bad = {int(marks[row]): text for row, text in zip(todo, texts, strict=True) if text is not None}
        _remember(self._cache, ((self.name(row), int(marks[row])) for row in todo if int(marks[row]) not in bad), rules)
        rows = np.flatnonzero(np.isin(marks, np.array(list(bad), dtype=np.uint64)))
        return [(row, bad[int(marks[row])]) for row in rows.tolist()]

    def check(self) -> None:
        """Decode every file as `faults` does.

        Raises:
            UserError: naming, in row order, the first image that is missing or cannot be read, and counting the others.
        """
        found = self.faults()
        if found:
            row, text = found[0]
            others = {self.name(row) for row, _ in found}
            raise UserError(f"{self.label(row)} {text}{_others(len(others) - 1, len(self))}: {_remedy(found)}")

    def _names(self) -> Iterator[str]:
        """The paths one by one: a list of millions would take more than all else that is known of the files."""
        return (os.fsdecode(path) for path in self._paths)


class ArrayImages:
    """Images in memory.

    Args:
        pixels: (N, H, W, 3) uint8 RGB.
        names: N names for messages.
    """

    def __init__(self, pixels: NDArray[np.uint8], names: Sequence[str]) -> None:
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
            raise TypeError(f"images must be uint8 (N, H, W, 3), got {pixels.dtype} {pixels.shape}")
        if len(names) != len(pixels):
            raise ValueError(f"{len(names)} names for {len(pixels)} images")
        self._pixels = pixels
        self._names = tuple(names)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, row: int) -> str:
        """The name of one row."""
        return self._names[row]

    def label(self, row: int) -> str:
        """The image of one row in a message."""
        return f"image {self.name(row)} (row {row})"

    def open(self, row: int) -> Image.Image:
        """A copy of the image of one row, RGB."""
        return Image.fromarray(self.pixels(row))

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """A copy of the image of one row, (H, W, 3) RGB."""
        image: NDArray[np.uint8] = self._pixels[row].copy()
        return image

    def take(self, index: Index) -> ArrayImages:
        """The images of the rows at `index`."""
        return ArrayImages(self._pixels[index], [self._names[row] for row in index])

    def missing(self) -> Index:
        """An empty array: images in memory are never missing."""
        return np.empty(0, dtype=np.int64)

    def check(self) -> None:
        """Do nothing: images in memory are whole by construction."""

    def faults(self) -> list[tuple[int, str]]:
        """An empty list."""
        return []


def decoded(source: str | bytes, label: Callable[[], str], reading: Reading = AS_STORED) -> Image.Image:
    """An image file as RGB, read by the given rules.

    Raises: RunError, with the label, when it cannot be read or does not decode to its end.
    """
    try:
        return decode(source, reading)
    except UNREADABLE as error:
        raise RunError(f"{label()} cannot be read: it {explained(source, error)}") from error


def file_marks(paths: Iterable[str]) -> NDArray[np.uint64]:
    """(N,) 64 bits of a hash of path, size, time and both ends: another file or content has another mark."""
    marks = bytearray()
    for path in paths:
        text = f"{path}\0{stamp(path)}".encode("utf-8", "surrogateescape")
        marks += hashlib.blake2b(text, digest_size=8).digest()
    return np.frombuffer(bytes(marks), dtype=np.uint64)


def in_threads(
    work: Callable[[Item], Result], items: Iterable[Item], label: str, *, shown: bool = True
) -> Iterator[Result]:
    """Results of `work` on each item, in order, computed in threads a few items ahead of the caller.

    Args:
        work: called with each item in one of several threads.
        items: its arguments.
        label: text of the progress bar, which appears on a terminal after two seconds.
        shown: True if such a bar may appear.
    """
    workers = min(16, (os.cpu_count() or 1) + 1)
    bar = tqdm(items, label, unit="img", delay=_SECONDS_BEFORE_A_BAR, disable=None if shown else True)
    ahead: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in bar:
            ahead.append(pool.submit(work, item))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _listed(folder: str) -> set[str]:
    """The names in a folder; none if it cannot be listed."""
    try:
        return set(os.listdir(folder or "."))  # noqa: PTH208 - names are enough, and there may be millions
    except OSError:
        return set()


def _others(count: int, total: int) -> str:
    return f"; {count} more of {total} are missing or cannot be read" if count else ""


def _remedy(found: Sequence[tuple[int, str]]) -> str:
    """What to do about faults."""
    texts = {text for _, text in found}
    flags = ["--bad_images skip"] if texts - {MISSING} else []
    flags += ["--missing_images skip"] if MISSING in texts else []
    return f"put good copies there and start again, or leave them out with {' and '.join(flags)}"


def _folder(path: str) -> str:
    """The folder of a file. A function on strings: a `Path` for each of 100,000 images would take seconds."""
    return os.path.dirname(path)  # noqa: PTH120


def _entry(folder: str, rules: Reading) -> str:
    """The name of the cache entry of one folder; all splits of a dataset share it, whichever rows they have."""
    return hashlib.sha256(folder.encode("utf-8", "surrogateescape") + rules.mark).hexdigest()


def _recall(cache: Cache | None, folders: Iterable[str], rules: Reading) -> NDArray[np.uint64]:
    """The marks of all files that earlier checks of these folders found good."""
    good = [np.empty(0, dtype=np.uint64)]
    if cache is not None:
        for folder in folders:
            entry = cache.load("pictures", _entry(folder, rules), ["good"])
            good += [entry["good"].astype(np.uint64).ravel()] if entry else []
    return np.concatenate(good)


def _remember(cache: Cache | None, checked: Iterable[tuple[str, int]], rules: Reading) -> None:
    """Add the marks of files found good to the entries of their folders."""
    if cache is None:
        return
    by_folder: dict[str, list[int]] = {}
    for path, mark in checked:
        by_folder.setdefault(_folder(path), []).append(mark)
    for folder, marks in by_folder.items():
        known = np.union1d(np.array(marks, dtype=np.uint64), _recall(cache, [folder], rules))
        cache.save("pictures", _entry(folder, rules), {"good": known})
