"""Communication between the ranks of a run. Every function is a no-op for a run of one process.

All of them are collective: every rank must call them, in the same order. Results have no gradient. Tensors on a device
that the backend cannot send from (CPU tensors under NCCL, CUDA tensors under gloo) are moved to another one and back.
"""

from __future__ import annotations

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


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all ranks, rank 0's first.

    Args:
        rows: (n, ...), where n may differ from rank to rank and may be 0; dtype and trailing shape may not differ.

    Returns:
        (sum of all n, ...), the same on every rank.
    """
    if world_size() == 1:
        return rows.detach()
    own = _sendable(rows)
    counts = [int(count) for count in _gathered(torch.tensor([len(own)], device=own.device))]
    padded = own.new_zeros(max(counts), *own.shape[1:])
    padded[: len(own)] = own
    parts = _gathered(padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)]).to(rows.device)


def _reduced(values: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
    sent = _sendable(values).clone()
    dist.all_reduce(sent, how)
    return sent.to(values.device)


def _gathered(values: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(parts, values)
    return parts


def _sendable(values: Tensor) -> Tensor:
    """`values`, contiguous, on a device that the backend can send from."""
    backends = dict(part.split(":") for part in dist.get_backend_config().split(","))
    # gloo accepts CUDA tensors for some collectives only, so under gloo everything is sent from the CPU
    usable = [kind for kind, name in backends.items() if kind == "cpu" or name != "gloo"]
    values = values.detach().contiguous()
    if values.device.type in usable:
        return values
    return values.cpu() if "cpu" in usable else values.to(torch.device(usable[0], torch.cuda.current_device()))
