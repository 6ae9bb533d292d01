"""Pictures kept where they are quicker to get at than in their files: the files in memory, or their pixels on disk.

N rows of a split, M files of all splits together, H W pixels. A store holds the files of all splits once, in the
order of their paths, so that another `--val_frac` finds it unchanged. GB are 10^9 bytes.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.files.cache import Cache, pack, stamp, unpack
from data.images.files import ArrayImages, FileImages, decoded, file_marks, in_threads
from data.images.free_memory import free_memory
from utils.checks import RunError, UserError, require
from utils.console import say
from utils.safe_files import write_atomically
from utils.types import Annotations, Index

Keep = Literal["none", "ram", "disk"]
ImageSplits = Mapping[str, Annotations | None]

_READER = "pixels 1"
_GB = 1e9
_MEMORY_SHARE = 0.9  # of the free memory; the run needs some for itself
_ABANDONED = 3600.0  # seconds after which a half-written file belongs to a process that was killed


class _KeptImages:
    """What both stores leave to the files they were made of."""

    def __init__(self, files: FileImages) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def name(self, row: int) -> str:
        """The path of the file of one row."""
        return self.files.name(row)

    def missing(self) -> Index:
        """(M,) the rows whose file does not exist."""
        return self.files.missing()

    def check(self) -> None:
        """Decode every file to its end. Raises: UserError naming the first that is missing or damaged."""
        self.files.check()


class MemoryImages(_KeptImages):
    """Encoded files, one after the other in one buffer that forked processes share.

    Args:
        files: N files.
        buffer: the bytes of these and perhaps of other files.
        spans: (N, 2) where each begins and ends in the buffer.
    """

    def __init__(self, files: FileImages, buffer: NDArray[np.uint8], spans: Index) -> None:
        super().__init__(files)
        self._buffer, self._spans = buffer, spans

    def open(self, row: int) -> Image.Image:
        """The picture of one row, decoded, RGB. Raises: RunError naming file and row when it is damaged."""
        return decoded(io.BytesIO(self.encoded(row)), self.name(row), row)

    def encoded(self, row: int) -> bytes:
        """The file of one row as it was read."""
        first, end = self._spans[row]
        return self._buffer[first:end].tobytes()

    def take(self, index: Index) -> MemoryImages:
        """The pictures of the rows at `index`, in the same buffer."""
        return MemoryImages(self.files.take(index), self._buffer, self._spans[index])


class PixelImages(_KeptImages):
    """Decoded pictures in one file that is mapped into memory, which all processes of a machine share.

    Args:
        files: N files.
        path: the pixels of these and perhaps of other files, row by row, RGB.
        places: (N, 3) where each begins in the file, in bytes; its H and W.

    Raises: RunError when the file cannot be mapped.
    """

    def __init__(self, files: FileImages, path: Path, places: Index) -> None:
        super().__init__(files)
        self._path, self._places = path, places
        try:  # "c": a change would stay in memory; torch warns of arrays that cannot be written to
            self._mapped = np.memmap(path, dtype=np.uint8, mode="c")
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: the pictures kept here cannot be read ({error}); start again") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return PixelImages, (self.files, self._path, self._places)

    def open(self, row: int) -> Image.Image:
        """The picture of one row, RGB."""
        return Image.fromarray(self.pixels(row))

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """The picture of one row, (H, W, 3) RGB, not copied; not to be changed."""
        first, height, width = self._places[row].tolist()
        return self._mapped[first : first + 3 * height * width].reshape(height, width, 3)

    def take(self, index: Index) -> PixelImages:
        """The pictures of the rows at `index`, in the same file."""
        return PixelImages(self.files.take(index), self._path, self._places[index])


def keep_images(parts: ImageSplits, keep: Keep, cache: Cache, *, processes: int, shown: bool) -> dict[str, Any]:
    """The parts of a dataset with their pictures kept as `--cache` says.

    Pictures in memory stay as they are, as do those that are a part of a file each.

    Args:
        parts: the splits by name.
        keep: nowhere, the files in memory, or their pixels in one file in the folder of `cache`.
        cache: the folder, and where it is remembered what lies in it.
        processes: how many processes of this machine keep pictures.
        shown: whether this process says what it does.

    Raises:
        UserError: there is not the room.
        RunError: a picture cannot be read, or the file of pixels not written.
    """
    images = {name: part.images for name, part in parts.items() if part is not None}
    files = {name: each for name, each in images.items() if isinstance(each, FileImages)}
    if keep == "none" or not files:
        if keep != "none" and shown and not all(isinstance(each, ArrayImages) for each in images.values()):
            say(f"--cache {keep}: does nothing here, where pictures are parts of files")
        return dict(parts)
    paths = {name: [each.name(row) for row in range(len(each))] for name, each in files.items()}
    together = sorted({path for part in paths.values() for path in part})
    if keep == "ram":
        store: MemoryImages | PixelImages = read_files(together, processes=processes, shown=shown)
    else:
        store = pixel_store(together, cache, shown=shown)
    place = {path: number for number, path in enumerate(together)}
    kept: dict[str, Any] = dict(parts)
    for name, part in paths.items():
        rows = np.array([place[path] for path in part], dtype=np.int64)
        kept[name] = replace(kept[name], images=store.take(rows))
    return kept


def read_files(paths: Sequence[str], *, processes: int, shown: bool) -> MemoryImages:
    """The files as they are, in memory.

    Raises:
        UserError: a file is missing, or they do not fit into the memory that is free.
        RunError: a file changes or vanishes meanwhile.
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
        first, end = spans[number]
        _read_into(buffer.data[first:end], paths[number])

    for _ in in_threads(read, range(len(paths)), "reading pictures", shown=shown):
        pass
    return MemoryImages(FileImages(paths), buffer, spans)


