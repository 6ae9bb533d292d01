"""What do labels of the size of OpenImages V3 cost? `python -m benchmarks.sparse_labels [--output FILE]` (minutes)."""

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

from benchmarks.measure import machine, seconds
from data.labels.files import native_path, read_native, write_native
from data.labels.regime import Regime, observe
from utils.types import ABSENT, PRESENT, UNKNOWN, Annotations, Index, LabelTable

ROWS, CLASSES, KNOWN, POSITIVE = 3_400_000, 5_000, 50, 0.1
GOAL_PEAK, GOAL_LOOK_UP = 4 * 2**30, 50e-6
LOOKED_UP = 50_000  # rows
MISSED = "MISSED"

REGIMES = (Regime(labels="known", known_rate=0.5), Regime(labels="dropped"), Regime(labels="single"))
SAVED = REGIMES[0]

Result = TypeVar("Result")


class Cost(NamedTuple):
    """What one stage took."""

    seconds: float
    note: str
    good: bool = True


class NoPictures:
    """Stands where the pictures of a dataset would be."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def open(self, row: int) -> Image.Image:
        """There is none."""
        raise NotImplementedError(row)

    def name(self, row: int) -> str:
        """The id."""
        return str(row)

    def take(self, index: Index) -> NoPictures:
        """As many as there are rows in `index`."""
        return NoPictures(len(index))

    def missing(self) -> Index:
        """None is looked for."""
        return np.empty(0, dtype=np.int64)

    def check(self) -> None:
        """Nothing to check."""


def timed(way: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds of a call, and what it returns."""
    start = perf_counter()
    result = way()
    return perf_counter() - start, result


def random_truth() -> LabelTable:
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
    """The truth that the first stage has left."""
    with np.load(folder / "truth.npz") as held:
        parts = held["data"], held["indices"], held["indptr"]
    return LabelTable(csr_array(parts, shape=(ROWS, CLASSES)), default=UNKNOWN)


def annotations_of(folder: Path) -> Annotations:
    """That truth with ids as OpenImages has them."""
    ids = tuple(f"{row:016x}" for row in range(ROWS))
    return Annotations(NoPictures(ROWS), ids, tuple(f"class {k}" for k in range(CLASSES)), truth_of(folder))


def building(folder: Path) -> Cost:
    """Make the truth; leave it for the other stages."""
    taken, table = timed(random_truth)
    assert isinstance(table.codes, csr_array)
    np.savez(folder / "truth.npz", data=table.codes.data, indices=table.codes.indices, indptr=table.codes.indptr)
    return Cost(taken, f"{number_of(table, PRESENT)} positives and {number_of(table, ABSENT)} negatives")


def hashing(folder: Path) -> Cost:
    """Hash the truth; the hash is that of the same labels stored dense."""
    taken, _ = timed(truth_of(folder).hash)
    return Cost(taken, f"of the {ROWS * CLASSES / 2**30:.1f} GiB that the table would be as a matrix")


def counting(folder: Path) -> Cost:
    """Count the known labels of each class."""
    table = truth_of(folder)
    taken, known = timed(lambda: table.counts(PRESENT) + table.counts(ABSENT))
    return Cost(taken, "positives and negatives of each class", int(known.sum()) == ROWS * KNOWN)


def looking_up(folder: Path, size: int) -> Cost:
    """Dense rows of batches in random order, time an image."""
    table = truth_of(folder)
    batches = np.random.default_rng(size).integers(0, ROWS, (LOOKED_UP // size, size))
    taken, _ = timed(lambda: [table.rows(one) for one in batches])
    each = taken / batches.size
    return Cost(each, f"an image; goal {seconds(GOAL_LOOK_UP)}", each < GOAL_LOOK_UP)


def drawing(folder: Path, regime: Regime) -> Cost:
    """Draw observed labels."""
    annotations = annotations_of(folder)
    taken, table = timed(lambda: observe(annotations, regime))
    return Cost(taken, f"{number_of(table, PRESENT)} positives and {number_of(table, ABSENT)} negatives")


def saving(folder: Path) -> Cost:
    """Write drawn labels to a label file."""
    annotations = annotations_of(folder)
    table = observe(annotations, SAVED)
    path = native_path(folder, "openimages", SAVED, annotations)
    taken, _ = timed(lambda: write_native(path, table, annotations, "openimages", SAVED))
    size = sum(file.stat().st_size for file in folder.glob(f"{path.stem}*"))
    return Cost(taken, f"{size / 2**20:,.0f} MiB; with its hashes")


def loading(folder: Path) -> Cost:
    """Read that file."""
    annotations = annotations_of(folder)
    path = native_path(folder, "openimages", SAVED, annotations)
    taken, table = timed(lambda: read_native(path, annotations, SAVED))
    return Cost(taken, "checked against truth and hashes", table.num_classes == CLASSES and len(table) == ROWS)


def number_of(table: LabelTable, code: int) -> str:
    """How many entries hold a code."""
    return f"{int(table.counts(code).sum()):,}"


STAGES: dict[str, Callable[[Path], Cost]] = {
    "building the truth": building,
    "hash": hashing,
    "counts": counting,
    **{f"rows, {size} at a time": partial(looking_up, size=size) for size in (16, 256)},
    **{f"drawing {regime.name!r} labels": partial(drawing, regime=regime) for regime in REGIMES},
    "writing a label file": saving,
    "reading it": loading,
}


def costs(folder: Path) -> Iterator[tuple[str, ...]]:
    """Every stage in a process of its own, so that each has its own peak of memory: the rows of the table."""
    for stage in STAGES:
        words = [sys.executable, "-m", "benchmarks.sparse_labels", "--stage", stage, "--folder", str(folder)]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
        taken, note, good, peak = json.loads(done.stdout)
        reached = good and peak < GOAL_PEAK
        yield stage, seconds(taken), f"{peak / 2**30:.2f} GiB", note, "reached" if reached else MISSED


def measure(stage: str, folder: Path) -> None:
    """One stage, here; its cost and this process's highest memory go to the parent as a line of JSON."""
    cost = STAGES[stage](folder)
    print(json.dumps([*cost, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))


def main() -> int:
    """Measure, print, write; 1 when a stage gives something wrong or misses its goal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sparse_labels", description=__doc__, allow_abbrev=False)
    parser.add_argument("--output", type=Path, help="also write the table to this Markdown file")
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
    if given.output is not None:
        given.output.write_text(report(rows))
    return int(any(row[-1] == MISSED for row in rows))


def report(rows: Sequence[tuple[str, ...]]) -> str:
    """The page of results."""
    shape = f"{ROWS:,} rows of {CLASSES:,} classes, {KNOWN} known a row"
    lines = [("stage", "time", "peak memory", "note", "goal"), ("---",) * 5, *rows]
    return "\n".join(
        [
            "# Labels of the size of OpenImages V3",
            "",
            f"Written by `python -m benchmarks.sparse_labels`: {shape},",
            "each stage in a process of its own. Peak memory is that of the whole process, Python and torch included;",
            f"the goal is {GOAL_PEAK / 2**30:g} GiB.",
            "",
            f"{machine()}.",
            "",
            *(f"| {' | '.join(line)} |" for line in lines),
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
