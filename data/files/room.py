"""Room on the disk for a large file of a cache."""

from __future__ import annotations

import shutil
from pathlib import Path

from utils.checks import UserError
from utils.safe_files import ABANDONED, remove_unfinished


def room_for(path: Path) -> int:
    """Free bytes for a file that is about to be written.

    Its folder is made. An outdated file of that name is removed, and temporary ones, `.NAME.*.tmp`, of processes that
    were killed while writing it.

    Raises: UserError: the folder cannot be made or looked into.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path)
        return shutil.disk_usage(path.parent).free
    except OSError as error:
        raise UserError(f"--cache_dir {path.parent}: cannot be used ({error.strerror}); name another folder") from None


def _clear(path: Path) -> None:
    path.unlink(missing_ok=True)
    remove_unfinished(path, age=ABANDONED)
