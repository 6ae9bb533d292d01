"""What each process has of its own within an epoch, saved of all: statistics of BatchNorm, sums of logged losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from utils.collectives import all_sum, gather_rows, world_size
from utils.types import StateDict


def buffers_of_ranks(network: nn.Module) -> list[StateDict]:
    """The floating-point buffers of a network on every process, as `of_ranks` gives them."""
    return of_ranks(_float_buffers(network))


def of_ranks(own: Mapping[str, Tensor]) -> list[StateDict]:
    """Tensors that each process has under the same names, by rank and name, on the CPU.

    Collective. Empty for a run of one process, which has them in its state anyway.
    """
    if world_size() == 1:
        return []
    sizes = [value.numel() for value in own.values()]
    flat = torch.cat([torch.zeros(0), *(value.double().flatten().cpu() for value in own.values())])
    rows = gather_rows(flat[None])  # float64 holds every narrower number exactly
    return [
        {
            name: part.reshape(own[name].shape).to(own[name].dtype)
            for name, part in zip(own, row.split(sizes), strict=True)
        }
        for row in rows
    ]


def of_process(ranks: Sequence[StateDict], rank: int) -> StateDict:
    """What a process goes on with: its own, or the mean of all where another number of processes saved them.

    Args:
        ranks: what `of_ranks` gave when the run was saved; nothing for a run of one process.
        rank: number of this process.
    """
    if not ranks or len(ranks) == world_size():
        return ranks[rank] if ranks else {}
    return {name: torch.stack([each[name].double() for each in ranks]).mean(dim=0) for name in ranks[0]}


def take_buffers(network: nn.Module, ranks: Sequence[StateDict], rank: int) -> bool:
    """Give a network the buffers that `of_process` says.

    Args:
        network: the network of this process, in place.
        ranks: what `buffers_of_ranks` gave when the run was saved; nothing for a run of one process.
        rank: number of this process.

    Returns:
        True if the mean was taken of buffers that differ.
    """
    taken = of_process(ranks, rank)
    for name, buffer in _float_buffers(network).items() if ranks else ():
        buffer.copy_(taken[name])
    averaged = bool(ranks) and len(ranks) != world_size()
    return averaged and any(not torch.equal(ranks[0][name], each[name]) for each in ranks[1:] for name in each)


def mean_over_ranks(sums: Mapping[str, Tensor]) -> dict[str, float]:
    """Means over the processes of scalars that each has under the same names. Collective."""
    if not sums:
        return {}
    means = all_sum(torch.stack([*sums.values()])) / world_size()
    return dict(zip(sums, means.tolist(), strict=True))


def _float_buffers(network: nn.Module) -> dict[str, Tensor]:
    """The buffers that are averaged over processes at the end of an epoch, and saved."""
    saved = network.state_dict().keys()
    return {name: value for name, value in network.named_buffers() if name in saved and value.is_floating_point()}
