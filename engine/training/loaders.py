"""Loaders of a run: of its images, or of features that stand in for them. N rows, B batch, D features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.build import Data
from data.loading.loader import LoaderConfig, build_loader
from data.loading.samplers import OrderedBatches, TrainingBatches
from data.loading.transforms import normalizer, second_transform, train_transform
from engine.core.distributed import Runtime
from engine.core.scoring import BatchLoader, evaluation_loader
from utils.types import Annotations, Batch, LabelTable

SplitName = Literal["train", "validation", "test"]


def split_of(data: Data, name: SplitName) -> Annotations:
    """The annotations of a split that there is."""
    split = {"train": data.train, "validation": data.validation, "test": data.test}[name]
    assert split is not None
    return split


class LoaderFactory(Protocol):
    """Makes the loaders of a run."""

    def training(self, batches: TrainingBatches, views: int) -> BatchLoader:
        """The training set with its observed labels, as `batches` orders it, in so many augmented views."""
        ...

    def scoring(self, split: SplitName) -> BatchLoader:
        """A split in order, in the view of evaluation."""
        ...


@dataclass(frozen=True)
class ImageLoaders:
    """Loaders of images."""

    data: Data
    config: LoaderConfig
    runtime: Runtime
    workers: int
    seed: int
    _scoring: dict[SplitName, BatchLoader] = field(default_factory=dict)
    """Loaders that have been made: their processes stay, as those of training do."""

    def training(self, batches: TrainingBatches, views: int) -> BatchLoader:
        """Images under augmentation. Raises: ValueError for more than two views."""
        if views > 2:
            raise ValueError(f"images have two views at most, not {views}")
        augment, size = self.config.augment, self.config.img_size
        transforms = [train_transform(augment, size), second_transform(self.config.second_view, augment, size)]
        return build_loader(
            self.data.train,
            self.data.observed,
            transforms[:views],
            batches,
            normalizer=normalizer(self.config.normalize),
            decoder=self.config.decoder,
            seed=self.seed,
            num_workers=self.workers,
            pin_memory=self.runtime.device.type == "cuda",
        )

    def scoring(self, split: SplitName) -> BatchLoader:
        """Images in the view of evaluation."""
        if split not in self._scoring:
            data = split_of(self.data, split)
            self._scoring[split] = evaluation_loader(data, self.config, self.runtime, self.workers)
        return self._scoring[split]


@dataclass(frozen=True)
class FeatureLoaders:
    """Loaders of features (N, D) float32 that were computed once and stand in for images."""

    data: Data
    features: Mapping[SplitName, NDArray[np.float32]]
    batch_size: int
    runtime: Runtime

    def training(self, batches: TrainingBatches, views: int) -> BatchLoader:
        """The features of the training set, the same in every epoch. Raises: ValueError for more than one view."""
        if views != 1:
            raise ValueError(f"features have one view, not {views}")
        return FeatureLoader(self.features["train"], self.data.observed, self.data.train.truth, batches)

    def scoring(self, split: SplitName) -> BatchLoader:
        """The features of a split."""
        features, truth = self.features[split], split_of(self.data, split).truth
        rank, world_size = self.runtime.rank, self.runtime.world_size
        batches = OrderedBatches(len(features), self.batch_size, rank=rank, world_size=world_size)
        return FeatureLoader(features, truth, truth, batches)


class FeatureBatch(NamedTuple):
    """A batch of pooled features as it leaves its loader."""

    features: Tensor  # (B, D) float32
    observed: Tensor  # (B, C) float: 1, 0, -1
    index: Tensor  # type: ignore[assignment]  # (B,) long; hides tuple.index, unused here
    truth: Tensor  # (B, C) int8


class FeatureLoader:
    """Yields batches of rows of an array of pooled features."""

    def __init__(
        self,
        features: NDArray[np.float32],
        observed: LabelTable,
        truth: LabelTable,
        batches: TrainingBatches | OrderedBatches,
    ) -> None:
        self.features, self.observed, self.truth, self.batches = features, observed, truth, batches
        self.num_classes = truth.num_classes

    def __iter__(self) -> Iterator[FeatureBatch]:
        for samples in self.batches:
            rows = np.array([sample.row for sample in samples], dtype=np.int64)
            observed = torch.from_numpy(self.observed.rows(rows)).float()
            truth = torch.from_numpy(self.truth.rows(rows))
            yield FeatureBatch(torch.from_numpy(self.features[rows]), observed, torch.from_numpy(rows), truth)

    def to_batch(self, raw: FeatureBatch, device: torch.device) -> Batch:
        """A batch of this loader on `device`: each feature is an image of one pixel; the truth stays where it is."""
        features, observed, index = (each.to(device) for each in raw[:3])
        return Batch(features[:, :, None, None], observed, index, truth=raw.truth)
