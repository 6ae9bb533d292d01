"""Memory and time of training on many labels: `python -m benchmarks.training_memory [--rows N ...] [--output FILE]`.

Minutes; `--folder DIR` keeps what is done, from which a later call goes on. The engine of the training scripts trains a
small network on N images x 5,000 classes, of whose labels 1 % are known, for a few dozen steps: each method and number
of images in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import shutil
import statistics
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
RESUMED = "LL-Cp"
"""The method whose run then goes on for an epoch: what it keeps of each image is read back."""
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
    *("--batch_size", str(BATCH), "--device", "cpu", "--threads", "1", "--num_workers", "0"),
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
    """The fastest step of the last epoch, per image; all times are of the CPU."""
    growth: float
    """Time of a step as a multiple of that on the fewest images, both in one process in turns."""
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

    def __init__(self, record: Callable[[int, Batch, LossOutput], None], epoch: int) -> None:
        self._record, self._epoch = record, epoch
        self._ends: list[float] = []

    def __call__(self, epoch: int, batch: Batch, loss: LossOutput) -> None:
        """Take the time behind a step."""
        self._record(epoch, batch, loss)
        if epoch == self._epoch:
            self._ends.append(time.process_time())

    @property
    def steps(self) -> list[float]:
        """From the end of one step to that of the next."""
        return np.diff(self._ends).tolist()  # type: ignore[no-any-return]


def measure(base: int, method: str, splits: Splits, few: Splits, folder: Path, more: int = 0) -> Cost:
    """Train a method in this process, with a state to go on from and figures at the end as the scripts do.

    Args:
        base: for the result.
        method: a key of `METHODS`.
        splits: the data.
        few: data of the fewest images, for comparison.
        folder: where the run and what is cached goes.
        more: epochs for which the run that is there goes on; 0 for a new one.
    """
    begun, epochs = time.process_time(), EPOCHS + more
    run = built(method, splits, folder, "run", "--epochs", epochs, *(["--resume"] if more else []))
    clock = cut_short(run, epochs)
    started, ready = peak_memory(), time.process_time()
    run.train()
    trained = (time.process_time() - ready) / (more or EPOCHS)
    run.finish()
    parts = label_bytes(run.data), id_bytes(run.data.train.ids), row_state_bytes(run.criterion)
    between = trained - STEPS * statistics.mean(clock.steps)
    fastest, peak = min(clock.steps) / BATCH, peak_memory()
    growth = step_ratio(run, built(method, few, folder, "few"))
    return Cost(base, started, peak, *parts, fastest, growth, ready - begun, between)


def built(method: str, splits: Splits, folder: Path, name: str, *words: object) -> Run:
    """A run of a method on some data, in a folder of that name, before its first step."""
    DATASETS["openimages"] = lambda source: splits
    program, *flags = METHODS[method]
    flags += [] if method == DRAWN else ["--no-figures"]
    flags += [str(word) for word in ("--cache_dir", folder / "cache", "--output", folder / name, *words)]
    settings = parse_settings(training_command(program, {}), [*SETTINGS, *flags], completed=with_given_features)
    torch.set_num_threads(1)
    runtime = Runtime("cpu", "fp32", settings.of(KernelConfig))
    return Run(settings, open_folder(settings, runtime), runtime)


def step_ratio(run: Run, other: Run) -> float:
    """Time of a step of one run as a multiple of that of another, medians of turns."""
    steps, times = (stepping(run), stepping(other)), ([0.0] * STEPS, [0.0] * STEPS)
    for turn in range(STEPS):
        for step, taken in zip(steps, times, strict=True):
            begun = time.process_time()
            step()
            taken[turn] = time.process_time() - begun
    return statistics.median(times[0]) / statistics.median(times[1])


def stepping(run: Run) -> Callable[[], None]:
    """A function that takes the next step of a run in its last epoch, from its loader on."""
    loop = run.loop
    loop.state.epoch, loop.state.step = EPOCHS, 0
    loop.learner.criterion.on_epoch_start(EPOCHS)
    loop.learner.model.train()
    loop.batches.set_epoch(EPOCHS)
    raw = iter(loop.loader)
    return lambda: loop.step(next(raw), BATCH)


def cut_short(run: Run, epochs: int) -> StepClock:
    """Let each epoch of a run end after a few steps, and take the times of those of its last.

    A whole epoch writes to every row of what is kept of the images, and then all of it is resident: so it is here.
    """
    run.batches.rows = min(run.batches.rows, STEPS * BATCH)
    for memory in row_states(run.criterion):
        memory.add_(0)
    clock = StepClock(run.loop.hooks.after_step, epochs)
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


def row_states(criterion: Criterion) -> list[torch.Tensor]:
    """Label memories of a criterion."""
    memories = [getattr(criterion, name) for name in criterion.label_memories]
    return [memory for memory in memories if memory is not None]


def row_state_bytes(criterion: Criterion) -> int:
    """Bytes of a criterion's label memories."""
    return sum(memory.nbytes for memory in row_states(criterion))


