"""What the model says of many GPUs: pieces of one H200 from benchmarks/results/gpu, links as they are assumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.scaling.model import Job, Line, Link, Machine, epoch, fit_line
from benchmarks.scaling.scene import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "gpu"
PER_MACHINE = 8
WITHIN = Link(20e-6, 1 / 200e9)
"""Assumed of the GPUs of one machine (NVLink): seconds of an exchange of nothing, of each byte that leaves a GPU."""
BETWEEN = Link(40e-6, 1 / 20e9)
"""Assumed of GPUs in several machines: a network of 400 Gbit/s for each of them, of which two fifths are reached."""
OVERLAP = 0.5
"""Assumed share of a step during which gradients travel; the backward pass is two thirds of it."""
FORWARD = 1 / 3
"""Assumed share of the time of an image in a training step that its forward pass takes."""
CORES = 16
"""Of each GPU: those of the machine that was measured."""
DECODERS = ("pillow", "torchcodec")


class Host(NamedTuple):
    """Seconds of what a host does, as measured on this machine."""

    order: float
    figure: float
    save: Line


def read_results(folder: Path = RESULTS) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What was measured of steps and of loaders."""
    steps, loader = (json.loads((folder / f"{part}.json").read_text()) for part in ("steps", "loader"))
    return steps, loader


def step_line(steps: Mapping[str, Any], method: str) -> Line:
    """Seconds of a step of a ResNet-50, 224 px, bf16, by the images of a GPU: from batches of 64 and of 256."""
    points = []
    for table in steps["tables"]:
        shape, row = table["shape"], table.get("methods", {}).get(method, {})
        if (shape["model"], shape["size"]) == ("resnet50", 224) and "ms" in row:
            points.append((shape["batch"], row["ms"] / 1e3))
    return fit_line(points)


def read_seconds(loader: Mapping[str, Any], decoder: str) -> float:
    """Seconds per image on one core: JPEG of 640 x 480 to 224 px, all cores of the machine at work."""
    speed = loader["loader"][f"224 px, batch 64, {decoder}, {loader['cores']} workers"]["images/s"]
    return float(loader["cores"] / speed)


def gpu_machine(step: Line, read: float, host: Host, processes: int) -> Machine:
    """The pieces of a process with a GPU of its own, one of so many."""
    link = WITHIN if processes <= PER_MACHINE else BETWEEN
    return Machine(step, read, CORES, FORWARD * step.each, link, OVERLAP, host.order, host.figure, host.save)


class Asked(NamedTuple):
    """A question to the model: a dataset, and a batch."""

    title: str
    images: int
    scored: int
    labels: int
    """Classes whose scores count of an image that is scored."""
    classes: int
    batch: int
    """Of each GPU; of all together where `together` is true."""
    together: bool = False


WIDTH = 2048
"""Numbers in the features of a ResNet-50."""
BACKBONE = 23_508_032
"""Its parameters without a head."""
QUESTIONS = (
    Asked("COCO, 256 images a step on each GPU", 82_081, 40_137, 80, 80, 256),
    Asked("COCO, 256 images a step on all together", 82_081, 40_137, 80, 80, 256, together=True),
    Asked("100,000,000 images x 5,000 classes, 256 images a step on each GPU", 10**8, 10**5, 50, 5_000, 256),
)


def job_of(asked: Asked, processes: int) -> Job:
    """The question for so many GPUs, of a method that exchanges nothing."""
    parameters = 4 * (BACKBONE + asked.classes * (WIDTH + 1))
    batch = asked.batch if asked.together else asked.batch * processes
    return Job(asked.images, asked.scored, asked.labels, processes, batch, parameters, 2 * parameters)


def with_cones(job: Job, asked: Asked, step: Mapping[str, float], epoch_start: float) -> Job:
    """The same with CoNeS: what its step exchanges beside the sums of features of each class, and its epoch start."""
    reduced = 4 * asked.classes * (WIDTH + 1)
    start = epoch_start * asked.classes / 80
    return replace(job, exchanges=int(step["exchanges"]), reduced=reduced, gathered=step["gathered"], epoch_start=start)


def first_to_give(parts: Mapping[str, float]) -> str:
    """The piece beside the steps that takes most of an epoch."""
    return max((name for name in parts if name != "steps"), key=lambda name: parts[name])


def cores_needed(step: Line, read: float, images: int) -> float:
    """Cores that keep one GPU busy which trains on so many images a step."""
    return images / step.at(images) * read


def predicted(machine: Machine, job: Job) -> dict[str, float]:
    """Seconds of an epoch by what takes them, without those parts that take none."""
    return {name: seconds for name, seconds in epoch(machine, job).items() if seconds}
