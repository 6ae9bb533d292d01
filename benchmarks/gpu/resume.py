"""Runs that are killed and go on: on the same device bit for bit, or on another; the same run twice."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.plan import Plan, reason
from benchmarks.gpu.runs import Done, Job, environment, folder_of, train, words
from utils.safe_files import load_tensors

SHORT = ("--epochs", "3", "--warmup_epoch", "0.5", "--ss_frac_train", "0.2", "--save_minutes", "0")
SMALLER = ("--epochs", "3", "--warmup_epoch", "0.5", "--ss_frac_train", "0.05", "--save_minutes", "0")
KINDS = (
    ("CoNeS", "fp32", ""),
    ("CoNeS", "fp32", "--deterministic"),
    ("CLS", "bf16", "--deterministic"),
    ("LL-R", "fp16", "--deterministic"),
    ("NDLP", "fp32", "--deterministic"),
    ("IGNORE", "fp32", "--deterministic"),
)


def run(plan: Plan) -> None:
    """Write resume.json: how far apart the states at the end are."""
    found: dict[str, Any] = {}
    kinds = KINDS[:1] if plan.small else KINDS
    with ThreadPoolExecutor(1 if plan.small else len(kinds)) as pool:
        jobs = {" ".join(filter(None, kind)): pool.submit(resumed, plan, *kind) for kind in kinds}
        for name, job in jobs.items():
            found[name] = _result(job)
            plan.write("resume", found)


def _result(job: Future[dict[str, Any]]) -> dict[str, Any]:
    try:
        return job.result()
    except Exception as error:  # one method that fails hides no other
        return {"error": reason(error)}


def resumed(plan: Plan, method: str, precision: str, flag: str) -> dict[str, Any]:
    """A whole run against the same again, one killed and resumed, and one that changes to the CPU on the way."""
    more = (*(SMALLER if plan.small else SHORT), *filter(None, [flag]))
    job = Job(method, plan.device, precision, more)
    place = folder_of(plan, f"resume-{method}-{precision}{flag}")
    with ThreadPoolExecutor(1 if plan.small else 4) as pool:
        runs = {"whole": pool.submit(train, plan, job, place / "whole")}
        runs["again"] = pool.submit(train, plan, job, place / "again")
        runs["killed"] = pool.submit(killed, plan, job, job.device, place / "killed")
        if not flag and plan.on_gpu:
            runs["to the CPU"] = pool.submit(killed, plan, job, "cpu", place / "cpu")
        done = {name: each.result() for name, each in runs.items()}
    whole = done.pop("whole")
    return {"exit": whole.code, **{name: _against(whole, other) for name, other in done.items()}}


def _against(whole: Done, other: Done) -> dict[str, Any]:
    if other.code or whole.code:
        return {"exit": other.code, "said": other.said}
    return apart(whole.folder, other.folder)


def killed(plan: Plan, job: Job, then: str, folder: Path) -> Done:
    """A run that is killed in its second epoch, and goes on on a device."""
    log = folder.with_suffix(".txt")
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w") as said,
        subprocess.Popen(words(job, folder), env=environment(), stdout=said, stderr=said) as process,
    ):
        while process.poll() is None and plan.left > 0:
            if _position(folder) >= (2, 1):
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.02)
    if process.wait() != -signal.SIGKILL:
        return Done(folder, process.returncode or 1, f"was not killed in time: {log.read_text()[-300:]}")
    return train(plan, job._replace(device=then, more=(*job.more, "--resume")), folder)


def _position(folder: Path) -> tuple[int, int]:
    try:
        position = _state(folder)["position"]
    except Exception:  # not there yet, or being replaced
        return 0, 0
    return position["epoch"], position["step"]


def _state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = load_tensors(folder / "last" / "state.pth")["loop"]
    return state


def apart(one: Path, other: Path) -> dict[str, Any]:
    """Number of tensors of two states that are unequal, and the largest relative difference."""
    mine, theirs = (dict(_tensors(_state(folder))) for folder in (one, other))
    gaps = {name: float((value - theirs[name]).norm() / value.norm().clamp(min=1e-12)) for name, value in mine.items()}
    worst = max(gaps, key=gaps.__getitem__)
    unequal = sum(not torch.equal(value, theirs[name]) for name, value in mine.items())
    return {"tensors": len(mine), "unequal": unequal, "largest": gaps[worst], "of": worst if unequal else ""}


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value.double().cpu()
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _tensors(part, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from _tensors(part, f"{name}.{number}")
