"""Images of a list, read batch by batch for the shards that are wanted, by loader processes or threads.

b images of a batch that could be read, s side of the square that a model sees, in pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from data.images.files import in_threads
from data.loading.eval_view import EvalView
from data.loading.loader import START
from engine.prediction.image_list import read_list
from engine.prediction.predictor import ReadImage, Unreadable, read_image

_AHEAD = 2  # batches that each process is ahead


class ShardPlan(NamedTuple):
    """How a list of images is divided."""

    images: Path
    """The list."""
    shards: int
    """Number of shards."""
    shard_size: int
    """Images of each shard but the last."""
    batch_size: int
    """Images read together; never of two shards, so that a shard is the same whatever was made before it."""


class NamedBatch(NamedTuple):
    """Images to read."""

    shard: int
    names: Sequence[str]


class ReadBatch(NamedTuple):
    """The same, read."""

    shard: int
    names: Sequence[str]
    """Of the images that could be read."""
    pixels: Tensor | None
    """(b, 3, s, s) uint8 in the view of evaluation; None without any."""
    unreadable: Sequence[Unreadable]

    @property
    def size(self) -> int:
        """Number of images, read or not."""
        return len(self.names) + len(self.unreadable)

    @property
    def images(self) -> list[ReadImage]:
        """The images that could be read."""
        return [] if self.pixels is None else list(map(ReadImage, self.names, self.pixels))


def named_batches(plan: ShardPlan, wanted: Container[int]) -> Iterator[NamedBatch]:
    """The batches of the shards that are wanted, in order."""
    names = read_list(plan.images)
    for shard in range(plan.shards):
        part = islice(names, plan.shard_size)
        if shard not in wanted:
            deque(part, maxlen=0)
        while batch := list(islice(part, plan.batch_size)):
            yield NamedBatch(shard, batch)


def read_batches(plan: ShardPlan, wanted: Container[int], view: EvalView, workers: int) -> Iterator[ReadBatch]:
    """The same batches, read ahead of their use by so many loader processes; without any, by threads of this one.

    Raises:
        UserError: the list cannot be read.
    """
    if workers == 0:
        return _in_threads(named_batches(plan, wanted), view)
    return iter(
        DataLoader(
            _Batches(plan, wanted, view),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=_AHEAD,
            multiprocessing_context=START,
            generator=torch.Generator(),
        )
    )


class _Batches(IterableDataset[ReadBatch]):
    """Each of n loader processes reads every n-th batch; the loader hands them on in their order."""

    def __init__(self, plan: ShardPlan, wanted: Container[int], view: EvalView) -> None:
        self._plan, self._wanted, self._view = plan, wanted, view

    def __iter__(self) -> Iterator[ReadBatch]:
        process: Any = get_worker_info()
        for batch in islice(named_batches(self._plan, self._wanted), process.id, None, process.num_workers):
            yield _joined(batch.shard, [read_image(self._view, name) for name in batch.names])


def _in_threads(batches: Iterable[NamedBatch], view: EvalView) -> Iterator[ReadBatch]:
    """The batches, their images read by threads."""
    images = (((number, batch.shard), name) for number, batch in enumerate(batches) for name in batch.names)
    read = in_threads(partial(_read_of, view), images, "", shown=False)
    for (_, shard), group in groupby(read, key=itemgetter(0)):
        yield _joined(shard, [image for _, image in group])


def _read_of(view: EvalView, item: tuple[tuple[int, int], str]) -> tuple[tuple[int, int], ReadImage | Unreadable]:
    """The image of an item, behind the item's batch and shard."""
    return item[0], read_image(view, item[1])


def _joined(shard: int, images: Sequence[ReadImage | Unreadable]) -> ReadBatch:
    """A batch of images, those that could not be read apart from the others."""
    whole = [each for each in images if isinstance(each, ReadImage)]
    pixels = torch.stack([each.pixels for each in whole]) if whole else None
    unreadable = [each for each in images if isinstance(each, Unreadable)]
    return ReadBatch(shard, [each.name for each in whole], pixels, unreadable)
