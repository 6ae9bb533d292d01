"""Which rows form which batch: a pure function of seed and epoch, whatever the number of workers or processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from utils.seeding import mix


class Sample(NamedTuple):
    """One place in one epoch: what a loader asks the dataset for, and all that augmentation may depend on."""

    epoch: int
    position: int
    row: int


class ShuffledBatches(Sampler[list[Sample]]):
    """The batches of one epoch; order = f(seed, epoch).

    `batch_size` is the GLOBAL batch: of each global batch, process `rank` of `world_size` takes every
    `world_size`-th sample. A last batch smaller than the number of processes is padded by repeating its samples, so
    that every process takes part in every step.
    """

    def __init__(self, rows: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch, self.start = 1, 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Iterate over `epoch` next, from its batch `start` on."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[list[Sample]]:
        order = np.random.default_rng(mix(self.seed, "order", self.epoch)).permutation(self.rows)
        for batch in range(self.start, len(self)):
            first = batch * self.batch_size
            size = min(self.batch_size, self.rows - first)
            places = range(self.rank, size, self.world_size) if size >= self.world_size else [self.rank % size]
            yield [Sample(self.epoch, first + place, int(order[first + place])) for place in places]


class OrderedBatches(Sampler[list[Sample]]):
    """Every row once, in order, shared out among the processes without padding; for evaluation."""

    def __init__(self, rows: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        self.places = range(rank, rows, world_size)
        self.batch_size = max(1, batch_size // world_size)

    def __len__(self) -> int:
        return -(-len(self.places) // self.batch_size)

    def __iter__(self) -> Iterator[list[Sample]]:
        for first in range(0, len(self.places), self.batch_size):
            yield [Sample(0, row, row) for row in self.places[first : first + self.batch_size]]
