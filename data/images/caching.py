"""Caches of images: the encoded files in memory, or the decoded pixels in one file on disk.

N rows of a split, M files of all splits together, H W pixels. A cache has the files of all splits once, in the
order of their paths, so that another `--val_frac` can use it too. GB are 10^9 bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.files.cache import Cache, pack, stamp, unpack
from data.files.room import room_for
from data.images.files import ArrayImages, FileImages, decoded, file_marks, in_threads
from data.images.opening import UNREADABLE, header
from data.images.reading import AS_STORED, Reading
from utils.checks import RunError, UserError, require
from utils.console import say
from utils.free_memory import free_memory
from utils.safe_files import write_atomically
from utils.types import Annotations, Index

Keep = Literal["none", "ram", "disk"]
ImageSplits = Mapping[str, Annotations | None]

_READER = "pixels 2"
_GB = 1e9
_MEMORY_SHARE = 0.9  # of the free memory; the run needs the rest


class _CachedImages:
    """Methods of both caches that use the original files."""

    def __init__(self, files: FileImages) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    @property
    def reading(self) -> Reading:
        """The rules by which the files become pixels."""
        return self.files.reading

    def name(self, row: int) -> str:
        """The path of the file of one row."""
        return self.files.name(row)

    def label(self, row: int) -> str:
        """The image of one row in a message."""
        return self.files.label(row)

    def missing(self) -> Index:
        """(M,) the rows whose file does not exist."""
        return self.files.missing()

    def check(self) -> None:
        """Decode every file to its end. Raises: UserError naming the first that is missing or damaged."""
        self.files.check()

    def faults(self) -> list[tuple[int, str]]:
        """Rows whose file is missing or cannot be read, each with its fault."""
        return self.files.faults()


class MemoryImages(_CachedImages):
    """Encoded files, concatenated in one buffer that forked processes share.

    Args:
        files: N files.
        buffer: the bytes of these and perhaps of other files.
        spans: (N, 2) start and end of each file in the buffer.
    """

    def __init__(self, files: FileImages, buffer: NDArray[np.uint8], spans: Index) -> None:
        super().__init__(files)
        self._buffer, self._spans = buffer, spans

    def open(self, row: int) -> Image.Image:
        """The image of one row, decoded, RGB. Raises: RunError naming file and row when it is damaged."""
        return decoded(self.encoded(row), partial(self.files.label, row), self.reading)

    def encoded(self, row: int) -> bytes:
        """The bytes of the file of one row."""
        first, end = self._spans[row]
        return self._buffer[first:end].tobytes()

    def take(self, index: Index) -> MemoryImages:
        """The images of the rows at `index`, in the same buffer."""
        return MemoryImages(self.files.take(index), self._buffer, self._spans[index])


class PixelImages(_CachedImages):
    """Decoded images in one memory-mapped file, which all processes of a machine share.

    Args:
        files: N files.
        path: the pixels of these and perhaps of other files, row by row, RGB.
        layout: (N, 3) offset of each image in the file in bytes, its H and W.

    Raises: RunError when the file cannot be mapped.
    """

    def __init__(self, files: FileImages, path: Path, layout: Index) -> None:
        super().__init__(files)
        self._path, self._layout = path, layout
        try:  # "c": a change would stay in memory; torch warns of arrays that cannot be written to
            self._mapped = np.memmap(path, dtype=np.uint8, mode="c")
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: the images cached here cannot be read ({error}); start again") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return PixelImages, (self.files, self._path, self._layout)

    def open(self, row: int) -> Image.Image:
        """The image of one row, RGB."""
        return Image.fromarray(self.pixels(row))

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """The image of one row, (H, W, 3) RGB, not copied; not to be changed."""
        start, height, width = self._layout[row].tolist()
        return self._mapped[start : start + 3 * height * width].reshape(height, width, 3)

    def take(self, index: Index) -> PixelImages:
        """The images of the rows at `index`, in the same file."""
        return PixelImages(self.files.take(index), self._path, self._layout[index])


def keep_images(splits: ImageSplits, keep: Keep, cache: Cache, *, processes: int, shown: bool) -> dict[str, Any]:
    """The splits of a dataset with their images cached as `--cache` says.

    Images in memory and images cropped from files stay as they are.

    Args:
        splits: the splits by name.
        keep: no cache, the files in memory, or their pixels in one file in the folder of `cache`.
        cache: the folder and its index.
        processes: number of processes of this machine that cache images.
        shown: True if this process prints messages and progress bars.

    Raises:
        UserError: there is not enough memory or disk space.
        RunError: an image cannot be read, or the file of pixels not written.
    """
    images = {name: part.images for name, part in splits.items() if part is not None}
    files = {name: each for name, each in images.items() if isinstance(each, FileImages)}
    if keep == "none" or not files:
        if keep != "none" and shown and not all(isinstance(each, ArrayImages) for each in images.values()):
            say(f"--cache {keep}: does nothing here, where images are cropped from files")
        return dict(splits)
    paths = {name: [each.name(row) for row in range(len(each))] for name, each in files.items()}
    all_paths = sorted({path for part in paths.values() for path in part})
    reading = _shared_reading(files.values())
    if keep == "ram":
        store: MemoryImages | PixelImages = read_files(all_paths, reading, processes=processes, shown=shown)
    else:
        store = pixel_store(all_paths, cache, reading, shown=shown)
    index = {path: number for number, path in enumerate(all_paths)}
    kept: dict[str, Any] = dict(splits)
    for name, part in paths.items():
        rows = np.array([index[path] for path in part], dtype=np.int64)
        kept[name] = replace(kept[name], images=store.take(rows))
    return kept


def _shared_reading(files: Iterable[FileImages]) -> Reading:
    """The rules by which all files are read. Raises: ValueError where they differ: a cache holds pixels of one kind."""
    (reading,) = {each.reading for each in files}
    return reading


def read_files(paths: Sequence[str], reading: Reading = AS_STORED, *, processes: int, shown: bool) -> MemoryImages:
    """Read the encoded files, which become pixels by the given rules, into memory.

    Raises:
        UserError: a file is missing, or they do not fit into the memory that is free.
        RunError: a file changes or vanishes while it is read.
    """
    sizes = np.array([_file_size(path) for path in paths], dtype=np.int64)
    total, free = int(sizes.sum()), free_memory()
    each = f" for each of {processes} processes" if processes > 1 else ""
    text = f"--cache ram: {len(paths)} files take {total / _GB:.2f} GB{each}"
    require(
        free is None or total * processes <= free * _MEMORY_SHARE,
        f"{text}, and {(free or 0) / _GB:.2f} GB of memory are free; use --cache disk or none",
    )
    if shown:
        say(text + ("" if free is None else f" of {free / _GB:.2f} GB of free memory"))
    ends = sizes.cumsum()
    spans = np.stack([ends - sizes, ends], axis=1)
    buffer = np.empty(total, dtype=np.uint8)

    def read(number: int) -> None:
        """Read one file into its span of the buffer."""
        first, end = spans[number]
        _read_into(buffer.data[first:end], paths[number])

    for _ in in_threads(read, range(len(paths)), "reading images", shown=shown):
        pass
    return MemoryImages(FileImages(paths, reading=reading), buffer, spans)


def pixel_store(paths: Sequence[str], cache: Cache, reading: Reading = AS_STORED, *, shown: bool) -> PixelImages:
    """The pixels of all images in one file in the folder of `cache`: an existing file, or a new one.

    A file that is incomplete, or that was changed since it was written, or whose images were, is written anew. Pixels
    that are read by other rules are in a file of their own.

    Raises:
        UserError: the disk has not enough space, or the folder cannot be made.
        RunError: an image cannot be read, or the file cannot be written.
    """
    names = "\0".join(map(_absolute, paths)).encode("utf-8", "surrogateescape")
    entry = hashlib.sha256(names + reading.mark).hexdigest()
    path = cache.folder / f"pixels-{entry[:32]}.rgb"
    source = hashlib.sha256(_READER.encode() + file_marks(paths).tobytes() + reading.mark).hexdigest()
    layout = _recall(cache, entry, path, source, len(paths))
    if layout is None:
        layout = write_pixels(paths, path, reading, shown=shown)
        cache.save("pixels", entry, {"places": layout, "written": pack([source, stamp(path)])})
    elif shown:
        say(f"--cache disk: {len(paths)} decoded images in {path}")
    return PixelImages(FileImages(paths, reading=reading), path, layout)


def write_pixels(paths: Sequence[str], path: Path, reading: Reading = AS_STORED, *, shown: bool) -> Index:
    """Decode the files and write their pixels, all or none. Returns the layout, (M, 3) offset, H and W.

    Raises: as `pixel_store`.
    """
    _check_disk(paths, path, shown)
    files, start, layout = FileImages(paths, reading=reading), 0, []

    def write(file: BinaryIO) -> None:
        """Write the pixels of all images, one after the other."""
        nonlocal start
        numbers = range(len(paths))
        for image in in_threads(files.open, numbers, "decoding images", shown=shown):
            layout.append((start, image.height, image.width))
            start += file.write(image.tobytes())

    write_atomically(path, write)
    return np.array(layout, dtype=np.int64)


def _recall(cache: Cache, entry: str, path: Path, source: str, count: int) -> Index | None:
    """The layout of a file of pixels that is complete and of these images as they are now; else None."""
    stored = cache.load("pixels", entry, ["places", "written"])
    if stored is None or unpack(stored["written"]) != (source, stamp(path)):
        return None
    layout = stored["places"]
    return layout if layout.shape == (count, 3) and layout.dtype == np.int64 else None


def _check_disk(paths: Sequence[str], path: Path, shown: bool) -> None:
    """Remove outdated files, print how much is about to be written, and compare it with the free disk space."""
    free = room_for(path)
    total = sum(in_threads(_pixel_bytes, paths, "measuring images", shown=shown))
    text = f"--cache disk: {len(paths)} decoded images take {total / _GB:.2f} GB in {path.parent}"
    require(
        total < free, f"{text}, and {free / _GB:.2f} GB are free; name a larger disk with --cache_dir, or --cache ram"
    )
    if shown:
        say(f"{text} ({free / _GB:.2f} GB free)")


def _pixel_bytes(path: str) -> int:
    """Bytes of a decoded image by its header; 0 if it cannot be read, which decoding will report."""
    try:
        width, height = header(path)[0]
        return 3 * width * height
    except UNREADABLE:
        return 0


def _file_size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - a Path for each of 100,000 images costs more than the call
    except OSError as error:
        raise UserError(f"image {path}: cannot be read ({error.strerror}); put a good copy there") from None


def _read_into(buffer: memoryview, path: str) -> None:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            whole = file.readinto(buffer) == len(buffer) and not file.read(1)
    except OSError as error:
        raise RunError(f"image {path}: cannot be read ({error.strerror})") from None
    if not whole:
        raise RunError(f"image {path}: has changed while it was read; start again")


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - a function on strings, as there are many
