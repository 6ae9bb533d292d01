"""The queue of class embeddings of LAC, and the contrast over it, without waiting for the device.

Q places, E embeddings that may be put into them, D width of an embedding. Each embedding is a pair, of both views of an
image, and belongs to a class; classes are numbered from 1, and 0 is an empty place. Source: docs/methods/plc.md.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Variant = Literal["fixed", "reference"]

_NEVER = -1e30  # a similarity whose share is 0, also where there is no other


class Queue(NamedTuple):
    """Places, the class in each, and where the next embedding goes."""

    pairs: Tensor  # (Q, 2, D)
    labels: Tensor  # (Q,) long
    pointer: Tensor  # scalar, long


@torch.no_grad()
def free_places(chosen: Tensor, queue: Queue, variant: Variant = "fixed") -> tuple[Tensor, Tensor]:
    """The place of each embedding that is put in, and where the next one will go.

    Args:
        chosen: (E,) bool, those that are put in, in this order; of more than Q the last Q.
        queue: its pointer and size count.
        variant: "fixed" goes round; "reference" begins again at place 0 with all that would reach the last place.

    Returns:
        (E,) long, Q for embeddings that are not put in; and the pointer.
    """
    size, number, count = len(queue.labels), chosen.cumsum(dim=0) - 1, chosen.sum()
    skipped = (count - size).clamp(min=0)
    kept = chosen & (number >= skipped)
    if variant == "reference":
        start = torch.where(queue.pointer + count >= size, 0, queue.pointer) - skipped
        return (start + number).where(kept, size), start + count
    return ((queue.pointer + number) % size).where(kept, size), (queue.pointer + count) % size


def put(queue: Queue, pairs: Tensor, labels: Tensor, chosen: Tensor, variant: Variant = "fixed") -> Queue:
    """The queue with new embeddings, which keep their gradient.

    Args:
        queue: as it was, without gradient.
        pairs: (E, 2, D).
        labels: (E,) long, their classes.
        chosen: (E,) bool, those that are put in.
        variant: see `free_places`.
    """
    places, pointer = free_places(chosen, queue, variant)
    size, numbers = len(queue.labels), torch.arange(len(chosen), device=chosen.device)
    source = torch.full((size + 1,), -1, device=chosen.device).scatter(0, places, numbers)[:size]
    is_new, source = source >= 0, source.clamp(min=0)
    kept = torch.where(is_new[:, None, None], pairs[source], queue.pairs)
    return Queue(kept, labels[source].where(is_new, queue.labels), pointer)


def class_contrast(queue: Queue, temperature: float) -> Tensor:
    """Supervised contrast over all filled places: how much of its similarities each embedding has with its own class.

    Both views count as embeddings of their own. The loss of one is the mean, over the others of its class, of -log of
    the softmax share that they have in its similarities f.f' / temperature to all others.

    Returns:
        Scalar, the mean over embeddings; 0, with a gradient of zeros, where no place is filled.
    """
    embeddings, labels = queue.pairs.flatten(0, 1), queue.labels.repeat_interleave(2)
    filled = labels > 0
    others = filled & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    similar = (embeddings @ embeddings.T / temperature).masked_fill(~others, _NEVER)
    same = others & (labels[:, None] == labels)
    logs = (similar - similar.logsumexp(dim=1, keepdim=True)).masked_fill(~same, 0)
    means = logs.sum(dim=1) / same.sum(dim=1).clamp(min=1)
    return -means.where(filled, 0).sum() / filled.sum().clamp(min=1)
