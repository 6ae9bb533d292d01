"""Cost of labels of the size of OpenImages V3: `python -m benchmarks.sparse_labels [--output FILE]` (minutes)."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image
from scipy.sparse import csr_array

from benchmarks.measure import finish, machine, markdown_table, options, seconds
from data.labels.files import native_path, read_native, write_native
from data.labels.regime import Regime, observe
from utils.types import ABSENT, PRESENT, UNKNOWN, Annotations, Index, LabelTable

ROWS, CLASSES, KNOWN, POSITIVE = 3_400_000, 5_000, 50, 0.1
GOAL_PEAK, GOAL_LOOK_UP = 4 * 2**30, 50e-6
LOOKED_UP = 50_000  # rows
MISSED = "MISSED"

REGIMES = (Regime(labels="known", known_rate=0.5), Regime(labels="dropped"), Regime(labels="single"))
SAVED = REGIMES[0]

Value = TypeVar("Value")


class StageCost(NamedTuple):
    """Time of one stage, and a note."""

    seconds: float
    note: str
    good: bool = True


class NoImages:
    """Stand-in for the images of a dataset."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def open(self, row: int) -> Image.Image:
        """Raise NotImplementedError."""
        raise NotImplementedError(row)

    def name(self, row: int) -> str:
        """Number of the row."""
        return str(row)

    def label(self, row: int) -> str:
        """Number of the row in a message."""
        return f"image {row}"

    def take(self, index: Index) -> NoImages:
        """Stand-in for the rows `index`."""
        return NoImages(len(index))

    def missing(self) -> Index:
        """No rows."""
        return np.empty(0, dtype=np.int64)

    def check(self) -> None:
        """Do nothing."""

    def faults(self) -> list[tuple[int, str]]:
        """No rows."""
        return []


def timed(function: Callable[[], Value]) -> tuple[float, Value]:
    """Seconds of a call, and its result."""
    start = perf_counter()
    result = function()
    return perf_counter() - start, result


def random_truth(rows: int = ROWS) -> LabelTable:
    """Truth as verified by people: `KNOWN` of `CLASSES` in each row, a tenth of them positive."""
    rng, width = np.random.default_rng(0), CLASSES // KNOWN
    columns = rng.integers(0, width, (ROWS, KNOWN), dtype=np.int16).astype(np.int32)
    columns += np.arange(0, CLASSES, width, dtype=np.int32)  # one of each stretch of classes: sorted, none twice
    codes = np.empty(ROWS * KNOWN, dtype=np.int8)
    for part in np.array_split(codes, 100):
        part[:] = rng.random(len(part), dtype=np.float32) < POSITIVE
    ends = np.arange(0, ROWS * KNOWN + 1, KNOWN, dtype=np.int32)
    return LabelTable(csr_array((codes, columns.reshape(-1), ends), shape=(ROWS, CLASSES)), default=UNKNOWN)


def truth_of(folder: Path) -> LabelTable:
    """Read the truth that the first stage has written."""
    with np.load(folder / "truth.npz") as file:
        parts = file["data"], file["indices"], file["indptr"]
    return LabelTable(csr_array(parts, shape=(ROWS, CLASSES)), default=UNKNOWN)


def annotations_of(folder: Path) -> Annotations:
    """That truth with ids as OpenImages has them."""
    ids = tuple(f"{row:016x}" for row in range(ROWS))
    return Annotations(NoImages(ROWS), ids, tuple(f"class {k}" for k in range(CLASSES)), truth_of(folder))


def building(folder: Path) -> StageCost:
    """Make the truth, and write it for the other stages."""
    taken, table = timed(random_truth)
    assert isinstance(table.codes, csr_array)
    np.savez(folder / "truth.npz", data=table.codes.data, indices=table.codes.indices, indptr=table.codes.indptr)
    return StageCost(taken, f"{number_of(table, PRESENT)} positives and {number_of(table, ABSENT)} negatives")


def hashing(folder: Path) -> StageCost:
    """Hash the truth; the hash equals that of the same labels stored dense."""
    taken, _ = timed(truth_of(folder).hash)
    return StageCost(taken, f"of the {ROWS * CLASSES / 2**30:.1f} GiB that the table would be as a matrix")


