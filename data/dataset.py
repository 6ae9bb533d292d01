"""Pictures and labels as torch sees them: one sample is a picture under its transforms; labels join by the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from data.samplers import Sample
from data.transforms import sample_generator
from utils.seeding import mix
from utils.types import Batch, Images, LabelTable

Transform = Callable[[Image.Image], Tensor]


class PictureDataset(Dataset[tuple[Tensor, ...]]):
    """The pictures of a split under one transform a view; augmentation = f(seed, epoch, position, row, view)."""

    def __init__(self, images: Images, views: Sequence[Transform], *, seed: int) -> None:
        self.images, self.views, self.seed = images, tuple(views), seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, sample: Sample) -> tuple[Tensor, ...]:
        """(row, view 0, view 1, ...): a scalar long and one (3, H, W) float tensor a view."""
        picture = self.images.open(sample.row)
        views = []
        for view, transform in enumerate(self.views):
            with sample_generator(mix(self.seed, "augment", *sample, view)):
                views.append(transform(picture))
        return torch.tensor(sample.row), *views


class Collate:
    """Stacks samples and looks their labels up, one vectorised call a batch."""

    def __init__(self, observed: LabelTable, truth: LabelTable) -> None:
        self.observed, self.truth = observed, truth

    def __call__(self, samples: list[tuple[Tensor, ...]]) -> Batch:
        """A `Batch` of the given samples."""
        index, images, *more = (torch.stack(column) for column in zip(*samples, strict=True))
        rows = index.numpy().astype(np.int64)
        observed = torch.from_numpy(self.observed.rows(rows)).float()
        return Batch(images, observed, index, more[0] if more else None, torch.from_numpy(self.truth.rows(rows)))
