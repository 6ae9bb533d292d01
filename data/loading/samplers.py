"""The rows of each batch: a pure function of seed and epoch, whatever the number of workers or processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from utils.checks import require
from utils.long_tail import positives
from utils.seeding import derive_seed
from utils.types import Index, LabelTable


class Sample(NamedTuple):
    """One position in one epoch: the request of a loader to a dataset, and all that augmentation may depend on."""

    epoch: int
    position: int
    row: int


class TrainingBatches(Sampler[list[Sample]]):
    """The batches of one epoch of `rows` samples, in the order that a subclass draws.

    `batch_size` is the GLOBAL batch: of each global batch, process `rank` of `world_size` takes every
    `world_size`-th sample. A last batch smaller than the number of processes goes to each of them whole, so that every
    process takes part in every step and every sample counts alike.
    """

    def __init__(self, rows: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch, self.start = 1, 0

    def order(self, epoch: int) -> Index:
        """(M,) the rows of an epoch in order, M at least `rows`; what is beyond those is left out."""
        raise NotImplementedError

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Iterate over `epoch` next, from its batch `start` on."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[list[Sample]]:
        order = self.order(self.epoch)
        for batch in range(self.start, len(self)):
            first = batch * self.batch_size
            size = min(self.batch_size, self.rows - first)
            own = range(self.rank, size, self.world_size) if size >= self.world_size else range(size)
            yield [Sample(self.epoch, first + offset, int(order[first + offset])) for offset in own]


class ShuffledBatches(TrainingBatches):
    """Every row once per epoch; order = f(seed, epoch). With `drop_last` without the last batch if it is not full."""

    def __init__(
        self, rows: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1, drop_last: bool = False
    ) -> None:
        self.all_rows = rows
        used = rows // batch_size * batch_size if drop_last else rows
        super().__init__(used, batch_size, seed=seed, rank=rank, world_size=world_size)

    def order(self, epoch: int) -> Index:
        """(N,) all rows, permuted."""
        return np.random.default_rng(derive_seed(self.seed, "order", epoch)).permutation(self.all_rows)


class ClassAwareBatches(TrainingBatches):
    """Classes in turn, each with a few of its rows: rare classes are seen as often as frequent ones.

    Shen et al., ECCV 2016, as in Wu et al., ECCV 2020 (published code, wutong16/DistributionBalancedLoss,
    mllt/datasets/loader/sampler.py). An endless sequence of classes, all of them in a new order in each pass, is read
    on from epoch to epoch; at each class the next `run` rows of a like sequence of its own rows are taken. A class of
    fewer rows than that repeats them at once. An epoch has int(n K / reduce) draws, n the rows of the most frequent
    class and K the classes, and a last batch that is not full is left out.

    The published sampler keeps its positions in those sequences in memory and draws from one generator. Here the
    positions at the start of an epoch are computed, and each pass has a generator of its own, so order = f(seed,
    epoch).

    Args:
        members: the rows of each class, as `class_members` gives them, none empty.
        batch_size: samples per global batch.
        seed: of the order.
        reduce: divisor of the length of an epoch.
        run: rows that are taken at each class.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        members: Sequence[Index],
        batch_size: int,
        *,
        seed: int,
        reduce: int = 4,
        run: int = 3,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.members, self.run = tuple(members), run
        self.draws = max(1, int(max(map(len, members)) * len(members) / reduce))
        whole = self.draws // batch_size * batch_size
        super().__init__(whole or self.draws, batch_size, seed=seed, rank=rank, world_size=world_size)

    @property
    def groups_per_epoch(self) -> int:
        """Classes that an epoch visits; the last of them may have fewer rows than `run`."""
        return -(-self.draws // self.run)

    def groups(self, epoch: int) -> Index:
        """(G,) the classes of an epoch in order, as indices into `members`."""
        return self._classes((epoch - 1) * self.groups_per_epoch, self.groups_per_epoch)

    def order(self, epoch: int) -> Index:
        """(draws,) the rows of an epoch."""
        drawn = np.repeat(self.groups(epoch), self.run)[: self.draws]
        counts, before = np.bincount(drawn, minlength=len(self.members)), self._drawn_before(epoch)
        positions = np.split(np.argsort(drawn, kind="stable"), np.cumsum(counts)[:-1])
        rows = np.empty(self.draws, dtype=np.int64)
        for label, own in enumerate(self.members):
            part = cycled(len(own), int(before[label]), int(counts[label]), self.seed, "members", label)
            rows[positions[label]] = own[part]
        return rows

    def _classes(self, first: int, count: int) -> Index:
        return cycled(len(self.members), first, count, self.seed, "classes")

    def _drawn_before(self, epoch: int) -> Index:
        """(K,) rows that earlier epochs took of each class."""
        groups, kinds = self.groups_per_epoch, len(self.members)
        passes, rest = divmod((epoch - 1) * groups, kinds)
        visits = passes + np.bincount(self._classes(passes * kinds, rest), minlength=kinds)
        cut = [int(self._classes(number * groups - 1, 1)[0]) for number in range(1, epoch)]
        left_out = groups * self.run - self.draws  # by the last class of every epoch
        return np.asarray(self.run * visits - left_out * np.bincount(np.array(cut, dtype=np.int64), minlength=kinds))


class SemiBatches(TrainingBatches):
    """So many labelled images in every global batch, the rest unlabelled, each of which comes once per epoch.

    Labelled images are read on from epoch to epoch, pass after pass, each pass in an order of its own; a batch over the
    end of a pass may have an image twice. Of a batch the labelled ones come first, so that processes share them out
    evenly. The last batch has all its labelled images, and the unlabelled ones that are left.

    Args:
        labelled: rows of the labelled images, not empty.
        unlabelled: rows of the others, not empty.
        batch_size: samples per global batch.
        labelled_per_batch: so many of them are labelled; at least 1 and below `batch_size`.
        seed: of the order.
        rank: of this process.
        world_size: number of processes.
        drop_last: True to leave the last batch out if it is not full.
    """

    def __init__(
        self,
        labelled: Index,
        unlabelled: Index,
        batch_size: int,
        *,
        labelled_per_batch: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        self.labelled, self.unlabelled, self.first = labelled, unlabelled, labelled_per_batch
        self.others = batch_size - labelled_per_batch
        used = len(unlabelled) // self.others * self.others if drop_last else len(unlabelled)
        self.steps = -(-used // self.others)
        super().__init__(
            self.steps * labelled_per_batch + used, batch_size, seed=seed, rank=rank, world_size=world_size
        )

    def order(self, epoch: int) -> Index:
        """(M,) the rows of an epoch; `rows` of them count."""
        count, generator = self.steps * self.first, np.random.default_rng(derive_seed(self.seed, "order", epoch))
        drawn = cycled(len(self.labelled), (epoch - 1) * count, count, self.seed, "labelled")
        others = np.resize(generator.permutation(self.unlabelled), self.steps * self.others)
        parts = self.labelled[drawn].reshape(self.steps, -1), others.reshape(self.steps, -1)
        return np.concatenate(parts, axis=1).ravel()


def cycled(size: int, first: int, count: int, seed: int, *key: int | str) -> Index:
    """(count,) items `first`, `first + 1`, ... of an endless sequence of all numbers below `size`, pass after pass.

    Each pass is a permutation of its own, decided by `seed`, `key` and its number.
    """
    begin, end = first // size, -(-(first + count) // size)
    orders = [np.random.default_rng(derive_seed(seed, *key, number)).permutation(size) for number in range(begin, end)]
    start = first - begin * size
    return np.concatenate([np.empty(0, dtype=np.int64), *orders])[start : start + count]


def class_members(labels: LabelTable) -> list[Index]:
    """The rows that have each class, ascending, class by class; classes that no row has are left out.

    Raises: UserError when no row has any class.
    """
    row, label = positives(labels)
    require(len(row) > 0, "--sampler class-aware: no image of the training set has a label; take --sampler shuffled")
    ends = np.cumsum(np.bincount(label, minlength=labels.num_classes))[:-1]
    return [rows for rows in np.split(row[np.argsort(label, kind="stable")], ends) if len(rows)]


class OrderedBatches(Sampler[list[Sample]]):
    """Every row once, in order, shared out among the processes without padding; for evaluation.

    `epoch` decides augmentation where there is any.
    """

    def __init__(self, rows: int, batch_size: int, *, rank: int = 0, world_size: int = 1, epoch: int = 0) -> None:
        self.rows, self.epoch = range(rank, rows, world_size), epoch
        self.batch_size = max(1, batch_size // world_size)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[list[Sample]]:
        for first in range(0, len(self.rows), self.batch_size):
            yield [Sample(self.epoch, row, row) for row in self.rows[first : first + self.batch_size]]
