"""The batch of all processes together, over which selections, thresholds and means of a batch are taken.

G rows of the global batch, B of them on this process, P processes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from utils.collectives import all_sum, exchange_rows, gather_dealt, gather_rows, rank, world_size
from utils.types import Batch


def share_of_all(batch: Batch) -> float:
    """Weight of this process's mean over its rows in the mean over the global batch, where the batch tells its rows.

    Of a batch of fewer rows than processes each has all, and an equal share.
    """
    index = batch.index if batch.global_index is None else batch.global_index
    return _share(len(batch.index), len(index))


def rows_of_all(batch: Batch) -> float | Tensor:
    """Number of rows of the global batch; where the batch does not tell them, those included that only pad."""
    known = batch.index if world_size() == 1 else batch.global_index
    if known is not None:
        return float(len(known))
    return all_sum(torch.full((), float(len(batch.index)), device=batch.index.device))


class GlobalBatch:
    """The rows of all processes, each image once, in the order in which one process alone would have them.

    Of each global batch process r has rows r, r + P, r + 2P, ..., as the sampler deals them out; of a batch of fewer
    rows than processes each has all. Collective: every process makes one for each of its batches, and calls `rows` as
    often as the others. A call is one exchange, for which nothing waits; where the batch does not say which rows the
    others have, that is asked first, and each exchange waits for the numbers of rows.

    Args:
        batch: of this process. Where it does not say which rows the others have, an image may come twice only where a
            batch smaller than the number of processes was padded, one row for each.
    """

    def __init__(self, batch: Batch) -> None:
        self._index = batch.index if batch.global_index is None else batch.global_index
        self._device = batch.index.device
        self.host_index = batch.host_index if world_size() == 1 else batch.global_index
        """`index` on the host, where it is known there."""
        self.size = len(self._index)
        """G."""
        self._order: Tensor | None = None  # into what `gather_rows` returns, where rows are not dealt out as known
        self._own: Tensor | slice = slice(None)  # into the global batch
        self._weight: Tensor | float = 1.0
        self._has_all = batch.global_index is not None and self.size < world_size()
        if world_size() > 1:
            if batch.global_index is None:
                self._arrange(batch.index)
            else:
                self._deal(len(batch.index))
        self.share = _share(len(batch.index), self.size)
        """Weight of this process's mean over its rows in the mean over the global batch."""

    @property
    def index(self) -> Tensor:
        """(G,) long, rows of the training set, on the device of the batch."""
        return self._index.to(self._device, non_blocking=True)

    def rows(self, values: Tensor) -> Tensor:
        """(G, ...) the rows of all processes from the (B, ...) of this one, without gradient."""
        return gather_dealt(values, self.size) if self._order is None else gather_rows(values)[self._order]

    def rows_with_gradient(self, values: Tensor) -> Tensor:
        """The same rows, of which those of this process have a gradient.

        It is scaled to the global batch: of a function of all rows, which every process computes, the mean of the
        gradients over processes, weighted by the rows of each, is that which one process would have.
        """
        if world_size() == 1:
            return values
        positions = torch.arange(self.size, device=values.device)[self._own]
        return _with_gradient(self.rows(values), values, positions, self._weight)

    def dealt_with_gradient(self, values: Tensor, total: int) -> Tensor:
        """(total, ...) rows that were made beside the batch, dealt out as `dealt` does it; gradients as there."""
        if world_size() == 1:
            return values
        positions = torch.arange(total, device=values.device)[dealt(total, rank())]
        weight = 1 / self.share if total >= world_size() else 1.0  # else each process has all of them
        return _with_gradient(gather_dealt(values, total), values, positions, weight)

    def fetch(self, values: Tensor, wanted: Sequence[Tensor]) -> Tensor:
        """Rows that this process wants, whichever process has them, in one exchange of what is wanted alone.

        Where the batch does not say which rows the others have, all rows are exchanged.

        Args:
            values: (B, ...) of this process, without gradient.
            wanted: for every process the positions in the global batch that it wants, the same on every process: long,
                on the host, or with one process on the device of the values.

        Returns:
            (number of this process's `wanted`, ...) in their order.
        """
        own = wanted[rank()]
        if world_size() == 1:
            return values[own]
        if self._has_all:
            return values[beside(own, values.device)]
        if self._order is not None:
            return self.rows(values)[own.to(values.device)]
        asked, place = torch.unique(own, return_inverse=True)
        parts = [self._held(torch.unique(each)) for each in wanted]
        received = (asked % world_size()).bincount(minlength=world_size()).tolist()
        sent = values[beside(torch.cat(parts), values.device)]
        found = exchange_rows(sent, [len(part) for part in parts], received)
        by_process = (asked % world_size()).argsort(stable=True)  # the order in which they come
        return found[beside(by_process.argsort()[place], values.device)]

    def own(self, values: Tensor) -> Tensor:
        """(B, ...) this process's rows of (G, ...)."""
        return values[self._own]

    def total(self, values: Tensor, chosen: Tensor) -> Tensor:
        """This process's share of the sum of the chosen values of the global batch.

        It is scaled to the global batch, so that the mean over processes, weighted by the rows of each, is that sum.
        There is a gradient, if only of zeros, when nothing is chosen.

        Args:
            values: (B, ...) with gradient.
            chosen: (G, ...) bool.

        Returns:
            Scalar.
        """
        return values.where(self.own(chosen), 0).sum() * self._weight

    def _held(self, positions: Tensor) -> Tensor:
        """Which of this process's rows stand at these positions, those that it has."""
        return positions[positions % world_size() == rank()] // world_size()

    def _deal(self, own: int) -> None:
        """Take down which rows are this process's."""
        self._own = dealt(self.size, rank())
        self._weight = 1.0 if self._has_all else self.size / own

    def _arrange(self, index: Tensor) -> None:
        own = rank() + world_size() * torch.arange(len(index), device=index.device)
        images, positions = gather_rows(torch.stack([index, own], dim=1)).unbind(dim=1)
        positions, order = positions.sort()
        self._own, self._order, self._index = torch.searchsorted(positions, own), order, images[order]
        self.size, self._weight = len(order), len(order) / len(index)
        if self.size <= world_size():
            self._drop_padding(self._index, order, self._own)

    def _drop_padding(self, images: Tensor, order: Tensor, own: Tensor) -> None:
        """Keep each image once, where every process has one row."""
        same = images[:, None] == images[None, :]
        first = same.to(torch.uint8).argmax(dim=1)  # the first of equal maxima, by argmax's contract
        counts = first == torch.arange(len(first), device=first.device)
        self._own, self._order = (counts.cumsum(dim=0) - 1)[first][own], order[counts]
        self._index, self.size = images[counts], len(self._order)
        self._weight = counts[own].squeeze(0) * self._weight


def dealt(total: int, process: int) -> slice:
    """Which of so many rows a process has: every P-th; all of them where they are fewer than the processes."""
    return slice(process, None, world_size()) if total >= world_size() else slice(None)


def _share(own: int, total: int) -> float:
    """Part of a process that has so many of all rows; of fewer rows than processes each has all."""
    return own / total if total >= world_size() else 1 / world_size()


def _with_gradient(everyone: Tensor, own: Tensor, positions: Tensor, weight: Tensor | float) -> Tensor:
    """Rows (G, ...) without gradient, those at `positions` with that of this process's rows `own` times a weight."""
    nothing = weight * (own - own.detach())  # but the gradient
    return everyone.index_add(0, positions, nothing)


def beside(index: Tensor, device: torch.device) -> Tensor:
    """An index of the host on a device, for which nothing waits."""
    there = index.device == device
    return index if there else index.contiguous().pin_memory().to(device, non_blocking=True)
