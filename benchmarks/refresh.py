"""Speed of the refresh of the label correlation after each epoch: `python -m benchmarks.refresh` (about a minute)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks import published
from benchmarks.measure import Result, command, in_turns
from losses.cones_prototypes import initial_correlation, refresh_correlation

ROWS, WIDTH, CLUSTERS, GAMMA = 256, 2048, 5, 0.99
TIMED = 8
"""Classes on which the published way is timed at C=80: 64 of its 6,400 fits."""


def results() -> Iterator[Result]:
    """Measure full banks of 20 classes, and of 80 with the published way scaled up."""
    old, memory = start(20)
    seconds = in_turns(partial(theirs, old, memory), partial(ours, old, memory), turns=5)
    yield Result(
        question="correlation refresh, C=20, bank 256 x 2048 per class, 5 clusters",
        published=seconds[0],
        recorded="2.7; 3.3 s",
        ours=seconds[1],
        goal=15,
        difference=difference(old, memory),
        tolerance=1e-6,
    )
    old, memory = start(80)
    old_part, memory_part = start(TIMED)
    seconds = in_turns(partial(theirs, old_part, memory_part), partial(ours, old, memory), turns=7)
    yield Result(
        question="correlation refresh, C=80, bank 256 x 2048 per class, 5 clusters",
        published=seconds[0] * (len(memory) / TIMED) ** 2,
        recorded="42 s (scaled)",
        ours=seconds[1],
        goal=70,
        difference=difference(old_part, memory_part),
        tolerance=1e-6,
        note=f"published way timed and compared on {TIMED} classes, {TIMED**2} fits, time scaled to 6,400",
    )


def start(classes: int) -> tuple[Tensor, list[Tensor]]:
    """Correlation (C, C), and a bank (256, 2048) per class: absolute values of noise around a class mean."""
    draw = torch.Generator().manual_seed(classes)
    centre = torch.randn(classes, 1, WIDTH, generator=draw)
    memory = list((centre + torch.randn(classes, ROWS, WIDTH, generator=draw)).abs())
    labels = (torch.rand(1000, classes, generator=draw) < 0.2).double()
    return initial_correlation(labels.T @ labels, axis="reference"), memory


def theirs(old: Tensor, memory: list[Tensor]) -> Tensor:
    """Correlation (C, C) refreshed the published way."""
    return published.refreshed_correlation(old, memory, CLUSTERS, GAMMA)


def ours(old: Tensor, memory: list[Tensor]) -> Tensor:
    """Correlation (C, C) refreshed by our code, with the published mixing so that results can be compared."""
    return refresh_correlation(old, memory, clusters=CLUSTERS, gamma=GAMMA, axis="reference", mix="raw")


def difference(old: Tensor, memory: list[Tensor]) -> float:
    """Largest difference of an entry between the two ways."""
    return float((theirs(old, memory) - ours(old, memory)).abs().max())


if __name__ == "__main__":
    command(results)
