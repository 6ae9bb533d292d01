"""The trial of every change of a plan: the tests that reach it, quickest first, until one fails or all passed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tools.mutants.copies import BROKEN, FAILED, INTERRUPTED, NOTHING_RUN, PASSED, USAGE, copy_project, fork_pytest
from tools.mutants.plan import Mutant
from tools.mutants.reach import Reach

FIRST_SECONDS, OTHERS_SECONDS = 30.0, 120.0
"""How much of the quickest tests runs first, and of the others then: what survives both survives."""
FEW = 40
"""So many of the quickest come first of all, for most changes are noticed by the first tests of their own."""
PATIENCE = 4
"""How many times longer than unchanged tests may take before they count as hanging."""
WALL_SECONDS = 1800.0


@dataclass(frozen=True)
class Result:
    """What became of one change."""

    id: str
    package: str
    file: str
    line: int
    kind: str
    outcome: str
    """`caught`, `hangs` (caught as well: the tests do not end), `survived`, `not reached` or `trouble`."""
    test: str
    """The first test that failed."""
    seconds: float

    @property
    def caught(self) -> bool:
        """Whether a test noticed."""
        return self.outcome in ("caught", "hangs")


@dataclass
class Trial:
    """One change in its copy, and the selections of tests that it has still to meet."""

    mutant: Mutant
    copy: Path
    log: Path
    selections: list[list[str]]
    seconds: list[int]
    """Of each selection, how many seconds of a processor it may use."""
    pid: int = 0
    began: float = field(default_factory=time.monotonic)
    started: float = 0.0

    def start(self) -> None:
        """Run the next selection."""
        self.started = time.monotonic()
        self.pid = fork_pytest(self.copy, self.selections.pop(0), self.log, self.seconds.pop(0))

    def poll(self) -> str | None:
        """The outcome; None while tests run, and after a start of the next selection."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            outcome = outcome_of(os.waitstatus_to_exitcode(status), last=not self.selections)
            if outcome == "passed":
                self.start()
                return None
            return outcome
        if time.monotonic() - self.started > WALL_SECONDS:
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            return "hangs"
        return None

    def result(self, outcome: str) -> Result:
        """What there is to say of it."""
        change = self.mutant.change
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
        test = failed[1] if failed and outcome == "caught" else ""
        taken = round(time.monotonic() - self.began, 1)
        return Result(self.mutant.id, self.mutant.package, change.file, change.line, change.kind, outcome, test, taken)


def outcome_of(code: int, *, last: bool) -> str:
    """What an exit code of pytest, or the signal that ended it, says of a change; `passed` where more tests follow."""
    if code in (FAILED, INTERRUPTED):
        return "caught"
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return "hangs"
    if code < 0 and code != -signal.SIGTERM:
        return "caught"
    if code in (PASSED, NOTHING_RUN):
        return "survived" if last else "passed"
    if code == USAGE and not last:  # a test of the list that is no more: the files will tell
        return "passed"
    if code == USAGE:  # the changed code cannot even be imported by the tests, which are there unchanged
        return "caught"
    return "trouble" if code == BROKEN or last else "passed"


def try_all(
    root: Path, mutants: Sequence[Mutant], reach: Reach, work: Path, results: Path, jobs: int = 2
) -> Iterator[Result]:
    """Try every change that has no result yet, `jobs` at a time, and note the results line by line.

    Args:
        root: folder of the project, which is only read.
        mutants: the plan.
        reach: which tests enter which function.
        work: folder for copies and logs.
        results: file of results; a run that was stopped goes on where it was.
        jobs: how many copies there are.
    """
    done = {result.id for result in load_results(results)}
    waiting = [mutant for mutant in mutants if mutant.id not in done]
    free = [copy_project(root, work / f"copy{job}") for job in range(jobs)]
    running: list[Trial] = []
    while waiting or running:
        while waiting and free:
            running.append(begin(root, waiting.pop(0), reach, free.pop()))
        time.sleep(0.05)
        for trial in list(running):
            outcome = trial.poll() if trial.pid else "not reached"
            if outcome is not None:
                running.remove(trial)
                free.append(restore(root, trial))
                yield note(results, trial.result(outcome))


def begin(root: Path, mutant: Mutant, reach: Reach, copy: Path) -> Trial:
    """Make a change in a copy and start its first tests."""
    change = mutant.change
    quickest = reach.quickest(change, FIRST_SECONDS)
    others = reach.others(change, root, quickest, OTHERS_SECONDS)
    selections = [tests for tests in (quickest[:FEW], quickest[FEW:], others) if tests]
    budget = [60 + int(PATIENCE * reach.cost(tests)) for tests in selections]
    trial = Trial(mutant, copy, copy.with_name(f"{copy.name}.txt"), selections, budget)
    text = (root / change.file).read_text(encoding="utf-8")
    (copy / change.file).write_text(change.applied(text), encoding="utf-8")
    if selections:
        trial.start()
    return trial


def restore(root: Path, trial: Trial) -> Path:
    """Take the change back; returns the copy, which is free."""
    file = trial.mutant.change.file
    shutil.copyfile(root / file, trial.copy / file)
    shutil.rmtree(f"{trial.copy}.tmp", ignore_errors=True)
    return trial.copy


def note(results: Path, result: Result) -> Result:
    """Add a result to the file of results."""
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(result)) + "\n")
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {result.id} {result.file}:{result.line} {result.kind} ")
    sys.stdout.write(f"{result.outcome} {result.test}\n")
    sys.stdout.flush()
    return result


def load_results(path: Path) -> list[Result]:
    """The results noted so far."""
    if not path.exists():
        return []
    return [Result(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def table(results: Sequence[Result]) -> str:
    """Changes made and caught, package by package, and the survivors."""
    lines = [
        "| package | changes | caught | of them hanging | survived | share |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    packages = list(dict.fromkeys(result.package for result in results))
    for package in (*packages, "all"):
        here = [result for result in results if package in (result.package, "all")]
        caught = [result for result in here if result.caught]
        hanging = sum(result.outcome == "hangs" for result in caught)
        share = f"{100 * len(caught) / max(1, len(here)):.1f} %"
        lines.append(f"| {package} | {len(here)} | {len(caught)} | {hanging} | {len(here) - len(caught)} | {share} |")
    left = [f"{each.id} {each.file}:{each.line} {each.kind}: {each.outcome}" for each in results if not each.caught]
    return "\n".join([*lines, "", *left])
