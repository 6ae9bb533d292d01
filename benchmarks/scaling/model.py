"""The model: seconds of an epoch from the seconds of its pieces. N images, C classes, P processes.

Everything here is arithmetic on plain numbers. A piece that is measured at several sizes is a line; an exchange between
processes costs a latency that grows with log2 P, and a time for each byte that leaves a process.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

MIB = 2**20
BUCKETS = (1 * MIB, 25 * MIB)
"""Bytes of gradients that DistributedDataParallel sends at a time: the first time, and then."""


class Line(NamedTuple):
    """Seconds of a piece by its size."""

    fixed: float
    each: float

    def at(self, size: float) -> float:
        """Seconds of so much."""
        return self.fixed + self.each * size


def fit_line(points: Sequence[tuple[float, float]]) -> Line:
    """The line through (size, seconds) with the smallest sum of squared relative errors; nothing in it is below 0."""
    sizes, seconds = np.array(points, dtype=float).T
    (fixed, each), _ = nnls(np.stack([np.ones_like(sizes), sizes], axis=1) / seconds[:, None], np.ones_like(sizes))
    return Line(float(fixed), float(each))


class Link(NamedTuple):
    """What processes exchange data over."""

    latency: float
    """Seconds of an exchange of nothing between two."""
    each: float
    """Seconds of each byte that leaves a process."""

    def reduced(self, size: float, processes: int) -> float:
        """Seconds until all have the sum of so many bytes: around a ring each sends 2 (P - 1) / P of them."""
        return self._rounds(processes) + self.each * 2 * size * (processes - 1) / processes

    def gathered(self, size: float, processes: int) -> float:
        """Seconds until all have rows that take so many bytes in all: each sends (P - 1) / P of them."""
        return self._rounds(processes) + self.each * size * (processes - 1) / processes

    def _rounds(self, processes: int) -> float:
        return self.latency * math.log2(processes)


def fit_link(reduced: Sequence[tuple[float, float]], gathered: Sequence[tuple[float, float]]) -> Link:
    """The link between two processes from (bytes, seconds) of sums and of gathered rows."""
    sent = [*reduced, *((size / 2, seconds) for size, seconds in gathered)]
    return Link(*fit_line(sent))


@dataclass(frozen=True)
class Machine:
    """Seconds of the pieces of a process, on its share of a machine.

    Args:
        step: of a training step, by the images of one process, without reading and exchanges.
        read: of an image, from its file to the batch, on one core.
        readers: cores that read for one process while it trains; 0: it reads between its steps.
        forward: of an image that is scored, read already.
        link: between the processes.
        overlap: share of a step during which gradients may travel.
        order: of an image in the order of an epoch, which each process makes for itself.
        figure: of the score of one class of one image, from the logits to the figures.
        save: by bytes of a file.
    """

    step: Line
    read: float
    readers: int
    forward: float
    link: Link
    overlap: float
    order: float
    figure: float
    save: Line


@dataclass(frozen=True)
class Job:
    """What is trained.

    Args:
        images: N.
        scored: images that are scored after an epoch.
        labels: classes whose scores count of such an image: C, or those that are known.
        processes: P.
        batch: images of a step, of all processes together.
        parameters: bytes of the gradients.
        state: bytes of a saved state.
        exchanges: number of exchanges of the method in a step.
        reduced: bytes that it adds up over processes in a step.
        gathered: bytes that it gathers in a step, for each image of the batch.
        epoch_start: seconds of the method before an epoch.
    """

    images: int
    scored: int
    labels: int
    processes: int
    batch: int
    parameters: int
    state: int
    exchanges: int = 0
    reduced: int = 0
    gathered: float = 0.0
    epoch_start: float = 0.0

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return -(-self.images // self.batch)


def training(machine: Machine, job: Job) -> dict[str, float]:
    """Seconds of all steps of an epoch by what takes them."""
    own = job.batch / job.processes
    step, images = machine.step.at(own), job.images / job.processes
    parts = {
        "steps": job.steps * step,
        "gradients": job.steps * max(0.0, gradients(machine.link, job) - machine.overlap * step),
        "exchanges": job.steps * exchanges(machine.link, job),
    }
    reading = images * machine.read / max(1, machine.readers)
    return {**parts, "reading": max(0.0, reading - sum(parts.values())) if machine.readers else reading}


def gradients(link: Link, job: Job) -> float:
    """Seconds in which the gradients of a step are averaged, nothing else going on."""
    if job.processes == 1:
        return 0.0
    first, further = BUCKETS
    more = -(-max(0, job.parameters - first) // further)
    return link.reduced(job.parameters, job.processes) + more * link.reduced(0, job.processes)


def exchanges(link: Link, job: Job) -> float:
    """Seconds of what a method exchanges in a step, and of the word on whether to stop or save."""
    if job.processes == 1:
        return 0.0
    sent = Link(0.0, link.each)
    values = sent.reduced(job.reduced, job.processes) + sent.gathered(job.gathered * job.batch, job.processes)
    return values + (job.exchanges + 1) * link.reduced(0, job.processes)


def scoring(machine: Machine, job: Job, images: int) -> dict[str, float]:
    """Seconds of scoring a split of so many images by what takes them: forward passes, reading, figures.

    Forward passes are shared out; every process takes the figures of all scores.
    """
    own = images / job.processes
    passes, reading = own * machine.forward, own * machine.read / max(1, machine.readers)
    scores = images * job.labels
    gathering = machine.link.gathered(4 * scores, job.processes) if job.processes > 1 else 0.0
    return {
        "passes": passes,
        "reading": max(0.0, reading - passes) if machine.readers else reading,
        "figures": gathering + scores * machine.figure,
    }


def epoch(machine: Machine, job: Job) -> dict[str, float]:
    """Seconds of an epoch by what takes them."""
    scored = scoring(machine, job, job.scored)
    return {
        **training(machine, job),
        "forward passes of scoring": scored["passes"] + scored["reading"],
        "figures": scored["figures"],
        "order": job.images * machine.order * min(job.processes, 2),  # with others a process makes it twice
        "epoch start": job.epoch_start,
        "saving": machine.save.at(job.state) + machine.save.at(job.parameters),
    }


def efficiency(machine: Machine, job: Job, alone: float) -> float:
    """Speed on P processes as a share of P times that on one, whose epoch takes `alone` seconds."""
    return alone / (job.processes * sum(epoch(machine, job).values()))
