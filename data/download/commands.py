"""The commands that do in a shell what `prepare` does, for a machine without Python or another way to a network."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from data.download.sources import Archive, Source


def commands(source: Source, folder: Path, archives: Path) -> Iterator[str]:
    """Lines for `bash` with curl, md5sum, tar and unzip: download, check, unpack.

    Args:
        source: the archives.
        folder: gets the dataset.
        archives: gets the archives, which stay.
    """
    yield " ".join(["mkdir -p", *dict.fromkeys(map(_quoted, (folder, archives)))])
    for archive in source.archives:
        path = _quoted(archives / archive.name)
        yield f"curl -fL --retry 5 -C - -o {path} {shlex.quote(archive.address)}"
        yield f"echo {shlex.quote(f'{archive.md5}  {_plain(archives / archive.name)}')} | md5sum -c -"
        yield _unpacking(archive, path, source.inside, _quoted(folder))


def _unpacking(archive: Archive, path: str, inside: str, folder: str) -> str:
    if archive.name.endswith(".zip"):
        return f"unzip -q -o {path} -d {folder}"
    return f"tar -xf {path} -C {folder}" + (" --strip-components=1" if inside else "")


def _plain(path: Path) -> str:
    """A path that no command takes for a flag."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def _quoted(path: Path) -> str:
    return shlex.quote(_plain(path))
