"""Predictions of very many images: into a folder of files, in memory that does not grow, and with `--resume`."""

from __future__ import annotations

import csv
import hashlib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from data.loading.loader import LoaderConfig
from engine.core.gpu_memory import gpu_memory_told
from engine.prediction.predictor import Label, Prediction, Predictor, Unreadable
from engine.prediction.shard_files import FORMATS, LabelledImage
from engine.prediction.shard_folder import ShardFolder
from engine.prediction.shard_loader import ReadBatch, ShardPlan, read_batches
from engine.prediction.walking import shown
from utils.checks import require
from utils.console import Progress, say, warn
from utils.options import option
from utils.safe_files import open_file

_BLOCK = 1 << 20  # bytes of a file read at a time


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """Prediction of very many images."""

    shards: Path | None = option(None, "folder for labels of very many images, a file for every --shard_size of them")
    shard_size: int = option(10_000, "--shards: images per file")
    shard_format: Literal["csv", "parquet"] = option("csv", "--shards: kind of the files")
    image_list: Path | None = option(
        None, "--shards: text file of image paths, one per line, in the place of images and folders"
    )
    resume: bool = option(False, "--shards: go on in a folder that was begun")
    num_workers: int | None = option(
        None, "--shards: loader processes (default: threads on a CPU, up to 16 processes beside a GPU)"
    )

    def __post_init__(self) -> None:
        require(self.shard_size >= 1, f"--shard_size {self.shard_size}: must be at least 1")
        require(self.num_workers is None or self.num_workers >= 0, f"--num_workers {self.num_workers}: not negative")
        given = {"image_list": self.image_list, "resume": self.resume or None, "num_workers": self.num_workers}
        for name in (name for name, value in given.items() if value is not None and self.shards is None):
            require(False, f"--{name}: is for --shards, which names a folder for the labels of very many images")


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """What is to be predicted, and how."""

    predictor: Predictor
    images: Iterable[str]
    """Paths; each iteration goes through them anew."""
    labels: Callable[[Prediction], Sequence[Label]]
    """The labels of an image that are written, best first."""
    batch_size: int
    recipe: dict[str, Any]
    """What decides the labels besides the images, as plain values by flag; a folder goes on with an equal one only."""


def predict_in_shards(job: ShardJob, config: ShardConfig) -> int:
    """Write the shards that are not there yet. Returns the exit code: 1 where images could not be read.

    Raises:
        UserError: the folder cannot be taken for this, or the images cannot be listed; nothing is written then.
        RunError: a file cannot be written, or a score is not finite; finished shards stay.
    """
    assert config.shards is not None
    FORMATS[config.shard_format]()  # here rather than when the first shard is complete
    folder = ShardFolder(config.shards, config.shard_format)
    sizes = {"shard_size": config.shard_size, "shard_format": config.shard_format}
    mark = folder.open({**job.recipe, **sizes}, job.images, resume=config.resume)
    try:
        shards = -(-mark.images // config.shard_size)
        plan = ShardPlan(folder.images, shards, config.shard_size, job.batch_size)
        with warnings.catch_warnings(), gpu_memory_told("predicting", ["a smaller --batch_size"]):
            warnings.simplefilter("ignore")  # decoders complain of odd metadata, which is harmless
            _write_missing(job, folder, plan, mark.images, config)
        return _told(folder, mark.images)
    finally:
        folder.close()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file. Raises: UserError when it cannot be read."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def pace(images: int, seconds: float, left: int) -> str:
    """Images per second and the time left, as words.

    Args:
        images: images done, at least 1.
        seconds: time they took.
        left: images still to do.
    """
    rate = images / max(seconds, 1e-9)
    minutes, rest = divmod(round(left / rate), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{rate:.3g} images/s, {hours}:{minutes:02}:{rest:02} left"


def _write_missing(job: ShardJob, folder: ShardFolder, plan: ShardPlan, count: int, config: ShardConfig) -> None:
    """Predict and write the shards that are not there, each when it is complete."""
    todo = folder.unfinished(plan.shards)
    left = sum(min(plan.shard_size, count - shard * plan.shard_size) for shard in todo)
    if left < count:
        say(f"going on in {shown(folder.path)}: {count - left} of {count} images are done")
    view, batch_size = job.predictor.view, job.batch_size
    loading = LoaderConfig(img_size=view.img_size, batch_size=batch_size, num_workers=config.num_workers)
    workers = loading.workers(beside_gpu=job.predictor.on_gpu, processes=1)
    batches = read_batches(plan, frozenset(todo), view, workers) if todo else iter(())
    progress = Progress(batches, total=count, done=count - left, label="predicting", unit="img", shown=True)
    start, done = time.monotonic(), 0
    for shard, of_shard in groupby(progress, key=attrgetter("shard")):
        done += _write_shard(job, folder, shard, _counted(of_shard, progress), config.shard_format)
        say(f"written: {shown(folder.file(shard))} ({pace(done, time.monotonic() - start, left - done)})")


def _write_shard(
    job: ShardJob, folder: ShardFolder, shard: int, batches: Iterable[ReadBatch], shard_format: str
) -> int:
    """Predict and write one shard; returns its number of images."""
    content, unreadable, size = FORMATS[shard_format](), list[Unreadable](), 0
    for batch in batches:
        predictions = job.predictor.scored(batch.images)
        content.add([LabelledImage(each.name, job.labels(each)) for each in predictions])
        unreadable += batch.unreadable
        size += batch.size
    folder.write(shard, content.finish(), unreadable)
    return size


def _counted(batches: Iterable[ReadBatch], progress: Progress[ReadBatch]) -> Iterator[ReadBatch]:
    """The batches, each counted once it is predicted."""
    for batch in batches:
        yield batch
        progress.advance(batch.size)


def _told(folder: ShardFolder, count: int) -> int:
    """Say how many images were predicted and how many could not be read; returns the exit code."""
    files = folder.unreadable_files()
    bad = sum(_rows(path) - 1 for path in files)
    say(f"{count - bad} of {count} images predicted in {shown(folder.path)}")
    if bad:
        warn(f"{bad} of {count} images could not be read; they are listed in {shown(folder.path)}/unreadable-*.csv")
    return 1 if bad else 0


def _rows(path: Path) -> int:
    """Rows of a CSV file, of which one may have several lines: names of files may."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return sum(1 for _ in csv.reader(file))
