"""Per-sample state (one row a training image), kept equal on all ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from utils.collectives import gather_rows


@torch.no_grad()
def write_rows(memory: Tensor, index: Tensor, values: Tensor) -> None:
    """Set `memory[index] = values` with the rows of all ranks, in place and alike on every rank.

    Where an image occurs more than once (a sampler that pads the last batch repeats some), its first row counts, rank
    0's rows coming first; so the result depends on no order of writing. Alone, nothing waits for the device.

    Args:
        memory: (N, ...) buffer.
        index: (B,) long, rows of the training set; B may differ from rank to rank.
        values: (B, ...) what to write, cast to the type of `memory`.
    """
    index = gather_rows(index.to(memory.device))
    values = gather_rows(values.to(memory))
    same = index[:, None] == index[None, :]
    first = same.to(torch.uint8).argmax(dim=1)  # the first of equal maxima, by argmax's contract
    memory[index] = values[first]
