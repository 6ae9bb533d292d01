"""Speed of setting up the label correlation of CoNeS: `python -m benchmarks.correlation` (about a minute)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks import published
from benchmarks.labels import random_truth, voc_candidates
from benchmarks.measure import Result, command, in_turns
from losses.cones_prototypes import initial_correlation
from utils.cooccurrence import cooccurrence
from utils.types import Codes, LabelTable

COCO_ROWS, SCALE = 82_081, 20
"""The published way is timed on a twentieth of the rows of COCO: its cost is proportional to the rows."""


def results() -> Iterator[Result]:
    """Measure VOC 2007, and COCO with the published way scaled up."""
    codes = voc_candidates(seed=0)
    seconds = in_turns(partial(published.initial_correlation, as_tensor(codes)), partial(ours, codes), turns=3)
    yield Result(
        question="correlation set-up, C=20, N=5,011, candidates at rate .1",
        published=seconds[0],
        recorded="0.86; 3.3 s",
        ours=seconds[1],
        goal=1000,
        difference=difference(codes),
        tolerance=1e-7,
    )
    codes = random_truth(COCO_ROWS, 80, 0.084, seed=1)
    part = codes[: COCO_ROWS // SCALE]
    seconds = in_turns(partial(published.initial_correlation, as_tensor(part)), partial(ours, codes), turns=3)
    yield Result(
        question="correlation set-up, C=80, N=82,081, 8.4 % ones",
        published=seconds[0] * len(codes) / len(part),
        recorded="287 s; 92-101 s (scaled)",
        ours=seconds[1],
        goal=1000,
        difference=difference(part),
        tolerance=1e-7,
        note=f"published way timed and compared on {len(part):,} rows, time scaled by {SCALE}",
    )


def ours(codes: Codes) -> Tensor:
    """Correlation (C, C) of the criterion, with the published normalisation so that results can be compared."""
    return initial_correlation(torch.from_numpy(cooccurrence(LabelTable(codes))), axis="reference")


def as_tensor(codes: Codes) -> Tensor:
    """Candidates (N, C) as float32, as in the published code."""
    return torch.tensor(codes, dtype=torch.float32)


def difference(codes: Codes) -> float:
    """Largest difference of an entry between the two ways."""
    return float((published.initial_correlation(as_tensor(codes)) - ours(codes)).abs().max())


if __name__ == "__main__":
    command(results)
