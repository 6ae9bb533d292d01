"""Whole runs of the scripts, which the predictions are held against, and short ones that show what a start takes."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.scaling.pieces import METHODS
from benchmarks.scaling.scene import ROOT, Scene, settings, training


class Whole(NamedTuple):
    """A method and a number of processes."""

    method: str
    processes: int

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.method}, {self.processes} process{'es' if self.processes > 1 else ''}"


WHOLE = (Whole("bce", 2), Whole("cones", 2), Whole("bce", 1))
"""The runs that are held against predictions; those of two processes first."""


def real_run(folder: Path, scene: Scene, run: Whole, images: int) -> dict[str, float]:
    """Seconds of all training steps, and of the whole command, on so many training images; bytes of its files.

    Raises: RuntimeError when the run fails.
    """
    output = folder / f"run-{run.method}-{run.processes}-{images}"
    shutil.rmtree(output, ignore_errors=True)
    words = training(METHODS[run.method], run.processes, settings(folder, scene, output, images, run.processes))
    began = time.perf_counter()
    done = subprocess.run(words, cwd=folder, env=_environment(), capture_output=True, text=True, check=False)
    command = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{run.name} failed: {done.stderr[-600:]}")
    with (output / "metrics.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return {
        "steps": len(rows) * images / rows[-1]["images_per_second"],
        "command": command,
        "state": (output / "last" / "state.pth").stat().st_size,
        "best": (output / "best.pth").stat().st_size,
    }


def _environment() -> Mapping[str, Any]:
    """One thread each, and the scripts' own folder as the place of their packages."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
