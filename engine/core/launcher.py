"""The launcher that started this process, `torchrun` or `accelerate launch`, which may start processes again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import distributed as dist

from engine.core.run_lock import process_of
from utils.checks import require

_ITS_RUN, _MOST, _NUMBER = "TORCHELASTIC_RUN_ID", "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_RESTART_COUNT"
_KEEPS_STORE = "TORCHELASTIC_USE_AGENT_STORE"
"""Variables that a launcher sets: its run, restarts that it allows and has made, and whether the store is its own."""
KEY = "launcher"
"""Key of the launcher in the log of a run."""


def launcher() -> dict[str, Any] | None:
    """The process that launched this one, in words that tell it from all others; None where there is no launcher."""
    if _ITS_RUN not in os.environ:
        return None
    return {**process_of(os.getppid())._asdict(), "start": "", "run": os.environ[_ITS_RUN]}


def require_restartable(output: Path | None) -> None:
    """Raise UserError where a launcher may start processes again that would not find their run, or each other."""
    most = _count(_MOST)
    require(
        output is not None or most == 0,
        f"--max_restarts {most} of the launcher: a process that is started again needs --output to find its run; give "
        "--output DIR",
    )
    require(
        most == 0 or not _keeps_store() or os.environ.get("GROUP_WORLD_SIZE", "1") == "1",
        f"--max_restarts {most} of the launcher: on several machines processes that are started again would wait for "
        "those before; launch with --rdzv_backend c10d, and TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment",
    )


def meet_again(backend: str) -> None:
    """Make the group of processes that a launcher has started again on one machine.

    The store of the launcher, by which they meet, still has the addresses of those before: torch would wait for these.
    """
    if _count(_NUMBER) == 0 or not _keeps_store() or dist.is_initialized():
        return
    held = os.environ
    store = dist.TCPStore(  # type: ignore[attr-defined]
        held["MASTER_ADDR"], int(held["MASTER_PORT"]), is_master=False
    )
    own = dist.PrefixStore(f"started again {held[_NUMBER]}", store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=own, rank=int(held["RANK"]), world_size=int(held["WORLD_SIZE"]))


def _keeps_store() -> bool:
    """True where processes meet by a store that the launcher keeps while it starts them again."""
    return _ITS_RUN in os.environ and os.environ.get(_KEEPS_STORE) == "True"


def _count(name: str) -> int:
    """The number in a variable of the launcher; 0 without one."""
    text = os.environ.get(name, "") if _ITS_RUN in os.environ else ""
    return int(text) if text.isdecimal() else 0


def is_started_again(log: Path, agree: Callable[[bool], bool]) -> bool:
    """True if the run in a folder was begun, or gone on with last, by the launcher of any process of this run.

    A launcher starts processes anew where one of them has failed, or where machines come and go: a run that it has
    begun is the one that it is to go on with. All processes decide alike.

    Args:
        log: of the run.
        agree: tells whether something is true on any process; called by all.
    """
    own = launcher()
    return own is not None and agree(_last_launcher(log) == own)


def _last_launcher(log: Path) -> Any:
    """What launched the last start of a run; None where that is not known."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    starts = (event for event in map(_event, reversed(lines)) if event.get("event") == "start")
    return next(starts, {}).get(KEY)


def _event(line: str) -> Mapping[str, Any]:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}
