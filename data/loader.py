"""Loaders over samplers and datasets. They never touch the global random state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.utils.data import DataLoader

from data.dataset import Collate, PictureDataset, Transform
from data.samplers import OrderedBatches, ShuffledBatches
from utils.checks import require
from utils.options import option
from utils.types import Annotations, Batch, LabelTable


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How pictures become batches."""

    img_size: int = option(448, "side of the square the picture is brought to, in pixels")
    batch_size: int = option(16, "images a step, over all processes together", aliases=("bsize",))
    augment: Literal["crop", "flip", "multiscale", "shift", "none"] = option("crop", "augmentation of training images")
    normalize: Literal["unit", "imagenet", "half"] = option("unit", "scale of the pixels: [0, 1], ImageNet's, +-2")
    num_workers: int | None = option(None, "loader processes (default: none on a CPU, up to 8 beside a GPU)")
    check_images: bool = option(True, "decode every picture once before the first training on it")

    def __post_init__(self) -> None:
        require(self.img_size >= 8, f"--img_size {self.img_size}: must be at least 8 pixels")
        require(self.batch_size >= 1, f"--batch_size {self.batch_size}: must be at least 1")
        require(self.num_workers is None or self.num_workers >= 0, f"--num_workers {self.num_workers}: not negative")


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
