"""Communication between the ranks of a run. Every function is a no-op for a run of one process.

All of them are collective: every rank must call them, in the same order. Results have no gradient. Tensors on a device
that the backend cannot send from (CPU tensors under NCCL, CUDA tensors under gloo) are moved to another one and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def world_size() -> int:
    """Number of processes of this run; 1 unless it was launched as several."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def barrier() -> None:
    """Wait until every rank has reached this call."""
    if world_size() > 1:
        dist.barrier()


def all_sum(values: Tensor) -> Tensor:
    """Sum over ranks of a tensor of one shape, the same on every rank."""
    return _reduced(values, dist.ReduceOp.SUM) if world_size() > 1 else values.detach()


def all_sums(values: Sequence[Tensor]) -> list[Tensor]:
    """`all_sum` of several tensors, in one exchange for all of one type."""
    found: dict[int, Tensor] = {}
    for dtype in dict.fromkeys(each.dtype for each in values):
        at = [number for number, each in enumerate(values) if each.dtype == dtype]
        total = all_sum(torch.cat([values[number].flatten() for number in at]))
        parts = torch.split(total, [values[number].numel() for number in at])
        found |= {number: part.view_as(values[number]) for number, part in zip(at, parts, strict=True)}
    return [found[number] for number in range(len(values))]


def all_max(values: Tensor) -> Tensor:
    """Elementwise maximum over ranks of a tensor of one shape, the same on every rank."""
    return _reduced(values, dist.ReduceOp.MAX) if world_size() > 1 else values.detach()


def broadcast(values: Tensor) -> Tensor:
    """Rank 0's tensor, on every rank; the shape and dtype must be the same everywhere."""
    if world_size() == 1:
        return values.detach()
    sent = _sendable(values).clone()
    dist.broadcast(sent, src=0)
    return sent.to(values.device)


def of_first(values: Tensor) -> Tensor:
    """Rank 0's tensor, on every rank; of the host from host to host, so that no GPU is waited for."""
    return host_broadcast(values) if values.device.type == "cpu" else broadcast(values)


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all ranks, rank 0's first.

    Their numbers are exchanged first, for which a GPU is waited for.

    Args:
        rows: (n, ...), where n may differ from rank to rank and may be 0; dtype and trailing shape may not differ.

    Returns:
        (sum of all n, ...), the same on every rank.
    """
    if world_size() == 1:
        return rows.detach()
    own = _sendable(rows)
    counts = [int(count) for count in _gathered(torch.tensor([len(own)], device=own.device))]
    parts = _gathered(_padded(own, max(counts)))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)]).to(rows.device)


def gather_dealt(rows: Tensor, total: int) -> Tensor:
    """The rows of a batch that is dealt out to the ranks, each once, in the order in which one process has them.

    Rank r of P has rows r, r + P, r + 2P, ... of the batch; of a batch of fewer rows than ranks each has all, and those
    of rank 0 are taken. In one exchange, and nothing waits for the device.

    Args:
        rows: (n, ...) this rank's; dtype and trailing shape are the same on every rank.
        total: G, the number of rows of the batch.

    Returns:
        (G, ...), the same on every rank.
    """
    if total < world_size():
        return broadcast(rows)
    if world_size() == 1:
        return rows.detach()
    most = -(-total // world_size())
    parts = _gathered(_padded(_sendable(rows), most))
    return torch.stack(parts, dim=1).flatten(0, 1)[:total].to(rows.device)


def exchange_rows(rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
    """Rows that the ranks send to each other; nothing waits for the device.

    Args:
        rows: (sum of `sent`, ...), first those for rank 0; dtype and trailing shape are the same on every rank.
        sent: number of rows for each rank.
        received: number of rows from each rank.

    Returns:
        (sum of `received`, ...), first those from rank 0.
    """
    own = _sendable(rows)
    found = own.new_empty(sum(received), *own.shape[1:])
    dist.all_to_all_single(found, own, list(received), list(sent))
    return found.to(rows.device)


def host_max(values: Sequence[int]) -> list[int]:
    """Elementwise maximum over ranks of numbers on the host, for which no GPU is waited for."""
    held = torch.tensor(values)
    if world_size() > 1:
        dist.all_reduce(held, dist.ReduceOp.MAX, group=_hosts())
    return held.tolist()


def host_broadcast(values: Tensor) -> Tensor:
    """Rank 0's tensor of the host, on every rank; the shape and dtype must be the same everywhere."""
    if world_size() > 1:
        values = values.contiguous().clone()
        dist.broadcast(values, src=0, group=_hosts())
    return values


def _reduced(values: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
    sent = _sendable(values).clone()
    dist.all_reduce(sent, how)
    return sent.to(values.device)


def _gathered(values: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(parts, values)
    return parts


def forget_hosts() -> None:
    """Drop the group that numbers of the hosts went through, at the end of a run: its threads end with it."""
    _HOST_GROUPS.clear()


def _padded(rows: Tensor, count: int) -> Tensor:
    """(count, ...) the rows, and zeros after them."""
    return rows if len(rows) == count else torch.cat([rows, rows.new_zeros(count - len(rows), *rows.shape[1:])])


def _usable_devices() -> list[str]:
    """Kinds of devices whose tensors the backend can send."""
    backends = dict(part.split(":") for part in dist.get_backend_config().split(","))
    # gloo accepts CUDA tensors for some collectives only, so under gloo everything is sent from the CPU
    return [kind for kind, name in backends.items() if kind == "cpu" or name != "gloo"]


_HOST_GROUPS: dict[Any, Any] = {}
"""By the group of all ranks, the one that sends tensors of the host."""


def _hosts() -> Any:
    """A group of all ranks that sends tensors of the host; None for the usual one."""
    if "cpu" in _usable_devices():
        return None
    everyone = dist.group.WORLD
    if everyone not in _HOST_GROUPS:
        _HOST_GROUPS.clear()
        _HOST_GROUPS[everyone] = dist.new_group(backend="gloo")
    return _HOST_GROUPS[everyone]


def _sendable(values: Tensor) -> Tensor:
    """`values`, contiguous, on a device that the backend can send from."""
    usable, values = _usable_devices(), values.detach().contiguous()
    if values.device.type in usable:
        return values
    return values.cpu() if "cpu" in usable else values.to(torch.device(usable[0], torch.cuda.current_device()))
