"""Worker processes, and jobs dealt out to them; a worker that dies takes one run with it and is replaced."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Literal

from engine.reproduction.scripts import Scripts
from engine.reproduction.worker import SIGNALS, STOPPED, Job, Outcome, threads_for, work

Start = Literal["spawn", "fork"]


class Worker:
    """A process and the job that it has."""

    def __init__(self, scripts: Scripts, threads: int, start: Start) -> None:
        context: Any = multiprocessing.get_context(start)
        self.connection: Connection
        self.connection, self._theirs = context.Pipe()
        self.process = context.Process(target=work, args=(self._theirs, scripts, threads))
        self.job: Job | None = None
        self.began = time.monotonic()

    def begin(self) -> None:
        """Start the process."""
        with _signals_later():  # from its first moment on it is known as started
            self.process.start()
        self._theirs.close()

    def take(self, job: Job) -> None:
        """Give it a job."""
        self.job, self.began = job, time.monotonic()
        with suppress(BrokenPipeError):  # it has died; its end is read next
            self.connection.send(job)

    def outcome(self) -> Outcome:
        """How its job ended, be it that the process has died."""
        assert self.job is not None
        try:
            found: Outcome = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode
            why = f"by {signal.Signals(-code).name}; often no memory is left" if code < 0 else f"with exit code {code}"
            found = Outcome(self.job, -abs(code), f"its process was ended {why}", time.monotonic() - self.began)
        self.job = None
        return found

    def stop(self) -> None:
        """Ask it to end: a run is saved, and no other begun."""
        if self.process.pid is None:  # it has not been started
            return
        if self.job is not None:
            self.process.terminate()
        with suppress(BrokenPipeError, OSError):
            self.connection.send(None)

    def join(self) -> None:
        """Wait for its end."""
        if self.process.pid is not None:
            self.process.join()


class Workers:
    """Some processes that train; leaving the context stops them, what they are at is saved.

    Args:
        jobs: runs at once.
        scripts: the training scripts, as functions that another process can import by their names.
        start: how processes begin.
    """

    def __init__(self, jobs: int, scripts: Scripts, start: Start = "spawn") -> None:
        self.jobs, self.scripts, self.start = jobs, scripts, start
        self._workers: list[Worker] = []  # each from before its start to its end, so that a signal loses none

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:  # all at once, and only then one after the other
            worker.stop()
        for worker in self._workers:
            worker.join()

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Train jobs, each taken from `jobs` when a process is free for it; yield how each ended."""
        left = iter(jobs)
        more = True
        while more or self._busy():
            while more and len(self._busy()) < self.jobs:
                job = next(left, None)
                more = job is not None
                if job is not None:
                    self._free().take(job)
            yield from self._ended()

    def _busy(self) -> list[Worker]:
        """The processes that have a job."""
        return [worker for worker in self._workers if worker.job is not None]

    def _free(self) -> Worker:
        """A process that waits for a job, or a new one."""
        for worker in self._workers:
            if worker.job is None:
                return worker
        worker = Worker(self.scripts, threads_for(self.jobs), self.start)
        self._workers.append(worker)
        worker.begin()
        return worker

    def _ended(self) -> Iterator[Outcome]:
        """Wait for a process to end a job; yield those that have."""
        busy = self._busy()
        ready = set(wait([worker.connection for worker in busy])) if busy else set()
        for worker in [worker for worker in busy if worker.connection in ready]:
            outcome = worker.outcome()
            if outcome.code > STOPPED or not worker.process.is_alive():
                worker.join()
                self._workers.remove(worker)
            yield outcome


@contextmanager
def _signals_later() -> Iterator[None]:
    """Signals that ask for an end arrive after what is inside."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
