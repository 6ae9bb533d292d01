"""A process that trains one run of a plan after the other, so that nothing is imported or set up anew for each."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, TextIO

from engine.core.cli import exit_code
from engine.core.run_lock import RunLock
from engine.reproduction.scripts import Scripts
from utils.checks import UserError

BUSY = -1000
"""Code of a run that another process has taken."""
STOPPED = 128
"""Codes above it: a signal."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Those that ask for an end."""
_LOOK_SECONDS = 2.0
"""Between two looks whether the parent is there."""


class Job(NamedTuple):
    """A run to be trained."""

    name: str
    """Of its folder."""
    script: str
    words: tuple[str, ...]
    folder: Path
    """The folder of all runs of the plan; this one gets a folder of its name there."""

    @property
    def output(self) -> Path:
        """The run folder."""
        return self.folder / self.name

    @property
    def log(self) -> Path:
        """What the run says on the console."""
        return self.folder / f"{self.name}.txt"


class Outcome(NamedTuple):
    """How a job ended."""

    job: Job
    code: int
    """Exit code of the script; below zero: no run, or a process that has died."""
    text: str
    """What went wrong, in a line."""
    seconds: float


def work(connection: Connection, scripts: Scripts, threads: int) -> None:
    """Train every job that arrives until there is none, or a signal stops a run.

    Args:
        connection: yields jobs, then None; takes outcomes.
        scripts: the training scripts.
        threads: CPU threads of each run, unless it says its own.
    """
    os.setpgrp()  # a Ctrl-C is for the process that deals out the jobs, which then asks this one to stop
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    parent = os.getppid()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while (job := _next_job(connection, parent)) is not None:
            outcome = _told(job, scripts, threads)
            connection.send(outcome)
            if outcome.code > STOPPED:
                break


def _next_job(connection: Connection, parent: int) -> Job | None:
    """Wait for a job; None where there is none any more, or the process that deals them out is gone."""
    while not connection.poll(_LOOK_SECONDS):
        if os.getppid() != parent:
            return None
    job: Job | None = connection.recv()
    return job


def _told(job: Job, scripts: Scripts, threads: int) -> Outcome:
    """The same as `trained`; a disk that takes nothing is told like any other fault."""
    try:
        return trained(job, scripts, threads)
    except OSError as error:
        return Outcome(job, 1, f"{error.filename or job.folder}: cannot be written: {error.strerror or error}", 0.0)


def trained(job: Job, scripts: Scripts, threads: int) -> Outcome:
    """Train one run in this process, unless another process has it."""
    began = time.monotonic()
    claims = job.folder / "claims" / job.name
    claims.mkdir(parents=True, exist_ok=True)
    lock = RunLock(claims)
    try:
        lock.take(wait=False)
    except UserError as error:
        holder = str(error).partition(" is in use by another run ")[2].partition(";")[0]
        return Outcome(job, BUSY, f"another reproduce.py has it {holder}".strip(), time.monotonic() - began)
    try:
        code = _logged(job, scripts, threads)
    finally:
        lock.release()
        with contextlib.suppress(OSError):
            claims.rmdir()
    return Outcome(job, code, "" if code == 0 else last_line(job.log), time.monotonic() - began)


def _logged(job: Job, scripts: Scripts, threads: int) -> int:
    """Train with what is said going to the log; the exit code."""
    import torch

    torch.set_num_threads(threads)  # a run before may have set its own
    words = [*job.words, f"--output={job.output}", "--resume"]
    with job.log.open("w", encoding="utf-8", errors="backslashreplace") as log, _said_to(log):
        try:
            return exit_code(lambda _: scripts[job.script]().main(words))
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 1
        except Exception:
            traceback.print_exc(file=log)
            return 1


@contextlib.contextmanager
def _said_to(log: TextIO) -> Iterator[None]:
    """What is printed goes to a file."""
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        yield


def last_line(log: Path) -> str:
    """What a run said last, for instance why it has ended."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    said = [line.strip() for line in lines if line.strip()]
    return said[-1].removeprefix("error: ")[:500] if said else ""


def threads_for(jobs: int) -> int:
    """CPU threads for each of some runs at once."""
    return max(1, (os.cpu_count() or 1) // jobs)
