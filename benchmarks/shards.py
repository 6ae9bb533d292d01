"""Memory of `predict.py --shards` by the number of images: `python -m benchmarks.shards [--output FILE]`.

Tiny invented images, most of them hard links to 50 files, all in one folder; every 50th cannot be read. The goal: ten
times as many images take as much memory, within 5 %.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import MIB, finish, machine, markdown_table, options, verdict
from engine.core.checkpoint import save_model
from engine.prediction.command import predict_command
from models.build import Architecture, build_model
from models.heads.base import LabelInfo
from utils.types import LabelTable

COUNTS = (10_000, 100_000)
FILES, SIDE, CLASSES = 50, 32, 20
SIZES = ("--batch_size", "64", "--shard_size", "2000")
GOAL = 1.05


def write_scene(folder: Path, counts: tuple[int, ...]) -> None:
    """A checkpoint of random weights, and a folder of each number of images."""
    names = tuple(f"class{k}" for k in range(CLASSES))
    network = build_model(
        Architecture.of(model="scenenet", head="linear", weights="none"),
        CLASSES,
        0,
        label_info=LabelInfo(names, LabelTable(np.zeros((1, CLASSES), dtype=np.int8))),
    )
    save_model(folder / "best.pth", network, names, {"model": "scenenet", "head": "linear", "img_size": SIDE}, 1)
    rng = np.random.default_rng(0)
    for file in range(FILES):
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(folder / f"{file}.jpg")
    (folder / "0.jpg").write_bytes((folder / "0.jpg").read_bytes()[:300])
    for count in counts:
        (folder / str(count)).mkdir()
        for number in range(count):
            os.link(folder / f"{number % FILES}.jpg", folder / str(count) / f"photograph-{number:07}.jpg")


def measured(folder: Path, count: int, *words: str) -> tuple[int, float]:
    """Peak of memory in bytes, and images per second, of a command in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, folder, count, words).result()


def _measure(folder: Path, count: int, words: tuple[str, ...]) -> tuple[int, float]:
    os.chdir(folder)
    torch.set_num_threads(1)
    start = time.monotonic()
    with Path("printed").open("a") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
        code = predict_command([str(count), "--load_from", "best.pth", "--device", "cpu", *words])
    assert code == 1
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, count / (time.monotonic() - start)


def main() -> int:
    """Measure, print, write."""
    parser = options("shards", __doc__)
    parser.add_argument("--counts", type=int, nargs=2, default=COUNTS, help="numbers of images")
    given = parser.parse_args()
    few, many = given.counts
    ways = {
        "CSV": ("--shards", "out-csv-{}", *SIZES),
        "Parquet": ("--shards", "out-parquet-{}", *SIZES, "--shard_format", "parquet"),
    }
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scene(folder, (few, many))
        for way, words in ways.items():
            found = [measured(folder, count, *(word.format(count) for word in words)) for count in (few, many)]
            (small, slow), (large, fast) = found
            ratio = large / small
            peaks = f"{small / MIB:,.0f}", f"{large / MIB:,.0f}", f"{ratio:.3f}", verdict(ratio, GOAL)
            rows.append((way, *peaks, f"{(large - small) / (many - few):,.0f}", f"{fast / slow:.2f}"))
    counts = (f"MiB, {few:,} images", f"MiB, {many:,} images")
    headings = ("shards", *counts, "ratio", "goal at most", "bytes per further image", "images/s, many to few")
    finish("shards", "Memory of predictions", f"{machine()}\n\n{markdown_table(headings, rows)}\n", given.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
