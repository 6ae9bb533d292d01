"""Pictures and labels as torch sees them: one sample is a picture under its transforms; labels join by the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from data.images.decoders import DecodedImage, Decoder, image_opener
from data.loading.samplers import Sample
from data.loading.transforms import sample_generator
from utils.seeding import derive_seed
from utils.types import Batch, Images, LabelTable

Transform = Callable[[DecodedImage], Tensor]


class ImageDataset(Dataset[tuple[Tensor, ...]]):
    """The pictures of a split under one transform a view; augmentation = f(seed, epoch, position, row, view)."""

    def __init__(self, images: Images, views: Sequence[Transform], *, seed: int, decoder: Decoder) -> None:
        self.views, self.seed = tuple(views), seed
        self._open, self._rows = image_opener(images, decoder), len(images)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, sample: Sample) -> tuple[Tensor, ...]:
        """(row, view 0, view 1, ...): a scalar long and one uint8 (3, H, W) a view."""
        picture = self._open(sample.row)
        views = []
        for view, transform in enumerate(self.views):
            with sample_generator(derive_seed(self.seed, "augment", *sample, view)):
                views.append(transform(picture))
        return torch.tensor(sample.row), *views


class Collate:
    """Stacks samples and looks their labels up, one vectorised call a batch."""

    def __init__(self, observed: LabelTable, truth: LabelTable) -> None:
        self.observed, self.truth = observed, truth

    def __call__(self, samples: list[tuple[Tensor, ...]]) -> Batch:
        """A `Batch` of the given samples, its pictures uint8."""
        places, *views = zip(*samples, strict=True)
        images, *more = map(_stacked, views)
        index = torch.stack(places)
        rows = index.numpy().astype(np.int64)
        observed = torch.from_numpy(self.observed.rows(rows)).float()
        return Batch(images, observed, index, more[0] if more else None, torch.from_numpy(self.truth.rows(rows)))


def _stacked(pictures: Sequence[Tensor]) -> Tensor:
    """(B, 3, H, W) with the channels innermost in memory; in a worker, in memory that the main process shares."""
    batch: Tensor = default_collate([picture.permute(1, 2, 0) for picture in pictures])
    return batch.permute(0, 3, 1, 2)
