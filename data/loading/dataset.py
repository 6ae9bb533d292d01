"""Images and labels as torch sees them: one sample is an image under its transforms; labels join per batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from data.images.decoders import DecodedImage, Decoder, image_opener
from data.loading.samplers import Sample
from data.loading.transforms import sample_generator
from utils.seeding import derive_seed
from utils.types import Images, Index, LabelTable

Transform = Callable[[DecodedImage], Tensor]


class ImageBatch(NamedTuple):
    """A batch as it leaves a loader: images are bytes, which travel in a quarter of the time that floats need."""

    pixels: Tensor  # (B, 3, H, W) uint8
    observed: Tensor  # (B, C) float: 1, 0, -1
    index: Tensor  # type: ignore[assignment]  # (B,) long; hides tuple.index, unused here
    second_pixels: Tensor | None  # (B, 3, H, W) uint8, of the second view where there is one
    truth: Tensor  # (B, C) int8
    soft: Tensor | None = None  # (B, C) float in [0, 1], -1 unknown; of soft labels


class ImageDataset(Dataset[tuple[Tensor, ...]]):
    """The images of a split, one transform per view; augmentation = f(seed, epoch, position, row, view)."""

    def __init__(self, images: Images, views: Sequence[Transform], *, seed: int, decoder: Decoder) -> None:
        self.views, self.seed = tuple(views), seed
        self._open, self._rows = image_opener(images, decoder), len(images)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, sample: Sample) -> tuple[Tensor, ...]:
        """(row, view 0, view 1, ...): a scalar long and one uint8 (3, H, W) per view."""
        image = self._open(sample.row)
        views = []
        for view, transform in enumerate(self.views):
            with sample_generator(derive_seed(self.seed, "augment", *sample, view)):
                views.append(transform(image))
        return torch.tensor(sample.row), *views


class Collate:
    """Stacks samples and looks their labels up, one vectorised call per batch."""

    def __init__(self, observed: LabelTable, truth: LabelTable) -> None:
        self.observed, self.truth = observed, truth

    def __call__(self, samples: list[tuple[Tensor, ...]]) -> ImageBatch:
        """The batch of the given samples."""
        rows, *views = zip(*samples, strict=True)
        pixels, *more = map(_stacked, views)
        index = torch.stack(rows)
        numbers = index.numpy().astype(np.int64)
        observed = torch.from_numpy(self.observed.rows(numbers)).float()
        truth = torch.from_numpy(self.truth.rows(numbers))
        soft = soft_rows(self.observed, numbers)
        return ImageBatch(pixels, observed, index, more[0] if more else None, truth, soft)


def soft_rows(labels: LabelTable, rows: Index) -> Tensor | None:
    """(B, C) the soft targets of some rows; None where labels are hard."""
    return None if labels.soft is None else torch.from_numpy(labels.soft[rows])


def _stacked(images: Sequence[Tensor]) -> Tensor:
    """(B, 3, H, W) with the channels innermost in memory; in a worker, in memory that the main process shares."""
    batch: Tensor = default_collate([image.permute(1, 2, 0) for image in images])
    return batch.permute(0, 3, 1, 2)
