"""How much of the start of a run is hashing: `python -m benchmarks.hashing FOLDER TABLE [--output FILE]`.

FOLDER has VOC's `JPEGImages` and `Annotations`, TABLE names its photographs. A run on them is started by its command
until its first step, with files and caches warm; beside that stand the seconds in which annotations (as a run of VOC
does it), photographs and rows are hashed. Goal: less than 2 %. Both are told in seconds and in seconds of the CPU,
which depend little on what else the machine does.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.measure import finish, machine, markdown_table, options
from data.datasets.source import DatasetSource
from data.datasets.table.config import TableConfig
from data.datasets.table.reader import load_table
from data.datasets.voc import READER
from data.files.cache import Cache, fingerprint
from data.images.files import file_marks

ROOT = Path(__file__).resolve().parents[1]
TIMES = 5
FLAGS = "--dataset table --model resnet50 --weights none --img_size 224 --batch_size 8 --epochs 1 --warmup_epoch 0"


class Cost(NamedTuple):
    """What something takes."""

    seconds: float
    cpu: float
    """Seconds of the CPU, user's and system's."""


def clock() -> Cost:
    """Seconds until now, of this process and of all that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return Cost(time.perf_counter(), sum(each.ru_utime + each.ru_stime for each in used))


def since(start: Cost) -> Cost:
    """What it took from a clock until now."""
    now = clock()
    return Cost(now.seconds - start.seconds, now.cpu - start.cpu)


def middle(costs: Iterable[Cost]) -> Cost:
    """The medians of both."""
    return Cost(*map(median, zip(*costs, strict=True)))


def started(folder: Path, table: Path, work: Path) -> Cost:
    """What a training command takes from its start to its first step, at which it is stopped."""
    start = clock()
    words = [
        sys.executable,
        "-u",
        "main_BCE.py",
        *FLAGS.split(),
        "--path_images",
        folder / "JPEGImages",
        "--table",
        table,
        "--output",
        work / "run",
    ]
    with subprocess.Popen(list(map(str, words)), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("device:"):
                break
        seconds = time.perf_counter() - start.seconds
        process.kill()
        process.wait()
    cost = Cost(seconds, since(start).cpu)
    for path in sorted((work / "run").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    return cost


def hashing(folder: Path, table: Path, work: Path) -> dict[str, Callable[[], object]]:
    """What is hashed at the start of a run, by name."""
    source = DatasetSource(folder / "JPEGImages", Path(), 0, Cache(work / "cache"), True, TableConfig(table=(table,)))
    splits = load_table(source)
    parts = [part for part in (splits.train, splits.validation, splits.test) if part is not None]
    images = [part.images.name(row) for part in parts for row in range(len(part))]
    files = [folder / "Annotations" / f"{Path(image).stem}.xml" for image in images]
    return {
        f"content of {len(files):,} annotations": lambda: fingerprint(READER, files),
        f"size, time and ends of {len(images):,} photographs": lambda: file_marks(images),
        "rows, classes and labels": lambda: [part.content_hash() for part in parts],
    }


def main() -> int:
    """Measure, print, write."""
    parser = options("hashing", __doc__)
    parser.add_argument("folder", type=Path, help="folder VOC2007 with photographs and annotations")
    parser.add_argument("table", type=Path, help="table of the photographs")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        started(given.folder, given.table, work)  # warms files and caches
        whole = middle(started(given.folder, given.table, work) for _ in range(TIMES))
        costs = {
            name: middle(timed(hash_all) for _ in range(TIMES))
            for name, hash_all in hashing(given.folder, given.table, work).items()
        }
    costs["hashing in all (goal: less than 2 %)"] = Cost(*map(sum, zip(*costs.values(), strict=True)))
    rows = [("a run to its first step", f"{whole.seconds:.2f}", "", f"{whole.cpu:.2f}", "")]
    for name, cost in costs.items():
        shares = cost.seconds / whole.seconds, cost.cpu / whole.cpu
        rows.append((name, f"{cost.seconds:.3f}", f"{shares[0]:.1%}", f"{cost.cpu:.3f}", f"{shares[1]:.1%}"))
    table = markdown_table(("photographs of VOC 2007, warm files", "seconds", "share", "of the CPU", "share"), rows)
    finish("hashing", "Hashing at the start of a run", f"{machine()}. Medians of {TIMES}.\n\n{table}", given.output)
    return 0


def timed(work: Callable[[], object]) -> Cost:
    """What a piece of work takes."""
    start = clock()
    work()
    return since(start)


if __name__ == "__main__":
    sys.exit(main())
