"""Free memory of the machine or container."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

UNKNOWN = 16 << 30
"""Bytes that are taken to be free where no one says: systems other than Linux."""

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def free_memory() -> int | None:
    """Bytes of memory that are free on this machine, or in the container if it has less; None if unknown."""
    known = [_free_on_machine(), _free_in_container()]
    return min((each for each in known if each is not None), default=None)


def usable_memory() -> int:
    """Bytes of memory that may be planned with: those that are free, or a guess where that is unknown."""
    free = free_memory()
    return UNKNOWN if free is None else free


def _free_on_machine() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        return 1024 * int(lines.get("MemAvailable", "").split()[0])
    return None


def _free_in_container() -> int | None:
    """Bytes left of the limit of the control group; pages of files not used lately count as free."""
    with suppress(OSError, ValueError, KeyError):
        limit, used = (int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        pages = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(pages["inactive_file"]))
    return None
