"""What a run trains and scores on: its pictures, or the features that stand in for them. N rows, D features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from data.build import Data
from data.loading.loader import LoaderConfig, build_loader
from data.loading.samplers import OrderedBatches, TrainingBatches
from data.loading.transforms import normalizer, second_transform, train_transform
from engine.core.distributed import Runtime
from engine.core.scoring import BatchLoader, evaluation_loader
from utils.types import Annotations, Batch, LabelTable

SplitName = Literal["train", "validation", "test"]


def rows_of(data: Data, part: SplitName) -> Annotations:
    """The annotations of a part that there is."""
    found = {"train": data.train, "validation": data.validation, "test": data.test}[part]
    assert found is not None
    return found


class LoaderFactory(Protocol):
    """Gives the batches of a run."""

    def training(self, batches: TrainingBatches, views: int) -> BatchLoader:
        """The training set with its observed labels, as `batches` orders it, in so many augmented views."""
        ...

    def scoring(self, part: SplitName) -> BatchLoader:
        """A part in order, as it is scored."""
        ...


@dataclass(frozen=True)
class ImageLoaders:
    """Batches of pictures."""

    data: Data
    config: LoaderConfig
    runtime: Runtime
    workers: int
    seed: int

    def training(self, batches: TrainingBatches, views: int) -> BatchLoader:
        """Pictures under augmentation. Raises: ValueError for more than two views."""
        if views > 2:
            raise ValueError(f"pictures have two views at most, not {views}")
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

    def scoring(self, part: SplitName) -> BatchLoader:
        """Pictures in their test view."""
        return evaluation_loader(rows_of(self.data, part), self.config, self.runtime, self.workers)


@dataclass(frozen=True)
class FeatureLoaders:
    """Batches of features (N, D) float32 that were computed once; a batch holds them in the place of its images."""

    data: Data
    features: Mapping[SplitName, NDArray[np.float32]]
    batch_size: int
    runtime: Runtime

    def training(self, batches: TrainingBatches, views: int) -> BatchLoader:
        """The features of the training set, the same in every epoch. Raises: ValueError for more than one view."""
        if views != 1:
            raise ValueError(f"features have one view, not {views}")
        return FeatureLoader(self.features["train"], self.data.observed, self.data.train.truth, batches)

    def scoring(self, part: SplitName) -> BatchLoader:
        """The features of a part."""
        features, truth = self.features[part], rows_of(self.data, part).truth
        rank, world_size = self.runtime.rank, self.runtime.world_size
        batches = OrderedBatches(len(features), self.batch_size, rank=rank, world_size=world_size)
        return FeatureLoader(features, truth, truth, batches)


class FeatureLoader:
    """Yields batches of rows of an array: `images` is (B, D) float32."""

    def __init__(
        self,
        features: NDArray[np.float32],
        observed: LabelTable,
        truth: LabelTable,
        batches: TrainingBatches | OrderedBatches,
    ) -> None:
        self.features, self.observed, self.truth, self.batches = features, observed, truth, batches
        self.num_classes = truth.num_classes

    def __iter__(self) -> Iterator[Batch]:
        for samples in self.batches:
            rows = np.array([sample.row for sample in samples], dtype=np.int64)
            observed = torch.from_numpy(self.observed.rows(rows)).float()
            truth = torch.from_numpy(self.truth.rows(rows))
            yield Batch(torch.from_numpy(self.features[rows]), observed, torch.from_numpy(rows), None, truth)

    def ready(self, batch: Batch) -> Batch:
        """The batch: features need nothing more."""
        return batch
