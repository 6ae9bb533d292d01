"""Loaders over samplers and datasets. They never touch the global random state."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.data import DataLoader

from data.dataset import Collate, PictureDataset, Transform
from data.samplers import OrderedBatches, ShuffledBatches
from utils.types import Annotations, Batch, LabelTable


def build_loader(
    annotations: Annotations,
    observed: LabelTable,
    views: Sequence[Transform],
    batches: ShuffledBatches | OrderedBatches,
    *,
    seed: int,
    num_workers: int,
    pin_memory: bool,
) -> DataLoader[Batch]:
    """A loader of `Batch`es of these pictures with these labels, in the order of `batches`."""
    return DataLoader(
        PictureDataset(annotations.images, views, seed=seed),  # type: ignore[arg-type]
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=Collate(observed, annotations.truth),
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        generator=torch.Generator(),
    )
