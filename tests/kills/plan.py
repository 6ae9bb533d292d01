"""Where a run is killed, and the run in a process of its own that kills itself there."""

import importlib
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch

import engine.core.run_folder as run_folder
from engine.core.cli import exit_code
from engine.training.run import Run

KINDS = ("time", "torn", "written", "renamed", "append", "term")
SECONDS = 300
"""A run that takes longer hangs."""


class Plan(NamedTuple):
    """How a run ends before its time.

    time: killed after a share of the time that the undisturbed run took. term: asked to stop then, by SIGTERM.
    torn: in the n-th file that is written whole and renamed, whose temporary file is cut to a share of its length.
    written: when that is on the disk, not yet renamed. renamed: right behind its rename.
    append: in the n-th line of log.jsonl, of which half is written.
    """

    kind: str = ""
    number: int = 0
    share: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind} {self.number}" if self.number else f"{self.kind} {self.share:.2f}"


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Armed:
    """The functions of a run that write, as they are when it kills itself in one of them. `writes` counts files."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.writes, self.lines = plan, 0, 0
        self.fsync, self.replace, self.append = os.fsync, Path.replace, run_folder.append_line

    def arm(self) -> None:
        """Put them in place, for the rest of this process."""
        os.fsync = self.sync  # type: ignore[assignment]
        Path.replace = lambda path, target: self.rename(path, target)  # type: ignore[assignment, method-assign]
        run_folder.append_line = self.add

    def sync(self, descriptor: int) -> None:
        """In place of `os.fsync`, which comes once for each file."""
        self.writes += 1
        here = self.writes == self.plan.number
        if here and self.plan.kind == "torn":
            os.ftruncate(descriptor, int(os.fstat(descriptor).st_size * self.plan.share))
            _die()
        self.fsync(descriptor)
        if here and self.plan.kind == "written":
            _die()

    def rename(self, path: Path, target: Path) -> Path:
        """In place of `Path.replace`."""
        done = self.replace(path, target)
        if self.plan.kind == "renamed" and self.writes == self.plan.number:
            _die()
        return done

    def add(self, path: Path, line: str) -> None:
        """In place of `append_line`."""
        self.lines += 1
        if self.plan.kind == "append" and self.lines == self.plan.number:
            with path.open("a") as file:
                file.write(line[: len(line) // 2])
            _die()
        self.append(path, line)


class Job(NamedTuple):
    """A run to be made in processes of its own."""

    script: str
    words: list[str]
    folder: Path
    """The working folder."""
    log: Path
    """What the processes print is added here."""
    processes: int = 1
    draw: bool = False
    """False leaves the figures out, which take most of the time."""


def start(job: Job, plan: Plan, count: Path | None = None) -> list[ForkServerProcess]:
    """Start a run; the plan holds for its first process, which writes. Returns its processes.

    They are forks of a server that has imported the project and done nothing since: a process whose autograd has
    threads, as one of tests that came before may have, has no forks that train.

    Args:
        job: the run.
        plan: where it is killed, if anywhere.
        count: a file for the number of files that the run has written.
    """
    multiprocessing.set_forkserver_preload(["tests.kills.plan"])
    context = multiprocessing.get_context("forkserver")
    port = _free_port() if job.processes > 1 else 0
    made = []
    for rank in range(job.processes):
        first = (plan, count) if rank == 0 else (Plan(), None)
        environment = dict(os.environ) | _environment(rank, job.processes, port)
        made.append(context.Process(target=_be, args=(job, *first, environment)))
        made[-1].start()
    return made


def end_of(processes: list[ForkServerProcess], seconds: float = SECONDS) -> list[int | str]:
    """Exit codes of processes; 30 s after the first that fails the rest must be done.

    Those that are not are ended as a launcher ends them, `ended`, and killed where they do not obey, `hung`.
    """
    codes: dict[ForkServerProcess, int | str] = {}
    deadline = time.monotonic() + seconds
    while len(codes) < len(processes):
        for process in (each for each in processes if each not in codes):
            if process.exitcode is not None:
                codes[process] = process.exitcode
                if process.exitcode != 0:
                    deadline = min(deadline, time.monotonic() + 30)
            elif time.monotonic() > deadline:
                codes[process] = "ended" if _obeys(process) else "hung"
        time.sleep(0.005)
    return [codes[process] for process in processes]


def _obeys(process: ForkServerProcess, seconds: float = 10.0) -> bool:
    """Ask a process to end; one that does not is killed."""
    process.terminate()
    process.join(seconds)
    if process.exitcode is not None:
        return True
    process.kill()
    process.join()
    return False


def _environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """What a launcher tells a process."""
    if processes == 1:
        return {}
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    return {name: str(value) for name, value in (numbers | address).items()}


def _free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


def _be(job: Job, plan: Plan, count: Path | None, environment: dict[str, str]) -> None:
    """Be a process of the run, to the end."""
    code = 99
    try:
        out = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.chdir(job.folder)
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(1)
        armed = Armed(plan)
        armed.arm()
        main: Callable[..., int] = importlib.import_module(job.script).main
        with mock.patch.object(Run, "_write_report", Run._write_report if job.draw else lambda *_: None):
            code = exit_code(main, job.words)
        if count:
            count.write_text(str(armed.writes))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)
