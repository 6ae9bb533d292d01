"""Memory and time of training on many labels: `python -m benchmarks.training_memory [--rows N ...] [--output FILE]`.

Minutes. The engine of the training scripts trains a small network on N images x 5,000 classes, of whose labels 1 % are
known, for a few dozen steps: each method and number of images in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from scipy.sparse import csr_array

from benchmarks.measure import finish, machine, markdown_table, options
from benchmarks.sparse_labels import CLASSES, KNOWN, MISSED, ROWS, NoImages, random_truth
from data.build import Data
from data.datasets import DATASETS
from engine.core.distributed import Runtime
from engine.core.kernels import KernelConfig
from engine.core.settings import parse_settings
from engine.training.config import training_command
from engine.training.given_features import with_given_features
from engine.training.run import Run, open_folder
from losses.common.base import Criterion
from utils.types import UNKNOWN, Annotations, Batch, Index, LabelTable, LossOutput, Splits

METHODS = {
    "AN": ("main_BCE.py", "--loss", "an"),
    "LL-R": ("main_llm.py", "--mod_scheme", "LL-R"),
    "LL-Ct": ("main_llm.py", "--mod_scheme", "LL-Ct"),
    "LL-Cp": ("main_llm.py", "--mod_scheme", "LL-Cp"),
    "GR": ("main_BCE.py", "--loss", "gr"),
    "EM": ("main_BCE.py", "--loss", "em"),
    "SPLC": ("main_BCE.py", "--loss", "splc"),
}
DRAWN = "AN"
"""The method whose run ends with its pictures and page; they are alike for all."""
SIZES = (10_000, 100_000, 1_000_000, ROWS)
GOAL_PEAK = 4 * 2**30
GOAL_TIME = 1.25
"""Largest time per image as a multiple of that of the fewest images; what is above the noise of this machine grows."""
STEPS, EPOCHS, BATCH, SIDE = 25, 2, 32, 16
SCORED = 1_000  # rows of the test and of the validation set
PICTURES = 8
SETTINGS = (
    *("--dataset", "openimages", "--path_images", ".", "--missing_images", "error", "--labels", "given"),
    *("--model", "scenenet", "--weights", "none", "--img_size", str(SIDE), "--augment", "flip", "--normalize", "unit"),
    *("--batch_size", str(BATCH), "--epochs", str(EPOCHS), "--device", "cpu", "--threads", "1", "--num_workers", "0"),
)


Value = TypeVar("Value")


class Cost(NamedTuple):
    """Measured of one training; bytes and seconds."""

    base: int
    """Resident before anything was read: Python, torch and this program."""
    started: int
    """Peak until the first step."""
    peak: int
    labels: int
    """The tables of labels, of training, validation and test."""
    ids: int
    method: int
    """What the method keeps of each training image."""
    step: float
    """Median of a step of the last epoch, per image; all times are of the CPU."""
    start: float
    """From the settings to the first step."""
    between: float
    """Of an epoch without its steps: order, scores of validation and test, saving."""


class TinyImages(NoImages):
    """A few distinct pictures in turn, numbered from `first` on."""

    def __init__(self, first: int, rows: int) -> None:
        super().__init__(rows)
        self._first = first
        pixels = np.random.default_rng(0).integers(0, 256, (PICTURES, SIDE, SIDE, 3), dtype=np.uint8)
        self._pictures = [Image.fromarray(each) for each in pixels]

    def open(self, row: int) -> Image.Image:
        """The picture of a row."""
        return self._pictures[row % PICTURES].copy()

    def name(self, row: int) -> str:
        """Name of the file that it might be."""
        return f"{self._first + row:016x}.jpg"

    def take(self, index: Index) -> TinyImages:
        """As many pictures."""
        return TinyImages(self._first, len(index))


def write_truth(folder: Path) -> None:
    """Write random labels, of which each process reads the rows that it needs."""
    codes = random_truth().codes
    assert isinstance(codes, csr_array)
    codes.data.tofile(folder / "codes")
    codes.indices.tofile(folder / "classes")


def split_of(folder: Path, first: int, rows: int, skipped: int = 0) -> Annotations:
    """Rows of those labels as a split; ids as OpenImages has them, numbers from `first` on."""
    count, before = rows * KNOWN, skipped * KNOWN
    data = np.fromfile(folder / "codes", dtype=np.int8, count=count, offset=before)
    columns = np.fromfile(folder / "classes", dtype=np.int32, count=count, offset=4 * before)
    ends = np.arange(0, count + 1, KNOWN, dtype=np.int32)
    truth = LabelTable(csr_array((data, columns, ends), shape=(rows, CLASSES)), default=UNKNOWN)
    ids = tuple(f"{number:016x}" for number in range(first, first + rows))
    return Annotations(TinyImages(first, rows), ids, tuple(f"class {k}" for k in range(CLASSES)), truth)


def splits_of(folder: Path, rows: int) -> Splits:
    """Training, validation and test split."""
    train = split_of(folder, 0, rows)
    test, validation = (split_of(folder, ROWS + number * SCORED, SCORED, number * SCORED) for number in (0, 1))
    return Splits(train, test, validation=validation)


class StepClock:
    """Seconds of the steps of the last epoch, in which every method does all that it does."""

    def __init__(self, record: Callable[[int, Batch, LossOutput], None]) -> None:
        self._record, self._ends = record, [0.0]

    def __call__(self, epoch: int, batch: Batch, loss: LossOutput) -> None:
        """Take the time behind a step."""
        self._record(epoch, batch, loss)
        if epoch == EPOCHS:
            self._ends.append(time.process_time())

    @property
    def median(self) -> float:
        """Median from one step to the next."""
        return float(np.median(np.diff(self._ends[1:])))


def measure(method: str, splits: Splits, folder: Path) -> Cost:
    """Train a method in this process, with a state to go on from and figures at the end as the scripts do."""
    base, begun = peak_memory(), time.process_time()
    DATASETS["openimages"] = lambda source: splits
    program, *flags = METHODS[method]
    words = [*SETTINGS, *flags, "--cache_dir", str(folder / "cache"), "--output", str(folder / "run")]
    words += [] if method == DRAWN else ["--no-figures"]
    settings = parse_settings(training_command(program, {}), words, completed=with_given_features)
    torch.set_num_threads(1)
    runtime = Runtime("cpu", "fp32", settings.of(KernelConfig))
    run_folder = open_folder(settings, runtime)
    run = Run(settings, run_folder, runtime)
    clock = cut_short(run)
    started, ready = peak_memory(), time.process_time()
    run.train()
    between = time.process_time() - ready - EPOCHS * STEPS * clock.median
    run.finish()
    parts = label_bytes(run.data), id_bytes(run.data.train.ids), row_state_bytes(run.criterion)
    cost = Cost(base, started, peak_memory(), *parts, clock.median / BATCH, ready - begun, between / EPOCHS)
    run_folder.close()
    runtime.close()
    return cost


def cut_short(run: Run) -> StepClock:
    """Let each epoch of a run end after a few steps, and take their times."""
    run.batches.rows = min(run.batches.rows, STEPS * BATCH)
    clock = StepClock(run.loop.hooks.after_step)
    run.loop.hooks = run.loop.hooks._replace(after_step=clock)
    return clock


def peak_memory() -> int:
    """Bytes that this process has had resident at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def label_bytes(data: Data) -> int:
    """Bytes of all tables of labels of a run, an array that several share once."""
    splits = [split for split in (data.train, data.validation, data.test, data.undivided) if split is not None]
    tables = [data.observed, data.labels.table, *(split.truth for split in splits)]
    arrays: dict[int, int] = {}
    for table in tables:
        codes: Any = table.codes
        for array in (codes.data, codes.indices, codes.indptr):
            arrays[array.__array_interface__["data"][0]] = array.nbytes
    return sum(arrays.values())


