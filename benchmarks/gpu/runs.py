"""Whole runs by the entry scripts in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.plan import Plan

ROOT = Path(__file__).resolve().parents[2]

DIGITS: Mapping[str, tuple[str, ...]] = {
    "CoNeS": ("main_CoNeS.py", "--dataset", "digits", "--partial_rate", "0.4"),
    "LL-R": ("main_llm.py", "--dataset", "digits", "--mod_scheme", "LL-R", "--labels", "single"),
    "CLS": ("main_cls.py", "--dataset", "digits", "--labels_left", "25"),
    "IGNORE": ("main_ignore.py", "--dataset", "digits"),
    "NDLP": ("main_ndlp.py", "--dataset", "digits-lt"),
}


class Job(NamedTuple):
    """A run on digits."""

    method: str
    device: str
    precision: str
    more: tuple[str, ...] = ()


class Done(NamedTuple):
    """A run that has ended: its folder, its exit code (-1 out of time), and the end of what it said."""

    folder: Path
    code: int
    said: str


def words(job: Job, folder: Path) -> list[str]:
    """The command line of a run."""
    script, *arguments = DIGITS[job.method]
    how = ("--device", job.device, "--precision", job.precision, "--output", str(folder))
    return [sys.executable, str(ROOT / script), *arguments, "--seed", "0", *how, *job.more]


def environment() -> dict[str, str]:
    """One thread each, because many runs share the machine."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def folder_of(plan: Plan, name: str) -> Path:
    """A place for a run beside the results, which are few files."""
    return plan.output.with_name(f"{plan.output.name}-runs") / name.replace(" ", "-")


def train(plan: Plan, job: Job, folder: Path | None = None) -> Done:
    """Run to the end, or until the time of the part is over."""
    folder = folder or folder_of(plan, " ".join(job[:3]))
    try:
        done = subprocess.run(
            words(job, folder),
            env=environment(),
            capture_output=True,
            text=True,
            timeout=max(plan.left, 5),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Done(folder, -1, "out of time")
    return Done(folder, done.returncode, done.stderr[-400:])


def figures(done: Done) -> dict[str, Any]:
    """Test figures in percent, the loss of the last epoch and the speed of a run; what it said if it failed."""
    if done.code:
        return {"exit": done.code, "said": done.said}
    held = json.loads((done.folder / "result.json").read_text())
    test = {name: round(100 * held["test"][name], 2) for name in ("mAP", "CF1", "OF1")}
    last = (done.folder / "metrics.csv").read_text().splitlines()
    loss = dict(zip(last[0].split(","), last[-1].split(","), strict=True))["loss"]
    return {**test, "loss": round(float(loss), 5), "images/s": round(held["images_per_second"])}