def pixel_store(paths: Sequence[str], cache: Cache, *, shown: bool) -> PixelImages:
    """The pixels of the files in one file in the folder of `cache`: the one that is there, or a new one.

    A file that was not finished, was changed since it was written, or whose pictures were, is written anew.

    Raises:
        UserError: the disk has not the room, or the folder cannot be made.
        RunError: a picture cannot be read, or the file not be written.
    """
    entry = hashlib.sha256("\0".join(map(_absolute, paths)).encode("utf-8", "surrogateescape")).hexdigest()
    path = cache.folder / f"pixels-{entry[:32]}.rgb"
    source = hashlib.sha256(_READER.encode() + file_marks(paths).tobytes()).hexdigest()
    places = _recall(cache, entry, path, source, len(paths))
    if places is None:
        places = write_pixels(paths, path, shown=shown)
        cache.save("pixels", entry, {"places": places, "written": pack([source, stamp(path)])})
    elif shown:
        say(f"--cache disk: {len(paths)} decoded pictures in {path}")
    return PixelImages(FileImages(paths), path, places)


def write_pixels(paths: Sequence[str], path: Path, *, shown: bool) -> Index:
    """Decode the files and write their pixels, whole or not at all; returns the places, (M, 3) start, H and W.

    Raises: as `pixel_store`.
    """
    _make_room(paths, path, shown)
    files, start, places = FileImages(paths), 0, []

    def write(file: BinaryIO) -> None:
        """The pixels of all pictures, one behind the other."""
        nonlocal start
        numbers = range(len(paths))
        for image in in_threads(files.open, numbers, "decoding pictures", shown=shown):
            places.append((start, image.height, image.width))
            start += file.write(image.tobytes())

    write_atomically(path, write)
    return np.array(places, dtype=np.int64)


def _recall(cache: Cache, entry: str, path: Path, source: str, count: int) -> Index | None:
    """The places in a file of pixels that is whole and of these pictures as they are now; else None."""
    held = cache.load("pixels", entry, ["places", "written"])
    if held is None or unpack(held["written"]) != (source, stamp(path)):
        return None
    places = held["places"]
    return places if places.shape == (count, 3) and places.dtype == np.int64 else None


def _make_room(paths: Sequence[str], path: Path, shown: bool) -> None:
    """Say how much is about to be written, and hold that against the disk, rid of what is of no use any more."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path)
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        raise UserError(f"--cache_dir {path.parent}: cannot be used ({error.strerror}); name another folder") from None
    total = sum(in_threads(_pixel_bytes, paths, "measuring pictures", shown=shown))
    text = f"--cache disk: {len(paths)} decoded pictures take {total / _GB:.2f} GB in {path.parent}"
    require(
        total < free, f"{text}, and {free / _GB:.2f} GB are free; name a larger disk with --cache_dir, or --cache ram"
    )
    if shown:
        say(f"{text} ({free / _GB:.2f} GB free)")


def _clear(path: Path) -> None:
    """Remove a file of pixels that does not hold, and what processes left that were killed while writing it."""
    path.unlink(missing_ok=True)
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED:
                left.unlink()


def _pixel_bytes(path: str) -> int:
    """Bytes of a decoded picture by its header; 0 of one that cannot be read, which decoding will tell."""
    try:
        with Image.open(path) as image:
            return 3 * image.width * image.height
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0


def _file_size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - a Path for each of 100,000 pictures costs more than the call
    except OSError as error:
        raise UserError(f"picture {path}: cannot be read ({error.strerror}); put a good copy there") from None


def _read_into(buffer: memoryview, path: str) -> None:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            whole = file.readinto(buffer) == len(buffer) and not file.read(1)
    except OSError as error:
        raise RunError(f"picture {path}: cannot be read ({error.strerror})") from None
    if not whole:
        raise RunError(f"picture {path}: has changed while it was read; start again")


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - a text function, as there are many