def id_bytes(ids: Sequence[str]) -> int:
    """Bytes of ids of one length and of the tuple that holds them."""
    return sys.getsizeof(ids) + len(ids) * sys.getsizeof(ids[0])


def row_state_bytes(criterion: Criterion) -> int:
    """Bytes of a criterion's label memories."""
    memories = [getattr(criterion, name) for name in criterion.label_memories]
    return sum(memory.nbytes for memory in memories if memory is not None)


def costs(rows: int, folder: Path) -> Iterator[tuple[str, Cost]]:
    """Read the labels of so many images, and train each method on them in a process of its own.

    Each is forked from this one, so that labels are read and hashed once; what they share counts in full for each.
    """
    splits = splits_of(folder, rows)
    for split in splits.parts():
        assert split is not None
        split.truth.hash()
    for method in METHODS:
        yield method, Cost(*in_child(partial(measure, method, splits, folder)))
        shutil.rmtree(folder / "run")


def in_child(work: Callable[[], Value]) -> Value:
    """Plain result of some work in a forked process, with its own peak of memory. Raises: RuntimeError if it fails."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                result = work()
            os.write(writing, json.dumps(result).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("a process failed; what it said is above")
    result: Value = json.loads(text)
    return result


def in_process(rows: int, folder: Path) -> dict[str, Cost]:
    """The costs of all methods for so many images, whose labels nothing else in their process was read beside."""
    words = [sys.executable, "-m", "benchmarks.training_memory", "--rows", str(rows), "--folder", str(folder)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return {name: Cost(*cost) for name, cost in json.loads(done.stdout).items()}


def cells(method: str, rows: int, cost: Cost, first: Cost) -> tuple[str, ...]:
    """A row of the table."""
    sizes = (cost.peak, cost.started, cost.base, cost.labels, cost.ids, cost.method)
    growth = cost.step / first.step
    missed = cost.peak > GOAL_PEAK or growth > GOAL_TIME
    epoch = rows * cost.step
    shares = f"{100 * cost.start / epoch:.2g} %", f"{100 * cost.between / epoch:.2g} %"
    return f"{rows:,}", method, *map(gib, sizes), f"{growth:.2f}", *shares, MISSED if missed else "reached"


HEADINGS = (
    *("images", "method", "peak", "before the first step", "program", "labels", "ids", "method's memory"),
    *("step, ratio", "start", "end of an epoch", "goal"),
)


def main() -> int:
    """Measure, print, write; 1 when a goal is missed."""
    parser = options("training_memory", __doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES, help="numbers of training images")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.folder:
        print(json.dumps(dict(costs(given.rows[0], given.folder))))
        return 0
    table: list[tuple[str, ...]] = []
    first: dict[str, Cost] = {}
    with tempfile.TemporaryDirectory() as folder:
        in_child(partial(write_truth, Path(folder)))
        for rows in given.rows:
            found = in_process(rows, Path(folder))
            first = first or found
            for method, cost in found.items():
                table.append(cells(method, rows, cost, first[method]))
                print("  ".join(table[-1]), flush=True)
    finish("training_memory", "Training on labels of the size of OpenImages V3", report(table), given.output)
    return int(any(row[-1] == MISSED for row in table))


def report(rows: Sequence[tuple[str, ...]]) -> str:
    """Describe the measurement, and return the table."""
    setting = (
        f"{CLASSES:,} classes, {KNOWN} known per image, {EPOCHS} epochs cut to {STEPS} steps of {BATCH} images of\n"
        f"{SIDE} x {SIDE} pixels, one thread, each method in a process of its own. Memory is resident, of the whole\n"
        f"process; the goal is {gib(GOAL_PEAK)}. Times are of the CPU. That of a step is a multiple of the one on the\n"
        f"fewest images; the goal is {GOAL_TIME:g}, by which single measurements vary here. Start (all but reading\n"
        "and hashing labels, which sparse_labels.md has) and end of an epoch (its order, the scores of validation and\n"
        f"test set, {SCORED:,} images each, and saving) are shares of the time that all steps of a whole epoch take."
    )
    return f"{setting}\n\n{machine()}.\n\n{markdown_table(HEADINGS, rows)}"


def gib(size: int) -> str:
    """Bytes in GiB."""
    return f"{size / 2**30:.2f} GiB"


if __name__ == "__main__":
    sys.exit(main())
