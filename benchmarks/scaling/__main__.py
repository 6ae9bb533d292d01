"""What scales and what does not: `python -m benchmarks.scaling [--output FILE]` (seven minutes of an idle machine).

Measures the pieces of a run on this machine, predicts runs of one and two processes from them, makes these runs, and
says what the same model gives for many GPUs and many images. What is done is kept beside FILE: `--resume` goes on from
there, and only writes the page where nothing is missing.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import epoch_work
from benchmarks.epoch_work import COCO
from benchmarks.gpu.trainer import Case
from benchmarks.kept import Kept
from benchmarks.measure import finish, machine, options
from benchmarks.scaling.exchanges import measure_exchanges
from benchmarks.scaling.page import page
from benchmarks.scaling.pieces import measure_pieces, middle
from benchmarks.scaling.prediction import few
from benchmarks.scaling.runs import WHOLE, Whole, real_run
from benchmarks.scaling.scene import FULL, SMALL, Scene, write_scene
from data.loading.samplers import ShuffledBatches
from engine.core.checkpoint import save_state
from engine.core.distributed import Runtime

ORDERED = (10**5, 10**6, 10**7)
SAVED = (1 << 20, 1 << 22, 1 << 24, 1 << 26)


def host(folder: Path, sizes: epoch_work.Sizes) -> dict[str, Any]:
    """Points of orders by images and of saved files by bytes; seconds of a figure, and of CoNeS before an epoch."""
    torch.set_num_threads(1)
    runtime = Runtime("cpu", "fp32")
    test = epoch_work.scored(sizes.test, sizes, runtime, 0)
    found = {
        "order": [(rows, epoch_work.seconds_of(partial(_order, rows))) for rows in ORDERED],
        "saving": [(size, epoch_work.seconds_of(partial(_save, folder / "file", size))) for size in SAVED],
        "figure": epoch_work.seconds_of(test.measure) / (sizes.test * sizes.classes),
        "epoch start": epoch_work.epoch_start(Case("cones"), sizes, runtime),
    }
    runtime.close()
    return found


def _order(rows: int) -> None:
    ShuffledBatches(rows, 256, seed=0).order(1)


def _save(path: Path, size: int) -> None:
    save_state(path, {"loop": torch.zeros(size // 4)})


def measure(kept: Kept, folder: Path, scene: Scene, sizes: epoch_work.Sizes) -> None:
    """Measure all that is not there: pieces first, and last the runs that are predicted from them."""
    kept.describe(machine())
    kept.once("host", partial(host, folder, sizes))
    for processes in (1, 2):
        kept.once(f"pieces {processes}", partial(_pieces, folder, scene, processes))
    kept.once("exchanges", partial(measure_exchanges, folder, small=scene == SMALL))
    for run in WHOLE:
        kept.once(f"start {run.name}", partial(_run, folder, scene, run, few(scene)))
    for run in WHOLE:
        kept.once(f"run {run.name}", partial(_run, folder, scene, run, scene.trained))


def _pieces(folder: Path, scene: Scene, processes: int) -> dict[str, Any]:
    write_scene(folder, scene)
    return middle(measure_pieces(folder, scene, processes))


def _run(folder: Path, scene: Scene, run: Whole, images: int) -> dict[str, float]:
    write_scene(folder, scene)
    return real_run(folder, scene, run, images)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, predict, run, write."""
    parser = options("scaling", __doc__)
    parser.add_argument("--resume", action="store_true", help="keep what is there already")
    parser.add_argument("--minutes", type=float, default=15, help="after which nothing new is begun")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the command itself")
    given = parser.parse_args(argv)
    path = given.output.with_suffix(".json") if given.output else None
    kept = Kept(path, given.resume, 60 * given.minutes)
    scene, sizes = (SMALL, COCO._replace(test=500)) if given.small else (FULL, COCO)
    with tempfile.TemporaryDirectory() as folder:
        measure(kept, Path(folder), scene, sizes)
    finish("scaling", "What scales", page(kept.found, scene), given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
