"""Label memories: state with a row per training image, kept equal on all ranks, on the device or on the host.

B batch, C classes, N training images. A criterion reads and writes rows by the functions here, and so need not know
where a memory lies. On the host, in the memory of the machine, a step copies B rows there and back; those that it
writes are on their way until they are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from losses.common.global_batch import GlobalBatch, beside
from utils.checks import require
from utils.collectives import all_sum, gather_dealt, world_size
from utils.types import Batch, LabelTable

BLOCK = 1 << 24
"""Entries of a memory that are read at a time where all of it is read."""


class _LateRows(NamedTuple):
    """Rows that are to be written to a memory on the host once they have arrived there."""

    rows: Tensor  # (B,) long, or of any shape
    values: Tensor  # (B, ...), or an entry for each of them
    arrived: torch.cuda.Event


_LATE: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Rows on their way, by memory."""


class MemoryNeed(NamedTuple):
    """State that will be kept during training."""

    name: str
    size: int  # bytes
    per_image: bool = True
    """True for a label memory, which may be on the host."""
    learned: bool = False
    """True for a parameter, which has a gradient and state of the optimiser beside it."""
    remedy: str = ""
    """A setting that makes it smaller."""


def label_memory(name: str, observed: LabelTable, bytes_per_label: int, *, learned: bool = False) -> MemoryNeed:
    """The need of an entry for each of the labels (N, C)."""
    return MemoryNeed(name, len(observed) * observed.num_classes * bytes_per_label, learned=learned)


def zero_rows(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """(rows, width) zeros on the host, of which the system only gives what is written, page by page."""
    kind = torch.empty(0, dtype=dtype).numpy().dtype
    return torch.from_numpy(np.zeros((rows, width), dtype=kind))


def require_room(owner: str, needs: Sequence[MemoryNeed], free: int, where: str, advice: str) -> None:
    """Raise UserError, with figures and the advice, unless `free` bytes hold what `owner` will keep."""
    size = sum(need.size for need in needs)
    parts = " and ".join(f"{need.name} of {gib(need.size)} GiB" for need in needs)
    require(size <= free, f"{owner} keeps {parts} {where}, of which {gib(free)} GiB are free; {advice}")


def gib(size: int) -> str:
    """Bytes in GiB, with two digits behind the point where there are few before it."""
    return f"{size / 2**30:,.{0 if size >= 100 * 2**30 else 2}f}"


def read_rows(memory: Tensor, index: Tensor, on_host: Tensor | None = None) -> Tensor:
    """(B, ...) rows of `memory` on the device of `index`, with gradient where `memory` has one.

    Nothing waits for the device, except for the index of rows on the host where `on_host` is not given.

    Args:
        memory: (N, ...), on that device or on the host.
        index: (B,) long, rows of the training set.
        on_host: the same numbers on the host, where they are known there.
    """
    settle(memory)
    return to_device(memory[index_beside(memory, index, on_host)], index.device)


def to_device(rows: Tensor, device: torch.device) -> Tensor:
    """Rows that were taken from a memory, on `device`, for which nothing waits."""
    if rows.device == device:
        return rows
    pinned = rows if rows.requires_grad else rows.pin_memory()  # a copy from other memory may wait for the device
    return pinned.to(device, non_blocking=True)


def index_beside(memory: Tensor, index: Tensor, on_host: Tensor | None) -> Tensor:
    """The index (B,) on the device of the memory; `on_host` are the same numbers there, where they are known."""
    return index.to(memory.device) if on_host is None or index.device == memory.device else on_host


@torch.no_grad()
def write_rows(memory: Tensor, batch: Batch, values: Tensor) -> Tensor:
    """Set `memory[batch.index] = values` in place, with the rows of all ranks and alike on every rank.

    One exchange; otherwise as `store_rows`.

    Args:
        memory: (N, ...) buffer, on the device of the batch or on the host.
        batch: its rows of the training set count.
        values: (B, ...) new rows, on the device of the batch, cast to the type of `memory`.

    Returns:
        (B, ...) what is now kept of these images, on the device of the batch.
    """
    whole = GlobalBatch(batch)
    return whole.own(store_rows(memory, whole.index, whole.rows(values.to(memory.dtype)), whole.host_index))


@torch.no_grad()
def store_rows(memory: Tensor, index: Tensor, values: Tensor, on_host: Tensor | None = None) -> Tensor:
    """Set `memory[index] = values` in place, on a rank that knows the rows of all.

    Where an image occurs more than once its first row counts, so that the result depends on no order of writing.
    Nothing waits for the device: rows of a memory on the host are written when they have arrived, at the latest by
    `settle`.

    Args:
        memory: (N, ...) buffer, on the device of `index` or on the host.
        index: (G,) long, rows of the training set.
        values: (G, ...) new rows, on the device of `index`, of the type of `memory`.
        on_host: as for `read_rows`.

    Returns:
        (G, ...) what is now kept of these images, on the device of `index`.
    """
    kept = values[first_places(index)]
    put(memory, index if on_host is None or memory.device == kept.device else on_host, kept)
    return kept


def first_places(index: Tensor) -> Tensor:
    """(G,) where the image of each row comes first in the index (G,)."""
    same = index[:, None] == index[None, :]
    return same.to(torch.uint8).argmax(dim=1)  # the first of equal maxima, by argmax's contract


@torch.no_grad()
def put(memory: Tensor, where: Tensor, values: Tensor) -> None:
    """Set `memory[where] = values` in place: now on one device, else when they have arrived, at the latest by `settle`.

    Args:
        memory: on any device.
        where: rows or entries, long, on the device of either.
        values: of them.
    """
    if memory.device == values.device:
        memory[where] = values
    else:
        _write_late(memory, where, values)


@torch.no_grad()
def settle(memory: Tensor) -> None:
    """Complete a memory on the host: rows that are still on their way are waited for and written.

    All functions here do it first; whoever reads a memory in another way calls it.
    """
    late: _LateRows | None = _LATE.pop(memory, None)  # type: ignore[no-untyped-call]
    if late is not None:
        late.arrived.synchronize()
        memory[late.rows] = late.values


@torch.no_grad()
def add_up_gradient(gradient: Tensor, batch: Batch) -> None:
    """Make the gradient of a label memory the sum of those of all ranks, in place.

    Only the rows of the global batch are exchanged, once; all others are 0.

    Args:
        gradient: (N, ...), on the device of the batch or on the host.
        batch: of this rank, which says which rows the others have.
    """
    assert batch.global_index is not None
    everyone = batch.global_index
    first = first_places(batch.index) == torch.arange(len(batch.index), device=batch.index.device)
    own = read_rows(gradient, batch.index, batch.host_index)
    own = own * first.view(-1, *[1] * (own.ndim - 1))  # an image that comes twice counts once
    each_has_all = len(everyone) < world_size()
    rows = all_sum(own) if each_has_all else gather_dealt(own, len(everyone))
    gradient.zero_().index_add_(0, beside(everyone, gradient.device), rows.to(gradient.device))


def _write_late(memory: Tensor, index: Tensor, values: Tensor) -> None:
    """Send rows to a memory on the host; no one waits for them now."""
    settle(memory)
    rows, sent = (each.to(memory.device, non_blocking=True) for each in (index, values))
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()
    _LATE[memory] = _LateRows(rows, sent, arrived)
