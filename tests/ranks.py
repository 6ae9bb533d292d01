"""Run a function in several gloo processes on this machine and collect what each returns.

The processes are forks of one that has imported the project once and done nothing since, so no thread or lock of the
tests' own process is inherited. They stay for the tests that follow, and are started anew after a failure.
"""

import atexit
import io
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import distributed as dist

_SECONDS = 120  # after which ranks are taken to wait for each other for ever


def run_ranks(work: Callable[..., Any], *args: Any, world_size: int = 2) -> list[Any]:
    """`work(rank, *args)` of every rank; `work` must be importable (defined at the top of a test module).

    Raises: AssertionError with the traceback of the first rank that fails.
    """
    key = os.getpid(), world_size  # a fork has ranks of its own
    if key not in _RANKS:
        _RANKS[key] = Ranks(world_size)
    try:
        return _RANKS[key].run(work, args)
    except BaseException:
        _RANKS.pop(key).end()
        raise


class Ranks:
    """Processes of one group that wait for work."""

    def __init__(self, world_size: int) -> None:
        multiprocessing.set_forkserver_preload(["tests.ranks", "engine.training.run", "losses", "sklearn.cluster"])
        context = multiprocessing.get_context("forkserver")
        self.folder = tempfile.TemporaryDirectory()
        self.lines: list[Connection] = []
        self.processes = []
        for rank in range(world_size):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(rank, world_size, self.folder.name, there), daemon=True)
            process.start()
            there.close()
            self.lines.append(here)
            self.processes.append(process)

    def run(self, work: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
        """What each rank returns."""
        for line in self.lines:
            line.send((work, args))
        found: dict[int, Any] = {}
        while len(found) < len(self.lines):
            ready = wait([line for rank, line in enumerate(self.lines) if rank not in found], timeout=_SECONDS)
            assert ready, f"ranks still wait for each other after {_SECONDS} s"
            for line in ready:
                found[self.lines.index(line)] = _received(line)
        return [found[rank] for rank in range(len(self.lines))]

    def end(self) -> None:
        """End the processes, whatever they do."""
        for process in self.processes:
            process.kill()
            process.join()
        self.folder.cleanup()


_RANKS: dict[tuple[int, int], Ranks] = {}


@atexit.register
def _end_all() -> None:
    for (owner, _), ranks in _RANKS.items():
        if owner == os.getpid():
            ranks.end()


def _received(line: Connection) -> Any:
    """The result of a rank. Raises: AssertionError when it failed."""
    try:
        failed, content = line.recv()
    except EOFError:
        raise AssertionError("a rank ended without a word") from None
    assert not failed, content
    return torch.load(io.BytesIO(content), weights_only=False)


def _serve(rank: int, world_size: int, folder: str, line: Connection) -> None:
    """Do what comes along the line, each time as if nothing had been done before."""
    torch.set_num_threads(1)
    for number in range(1_000_000):
        work, args = line.recv()
        if not dist.is_initialized():  # the first time, or left by what came before
            meet = Path(folder) / f"meet-{number}"
            dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world_size)
        environment = dict(os.environ)
        try:
            torch.manual_seed(0)
            content = io.BytesIO()
            torch.save(work(rank, *args), content)
            line.send((False, content.getvalue()))
        except BaseException:
            line.send((True, f"rank {rank}:\n{traceback.format_exc()}"))
        os.environ.clear()
        os.environ.update(environment)
        AcceleratorState._reset_state(reset_partial_state=True)
