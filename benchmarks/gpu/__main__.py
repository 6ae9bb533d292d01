"""`python -m benchmarks.gpu [--only PART ...] [--output FOLDER] [--minutes 5] [--dry_run]`.

On a machine with one GPU: the tests with the GPU in place, CPU and GPU side by side, runs that are killed and resumed,
the waits and milliseconds of a step, and loading from files. Writes a file for each part, and a page.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.gpu import loader, parity, resume, steps, suite, waits
from benchmarks.gpu.page import page
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.runs import ROOT, environment
from benchmarks.measure import options


class Part(NamedTuple):
    """A part of the check, and its share of the time that is left when it begins."""

    run: Callable[[Plan], None]
    share: float


TOGETHER: Mapping[str, Part] = {
    "tests": Part(suite.run, 0.45),
    "parity": Part(parity.run, 0.45),
    "resume": Part(resume.run, 0.45),
    "waits": Part(waits.run, 0.45),
}
"""These share the card, so nothing in them is timed."""

ALONE: Mapping[str, Part] = {"steps": Part(steps.run, 0.3), "loader": Part(loader.run, 0.25)}
PARTS = {**TOGETHER, **ALONE}


def main(argv: Sequence[str] | None = None) -> int:
    """Run all parts, or some."""
    parser = options("gpu", __doc__)
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), help="run these parts alone")
    parser.add_argument("--minutes", type=float, default=5, help="time for all parts together")
    parser.add_argument("--dry_run", action="store_true", help="a few small cases on the CPU: does every part run?")
    parser.set_defaults(output=ROOT / "benchmarks" / "results" / "gpu")
    given = parser.parse_args(argv)
    if not given.dry_run and not torch.cuda.is_available():
        print("error: there is no CUDA device here; --dry_run tries the check on the CPU", file=sys.stderr)
        return 2
    names, seconds = given.only or list(PARTS), 60 * given.minutes
    if len(names) == 1:
        name = names[0]
        PARTS[name].run(Plan("cpu" if given.dry_run else "cuda", seconds, given.output, small=given.dry_run))
        return 0
    return _all(names, seconds, given.output, small=given.dry_run)


def _all(names: Sequence[str], seconds: float, output: Path, *, small: bool) -> int:
    plan = Plan("cpu" if small else "cuda", seconds, output, small=small)
    codes: dict[str, Any] = {}
    together = [name for name in names if name in TOGETHER]
    groups = [[name] for name in together] if small else [together] if together else []
    groups += [[name] for name in names if name in ALONE]
    while groups:
        share = PARTS[groups[0][0]].share / sum(PARTS[group[0]].share for group in groups)
        group, began, given = groups.pop(0), time.monotonic(), share * plan.left
        started = {name: _start(name, given, plan) for name in group}
        for name, process in started.items():
            codes[name] = {"exit": _wait(process, plan), "seconds": round(time.monotonic() - began)}
            print(name, codes[name], flush=True)
    plan.write("summary", {"machine": machine(), "parts": codes})
    (output / "README.md").write_text(page(output), encoding="utf-8")
    return int(any(each["exit"] for each in codes.values()))


def _start(name: str, seconds: float, plan: Plan) -> subprocess.Popen[bytes]:
    words = ("--only", name, "--minutes", f"{seconds / 60:.2f}", "--output", str(plan.output))
    own = {} if name in ALONE else environment()
    command = [sys.executable, "-m", "benchmarks.gpu", *words, *(["--dry_run"] if plan.small else [])]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **own})


def _wait(process: subprocess.Popen[bytes], plan: Plan) -> int:
    try:
        return process.wait(timeout=max(plan.left, 1) + 20)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def machine() -> dict[str, Any]:
    """Versions, cores and card."""
    found: dict[str, Any] = {"python": platform.python_version(), "cores": len(os.sched_getaffinity(0))}
    for name in ("torch", "torchvision", "accelerate", "numpy", "pillow", "torchcodec"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found |= {"card": card.name, "GiB": round(card.total_memory / 2**30, 1), "CUDA": torch.version.cuda}
        found |= {"cuDNN": torch.backends.cudnn.version()}
    return found


if __name__ == "__main__":
    sys.exit(main())
