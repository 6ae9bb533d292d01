"""The batch of all processes together, over which selections, thresholds and means of a batch are taken.

G rows of the global batch, B of them on this process.
"""

from __future__ import annotations

import torch
from torch import Tensor

from utils.collectives import gather_rows, rank, world_size


class GlobalBatch:
    """The rows of all processes, each image once, in the order in which one process alone would have them.

    Of each global batch process r has rows r, r + P, r + 2P, ... (P processes), as the sampler deals them out.
    Collective: every process makes one for each of its batches, and calls `rows` as often as the others.

    Args:
        index: (B,) long, the images on this process. One may come twice only where a batch smaller than the number of
            processes was padded, one row for each.
    """

    def __init__(self, index: Tensor) -> None:
        self.size = len(index)
        """G."""
        self._order: Tensor | slice = slice(None)  # into what `gather_rows` returns
        self._own: Tensor | slice = slice(None)  # into the global batch
        self._weight: Tensor | float = 1.0
        if world_size() > 1:
            self._arrange(index)

    def rows(self, values: Tensor) -> Tensor:
        """(G, ...) the rows of all processes from the (B, ...) of this one, without gradient."""
        return gather_rows(values)[self._order]

    def own(self, values: Tensor) -> Tensor:
        """(B, ...) this process's rows of (G, ...)."""
        return values[self._own]

    def total(self, values: Tensor, chosen: Tensor) -> Tensor:
        """This process's share of the sum of the chosen values of the global batch.

        It is scaled to the global batch, so that the mean over processes, weighted by the rows of each, is that sum.
        A row that only pads adds nothing. There is a gradient, if only of zeros, when nothing is chosen.

        Args:
            values: (B, ...) with gradient.
            chosen: (G, ...) bool.

        Returns:
            Scalar.
        """
        return values.where(self.own(chosen), 0).sum() * self._weight

    def _arrange(self, index: Tensor) -> None:
        own = rank() + world_size() * torch.arange(len(index), device=index.device)
        images, positions = gather_rows(torch.stack([index, own], dim=1)).unbind(dim=1)
        positions, order = positions.sort()
        self._own, self._order = torch.searchsorted(positions, own), order
        self.size, self._weight = len(order), len(order) / len(index)
        if self.size <= world_size():
            self._drop_padding(images[order], order, self._own)

    def _drop_padding(self, images: Tensor, order: Tensor, own: Tensor) -> None:
        """Keep each image once, where every process has one row."""
        same = images[:, None] == images[None, :]
        first = same.to(torch.uint8).argmax(dim=1)  # the first of equal maxima, by argmax's contract
        counts = first == torch.arange(len(first), device=first.device)
        self._own, self._order = (counts.cumsum(dim=0) - 1)[first][own], order[counts]
        self.size, self._weight = len(self._order), counts[own].squeeze(0) * self._weight
