"""Time and memory to read a user's table of a million lines: `python -m benchmarks.tables [--output FILE]`.

Goals, on one core: under 15 s and 2 GiB for a million lines and 20 classes, of which the looking takes under 2 s. Times
are those of the CPU, as reading takes one thread and others may use the machine. Then tables of thousands of tags, with
the test images chosen: memory in bytes for each of the images' labels, of which `data/datasets/dense.py` allows 4.
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
from data.datasets.dense import COPIES
from data.datasets.source import DatasetSource
from data.datasets.table.config import TableConfig
from data.datasets.table.formats import read_tables
from data.datasets.table.reader import load_table
from data.datasets.table.seen import look
from data.datasets.table.sheet import read_sheet
from data.files.cache import Cache

ROWS, CLASSES, TAGS = 1_000_000, 20, 3000


def write(path: Path, joined: bool, rows: int = ROWS, first: int = 0) -> None:
    """A table of random labels: a column per class with unknowns, or the names in a cell; images from `first` on."""
    rng = np.random.default_rng(0)
    names = [f"class{k}" for k in range(CLASSES)]
    with path.open("w") as file:
        file.write(f"image,{'labels' if joined else ','.join(names)},split\n")
        for row, codes in enumerate(rng.integers(-1, 2, (rows, CLASSES)).tolist()):
            present = ";".join(name for name, code in zip(names, codes, strict=True) if code == 1)
            cells = present if joined else ",".join(map(str, codes))
            file.write(f"images/{first + row:07d}.jpg,{cells},{'train' if row % 5 else 'test'}\n")


def measured(*paths: Path) -> tuple[float, float, float]:
    """CPU seconds to read a table, or several, and those of the looking, and the peak of memory in GiB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (paths,))


def _measure(paths: tuple[Path, ...]) -> tuple[float, float, float]:
    config, folder = TableConfig(table=paths, repeated="union"), paths[0].parent
    source = DatasetSource(folder, folder, 0, Cache(folder / "cache"), False, config)
    start = time.process_time()
    labels = read_tables(source, paths, lambda _: None)
    whole = time.process_time() - start
    assert labels.codes.shape == (ROWS, CLASSES)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    looking = 0.0
    for path in paths:
        sheet = read_sheet(path)
        start = time.process_time()
        look(sheet)
        looking += time.process_time() - start
    return whole, looking, peak


def write_tags(path: Path, images: int, tags: int, form: str) -> None:
    """A table of some four tags an image, a few of them frequent: in a cell, a line each, or in two lines a person."""
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        file.write("image,labels\n")
        for image in range(images):
            names = [f"tag{tag}" for tag in sorted({*(rng.zipf(1.5, 4) % tags).tolist()})]
            cells = names if form == "lines" else ["|".join(names), "|".join(names[:2])][: 2 if form == "people" else 1]
            file.writelines(f"images/{image:07d}.jpg,{cell}\n" for cell in cells)


def measured_tags(path: Path, repeated: str) -> tuple[float, float]:
    """CPU seconds until the images of training and test are known, and the peak of bytes for each label."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure_tags, (path, repeated))


def _measure_tags(path: Path, repeated: str) -> tuple[float, float]:
    source = DatasetSource(
        path.parent, path.parent, 0, Cache(path.parent / "cache"), False, TableConfig(table=(path,), repeated=repeated)
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    splits = load_table(source)
    spent = time.process_time() - start
    labels = (len(splits.train) + len(splits.test)) * len(splits.train.classes)
    return spent, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / labels


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
        for form, first in (("two tables of other images", ROWS // 2), ("two of which half are the same", ROWS // 4)):
            paths = (Path(folder) / "a.csv", Path(folder) / "b.csv")
            write(paths[0], False, ROWS - first)
            write(paths[1], True, ROWS - first, first)
            whole, looking, peak = measured(*paths)
            rows.append((form, f"{whole:.1f}", "", f"{looking:.2f}", "", f"{peak:.2f}", ""))
        tags = []
        for form, name, images, repeated in (
            ("in a cell", "cell", 200_000, "refuse"),
            ("a line each", "lines", 200_000, "refuse"),
            ("of two people, `--repeated union`", "people", 100_000, "union"),
        ):
            path = Path(folder) / f"{name}.csv"
            write_tags(path, images, TAGS, name)
            spent, size = measured_tags(path, repeated)
            tags.append((f"{images:,} x {TAGS:,}, {form}", f"{spent:.1f}", f"{size:.1f}", str(COPIES)))
    headings = ("1,000,000 lines x 20 classes", "CPU seconds", "goal", "of them looking", "goal", "GiB", "goal")
    of_tags = ("images x tags", "CPU seconds", "bytes per label", "goal")
    tables = f"{markdown_table(headings, rows)}\n\n{markdown_table(of_tags, tags)}"
    finish("tables", "Tables of one's own", f"{machine()}.\n\n{tables}", given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
