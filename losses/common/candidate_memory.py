"""Candidate memories: a number for each candidate label of each training image, and none for all other labels.

B batch, C classes, N training images, E candidates of all images, K of the image that has the most. Numbers stand image
by image, the classes of an image in ascending order, as in a CSR array; where they begin and which classes they are of
follows from the observed labels, and is in no checkpoint. A batch looks K of them up for each of its images, so that a
step costs the same whatever N is, and its sizes are known beforehand: nothing waits for a GPU.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn

from losses.common.global_batch import GlobalBatch
from losses.common.memory import MemoryNeed, first_places, index_beside, put, settle, to_device
from utils.types import PRESENT, Batch, LabelTable

BLOCK = 1 << 22
"""Labels that are read at a time where all of them are read; 8 bytes of each are needed meanwhile."""


class ClassTotals(NamedTuple):
    """Sum of a memory over the images, and the number of those where it is not 0, class by class."""

    sums: Tensor  # (C,) float64
    counts: Tensor  # (C,) long


def candidate_need(name: str, observed: LabelTable, dtype: torch.dtype) -> MemoryNeed:
    """The need of a candidate memory of numbers of this type, found before anything is made."""
    candidates = int(observed.counts(PRESENT).sum())
    each = dtype.itemsize + column_type(observed.num_classes).itemsize
    return MemoryNeed(name, (candidates + 1) * each + (len(observed) + 1) * torch.int64.itemsize)


def column_type(classes: int) -> torch.dtype:
    """The smallest integers that number C classes and one more."""
    return next(kind for kind in (torch.uint8, torch.int16, torch.int32) if classes <= torch.iinfo(kind).max)


class CandidateMemory(nn.Module):
    """A number for each candidate (PRESENT) of each image; at the start the candidates of an image share 1 equally.

    State: `values` (E + 1,), whose last entry is 0 and stands for all that are no candidates.

    Args:
        observed: the labels (N, C).
        dtype: of the numbers.
    """

    values: Tensor
    starts: Tensor  # (N + 1,) long, where the numbers of each image begin, and where the last one's end
    columns: Tensor  # (E + 1,) the class of each number; at the end C

    def __init__(self, observed: LabelTable, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        counts, columns = _candidates(observed)
        self.classes = observed.num_classes
        self.widest = int(counts.max(initial=0))
        """K."""
        shares = 1 / torch.from_numpy(counts).to(dtype)
        values = torch.zeros(len(columns), dtype=dtype)
        values[:-1] = shares.repeat_interleave(torch.from_numpy(counts))
        self.register_buffer("values", values)
        starts = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]))
        self.register_buffer("starts", starts, persistent=False)
        self.register_buffer("columns", torch.from_numpy(columns), persistent=False)

    def __len__(self) -> int:
        """N."""
        return len(self.starts) - 1

    def rows(self, index: Tensor, on_host: Tensor | None = None) -> Tensor:
        """(B, C) numbers of these images, 0 where they have no candidate, on the device of `index`.

        Nothing waits for the device, except for the index of a memory on the host where `on_host` is not given.

        Args:
            index: (B,) long, rows of the training set.
            on_host: the same numbers on the host, where they are known there.
        """
        settle(self.values)
        places = self._places(index, on_host)
        values, columns = (to_device(each[places], index.device) for each in (self.values, self.columns))
        return self._spread(values, columns)

    def dense(self) -> Tensor:
        """(N, C) all rows; for small sets."""
        return self.rows(torch.arange(len(self), device=self.values.device))

    @torch.no_grad()
    def write(self, batch: Batch, values: Tensor) -> Tensor:
        """Set the numbers of a batch to `values` at its candidates, those of all ranks and alike on every rank.

        One exchange, of K numbers per image; otherwise as `store`.

        Args:
            batch: its rows of the training set count.
            values: (B, C) new rows, on the device of the batch, cast to the type of the memory.

        Returns:
            (B, C) what is now kept of these images, on the device of the batch.
        """
        whole, columns = GlobalBatch(batch), self._columns(batch.index, batch.host_index)
        rows = whole.rows(_at(columns, values.to(self.values.dtype)))
        kept = self._store(whole.index, rows, whole.host_index)
        return self._spread(whole.own(kept), columns)

    @torch.no_grad()
    def store(self, index: Tensor, values: Tensor, on_host: Tensor | None = None) -> None:
        """Set the numbers of images to `values` at their candidates, on a rank that knows the rows of all.

        Of an image that occurs more than once the first row counts. Nothing waits for the device, as in `rows`: a
        memory on the host is complete when these have arrived, at the latest by `settle`.

        Args:
            index: (G,) long, rows of the training set.
            values: (G, C) new rows, on the device of `index`, of the type of the memory.
            on_host: as for `rows`.
        """
        self._store(index, _at(self._columns(index, on_host), values), on_host)

    def class_totals(self, values: Tensor | None = None) -> ClassTotals:
        """Sums and counts over all images, on the host, which waits for the memory; alike wherever that is.

        Args:
            values: (E + 1,) instead of those that are kept.
        """
        settle(self.values)
        kept, columns = (each[:-1].cpu() for each in (self.values if values is None else values, self.columns))
        sums, counts = torch.zeros(self.classes, dtype=torch.float64), torch.zeros(self.classes, dtype=torch.int64)
        for start in range(0, len(kept), BLOCK):
            label, value = (each[start : start + BLOCK] for each in (columns, kept))
            sums += torch.bincount(label.long(), value.double(), self.classes)
            counts += torch.bincount(label[value != 0].long(), minlength=self.classes)
        return ClassTotals(sums, counts)

    def fits(self, dense: Tensor) -> bool:
        """True for a tensor (N, C) of all labels."""
        return dense.shape == (len(self), self.classes)

    def values_of(self, dense: Tensor) -> Tensor:
        """(E + 1,) `values` by a tensor (N, C) of all labels, as earlier versions kept it."""
        images = torch.arange(len(self)).repeat_interleave(self.starts.cpu().diff())
        values = dense.new_zeros(len(self.values))
        values[:-1] = dense[images.to(dense.device), self.columns[:-1].to(dense.device).long()]
        return values

    def _store(self, index: Tensor, values: Tensor, on_host: Tensor | None) -> Tensor:
        """Set the numbers (G, K) of images; return those kept."""
        kept = values[first_places(index)]
        put(self.values, self._places(index, on_host), kept)
        return kept

    def _places(self, index: Tensor, on_host: Tensor | None) -> Tensor:
        """(B, K) where the numbers of images (B,) stand, the last place where there are fewer; beside the memory."""
        rows = index_beside(self.starts, index, on_host)
        places = self.starts[rows][:, None] + torch.arange(self.widest, device=rows.device)
        return torch.where(places < self.starts[rows + 1][:, None], places, len(self.values) - 1)

    def _columns(self, index: Tensor, on_host: Tensor | None) -> Tensor:
        """(B, K) the classes of the candidates of images (B,), C where there are fewer, on the device of `index`."""
        return to_device(self.columns[self._places(index, on_host)], index.device)

    def _spread(self, values: Tensor, columns: Tensor) -> Tensor:
        """(B, C) rows with the values (B, K) at their classes (B, K)."""
        rows = values.new_zeros(len(values), self.classes + 1)
        return rows.scatter_(1, columns.long(), values)[:, : self.classes].contiguous()


def _at(columns: Tensor, values: Tensor) -> Tensor:
    """(B, K) of the rows (B, C) the values at these classes (B, K), 0 at C."""
    return torch.cat([values, values.new_zeros(len(values), 1)], dim=1).gather(1, columns.long())


def _candidates(observed: LabelTable) -> tuple[NDArray[np.int64], NDArray[np.integer]]:
    """Number of candidates of each image (N,), and their classes, image by image, with C behind them (E + 1,)."""
    kind = torch.empty(0, dtype=column_type(observed.num_classes)).numpy().dtype
    size = max(1, BLOCK // max(observed.num_classes, 1))
    counts, columns = [np.zeros(0, dtype=np.int64)], []
    for start in range(0, len(observed), size):
        rows, classes = _present(observed, start, start + size)
        counts.append(np.bincount(rows, minlength=min(size, len(observed) - start)))
        columns.append(classes.astype(kind))
    columns.append(np.array([observed.num_classes], dtype=kind))
    return np.concatenate(counts), np.concatenate(columns)


def _present(observed: LabelTable, start: int, stop: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows, counted from `start`, and classes of the PRESENT labels of some rows, in order. What is sparse stays so."""
    if not isinstance(observed.codes, csr_array) or observed.default == PRESENT:
        rows, classes = np.nonzero(observed.rows(slice(start, stop)) == PRESENT)
        return rows, classes
    part = observed.codes[start:stop].sorted_indices()
    present = part.data == PRESENT
    return np.repeat(np.arange(part.shape[0]), np.diff(part.indptr))[present], part.indices[present]
