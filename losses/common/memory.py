"""Per-sample state (one row per training image), kept equal on all ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from utils.checks import require
from utils.collectives import gather_rows
from utils.types import LabelTable

LARGEST_TABLE = 16 * 2**30
"""Bytes of per-sample state above which a method is refused: no published dataset but OpenImages comes near."""


def check_memory(observed: LabelTable, bytes_per_entry: int, what: str) -> None:
    """Refuse state of N x C entries that no machine has the memory for.

    Args:
        observed: the labels (N, C), each of which has an entry.
        bytes_per_entry: size of one entry.
        what: the method and its state, such as "CoNeS keeps a confidence".

    Raises:
        UserError: the table exceeds `LARGEST_TABLE`.
    """
    size = len(observed) * observed.num_classes * bytes_per_entry
    require(
        size <= LARGEST_TABLE,
        f"{what} for each of {len(observed):,} images and {observed.num_classes:,} classes, {size / 2**30:.0f} GiB;"
        f" take a method that keeps none, or a part of the images with --ss_frac_train",
    )


@torch.no_grad()
def write_rows(memory: Tensor, index: Tensor, values: Tensor) -> None:
    """Set `memory[index] = values` in place, with the rows of all ranks and alike on every rank.

    Where an image occurs more than once (a sampler that pads the last batch repeats some), its first row counts, rank
    0's rows coming first; so the result depends on no order of writing. Alone, nothing waits for the device.

    Args:
        memory: (N, ...) buffer.
        index: (B,) long, rows of the training set; B may differ from rank to rank.
        values: (B, ...) new rows, cast to the type of `memory`.
    """
    index = gather_rows(index.to(memory.device))
    values = gather_rows(values.to(memory))
    same = index[:, None] == index[None, :]
    first = same.to(torch.uint8).argmax(dim=1)  # the first of equal maxima, by argmax's contract
    memory[index] = values[first]
