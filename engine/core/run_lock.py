"""The lock of a run folder: one run at a time writes there, and a run that was killed holds up no other.

The file `.lock` says which process has the folder, and is touched every minute. It is stale when that process is gone,
which only its own host can tell, or when nobody has touched it for ten minutes by the clock of the file system.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from utils.checks import RunError, UserError, require
from utils.console import say

NAME = ".lock"
TOUCH_SECONDS = 60.0
STALE_SECONDS = 600.0
POLL_SECONDS = 5.0

_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES, errno.EINVAL}


class Holder(NamedTuple):
    """The process that has a folder."""

    host: str
    pid: int
    start: str
    """When it took the folder, by its own clock."""
    space: str = ""
    """Namespace of its process ids: two containers of one host name number their processes alike."""
    born: str = ""
    """When the process began, in ticks of its host; empty where that is not known."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.start}"

    @property
    def is_here(self) -> bool:
        """True for a process that this host can look for."""
        return (self.host, self.space) == (socket.gethostname(), _space())

    @property
    def is_gone(self) -> bool:
        """True for a process of this host that has ended."""
        return self.is_here and not _is_alive(self.pid, self.born)


def this_process() -> Holder:
    """The process that asks."""
    return process_of(os.getpid())


def process_of(pid: int) -> Holder:
    """A process of this host, as it is now."""
    start = time.strftime("%Y-%m-%d %H:%M:%S")
    return Holder(socket.gethostname(), pid, start, _space(), _state_and_birth(pid)[1])


class RunLock:
    """The lock of one folder, which exists.

    `take` makes the file, `release` removes it, and in between a thread touches it.

    Args:
        folder: the folder.
        flag: the option that named it, for messages.
    """

    def __init__(self, folder: Path, flag: str = "--output") -> None:
        self.folder, self.path, self._flag = folder, folder / NAME, flag
        self._text = ""
        self._ended = threading.Event()

    def take(self, *, wait: bool) -> None:
        """Take the folder.

        Args:
            wait: True to wait until a run on another host has released it, or has not touched it for ten minutes.

        Raises:
            UserError: another run has the folder, or it cannot be written.
        """
        own = json.dumps(this_process()._asdict())
        draft = self.folder / f"{NAME}.{secrets.randbelow(10**12)}.tmp"  # processes of two hosts may have one number
        try:
            self._wait_for(draft, own, wait=wait)
        except OSError as error:
            raise UserError(f"{self._flag} {self.folder}: cannot be written ({error.strerror})") from None
        finally:
            with suppress(OSError):
                draft.unlink()
        self._text = own
        self._drop_left()
        threading.Thread(target=self._keep_touching, daemon=True, name="lock of the run folder").start()

    def require_held(self) -> None:
        """Raise RunError when the folder was removed, or taken by another run."""
        if self._text and not self._is_ours():
            raise RunError(
                f"{self.folder}: removed, or taken by another run, while this one went on; it writes nothing more there"
            )

    def release(self) -> None:
        """Give the folder back; nothing happens where it was not taken."""
        self._ended.set()
        if self._text and self._is_ours():
            with suppress(OSError):
                self.path.unlink()
        self._text = ""

    def drop_if_gone(self) -> None:
        """Remove the lock of a process that is gone, where the folder can be written; others stay."""
        with suppress(OSError):
            text = _content(self.path)
            holder = None if text is None else _holder(text)
            if text is not None and holder is not None and holder.is_gone:
                _clear(self.path, text)

    def _wait_for(self, draft: Path, own: str, *, wait: bool) -> None:
        """Put the draft in the place of the lock, once that is free. Raises: UserError when it is not."""
        until = time.monotonic() + STALE_SECONDS + 2 * POLL_SECONDS
        said = False
        while not _placed(draft, own, self.path):
            require(not self.path.is_symlink(), f"{self.path}: is a link; remove it")
            text = _content(self.path)
            if text is None:  # released since
                continue
            holder = _holder(text)
            if (holder is not None and holder.is_gone) or _age(self.path, draft) > STALE_SECONDS:
                _clear(self.path, text)
                continue
            used = f"{self.folder} is in use by another run ({holder or 'of a process unknown'})"
            elsewhere = holder is None or not holder.is_here
            may_wait = wait and elsewhere and time.monotonic() < until
            require(may_wait, f"{self._flag} {used}; wait until that has ended, or name another folder")
            if not said:
                say(f"--resume: {used}; waiting until it is released or untouched for 10 minutes, at most 10 minutes")
            said = True
            time.sleep(POLL_SECONDS)

    def _drop_left(self) -> None:
        """Remove what processes that were killed while they took this lock have left beside it."""
        for left in (*self.folder.glob(f"{NAME}.*.tmp"), *self.folder.glob(f"{NAME}-stale.*.tmp")):
            with suppress(OSError):
                if _content(left) != self._text:  # our own was taken for a stale one, and is about to be put back
                    left.unlink()

    def _is_ours(self) -> bool:
        return _content(self.path) == self._text

    def _keep_touching(self) -> None:
        """Touch the lock every minute, until it is released or lost."""
        while not self._ended.wait(TOUCH_SECONDS) and self._is_ours():
            with suppress(OSError):
                os.utime(self.path)


