"""What images are, wherever their files lie and whenever they were written. N images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.files.cache import Cache, content
from data.images.caching import MemoryImages, PixelImages
from data.images.files import ArrayImages, FileImages, file_marks, in_threads
from utils.types import Images

_KIND, _ARRAYS = "contents", ("marks", "hashes")
_BYTES = hashlib.sha256().digest_size


def content_hash(images: Images, cache: Cache) -> bytes | None:
    """A hash of the content of all images in order, and of how they are read; None where changes cannot be noticed.

    Files that were moved, copied or touched are the same images. Each is read to its end once: its hash is kept beside
    its path, size, time and both ends, and found by those.

    Args:
        images: files, or pixels in memory.
        cache: where the hashes of files are kept.
    """
    if isinstance(images, ArrayImages):
        digest = hashlib.sha256()
        for row in range(len(images)):
            digest.update(images.pixels(row).tobytes())
        return digest.digest()
    if isinstance(images, FileImages | MemoryImages | PixelImages):
        names = [images.name(row) for row in range(len(images))]
        return hashlib.sha256(_of_files(names, cache).tobytes() + images.reading.mark).digest()
    return None


def _of_files(paths: Sequence[str], cache: Cache) -> NDArray[np.uint8]:
    """The hash of the content of each file, (N, 32); of one that cannot be read, of its path."""
    marks, entry = file_marks(paths).tolist(), _entry(paths)
    known = _recall(cache, entry)
    every = dict(zip(marks, paths, strict=True))  # a file may have many rows
    todo = {mark: path for mark, path in every.items() if mark not in known}
    known |= zip(todo, in_threads(_of_file, todo.values(), "reading images"), strict=True)
    if todo:
        arrays = np.array(list(known), dtype=np.uint64), np.array(list(known.values()), dtype=np.uint8)
        cache.save(_KIND, entry, dict(zip(_ARRAYS, arrays, strict=True)))
    return np.array([known[mark] for mark in marks], dtype=np.uint8)


def _recall(cache: Cache, entry: str) -> dict[int, NDArray[np.uint8]]:
    """The hashes of the files that were read before, by their marks."""
    kept = cache.load(_KIND, entry, _ARRAYS)
    if kept is None:
        return {}
    marks, hashes = (kept[name] for name in _ARRAYS)
    whole = marks.dtype == np.uint64 and hashes.dtype == np.uint8 and hashes.shape == (*marks.shape, _BYTES)
    return dict(zip(marks.tolist(), hashes, strict=True)) if whole else {}


def _of_file(path: str) -> NDArray[np.uint8]:
    """The hash of a file, (32,)."""
    found = content(Path(path))
    return np.frombuffer(found or hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest(), dtype=np.uint8)


def _entry(paths: Sequence[str]) -> str:
    """The name of the cache entry: that of the folder above the first, which all splits of most datasets share."""
    folders = {os.path.dirname(path) for path in paths} or {""}  # noqa: PTH120 - a million `Path`s take seconds
    above = str(Path(min(folders)).parent)
    return hashlib.sha256(above.encode("utf-8", "surrogateescape")).hexdigest()