def costs(rows: int, folder: Path) -> Iterator[tuple[str, Cost]]:
    """Read the labels of so many images, and train each method on them in a process of its own.

    Each is forked from this one, so that labels are read and hashed once; what they share counts in full for each.
    """
    base = peak_memory()
    splits, few = splits_of(folder, rows), splits_of(folder, SIZES[0])
    for split in splits.parts():
        assert split is not None
        split.truth.hash()
    for method in METHODS:
        yield method, Cost(*in_child(partial(measure, base, method, splits, few, folder)))
        shutil.rmtree(folder / "few")
        if method == RESUMED:
            yield f"{method}, resumed", Cost(*in_child(partial(measure, base, method, splits, few, folder, 1)))
            shutil.rmtree(folder / "few")
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
    """The costs of all methods for so many images, measured in another process unless they have been."""
    path = folder / f"costs-{rows}.json"
    if not path.exists():
        words = [sys.executable, "-m", "benchmarks.training_memory", "--stage", str(rows), "--folder", str(folder)]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
        path.write_text(done.stdout)
    return {name: Cost(*cost) for name, cost in json.loads(path.read_text()).items()}


def cells(method: str, rows: int, cost: Cost, unseen: int) -> tuple[str, ...]:
    """A row of the table; `unseen` bytes of the program are resident in a process that was not forked."""
    cost = cost._replace(peak=cost.peak + unseen, started=cost.started + unseen)
    sizes = (cost.peak, cost.started, cost.base, cost.labels, cost.ids, cost.method)
    missed = cost.peak > GOAL_PEAK or cost.growth > GOAL_TIME
    epoch = rows * cost.step
    shares = f"{100 * cost.start / epoch:.2g} %", f"{100 * cost.between / epoch:.2g} %"
    return f"{rows:,}", method, *map(gib, sizes), f"{cost.growth:.2f}", *shares, MISSED if missed else "reached"


HEADINGS = (
    *("images", "method", "peak", "before the first step", "program", "labels", "ids", "method's memory"),
    *("step, ratio", "start", "end of an epoch", "goal"),
)


def main() -> int:
    """Measure, print, write; 1 when a goal is missed."""
    parser = options("training_memory", __doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES, help="numbers of training images")
    parser.add_argument("--folder", type=Path, help="where labels and finished numbers of images are kept")
    parser.add_argument("--stage", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage:
        print(json.dumps(dict(costs(given.stage, given.folder))))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        table = list(rows_of(given.rows, given.folder or Path(temporary)))
    finish("training_memory", "Training on labels of the size of OpenImages V3", report(table), given.output)
    return int(any(row[-1] == MISSED for row in table))


def rows_of(sizes: Sequence[int], folder: Path) -> Iterator[tuple[str, ...]]:
    """The rows of the table, printed as they come."""
    folder.mkdir(exist_ok=True)
    if not (folder / "classes").exists():
        in_child(partial(write_truth, folder))
    unseen = max(0, peak_memory() - in_child(peak_memory))
    for size in sizes:
        for method, cost in in_process(size, folder).items():
            row = cells(method, size, cost, unseen)
            print("  ".join(row), flush=True)
            yield row


def report(rows: Sequence[tuple[str, ...]]) -> str:
    """Describe the measurement, and return the table."""
    setting = (
        f"{CLASSES:,} classes, {KNOWN} known per image, {EPOCHS} epochs cut to {STEPS} steps of {BATCH} images\n"
        f"of {SIDE} x {SIDE} pixels, one thread, each method in a process of its own. Memory is resident, of the\n"
        f"whole process, with all rows of what the method keeps; the goal is {gib(GOAL_PEAK)}. Times are of the\n"
        f"CPU. A step is a multiple of one on {SIZES[0]:,} images, both in one process in turns, the median of\n"
        f"{STEPS}; the goal is {GOAL_TIME:g}, as a busy machine varies by as much. Start (all but reading and hashing\n"
        "labels, which sparse_labels.md has) and end of an epoch (its order, the scores of validation and\n"
        f"test set, {SCORED:,} images each, and saving) are shares of the time that all steps of a\n"
        "whole epoch of this small network take. The program is Python, torch and its libraries. A run resumed\n"
        "reads back what it has saved."
    )
    return f"{setting}\n\n{machine()}.\n\n{markdown_table(HEADINGS, rows)}"


def gib(size: int) -> str:
    """Bytes in GiB."""
    return f"{size / 2**30:.2f} GiB"


if __name__ == "__main__":
    sys.exit(main())