def _placed(draft: Path, own: str, path: Path) -> bool:
    """Write the draft and name it `path` too, whole at once and only where nothing has that name: True if done.

    A process that has the lock removes the drafts that it finds; they are written again.
    """
    try:
        draft.write_text(own, encoding="utf-8")
        os.link(draft, path)
    except FileExistsError:
        return _links(draft) > 1  # on a network the answer to a link that was made can get lost
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return _copied(own, path)
    return True


def _links(path: Path) -> int:
    try:
        return path.stat().st_nlink
    except FileNotFoundError:
        return 0


def _copied(own: str, path: Path) -> bool:
    """The same where the file system knows no hard links: the file is there before its content."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(own)
    except FileExistsError:
        return False
    return True


def _clear(path: Path, text: str) -> None:
    """Remove a stale lock with this content; one that another run has taken in between is put back."""
    aside = path.with_name(f"{NAME}-stale.{os.getpid()}.tmp")
    with suppress(FileNotFoundError):
        path.rename(aside)
        if _content(aside) != text:
            with suppress(OSError):
                os.link(aside, path)
        aside.unlink()


def _content(path: Path) -> str | None:
    """The text of a lock; None where there is none."""
    try:
        with path.open("rb") as file:
            return file.read(4096).decode("utf-8", "replace")
    except FileNotFoundError:
        return None


def _holder(text: str) -> Holder | None:
    """The process that a lock names; None where it names none."""
    try:
        holder = Holder(**json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return None
    fits = type(holder.pid) is int and 0 < holder.pid < 2**31
    texts = (holder.host, holder.start, holder.space, holder.born)
    return holder if fits and all(isinstance(each, str) and len(each) < 200 for each in texts) else None


def _age(path: Path, draft: Path) -> float:
    """Seconds since a lock was touched, by the clock that stamps the files there: hosts' clocks differ."""
    try:
        os.utime(draft)
        return draft.stat().st_mtime - path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def _space() -> str:
    """Namespace of the process ids of this process; empty where there is no such thing."""
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - what it names is no path
    except OSError:
        return ""


def _state_and_birth(pid: int) -> tuple[str, str]:
    """State of a process (`Z`: ended, not yet noticed by its parent) and when it began; empty where not known."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return "", ""
    return after_name[0], after_name[19]


def _is_alive(pid: int, born: str) -> bool:
    """True unless a process has ended, be it that another has its number now."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    state, began = _state_and_birth(pid)
    return state not in ("Z", "X") and (not born or began in ("", born))
