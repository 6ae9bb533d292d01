"""From what was found on this machine to machines and jobs of the model, and to what runs should take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.scaling.gpus import Host
from benchmarks.scaling.model import Job, Line, Link, Machine, epoch, fit_line, fit_link, training
from benchmarks.scaling.runs import Whole
from benchmarks.scaling.scene import Scene

Found = Mapping[str, Any]
CHECKING = 2
"""Cores on which the first process decodes all images once, before the first run on them."""


class Predicted(NamedTuple):
    """Seconds of a run: of all its training steps, and of the whole command."""

    steps: float
    command: float


def link_of(found: Found) -> Link:
    """The link between the processes of this machine."""
    points = found["exchanges"]["points"]
    return fit_link(points["reduced"], points["gathered"])


def host_of(found: Found) -> Host:
    """What this machine takes for orders, figures and files."""
    host = found["host"]
    order = fit_line(host["order"])
    return Host(order.each, host["figure"], fit_line(host["saving"]))


def machine_of(found: Found, run: Whole) -> Machine:
    """A process of a run, while the others of that run are at work as well."""
    pieces, host = found[f"pieces {run.processes}"], host_of(found)
    step: Line = fit_line(pieces["step"][run.method])
    return Machine(
        step=step,
        read=pieces["read"],
        readers=0,
        forward=pieces["forward"],
        link=link_of(found),
        overlap=0.0,  # on a CPU what sends gradients takes the core that computes them
        order=host.order,
        figure=host.figure,
        save=host.save,
    )


def job_of(found: Found, scene: Scene, run: Whole, images: int) -> Job:
    """An epoch of a run on so many training images."""
    exchanged = found["exchanges"]["methods"][run.method]
    start = found[f"start {run.name}"]
    return Job(
        images=images,
        scored=sum(scene.scored),
        labels=scene.classes,
        processes=run.processes,
        batch=scene.batch * run.processes,
        parameters=start["best"],
        state=start["state"],
        exchanges=exchanged["exchanges"],
        reduced=exchanged["reduced"],
        gathered=exchanged["gathered"],
    )


def few(scene: Scene) -> int:
    """Training images of the runs that show what a start takes."""
    return 4 * scene.batch


def start_seconds(found: Found, scene: Scene, run: Whole) -> float:
    """Seconds of a command beside its epochs, from a run on few images."""
    short = sum(epoch(machine_of(found, run), job_of(found, scene, run, few(scene))).values())
    return float(found[f"start {run.name}"]["command"]) - scene.epochs * short


def predicted(found: Found, scene: Scene, run: Whole) -> Predicted:
    """What the run on all images should take; nothing of that run is read."""
    machine, job = machine_of(found, run), job_of(found, scene, run, scene.trained)
    steps = scene.epochs * sum(training(machine, job).values())
    looked_at = (scene.trained - few(scene)) * found[f"pieces {run.processes}"]["decode"] / CHECKING
    epochs = scene.epochs * sum(epoch(machine, job).values())
    return Predicted(steps, start_seconds(found, scene, run) + looked_at + epochs)


def error(predicted: float, measured: float) -> float:
    """By which share of what was measured the prediction is too high."""
    return predicted / measured - 1
