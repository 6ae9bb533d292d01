"""How long the annotations of VOC take: `python -m benchmarks.annotations FOLDER [--output FILE]`.

FOLDER holds `VOC2007` and `VOC2012` with all their annotation files; pictures are not needed. Goals: all 27,088 files
are parsed in seconds, and the second start takes less than half a second.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import machine
from data.datasets.source import DatasetSource
from data.datasets.voc import load_voc, read_objects
from data.files.cache import Cache

YEARS = (2007, 2012)


def load(folder: Path, cache: Path) -> int:
    """Read both years as a run does; the number of pictures that their lists name."""
    source = DatasetSource(folder, Path(), 0, Cache(cache), need_images=False)
    return sum(len(part) for year in YEARS for part in load_voc(source, year)[:2])


def parse(folder: Path) -> int:
    """Parse every annotation file there is; their number."""
    files = [file for year in YEARS for file in (folder / f"VOC{year}" / "Annotations").glob("*.xml")]
    for file in files:
        read_objects(file)
    return len(files)


def timed(work: Callable[[], int]) -> tuple[int, float]:
    """What the work returns, and the seconds it took."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.annotations", description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="holds VOC2007 and VOC2012")
    parser.add_argument("--output", type=Path, help="also write the table to this Markdown file")
    options = parser.parse_args()
    rows = ["| what | files or pictures | seconds | goal |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as cache:
        for what, work, goal in (
            ("parsing every annotation file", lambda: parse(options.folder), "seconds"),
            ("both years, nothing cached", lambda: load(options.folder, Path(cache)), "seconds"),
            ("both years, the second start", lambda: load(options.folder, Path(cache)), "0.5"),
        ):
            count, seconds = timed(work)
            rows.append(f"| {what} | {count:,} | {seconds:.2f} | {goal} |")
    table = "\n".join([f"{machine()}.", "", *rows, ""])
    print(table)
    if options.output is not None:
        options.output.write_text(f"# Annotations of VOC\n\nWritten by `python -m benchmarks.annotations`.\n\n{table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
