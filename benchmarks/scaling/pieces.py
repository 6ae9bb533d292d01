"""Seconds of the pieces of a run in one process, alone or while another process measures the same.

`python -m benchmarks.scaling.pieces FOLDER NUMBER OF` is one of `OF` such processes; each waits until all are ready,
takes its times, and writes them to FOLDER. They exchange nothing, so what two of them lose they lose to each other's
use of the machine.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.scaling.scene import FULL, ROOT, SMALL, Scene, settings
from engine.core.distributed import Runtime
from engine.core.kernels import KernelConfig
from engine.core.settings import parse_settings
from engine.training.config import training_command
from engine.training.given_features import with_given_features
from engine.training.run import Run, open_folder

METHODS = {"bce": "main_BCE.py", "cones": "main_CoNeS.py"}
"""Methods whose runs are predicted, and their scripts."""
ROUNDS = 4
PATIENCE = 120
"""Seconds for which a process waits for the others."""
DECODED = 50


def measure_pieces(folder: Path, scene: Scene, processes: int) -> list[dict[str, Any]]:
    """What each of so many processes on this machine finds, all of them at work at the same time."""
    name = "small" if scene == SMALL else "full"
    words = [sys.executable, "-m", "benchmarks.scaling.pieces", str(folder), name]
    running = [
        subprocess.Popen([*words, str(number), str(processes)], cwd=ROOT, stdout=subprocess.DEVNULL)
        for number in range(processes)
    ]
    try:
        failed = [process.wait() for process in running]
    finally:
        for process in running:
            process.kill()
    if any(failed):
        raise RuntimeError("a process that measures pieces failed; what it said is above")
    return [json.loads(_found(folder, number, processes).read_text()) for number in range(processes)]


def _found(folder: Path, number: int, processes: int) -> Path:
    return folder / f"pieces-{number}-of-{processes}.json"


def of_process(folder: Path, scene: Scene, number: int, processes: int) -> dict[str, Any]:
    """Points (images, seconds) of steps of each method, and seconds per image of reading, scoring and decoding."""
    torch.set_num_threads(1)
    runs = {method: _built(folder, scene, method, f"pieces-{number}-{processes}") for method in METHODS}
    for run in runs.values():
        _step(run, scene.tried[0])
    meet(folder, number, processes)
    found: dict[str, Any] = {"step": {}, "read": []}
    for method, run in runs.items():
        found["step"][method], read = _steps(run, scene)
        found["read"] += read
    found["read"] = statistics.median(found["read"])
    return {**found, **_of_images(runs["bce"])}


def _built(folder: Path, scene: Scene, method: str, name: str) -> Run:
    """A run before its first step, in this process."""
    os.chdir(folder)  # label files are written below
    words = settings(folder, scene, folder / f"{name}-{method}", scene.trained, 1)
    given = parse_settings(training_command(METHODS[method], {}), words, completed=with_given_features)
    runtime = Runtime("cpu", "fp32", given.of(KernelConfig))
    return Run(given, open_folder(given, runtime), runtime)


def meet(folder: Path, number: int, processes: int) -> None:
    """Wait until all processes have come so far. Raises: TimeoutError when one of them does not."""
    began = time.monotonic()
    (folder / f"ready-{number}-of-{processes}").touch()
    while len([*folder.glob(f"ready-*-of-{processes}")]) < processes:
        if time.monotonic() - began > PATIENCE:
            raise TimeoutError(f"only some of {processes} processes began to measure within {PATIENCE} s")
        time.sleep(0.02)


def _steps(run: Run, scene: Scene) -> tuple[list[tuple[int, float]], list[float]]:
    """Median seconds of a step by its images, and seconds per image of reading; sizes take turns."""
    taken: dict[int, list[float]] = {size: [] for size in scene.tried}
    read = []
    for turn in range(ROUNDS + 1):
        for size, times in taken.items():
            reading, stepping = _step(run, size)
            if turn:  # the first of each size makes what later ones find
                read.append(reading / size)
                times.append(stepping)
    return [(size, statistics.median(times)) for size, times in taken.items()], read


def _step(run: Run, size: int) -> tuple[float, float]:
    """Seconds of reading a batch of so many images, and of a step on them."""
    loop = run.loop
    loop.batches.batch_size = size
    loop.state.epoch, loop.state.step = 1, 0
    loop.learner.model.train()
    loop.batches.set_epoch(1)
    raw: Any = None

    def read() -> None:
        nonlocal raw
        raw = next(iter(loop.loader))

    return _seconds(read), _seconds(lambda: loop.step(raw, size))


def _of_images(run: Run) -> dict[str, float]:
    """Seconds per image of scoring, images read already, and of decoding a file."""
    loader, model = run.loaders.scoring("test"), run.eval_model
    model.eval()
    raw = [loader.to_batch(batch, run.runtime.device) for batch in loader]
    count = sum(len(batch.index) for batch in raw)
    with torch.no_grad():
        forward = statistics.median(_seconds(lambda: [model(batch.images) for batch in raw]) for _ in range(2))
    images = run.data.train.images
    rows = range(min(DECODED, len(images)))
    decoding = _seconds(lambda: [images.open(row) for row in rows])
    return {"forward": forward / count, "decode": decoding / len(rows)}


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def middle(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of what several processes found."""
    steps = {
        method: [
            (each[0][0], statistics.mean(seconds for _, seconds in each))
            for each in zip(*(one["step"][method] for one in found), strict=True)
        ]
        for method in METHODS
    }
    return {"step": steps, **dict(_means(found))}


def _means(found: list[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    for name in ("read", "forward", "decode"):
        yield name, statistics.mean(one[name] for one in found)


if __name__ == "__main__":
    place, size, which, of = sys.argv[1:]
    given = Path(place).resolve(), SMALL if size == "small" else FULL, int(which), int(of)
    result = json.dumps(of_process(*given))
    _found(given[0], *given[2:]).write_text(result)