def counting(folder: Path) -> StageCost:
    """Count the known labels of each class."""
    table = truth_of(folder)
    taken, known = timed(lambda: table.counts(PRESENT) + table.counts(ABSENT))
    return StageCost(taken, "positives and negatives of each class", int(known.sum()) == ROWS * KNOWN)


def looking_up(folder: Path, size: int) -> StageCost:
    """Look up the dense rows of random batches; the time is per image."""
    table = truth_of(folder)
    batches = np.random.default_rng(size).integers(0, ROWS, (LOOKED_UP // size, size))
    taken, _ = timed(lambda: [table.rows(one) for one in batches])
    each = taken / batches.size
    return StageCost(each, f"per image; goal {seconds(GOAL_LOOK_UP)}", each < GOAL_LOOK_UP)


def drawing(folder: Path, regime: Regime) -> StageCost:
    """Draw observed labels."""
    annotations = annotations_of(folder)
    taken, table = timed(lambda: observe(annotations, regime))
    return StageCost(taken, f"{number_of(table, PRESENT)} positives and {number_of(table, ABSENT)} negatives")


def saving(folder: Path) -> StageCost:
    """Write drawn labels to a label file."""
    annotations = annotations_of(folder)
    table = observe(annotations, SAVED)
    path = native_path(folder, "openimages", SAVED, annotations)
    taken, _ = timed(lambda: write_native(path, table, annotations, "openimages", SAVED))
    size = sum(file.stat().st_size for file in folder.glob(f"{path.stem}*"))
    return StageCost(taken, f"{size / 2**20:,.0f} MiB; with its hashes")


def loading(folder: Path) -> StageCost:
    """Read that file."""
    annotations = annotations_of(folder)
    path = native_path(folder, "openimages", SAVED, annotations)
    taken, table = timed(lambda: read_native(path, annotations, SAVED))
    return StageCost(taken, "checked against truth and hashes", table.num_classes == CLASSES and len(table) == ROWS)


def number_of(table: LabelTable, code: int) -> str:
    """Number of entries with a code, as text."""
    return f"{int(table.counts(code).sum()):,}"


STAGES: dict[str, Callable[[Path], StageCost]] = {
    "building the truth": building,
    "hash": hashing,
    "counts": counting,
    **{f"rows, {size} at a time": partial(looking_up, size=size) for size in (16, 256)},
    **{f"drawing {regime.name!r} labels": partial(drawing, regime=regime) for regime in REGIMES},
    "writing a label file": saving,
    "reading it": loading,
}


def costs(folder: Path) -> Iterator[tuple[str, ...]]:
    """Run every stage in a process of its own, with its own memory peak; yield the rows of the table."""
    for stage in STAGES:
        words = [sys.executable, "-m", "benchmarks.sparse_labels", "--stage", stage, "--folder", str(folder)]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
        taken, note, good, peak = json.loads(done.stdout)
        reached = good and peak < GOAL_PEAK
        yield stage, seconds(taken), f"{peak / 2**30:.2f} GiB", note, "reached" if reached else MISSED


def measure(stage: str, folder: Path) -> None:
    """Run one stage in this process; print its cost and the memory peak as a line of JSON for the parent."""
    cost = STAGES[stage](folder)
    print(json.dumps([*cost, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))


def main() -> int:
    """Measure, print, write; 1 when a stage gives something wrong or misses its goal."""
    parser = options("sparse_labels", __doc__)
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage:
        measure(given.stage, given.folder)
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in costs(Path(folder)):
            print("  ".join(row), flush=True)
            rows.append(row)
    finish("sparse_labels", "Labels of the size of OpenImages V3", report(rows), given.output)
    return int(any(row[-1] == MISSED for row in rows))


def report(rows: Sequence[tuple[str, ...]]) -> str:
    """Describe the measurement, and return the table."""
    setting = (
        f"{ROWS:,} rows of {CLASSES:,} classes, {KNOWN} known per row, each stage in its own process. Peak memory is\n"
        f"that of the whole process, Python and torch included; the goal is {GOAL_PEAK / 2**30:g} GiB."
    )
    table = markdown_table(("stage", "time", "peak memory", "note", "goal"), rows)
    return f"{setting}\n\n{machine()}.\n\n{table}"


if __name__ == "__main__":
    sys.exit(main())
