"""The fast tests, run where there is a GPU: `--device auto` takes it then."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from benchmarks.gpu.plan import Plan
from benchmarks.gpu.runs import ROOT, environment

FEW = ("tests/losses/common",)


def run(plan: Plan) -> None:
    """Write tests.json: how many passed, and which did not, with the reason of each."""
    workers = () if plan.small else ("-n", str(max(2, len(os.sched_getaffinity(0)) * 3 // 4)), "--dist", "worksteal")
    tests = FEW if plan.small else ("tests",)
    command = (sys.executable, "-m", "pytest", "-v", "--tb=line", "-p", "no:cacheprovider", *workers, *tests)
    log = plan.output / "tests.log"
    plan.output.mkdir(parents=True, exist_ok=True)
    with log.open("w") as said:
        try:
            code = subprocess.run(
                command, cwd=ROOT, env=environment(), stdout=said, stderr=said, timeout=plan.left, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    text = log.read_text(errors="replace")
    log.unlink()
    plan.write("tests", {"exit": code, **summary(text)})


def summary(text: str) -> dict[str, object]:
    """How many tests passed, which failed, the lines that say why, and the last line; also of a run cut short."""
    lines = text.splitlines()
    outcomes = [
        re.search(r"\b(PASSED|FAILED|ERROR)\b.*?(tests/\S+)|(tests/\S+) (PASSED|FAILED|ERROR)", each) for each in lines
    ]
    found = [(each[1] or each[4], each[2] or each[3]) for each in outcomes if each]
    failed = sorted({name for outcome, name in found if outcome != "PASSED"})
    why = [line[:300] for line in lines if re.match(r"(/|E  ).*(Error|assert|Exception)", line)]
    passed = sum(outcome == "PASSED" for outcome, _ in found)
    return {"passed": passed, "failed": failed, "why": why[:80], "summary": lines[-1] if lines else ""}
