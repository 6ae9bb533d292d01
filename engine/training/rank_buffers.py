"""Buffers that each process has of its own within an epoch: the statistics of BatchNorm, saved of all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from utils.collectives import gather_rows, world_size
from utils.types import StateDict


def buffers_of_ranks(network: nn.Module) -> list[StateDict]:
    """The floating-point buffers of a network on every process, by rank and name, on the CPU.

    Collective. Empty for a run of one process, whose buffers are in its state anyway.
    """
    if world_size() == 1:
        return []
    own = _float_buffers(network)
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


def take_buffers(network: nn.Module, ranks: Sequence[StateDict], rank: int) -> bool:
    """Give a network the buffers of its process, or the mean of all where another number of processes saved them.

    Args:
        network: the network of this process, in place.
        ranks: what `buffers_of_ranks` gave when the run was saved; nothing for a run of one process.
        rank: number of this process.

    Returns:
        True if the mean was taken of buffers that differ.
    """
    buffers, same = _float_buffers(network), len(ranks) == world_size()
    differ = False
    for name, buffer in buffers.items() if ranks else ():
        saved = [each[name] for each in ranks]
        if same:
            buffer.copy_(saved[rank])
        else:
            differ |= any(not torch.equal(saved[0], each) for each in saved[1:])
            buffer.copy_(torch.stack([each.double() for each in saved]).mean(dim=0))
    return differ


def _float_buffers(network: nn.Module) -> dict[str, Tensor]:
    """The buffers that are averaged over processes at the end of an epoch, and saved."""
    saved = network.state_dict().keys()
    return {name: value for name, value in network.named_buffers() if name in saved and value.is_floating_point()}
