"""How much of the start of a run is hashing: `python -m benchmarks.hashing FOLDER [--output FILE]`.

FOLDER is a VOCdevkit with photographs. A run of VOC 2007 is started by its command until its first step, with files and
caches warm; beside that stand the seconds in which annotations, images and rows are hashed. Goal: less than 2 %.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks.measure import finish, machine, markdown_table, options
from data.datasets.source import DatasetSource
from data.datasets.voc import READER, load_voc
from data.files.cache import Cache, fingerprint
from data.images.files import file_marks

ROOT = Path(__file__).resolve().parents[1]
TIMES = 5
FLAGS = "--dataset voc07 --model resnet50 --weights none --img_size 224 --batch_size 8 --epochs 1 --warmup_epoch 0"


def started(folder: Path, work: Path) -> float:
    """Seconds from the start of a training command to its first step, at which it is stopped."""
    start = time.perf_counter()
    words = [sys.executable, "-u", "main_BCE.py", *FLAGS.split(), "--path_images", folder, "--output", work / "run"]
    with subprocess.Popen(list(map(str, words)), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("device:"):
                break
        seconds = time.perf_counter() - start
        process.kill()
    for path in sorted((work / "run").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    return seconds


def hashing(folder: Path, work: Path) -> dict[str, Callable[[], object]]:
    """What is hashed at the start of a run, by name."""
    splits = load_voc(DatasetSource(folder, Path(), 0, Cache(work / "cache"), need_images=True), 2007)
    parts = splits[:2]
    images = [part.images.name(row) for part in parts for row in range(len(part))]
    files = [folder / "VOC2007" / "Annotations" / f"{one}.xml" for part in parts for one in part.ids]
    return {
        f"content of {len(files):,} annotations": lambda: fingerprint(READER, files),
        f"size, time and ends of {len(images):,} photographs": lambda: file_marks(images),
        "rows, classes and labels": lambda: [part.content_hash() for part in parts],
    }


def main() -> int:
    """Measure, print, write."""
    parser = options("hashing", __doc__)
    parser.add_argument("folder", type=Path, help="VOCdevkit with photographs")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        started(given.folder, work)  # warms files and caches
        whole = median(started(given.folder, work) for _ in range(TIMES))
        rows = [("a run to its first step", f"{whole:.2f}", "")]
        total = 0.0
        for name, hash_all in hashing(given.folder, work).items():
            seconds = median(timed(hash_all) for _ in range(TIMES))
            total += seconds
            rows.append((name, f"{seconds:.3f}", f"{seconds / whole:.1%}"))
        rows.append(("hashing in all (goal: less than 2 %)", f"{total:.3f}", f"{total / whole:.1%}"))
    table = markdown_table(("VOC 2007, warm files", "seconds", "share"), rows)
    finish("hashing", "Hashing at the start of a run", f"{machine()}. Medians of {TIMES}.\n\n{table}", given.output)
    return 0


def timed(work: Callable[[], object]) -> float:
    """The seconds that a piece of work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
