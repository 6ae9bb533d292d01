"""Slow but reproducible results, kept between runs: plain `.npz` files, no pickles.

An entry has the fingerprint of its source files, so that a file with another content is read again. A damaged entry
counts as absent, and a folder that cannot be written to costs time, never a run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from utils.checks import RunError
from utils.safe_files import write_atomically

try:
    import fcntl
except ImportError:  # Windows, where runs side by side each compute for themselves
    fcntl = None  # type: ignore[assignment]

_END = 2048  # bytes read at either end of an image file
_CHUNK = 1 << 16  # bytes read at a time of other files


def default_folder() -> Path:
    """Return `$XDG_CACHE_HOME/partial-truth`, else `~/.cache/partial-truth`."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        parent = Path(base) if base else Path.home() / ".cache"
    except RuntimeError:  # a user without a home, as in some containers: a path where nothing can be stored
        parent = Path(os.devnull)
    return parent / "partial-truth"


class Cache:
    """A folder of entries, each named by its kind and the fingerprint of its source files."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = default_folder() if folder is None else folder

    def path(self, kind: str, fingerprint: str) -> Path:
        """Path of an entry, which need not exist."""
        return self.folder / f"{kind}-{fingerprint[:32]}.npz"

    def load(self, kind: str, fingerprint: str, names: Iterable[str]) -> dict[str, NDArray[Any]] | None:
        """Load the arrays `names` of an entry; None if it is absent, damaged or lacks one of them."""
        try:
            with np.load(self.path(kind, fingerprint), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in names}
        except Exception:  # zipfile and numpy raise nearly any on a damaged archive
            return None
        return arrays if all(isinstance(each, np.ndarray) for each in arrays.values()) else None  # bytes: no array

    def array_path(self, kind: str, fingerprint: str) -> Path:
        """Path of an entry that is one array, mapped into memory instead of loaded; it need not exist."""
        return self.path(kind, fingerprint).with_suffix(".npy")

    def array(self, kind: str, fingerprint: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any] | None:
        """The array of an entry, read from the file where it is used; None if it is absent, damaged or another."""
        try:
            found: NDArray[Any] = np.load(self.array_path(kind, fingerprint), mmap_mode="r", allow_pickle=False)
        except Exception:  # as above
            return None
        return found if found.shape == shape and found.dtype == dtype else None

    def save(self, kind: str, fingerprint: str, arrays: Mapping[str, Any]) -> None:
        """Write an entry completely or not at all; a folder that cannot be written to is ignored."""

        def write(file: BinaryIO) -> None:
            """Write the arrays."""
            np.savez(file, **arrays)

        with contextlib.suppress(OSError, RunError):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path(kind, fingerprint), write)

    @contextlib.contextmanager
    def turn(self, kind: str, fingerprint: str, waits: Callable[[], object]) -> Iterator[None]:
        """A context for computing an entry, in which one process of this machine is at a time.

        So that of several runs that need it one computes it, and the others find it: look for it inside. A process
        that is killed gives its turn back. In a folder that cannot be written to nobody waits.

        Args:
            kind: of the entry.
            fingerprint: of the entry.
            waits: called where another process is at it, before waiting.
        """
        held = None if fcntl is None else _locked(self.path(kind, fingerprint).with_suffix(".turn"), waits)
        try:
            yield
        finally:
            if held is not None:
                Path(held.name).unlink(missing_ok=True)
                held.close()


def _locked(path: Path, waits: Callable[[], object]) -> IO[str] | None:
    """The open file, locked for this process; None where it cannot be made or locked."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waits()
            fcntl.flock(file, fcntl.LOCK_EX)
        return file
    return None


def fingerprint(version: str, files: Iterable[Path]) -> str:
    """Return the SHA-256 (hex) of the reader's version and of path and content of each file.

    A file that does not exist has a fingerprint too, which changes when the file appears. Contents are read, since a
    copy that keeps size and time would otherwise be taken for the file that it replaced: 5,000 of VOC take 0.04 s.
    """
    digest = hashlib.sha256(version.encode())
    for file in files:
        digest.update(f"\0{file.absolute()}\0".encode("utf-8", "surrogateescape") + (content(file) or b"absent"))
    return digest.hexdigest()


def content(file: Path) -> bytes | None:
    """SHA-256 of what a file contains; None where it cannot be read.

    Like `stamp`, without Python's file objects, which take longer than thousands of small files themselves.
    """
    digest = hashlib.sha256()
    try:
        opened = os.open(file, os.O_RDONLY)
    except OSError:
        return None
    try:
        while part := os.read(opened, _CHUNK):
            digest.update(part)
    except OSError:
        return None
    finally:
        os.close(opened)
    return digest.digest()


def stamp(file: str | Path) -> str:
    """Return size in bytes, modification time in ns and checksums of both ends of a file; "absent" if there is none.

    Image files are too many and too large to be read whole; another image differs at its ends as good as always.
    """
    try:
        opened = os.open(file, os.O_RDONLY)
    except OSError:
        return "absent"
    try:
        status = os.fstat(opened)
        head = os.read(opened, _END)
        tail = os.pread(opened, _END, max(_END, status.st_size - _END))
    except OSError:
        return "absent"
    finally:
        os.close(opened)
    return f"{status.st_size}:{status.st_mtime_ns}:{zlib.crc32(head):08x}{zlib.crc32(tail):08x}"


def pack(texts: Iterable[str]) -> NDArray[np.uint8]:
    """Pack texts without NUL characters into one array of UTF-8 bytes, without pickles."""
    return np.frombuffer("\0".join(texts).encode("utf-8", "surrogateescape"), dtype=np.uint8)


def unpack(packed: NDArray[Any]) -> tuple[str, ...]:
    """Return the texts given to `pack`; no text and one empty text both give ()."""
    joined = packed.astype(np.uint8).tobytes().decode("utf-8", "surrogateescape")
    return tuple(joined.split("\0")) if joined else ()
