"""A dataset from its archives to the tree that its reader expects.

All work is done in `.prepare-<dataset>` inside the folder of the dataset. Each archive is downloaded, checked and
unpacked there, then removed; only when all are whole are their files moved into place, by renaming. Each step leaves a
file behind that says so, thus a command that was killed goes on at the step where it was.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from data.download.fetch import FetchError, Pause, held, md5_of, obtain
from data.download.sources import Archive, Source
from data.download.unpack import unpack
from utils.checks import RunError, UserError, require
from utils.console import say
from utils.safe_files import make_folder, write_text

_MARGIN = 1.5  # of what an archive should unpack to, above which it is another one
_LOCK = ".lock"
_PLACING = "placing"  # there once every archive is unpacked and complete


def prepare(name: str, source: Source, folder: Path, archives: Path | None = None, pause: Pause = time.sleep) -> bool:
    """Download and unpack a dataset, or go on with it.

    Args:
        name: the dataset.
        source: its archives.
        folder: gets the dataset; `--path_images` of other commands.
        archives: where archives are looked for and kept; None to remove each one once it is unpacked.
        pause: waits for a number of seconds.

    Returns:
        False if all of it is there already.

    Raises:
        UserError: nothing could be begun: no network, no room, a part of the dataset is there; nothing is left then.
        RunError: what had begun cannot go on; the same command goes on later.
    """
    work = folder / f".prepare-{name}"
    if not (work / _PLACING).exists() and is_there(name, source, folder):
        return False
    with workplace(work), nullcontext() if archives is None else _made(archives, "--archives"):
        job = _Job(source, folder, work, archives or work, pause, keep=archives is not None)
        try:
            job.run()
        except (FetchError, UserError) as error:
            if job.has_begun():
                raise RunError(f"{error}; what is downloaded stays, and the same command goes on") from error
            raise UserError(str(error)) from error
        except OSError as error:
            raise RunError(
                f"{error.filename or folder}: {error.strerror or error}; what is downloaded stays, and the same "
                "command goes on"
            ) from error
    shutil.rmtree(work, ignore_errors=True)
    return True


def is_there(name: str, source: Source, folder: Path) -> bool:
    """Whether a dataset is complete in a folder; False if nothing of it is there.

    Raises: UserError if a part of it is there.
    """
    found = {part: count_entries(folder, part, source.elsewhere) for part in source.parts}
    if all(found[part] >= count for part, count in source.parts.items()):
        return True
    tops = {part.split("/")[0] for part in source.parts if source.parts[part] > 1}
    stands = any(found.values()) or any((folder / top).exists() for top in tops)
    listed = ", ".join(f"{part}: {found[part]} of {count}" for part, count in source.parts.items())
    require(
        not stands,
        f"{folder}: holds a part of {name} that was not put there by this command ({listed}); move it away, or give "
        "--path_images another folder",
    )
    return False


def count_entries(folder: Path, part: str, elsewhere: str) -> int:
    """Entries of a folder, 1 for a file, 0 for nothing."""
    for path in (folder / part, *([folder / elsewhere / part] if elsewhere else [])):
        if path.is_dir():
            return sum(1 for _ in os.scandir(path))
        if path.is_file():
            return 1
    return 0


@contextmanager
def workplace(work: Path) -> Iterator[None]:
    """A folder that only one process works in; folders that were made for it and stay empty are removed again.

    Raises: UserError if it cannot be made, or another process works there.
    """
    with _made(work, "--path_images"), _locked(work):
        try:
            yield
        finally:
            if [each.name for each in work.iterdir()] == [_LOCK]:
                (work / _LOCK).unlink()
                work.rmdir()


@contextmanager
def _made(folder: Path, flag: str) -> Iterator[None]:
    """A folder, made if need be; what had to be made is removed again if it stays empty. Raises: UserError."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    make_folder(folder, flag)
    try:
        yield
    finally:
        for each in made:
            with suppress(OSError):  # not empty
                each.rmdir()


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """A folder that is locked for this process, where its file system knows locks. Raises: UserError."""
    try:
        lock = os.open(work / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"{work}: cannot be written ({error.strerror}); give --path_images another folder") from error
    try:
        with suppress(OSError):
            _take(lock, work)
        yield
    finally:
        os.close(lock)


