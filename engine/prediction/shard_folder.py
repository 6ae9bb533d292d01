"""A folder of predictions in shards: its files, what they were made of, and which of them are there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.core.run_lock import RunLock
from engine.prediction.image_list import ListMark, mark_of, read_list, write_list
from engine.prediction.predictor import Unreadable
from engine.prediction.shard_files import UNREADABLE_HEADER
from engine.prediction.walking import shown
from utils.checks import require
from utils.csv_cells import csv_text
from utils.safe_files import make_folder, open_file, write_atomically, write_text

_ELSEWHERE = "name another folder"
_HALF_WRITTEN = (".predictions-*.tmp", ".unreadable-*.tmp", ".images.txt.*.tmp", ".shards.json.*.tmp")
"""What a kill has left."""


class ShardFolder:
    """Paths, writers and checks. A shard is finished when its file is there, which is written last.

    Args:
        path: the folder.
        ending: `csv` or `parquet`.
    """

    def __init__(self, path: Path, ending: str) -> None:
        self.path, self._ending = path, ending
        self.images = path / "images.txt"
        self._record = path / "shards.json"
        self._lock = RunLock(path, flag="--shards")
        self._made = False

    def open(self, recipe: dict[str, Any], images: Iterable[str], *, resume: bool) -> ListMark:
        """Take the folder: write the list of images and the recipe, or hold both against what is there.

        Args:
            recipe: what decides the predictions, as plain values, besides the images.
            images: paths of the images in their order; gone through once or twice.
            resume: True if a folder that was begun may be gone on with.

        Raises:
            UserError: the folder is in use, has other predictions or files, or cannot be written.
        """
        require(not self.path.exists() or self.path.is_dir(), f"--shards {shown(self.path)}: is a file")
        self._made = not self.path.exists()
        make_folder(self.path, "--shards")
        try:
            self._lock.take(wait=resume)
            self._remove_half_written()
            return self._resumed(recipe, images) if self._may_resume(resume) else self._begun(recipe, images)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the folder back; one that was made for this command and is empty is removed."""
        self._lock.release()
        if self._made:
            with suppress(OSError):
                self.path.rmdir()

    def unfinished(self, shards: int) -> list[int]:
        """Numbers of the shards that are not there yet."""
        return [shard for shard in range(shards) if not self.file(shard).exists()]

    def file(self, shard: int) -> Path:
        """The file of a shard."""
        return self.path / f"predictions-{shard:05}.{self._ending}"

    def write(self, shard: int, content: bytes, unreadable: Sequence[Unreadable]) -> None:
        """Write a shard, its images that could not be read first. Raises: RunError when the disk refuses."""
        self._lock.require_held()
        listed = self._unreadable(shard)
        if unreadable:
            rows = csv_text([UNREADABLE_HEADER, *unreadable])
            write_text(listed, rows, errors="surrogateescape")
        else:
            listed.unlink(missing_ok=True)  # of an earlier attempt, when the images were not whole yet
        write_atomically(self.file(shard), lambda file: file.write(content))

    def unreadable_files(self) -> list[Path]:
        """The lists of images that could not be read."""
        return sorted(self.path.glob("unreadable-*.csv"))

    def _unreadable(self, shard: int) -> Path:
        return self.path / f"unreadable-{shard:05}.csv"

    def _may_resume(self, resume: bool) -> bool:
        """True for a folder that was begun, False for one to begin in. Raises: UserError for any other."""
        if self._record.exists():
            text = f"--shards {shown(self.path)}: has predictions; go on with them by --resume, or {_ELSEWHERE}"
            require(resume, text)
            return True
        others = sorted(each.name for each in self.path.iterdir() if each != self.images and each.name[0] != ".")
        text = f"--shards {shown(self.path)}: has other files ({shown(others[0]) if others else ''}); {_ELSEWHERE}"
        require(not others, text)
        return False

    def _begun(self, recipe: dict[str, Any], images: Iterable[str]) -> ListMark:
        mark = write_list(self.images, images)
        write_text(self._record, json.dumps({**recipe, "images": mark._asdict()}, indent=1) + "\n")
        return mark

    def _resumed(self, recipe: dict[str, Any], images: Iterable[str]) -> ListMark:
        """The mark of the images, which are those of before. Raises: UserError when anything differs."""
        before = self._before()
        for name, now in recipe.items():
            self._require_same(name, before.get(name), now)
        mark = mark_of(images)
        self._require_same("images", before.get("images"), mark._asdict())
        if not self.images.exists() or mark_of(read_list(self.images)) != mark:
            write_list(self.images, images)
        return mark

    def _require_same(self, name: str, before: Any, now: Any) -> None:
        text = f"--resume: {shown(self.path)} was begun with {_difference(name, before, now)}"
        require(before == now, f"{text}; give what it was begun with, or {_ELSEWHERE}")

    def _before(self) -> dict[str, Any]:
        """What the predictions in the folder were made of. Raises: UserError when that cannot be read."""
        with open_file(self._record) as file:
            try:
                content = json.load(file)
            except (ValueError, RecursionError):
                content = None
        text = f"{shown(self._record)}: damaged; remove the folder, or {_ELSEWHERE}"
        require(isinstance(content, dict), text)
        return dict(content)

    def _remove_half_written(self) -> None:
        for left in (left for pattern in _HALF_WRITTEN for left in self.path.glob(pattern)):
            left.unlink(missing_ok=True)


def _difference(name: str, before: Any, now: Any) -> str:
    """Words for what differs."""
    if name == "checkpoint":
        return "another checkpoint than --load_from"
    if name == "classes":
        return "other names of classes"
    if name == "images":
        counts = [each.get("images") if isinstance(each, dict) else None for each in (before, now)]
        return f"other images than those named now ({counts[0]}, now {counts[1]})"
    first = f"no --{name}" if before is None else f"--{name} {before}"
    return f"{first}, now {'none' if now is None else now}"
