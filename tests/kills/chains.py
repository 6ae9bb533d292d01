"""A chain: a run that is killed several times in a row, goes on each time, and is then left to its end."""

import os
import random
import shutil
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.datasets.voc import VOC_CLASSES
from tests.commands.scene import tiny_voc
from tests.kills.left import differences, left, rubbish
from tests.kills.methods import words_of
from tests.kills.plan import Job, Plan, end_of, start

KILLED = (-9, -15, 143)
"""Exit codes of a run that was killed, or stopped after saving."""


class Whole(NamedTuple):
    """The run that nobody disturbed."""

    left: dict[str, Any]
    writes: int
    """Files that it wrote."""
    seconds: float


class Chain(NamedTuple):
    """How a chain ended."""

    name: str
    number: int
    kills: int
    trail: list[str]
    """Each kill and the exit codes."""
    fault: str
    """What was wrong; empty where the run ended as the undisturbed one."""


class Bench:
    """The folder in which the chains of one run are tried."""

    def __init__(self, work: Path, name: str, *, processes: int = 1, draw: bool = False) -> None:
        self.work, self.name, self.processes, self.draw = work.resolve(), name, processes, draw
        self.work.mkdir(parents=True, exist_ok=True)
        os.environ["XDG_CACHE_HOME"] = str(self.work / "cache")
        if not (self.work / "Dataset").exists():
            tiny_voc(self.work)
        if not (self.work / "scores.npz").exists():
            _write_scores(self.work, self.work / "Dataset")
        self.log = self.work / f"log-{name}.txt"

    def whole(self) -> Whole | str:
        """The undisturbed run, made twice: with label files and caches there, the second gives the time. Or a fault."""
        output, count = self.work / f"whole-{self.name}", self.work / f"count-{self.name}"
        for _ in range(2):
            shutil.rmtree(output, ignore_errors=True)
            began = time.monotonic()
            codes = end_of(start(self._job(output), Plan(), count))
            if set(codes) != {0}:
                return f"the undisturbed run ended with {codes}: {self._last_words()}"
        whole = Whole(left(output), int(count.read_text()), time.monotonic() - began)
        shutil.rmtree(output)
        return whole

    def attempt(self, number: int, whole: Whole, *, seed: int, kills: int, kinds: Sequence[str]) -> Chain:
        """Make the chain of this number; all that happens follows from it and the seed, but for what clocks decide."""
        rng = random.Random(zlib.crc32(f"{self.name} {seed} {number}".encode()))
        output = self.work / f"chain-{self.name}-{number}"
        shutil.rmtree(output, ignore_errors=True)
        trail: list[str] = []
        killed, fault = 0, ""
        for _ in range(rng.randint(1, kills)):
            plan = self._plan(rng, whole, kinds)
            codes = self._run(output, plan, rng.random() * whole.seconds)
            trail.append(f"{plan}: {', '.join(map(str, codes))}")
            killed += codes[0] in KILLED
            fault = self._fault_of(codes)
            if fault:
                break
        fault = fault or self._end(output, whole)
        shutil.rmtree(output, ignore_errors=True)
        return Chain(self.name, number, killed, trail, fault)

    def _plan(self, rng: random.Random, whole: Whole, kinds: Sequence[str]) -> Plan:
        kind = rng.choice(list(kinds))
        if kind in ("time", "term"):
            return Plan(kind, 0, rng.random())
        return Plan(kind, rng.randint(1, 4 if kind == "append" else whole.writes), rng.random())

    def _run(self, output: Path, plan: Plan, delay: float) -> list[int | str]:
        """Run until the plan kills, or the end."""
        before = _starts(output)
        processes = start(self._job(output), plan)
        if plan.kind in ("time", "term"):
            time.sleep(delay)
            processes[0].kill() if plan.kind == "time" else processes[0].terminate()
        codes = end_of(processes)
        # Until the run has started its processes may wait for one another to come up: then a launcher has to end them.
        return codes if _starts(output) == before else ["hung" if code == "ended" else code for code in codes]

    def _end(self, output: Path, whole: Whole) -> str:
        """Let the run come to its end, and compare. Returns the fault, if any."""
        codes = end_of(start(self._job(output), Plan()))
        if set(codes) != {0}:
            return f"the last run ended with {codes}: {self._last_words()}"
        found = list(differences(left(output), whole.left))
        return f"differs: {found[:4]} ({len(found)})" if found else ", ".join(rubbish(output)[:4])

    def _fault_of(self, codes: list[int | str]) -> str:
        """What is wrong with the exit codes of a run that was killed; the others may fail, but have to end."""
        if codes[0] in (0, *KILLED) and "hung" not in codes and 99 not in codes:
            return ""
        return f"ended with {codes}: {self._last_words()}"

    def _job(self, output: Path) -> Job:
        script, words = words_of(self.name, output)
        return Job(script, [*words, "--resume"], self.work, self.log, self.processes, self.draw)

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return lines[-1][:200] if lines else ""


def _write_scores(folder: Path, tree: Path) -> None:
    """Write scores from outside of all images of a dataset, for `--prior_scores scores.npz`."""
    ids = sorted(path.stem for path in tree.rglob("*.xml"))
    scores = np.random.default_rng(0).random((len(ids), len(VOC_CLASSES)))
    np.savez(folder / "scores.npz", scores=scores, ids=ids, classes=VOC_CLASSES, kind="probability")


def _starts(output: Path) -> int:
    """How often a run has started, by its log."""
    log = output / "log.jsonl"
    return log.read_text(errors="replace").count('"event": "start"') if log.exists() else 0
