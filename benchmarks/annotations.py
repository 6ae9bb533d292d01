"""Time to read the annotations of VOC: `python -m benchmarks.annotations FOLDER [--output FILE]`.

FOLDER contains `VOC2007` and `VOC2012` with all their annotation files; images are not needed. Goals: all 27,088 files
are parsed in seconds, and the second start takes less than half a second.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import finish, machine, markdown_table, options
from data.datasets.source import DatasetSource
from data.datasets.voc import load_voc, read_objects
from data.files.cache import Cache

YEARS = (2007, 2012)


def load(folder: Path, cache: Path) -> int:
    """Read both years as a run does; return the number of images in their lists."""
    source = DatasetSource(folder, Path(), 0, Cache(cache), need_images=False)
    return sum(len(part) for year in YEARS for part in load_voc(source, year)[:2])


def parse(folder: Path) -> int:
    """Parse every annotation file; return their number."""
    files = [file for year in YEARS for file in (folder / f"VOC{year}" / "Annotations").glob("*.xml")]
    for file in files:
        read_objects(file)
    return len(files)


def timed(work: Callable[[], int]) -> tuple[int, float]:
    """Result of the work, and the seconds it took."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def main() -> int:
    """Measure, print, write."""
    parser = options("annotations", __doc__)
    parser.add_argument("folder", type=Path, help="folder with VOC2007 and VOC2012")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for task, work, goal in (
            ("parsing every annotation file", lambda: parse(given.folder), "seconds"),
            ("both years, nothing cached", lambda: load(given.folder, Path(cache)), "seconds"),
            ("both years, the second start", lambda: load(given.folder, Path(cache)), "0.5"),
        ):
            count, seconds = timed(work)
            rows.append((task, f"{count:,}", f"{seconds:.2f}", goal))
    table = markdown_table(("task", "files or images", "seconds", "goal"), rows)
    finish("annotations", "Annotations of VOC", f"{machine()}.\n\n{table}", given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