def _take(lock: int, work: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{work}: another prepare_data.py is at work there; wait until it has ended") from None


def room_needed(archives: tuple[Archive, ...], have: Mapping[str, int], *, keep: bool) -> tuple[int, int]:
    """Bytes that archives and their content will take at most, beyond what is there.

    Args:
        archives: those that are not unpacked yet, in their order.
        have: bytes of each that are downloaded.
        keep: whether archives stay.

    Returns:
        Bytes for the archives, and for their content.
    """
    downloads = [archive.size - have[archive.name] for archive in archives]
    return sum(downloads) if keep else max(downloads, default=0), sum(archive.unpacked for archive in archives)


class _Job:
    """The steps of a dataset, each of which is passed over where it is done."""

    def __init__(self, source: Source, folder: Path, work: Path, kept: Path, pause: Pause, *, keep: bool) -> None:
        self.source, self.folder, self.work, self.kept, self.pause, self.keep = source, folder, work, kept, pause, keep

    def run(self) -> None:
        """All steps. Raises: FetchError, UserError, RunError, OSError."""
        if not (self.work / _PLACING).exists():
            waiting = tuple(each for each in self.source.archives if not self._index(each).exists())
            self._require_room(waiting)
            for archive in waiting:
                self._unpack(archive, self._downloaded(archive))
            self._assemble()
        if (self.work / "whole").exists():
            move_into(self.work / "whole", self.folder)

    def has_begun(self) -> bool:
        """Whether anything is downloaded."""
        files = [path for archive in self.source.archives for path in (self._part(archive), self._index(archive))]
        return any(held(path) for path in files)

    def _part(self, archive: Archive) -> Path:
        return self.kept / f"{archive.name}.part"

    def _index(self, archive: Archive) -> Path:
        """The list of the files of an archive that is unpacked."""
        return self.work / f"{archive.name}.json"

    def _tree(self, archive: Archive) -> Path:
        return self.work / f"{archive.name}.unpacked"

    def _require_room(self, waiting: tuple[Archive, ...]) -> None:
        """Raise UserError unless the disks have room for the archives and what they unpack to."""
        have = {each.name: min(each.size, max(held(self._part(each)), held(self.kept / each.name))) for each in waiting}
        downloads, content = room_needed(waiting, have, keep=self.keep)
        disks: dict[int, tuple[Path, int]] = {}
        for place, needed in ((self.kept if self.keep else self.folder, downloads), (self.folder, content)):
            there = next(each for each in (place, *place.absolute().parents) if each.exists())
            device = there.stat().st_dev
            disks[device] = (there, disks.get(device, (there, 0))[1] + needed)
        for place, needed in disks.values():
            free = shutil.disk_usage(place).free
            require(
                free >= needed,
                f"{place}: has {free / 1e9:.1f} GB free of the {needed / 1e9:.1f} GB that are needed; give another "
                "folder, or make room",
            )

    def _downloaded(self, archive: Archive) -> Path:
        """An archive that is whole and checked. Raises: FetchError, UserError, RunError."""
        path, part = self.kept / archive.name, self._part(archive)
        if path.exists():
            require(
                held(path) == archive.size and md5_of(path) == archive.md5,
                f"{path}: not the published file ({held(path)} bytes of {archive.size}, or another MD5); remove it, or "
                f"call it {part.name} if it is its beginning",
            )
            return path
        begun = f", {held(part) / 1e6:.0f} MB are there" if held(part) else ""
        say(f"{archive.address}: {archive.size / 1e6:.0f} MB{begun}")
        obtain(archive, part, self.pause)
        return part.replace(path)

    def _unpack(self, archive: Archive, path: Path) -> None:
        """Unpack an archive, from its start, and remove it unless it is kept. Raises: RunError."""
        say(f"{archive.name}: as published; unpacking")
        tree = self._tree(archive)
        shutil.rmtree(tree, ignore_errors=True)
        try:
            sizes = unpack(path, tree, self.source.inside, int(_MARGIN * archive.unpacked))
        except BaseException:
            shutil.rmtree(tree, ignore_errors=True)  # nothing half unpacked, and room on a full disk
            raise
        write_text(self._index(archive), json.dumps(sizes))
        if not self.keep:
            path.unlink()

    def _assemble(self) -> None:
        """Move what all archives held into one tree, and check that it is complete. Raises: RunError, OSError."""
        whole = self.work / "whole"
        whole.mkdir(exist_ok=True)
        sizes: dict[str, int] = {}
        for archive in self.source.archives:
            sizes |= read_index(self._index(archive))
            if self._tree(archive).exists():
                move_into(self._tree(archive), whole, replace=True)
        wrong = next((name for name, size in sizes.items() if held(whole / name) != size), None)
        missing = [part for part, count in self.source.parts.items() if count_entries(whole, part, "") < count]
        if wrong is not None or missing:
            raise RunError(f"{whole / (wrong or missing[0])}: not complete; remove {self.work}, and begin anew")
        write_text(self.work / _PLACING, "")


def read_index(path: Path) -> dict[str, int]:
    """The sizes of the files of an archive, as they were noted when it was unpacked. Raises: RunError, OSError."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:  # of its encoding too
        content = None
    if not isinstance(content, dict) or not all(type(size) is int for size in content.values()):
        raise RunError(f"{path}: damaged; remove {path.parent}, and begin anew")
    return content


def move_into(source: Path, target: Path, *, replace: bool = False) -> None:
    """Move a file or folder; what belongs in a folder that is there already is moved entry by entry.

    Annotations are moved last: no reader takes a tree without them for a dataset.

    Args:
        source: what is moved.
        target: its new path.
        replace: True to replace any file of that path, else only one of the same size.

    Raises: RunError for something else in its place; OSError.
    """
    if not (source.is_dir() and target.is_dir()):
        stands = target.is_symlink() or target.is_dir() or (target.exists() and held(target) != held(source))
        if stands and not (replace and target.is_file()):
            raise RunError(
                f"{target}: something else stands where the dataset belongs; move it away, and run this again"
            )
        source.replace(target)
        return
    for entry in sorted(source.iterdir(), key=lambda path: (path.name == "annotations", path.name)):
        move_into(entry, target / entry.name, replace=replace)
    source.rmdir()
