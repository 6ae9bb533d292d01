"""Label memories: state with a row per training image, kept equal on all ranks, on the device or on the host.

B batch, C classes, N training images. A criterion reads and writes rows by the functions here, and so need not know
where a memory lies. On the host, in the memory of the machine, a step copies B rows there and back; those that it
writes are on their way until they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from utils.checks import require
from utils.collectives import gather_rows, world_size
from utils.types import LabelTable

BLOCK = 1 << 24
"""Entries of a memory that are read at a time where all of it is read."""


class _LateRows(NamedTuple):
    """Rows that are to be written to a memory on the host once they have arrived there."""

    rows: Tensor  # (B,) long
    values: Tensor  # (B, ...)
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
    rows = memory[_beside(memory, index, on_host)]
    if rows.device == index.device:
        return rows
    pinned = rows if rows.requires_grad else rows.pin_memory()  # a copy from other memory may wait for the device
    return pinned.to(index.device, non_blocking=True)


@torch.no_grad()
def write_rows(memory: Tensor, index: Tensor, values: Tensor, on_host: Tensor | None = None) -> Tensor:
    """Set `memory[index] = values` in place, with the rows of all ranks and alike on every rank.

    Where an image occurs more than once (a sampler that pads the last batch repeats some), its first row counts, rank
    0's rows coming first; so the result depends on no order of writing. Alone, nothing waits for the device: rows of a
    memory on the host are written when they have arrived, at the latest by `settle`.

    Args:
        memory: (N, ...) buffer, on the device of `index` or on the host.
        index: (B,) long, rows of the training set; B may differ from rank to rank.
        values: (B, ...) new rows, on the device of `index`, cast to the type of `memory`.
        on_host: as for `read_rows`.

    Returns:
        (B, ...) what is now kept of these images, on the device of `index`.
    """
    everyone, values = gather_rows(index), gather_rows(values.to(memory.dtype))
    kept = values[_first(everyone, everyone)]
    if memory.device == kept.device:
        memory[everyone] = kept
    else:
        _write_late(memory, everyone if on_host is None or world_size() > 1 else on_host, kept)
    return kept if world_size() == 1 else values[_first(index, everyone)]


@torch.no_grad()
def settle(memory: Tensor) -> None:
    """Complete a memory on the host: rows that are still on their way are waited for and written.

    All functions here do it first; whoever reads a memory in another way calls it.
    """
    late: _LateRows | None = _LATE.pop(memory, None)  # type: ignore[no-untyped-call]
    if late is not None:
        late.arrived.synchronize()
        memory[late.rows] = late.values


def row_blocks(memory: Tensor, device: torch.device | None = None) -> Iterator[Tensor]:
    """Rows of a memory (N, C) in order, some at a time, on `device` (None: where they are)."""
    settle(memory)
    size = max(1, BLOCK // max(memory.shape[1], 1))
    for start in range(0, len(memory), size):
        yield memory[start : start + size].to(device or memory.device, non_blocking=True)


def column_sums(memory: Tensor, device: torch.device | None = None) -> Tensor:
    """(C,) sums of a memory (N, C) over its rows, on `device` (None: where it is)."""
    return torch.stack([rows.sum(dim=0) for rows in row_blocks(memory, device)]).sum(dim=0)


def _write_late(memory: Tensor, index: Tensor, values: Tensor) -> None:
    """Send rows to a memory on the host; no one waits for them now."""
    settle(memory)
    rows, sent = (each.to(memory.device, non_blocking=True) for each in (index, values))
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()
    _LATE[memory] = _LateRows(rows, sent, arrived)


def _beside(memory: Tensor, index: Tensor, on_host: Tensor | None) -> Tensor:
    """The index on the device of the memory."""
    return index.to(memory.device) if on_host is None or index.device == memory.device else on_host


def _first(index: Tensor, among: Tensor) -> Tensor:
    """(B,) position in `among` (G,) at which each number of `index` (B,) occurs first."""
    same = index[:, None] == among[None, :]
    return same.to(torch.uint8).argmax(dim=1)  # the first of equal maxima, by argmax's contract
