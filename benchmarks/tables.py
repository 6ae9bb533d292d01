"""Time and memory to read a user's table of a million lines: `python -m benchmarks.tables [--output FILE]`.

Goals, on one core: under 15 s and 2 GiB for a million lines and 20 classes, of which the looking takes under 2 s.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measure import finish, machine, markdown_table, options
from data.datasets.table.columns import labels_of, read_table
from data.datasets.table.config import TableConfig
from data.datasets.table.seen import look
from data.datasets.table.sheet import read_sheet

ROWS, CLASSES = 1_000_000, 20


def write(path: Path, joined: bool, rows: int = ROWS) -> None:
    """A table of random labels: a column per class with unknowns, or the names in a cell."""
    rng = np.random.default_rng(0)
    names = [f"class{k}" for k in range(CLASSES)]
    with path.open("w") as file:
        file.write(f"image,{'labels' if joined else ','.join(names)},split\n")
        for row, codes in enumerate(rng.integers(-1, 2, (rows, CLASSES)).tolist()):
            present = ";".join(name for name, code in zip(names, codes, strict=True) if code == 1)
            cells = present if joined else ",".join(map(str, codes))
            file.write(f"images/{row:07d}.jpg,{cells},{'train' if row % 5 else 'test'}\n")


def measured(path: Path) -> tuple[float, float, float]:
    """Seconds to read a table, those of the looking, and the peak of memory in GiB; in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (path,))


def _measure(path: Path) -> tuple[float, float, float]:
    config = TableConfig(table=(path,))
    start = time.perf_counter()
    labels = labels_of(read_table(path, config, None, path.parent), config)
    whole = time.perf_counter() - start
    assert labels.codes.shape == (ROWS, CLASSES)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sheet = read_sheet(path)
    start = time.perf_counter()
    look(sheet)
    return whole, time.perf_counter() - start, peak


def main() -> int:
    """Measure, print, write."""
    given = options("tables", __doc__).parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for form, joined in (("a column per class", False), ("names in a cell", True)):
            path = Path(folder) / f"{joined}.csv"
            write(path, joined)
            whole, looking, peak = measured(path)
            rows.append((form, f"{whole:.1f}", "15", f"{looking:.2f}", "2", f"{peak:.2f}", "2"))
    headings = ("1,000,000 lines x 20 classes", "seconds", "goal", "of them looking", "goal", "GiB", "goal")
    finish("tables", "Tables of one's own", f"{machine()}.\n\n{markdown_table(headings, rows)}", given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
