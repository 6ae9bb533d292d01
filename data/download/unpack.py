"""An archive of published images unpacked: plain files in plain folders, nothing outside, no links."""

from __future__ import annotations

import errno
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, cast

from data.download.fetch import CHUNK, cannot_write, write_all
from utils.checks import RunError

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)
"""What the readers of the standard library raise for a damaged archive, an encrypted one, or an unknown method."""
_OF_READERS = (None, errno.EINVAL)
"""Numbers of the system errors that they raise for the same: none, or that of a place before the start of a file."""
_TWICE = (FileExistsError, NotADirectoryError, IsADirectoryError)


class ArchiveError(Exception):
    """What is wrong with an archive, as the end of a sentence."""


class _Member(NamedTuple):
    """A file in an archive."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, folder: Path, inside: str, most: int) -> dict[str, int]:
    """Unpack a `.tar` or `.zip` into a folder that is not there yet.

    Args:
        archive: the file.
        folder: gets the content.
        inside: the folder in the archive that holds everything, and is left out; "" for none.
        most: bytes that the content may have.

    Returns:
        The files, relative to `folder`, with their sizes.

    Raises:
        RunError: the archive is damaged or holds something else than files within `inside`, or the disk is full.
    """
    anew = "nothing of it was put in place; remove it, and run the same command again"
    try:
        with closing(_members(archive)) as members:
            return _unpacked(members, folder, inside, most)
    except ArchiveError as error:
        raise RunError(f"{archive}: {error}; {anew}") from error
    except _DAMAGE as error:
        raise RunError(f"{archive}: damaged ({error or type(error).__name__}); {anew}") from error
    except OSError as error:
        if error.errno in _OF_READERS:
            raise RunError(f"{archive}: damaged ({error.strerror or error}); {anew}") from error
        raise cannot_write(error.filename or folder, error) from error


def _unpacked(members: Iterator[_Member], folder: Path, inside: str, most: int) -> dict[str, int]:
    """Files with their sizes. Raises: ArchiveError, OSError."""
    sizes: dict[str, int] = {}
    total = 0
    for member in members:
        name = safe_name(member.name, inside)
        total += member.size
        if total > most:
            raise ArchiveError(f"unpacks to more than {most} bytes")
        _write(member, folder / name)
        sizes[name] = member.size
    return sizes


def safe_name(name: str, inside: str) -> str:
    """The path of a file below `inside`, from its name in an archive.

    Raises: ArchiveError for a name that leads out, or that a file system would read as another one.
    """
    parts = PurePosixPath(name).parts
    plain = name.isprintable() and not any(sign in name for sign in "\\:")
    top = (inside,) if inside else ()
    if not plain or name.startswith("/") or ".." in parts or parts[: len(top)] != top or len(parts) <= len(top):
        raise ArchiveError(f"holds {name[:80]!r}, which is not below {inside or 'the folder'}")
    return "/".join(parts[len(top) :])


def _write(member: _Member, path: Path) -> None:
    """Write a file of an archive. Raises: ArchiveError where it is there already, or has another size; OSError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, path.open("xb") as target:
            while chunk := source.read(CHUNK):
                write_all(target, chunk)
    except _TWICE:
        raise ArchiveError(f"holds {member.name[:80]!r} twice") from None
    if path.stat().st_size != member.size:
        raise ArchiveError(f"holds {member.name[:80]!r} with another size than it says")


def _members(archive: Path) -> Generator[_Member, None, None]:
    """The files of an archive. Raises: ArchiveError for links and the like, and what the readers raise."""
    return _of_zip(archive) if archive.suffix == ".zip" else _of_tar(archive)


def _of_tar(archive: Path) -> Generator[_Member, None, None]:
    with tarfile.open(archive, "r:") as content:
        for entry in content:
            if entry.isdir():
                continue
            if not entry.isreg():
                raise ArchiveError(f"holds {entry.name[:80]!r}, which is a link or a device")

            def opened(entry: tarfile.TarInfo = entry) -> IO[bytes]:
                """The content of this file."""
                return cast("IO[bytes]", content.extractfile(entry))  # None for folders and the like only

            yield _Member(entry.name, entry.size, opened)


def _of_zip(archive: Path) -> Generator[_Member, None, None]:
    with zipfile.ZipFile(archive) as content:
        for entry in content.infolist():
            if entry.is_dir():
                continue
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise ArchiveError(f"holds {entry.filename[:80]!r}, which is a link or a device")

            def opened(entry: zipfile.ZipInfo = entry) -> IO[bytes]:
                """The content of this file, whose checksum is compared as it is read."""
                return content.open(entry)

            yield _Member(entry.filename, entry.file_size, opened)
