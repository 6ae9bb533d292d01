"""Processes are ended with the context that they belong to, wherever a signal arrives."""

import multiprocessing
import sys
import time

import pytest

from engine.reproduction import runner
from engine.reproduction.runner import Workers
from engine.reproduction.worker import Job

pytestmark = [pytest.mark.usefixtures("own_folder"), pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")]

ENDING = {"__exit__", "stop", "join", "_signals_later"}
"""Where a second signal would have to arrive."""


class Quick:
    """Trains nothing."""

    def __call__(self):
        return self

    def main(self, words):
        return 0


def jobs(folder, count):
    return [Job(f"{number}", "x.py", (), folder) for number in range(count)]


class AtLine:
    """Traces `runner`, and raises KeyboardInterrupt at its line number `wanted`, as the handler of a signal does."""

    def __init__(self, wanted):
        self.wanted, self.seen = wanted, 0

    def __call__(self, frame, event, argument):
        code = frame.f_code
        return self.line if code.co_filename == runner.__file__ and code.co_name not in ENDING else None

    def line(self, frame, event, argument):
        if event == "line":
            self.seen += 1
            if self.seen == self.wanted:
                raise KeyboardInterrupt
        return self.line


def interrupted(folder, wanted):
    """Two jobs for one process, interrupted at a line; False where there are fewer lines."""
    tracer = AtLine(wanted)
    try:
        with Workers(1, {"x.py": Quick()}, "fork") as workers:
            sys.settrace(tracer)
            list(workers.run(jobs(folder, 2)))
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


def test_an_interrupt_at_any_line_leaves_no_process(tmp_path):
    before, line = set(multiprocessing.active_children()), 1
    while interrupted(tmp_path, line):
        deadline = time.monotonic() + 10
        while (left := set(multiprocessing.active_children()) - before) and time.monotonic() < deadline:
            time.sleep(0.01)
        for process in left:
            process.kill()
        assert not left, f"interrupted at line {line}"
        line += 1
    assert line > 30
