"""Cost of confidences kept at candidates alone: `python -m benchmarks.candidate_memory [--output FILE]` (a minute).

CoNeS and NDLP take whole steps on random logits, without a network: look-up, loss and update of all that they keep.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from time import process_time
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array

from benchmarks.measure import MIB, finish, machine, markdown_table, options, seconds
from losses import build_criterion
from losses.common.base import Criterion
from utils.types import ABSENT, Batch, LabelTable, ModelOutput

SIZES, CLASSES, CANDIDATES = (10_000, 100_000, 1_000_000), 1_000, 5
BATCH, STEPS, WARM_UP, WIDTH = 64, 30, 3, 16
GOAL_PEAK, GOAL_GROWTH = 1024 * MIB, 1.5
MISSED = "MISSED"

METHODS: Mapping[str, Mapping[str, Any]] = {"cones": {"feature_width": WIDTH}, "ndlp": {"prior": "candidate"}}


class Cost(NamedTuple):
    """Cost of one method on so many images. Times are seconds of one thread of a CPU."""

    built: float
    epoch_start: float
    memory: float
    """Per image, to read its confidences and write them."""
    step: float
    """Per image, of a whole step."""
    kept: int
    """Bytes of the confidences."""
    peak: int
    """Bytes of the whole process."""


class RandomModel:
    """Random logits, feature maps and activation maps instead of a network."""

    def __init__(self) -> None:
        self.random = torch.Generator().manual_seed(0)

    def __call__(self, images: torch.Tensor, want: frozenset[str] = frozenset()) -> ModelOutput:
        """Output for so many images."""
        logits = torch.randn(len(images), CLASSES, generator=self.random)
        features = torch.rand(len(images), WIDTH, 2, 2, generator=self.random)
        cam = logits[:, :, None, None].expand(-1, -1, 2, 2).contiguous() if "cam" in want else None
        return ModelOutput(logits, features, cam)


def random_candidates(images: int) -> LabelTable:
    """Sparse labels with `CANDIDATES` candidates per image, one of each stretch of classes."""
    width = CLASSES // CANDIDATES
    columns = np.random.default_rng(0).integers(0, width, (images, CANDIDATES), dtype=np.int32)
    columns += np.arange(0, CLASSES, width, dtype=np.int32)
    ends = np.arange(0, images * CANDIDATES + 1, CANDIDATES, dtype=np.int32)
    codes = np.ones(images * CANDIDATES, dtype=np.int8)
    return LabelTable(csr_array((codes, columns.reshape(-1), ends), shape=(images, CLASSES)), default=ABSENT)


def batches(table: LabelTable) -> Iterator[Batch]:
    """Random batches, as a loader makes them."""
    rng, images = np.random.default_rng(1), torch.zeros(BATCH, 3, 1, 1)
    for _ in range(WARM_UP + STEPS):
        rows = rng.integers(0, len(table), BATCH)
        index = torch.from_numpy(rows)
        yield Batch(images, torch.from_numpy(table.rows(rows)).float(), index, host_index=index)


def cost_of(method: str, images: int) -> Cost:
    """Take steps of a method on so many images, in this process."""
    torch.set_num_threads(1)
    table, model = random_candidates(images), RandomModel()
    begun = process_time()
    criterion = build_criterion(method, observed=table, **METHODS[method])
    built = process_time()
    criterion.on_epoch_start(1)
    started = process_time()
    both = [_step_times(criterion, model, batch) for batch in batches(table)]
    memory, step = (statistics.median(times) / BATCH for times in zip(*both[WARM_UP:], strict=True))
    kept = sum(each.nbytes for name, each in criterion.named_buffers() if name.startswith("confidence."))
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Cost(built - begun, started - built, memory, step, kept, peak)


def _step_times(criterion: Criterion, model: RandomModel, batch: Batch) -> tuple[float, float]:
    """Seconds of reading and writing a batch's confidences, and of a whole step."""
    begun = process_time()
    rows = criterion.confidence.rows(batch.index, batch.host_index)
    criterion.confidence.write(batch, rows)
    kept = process_time()
    criterion(model, batch)
    return kept - begun, process_time() - kept


def costs() -> Iterator[tuple[str, int, Cost]]:
    """Measure each method and size in a process of its own, with its own memory peak."""
    for method, images in product(METHODS, SIZES):
        words = [sys.executable, "-m", "benchmarks.candidate_memory", "--method", method, "--images", str(images)]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
        yield method, images, Cost(*json.loads(done.stdout))


def cells(method: str, images: int, cost: Cost, first: Cost) -> tuple[str, ...]:
    """Row of the table; `first` is the cost on the fewest images."""
    growth = cost.step / first.step
    reached = cost.peak < GOAL_PEAK and growth < GOAL_GROWTH
    times = (seconds(each) for each in (cost.built, cost.epoch_start, cost.memory, cost.step))
    sizes = f"{cost.kept / MIB:,.1f} MiB", f"{cost.peak / MIB:,.0f} MiB"
    return method, f"{images:,}", *times, f"{growth:.2f}", *sizes, "reached" if reached else MISSED


HEADINGS = (
    *("method", "images", "built", "epoch starts", "confidences, per image", "step, per image", "of the first"),
    *("confidences", "peak memory", "goal"),
)


def report(rows: Sequence[tuple[str, ...]]) -> str:
    """Describe the measurement, and return the table."""
    setting = (
        f"Random labels of {CLASSES:,} classes with {CANDIDATES} candidates per image; CPU time of one thread,\n"
        f"medians of {STEPS} steps of {BATCH} random images, on random logits and feature maps {WIDTH} wide,\n"
        "without a network. CoNeS's bank of prototypes, whose size follows from classes and width and\n"
        "not from images, is small here. `confidences, per image` is reading and writing them alone.\n"
        "Each row is a process of its own, and peak memory is all of it, with Python, torch and labels.\n"
        f"Goals: less than {GOAL_PEAK / 2**30:g} GiB, and a step that takes less than {GOAL_GROWTH:g} times what\n"
        f"it takes with {SIZES[0]:,} images."
    )
    return f"{setting}\n\n{machine()}.\n\n{markdown_table(HEADINGS, rows)}"


def main() -> int:
    """Measure, print, write; 1 when a goal is missed."""
    parser = options("candidate_memory", __doc__)
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.method:
        print(json.dumps(cost_of(given.method, given.images)))
        return 0
    rows: list[tuple[str, ...]] = []
    first: dict[str, Cost] = {}
    for method, images, cost in costs():
        rows.append(cells(method, images, cost, first.setdefault(method, cost)))
        print("  ".join(rows[-1]), flush=True)
    finish("candidate_memory", "Confidences at candidates alone", report(rows), given.output)
    return int(any(row[-1] == MISSED for row in rows))


if __name__ == "__main__":
    sys.exit(main())
