"""Loaders of a run: of its images, or of features that stand in for them. N rows, B batch, D features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from data.build import Data
from data.loading.dataset import soft_rows
from data.loading.loader import LoaderConfig, build_loader
from data.loading.samplers import OrderedBatches, TrainingBatches
from data.loading.transforms import Pipeline, normalizer, second_transform, train_transform
from engine.core.distributed import Runtime
from engine.core.scoring import BatchLoader, evaluation_loader
from utils.seeding import derive_seed
from utils.types import Annotations, Batch, Index, LabelTable

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
        return build_loader(
            self.data.train,
            self.data.observed,
            self._transforms()[:views],
            batches,
            normalizer=normalizer(self.config.normalize),
            decoder=self.config.decoder,
            seed=self.seed,
            num_workers=self.workers,
            pin_memory=self.runtime.device.type == "cuda",
            dtype=self.runtime.dtype,
        )

    def _transforms(self) -> list[Pipeline]:
        """The augmentation of the first view and that of the second."""
        view = self.config.augment, self.config.img_size, self.config.resize
        return [train_transform(*view), second_transform(self.config.second_view, *view)]

    @property
    def scoring_batch(self) -> int:
        """Images per batch where nothing is trained, over all processes."""
        return self.config.scoring_batch(on_gpu=self.runtime.device.type == "cuda")

    def augmented(self, copy: int, *, second: bool) -> BatchLoader:
        """The training images in order, augmented as in epoch `copy`; `second`: as the second view is."""
        first, other = self._transforms()
        runtime = self.runtime
        return build_loader(
            self.data.train,
            self.data.observed,
            [other if second else first],
            OrderedBatches(
                len(self.data.train),
                self.scoring_batch,
                rank=runtime.rank,
                world_size=runtime.world_size,
                epoch=copy,
            ),
            normalizer=normalizer(self.config.normalize),
            decoder=self.config.decoder,
            seed=derive_seed(self.seed, "second view") if second else self.seed,
            num_workers=self.workers,
            pin_memory=runtime.device.type == "cuda",
            dtype=runtime.dtype,
        )

    def scoring(self, split: SplitName) -> BatchLoader:
        """Images in the view of evaluation."""
        if split not in self._scoring:
            self._scoring[split] = self.of(split_of(self.data, split))
        return self._scoring[split]

    def of(self, annotations: Annotations) -> BatchLoader:
        """Any images in order, in the view of evaluation."""
        return evaluation_loader(annotations, self.config, self.runtime, self.workers)


class Rows(Protocol):
    """Features of the images of a split, rows in order: an array, or rows here and there in a file."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any:
        """The features (B, D), or maps (B, D, h, w), of rows (B,); those of one row without B."""
        ...


@dataclass(frozen=True)
class ChosenRows:
    """Some rows of features, without a copy of them."""

    features: Rows
    index: Index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Any) -> Any:
        """The features of rows (B,), or of one row."""
        return self.features[self.index[rows]]


class FeatureArrays(NamedTuple):
    """Features that stand in for images: (N, D), or maps (N, D, h, w)."""

    scored: Mapping[SplitName, Rows]
    """By split, in the view of evaluation."""
    copies: Sequence[Rows]
    """Of the training set, one or more views; an epoch sees one of each image."""
    second: Sequence[Rows]
    """The same for the second view of methods that compare two."""


@dataclass(frozen=True)
class FeatureLoaders:
    """Loaders of features that were computed once and stand in for images."""

    data: Data
    features: FeatureArrays
    scoring_batch: int
    runtime: Runtime
    seed: int

    def training(self, batches: TrainingBatches, views: int) -> BatchLoader:
        """The features of the training set: of each image one copy per epoch, in turn. Raises: ValueError."""
        if views > 2:
            raise ValueError(f"features have two views at most, not {views}")
        arrays = [self.features.copies, self.features.second][:views]
        return FeatureLoader(
            arrays, self.data.observed, self.data.train.truth, batches, self.seed, dtype=self.runtime.dtype
        )

    def scoring(self, split: SplitName) -> BatchLoader:
        """The features of a split."""
        return scoring_loader(
            self.features.scored[split], split_of(self.data, split).truth, self.scoring_batch, self.runtime
        )


class FeatureBatch(NamedTuple):
    """A batch of features as it leaves its loader."""

    features: Tensor  # (B, D) or (B, D, h, w), half precision where so kept
    observed: Tensor  # (B, C) float: 1, 0, -1
    index: Tensor  # type: ignore[assignment]  # (B,) long; hides tuple.index, unused here
    second: Tensor | None  # as `features`, of the second view where there is one
    truth: Tensor  # (B, C) int8
    soft: Tensor | None = None  # (B, C) float in [0, 1], -1 unknown; of soft labels


class FeatureLoader:
    """Yields batches of rows of arrays of features.

    Args:
        views: for each view the copies of all images; an epoch sees one copy of each image, the next epoch the next.
        observed: labels of training.
        truth: true labels.
        batches: rows of each batch.
        seed: decides with which copy each image begins.
        dtype: type of the batches.
    """

    def __init__(
        self,
        views: Sequence[Sequence[Rows]],
        observed: LabelTable,
        truth: LabelTable,
        batches: TrainingBatches | OrderedBatches,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.dtype = dtype
        self.views, self.observed, self.truth, self.batches = views, observed, truth, batches
        self.num_classes = truth.num_classes
        copies = len(views[0])
        self._first = np.random.default_rng(derive_seed(seed, "copies")).integers(copies, size=len(observed))

    def __iter__(self) -> Iterator[FeatureBatch]:
        for samples in self.batches:
            rows = np.array([sample.row for sample in samples], dtype=np.int64)
            observed = torch.from_numpy(self.observed.rows(rows)).float()
            truth = torch.from_numpy(self.truth.rows(rows))
            features, *second = (self._of(copies, samples[0].epoch, rows) for copies in self.views)
            other, soft = second[0] if second else None, soft_rows(self.observed, rows)
            yield FeatureBatch(features, observed, torch.from_numpy(rows), other, truth, soft)

    def _of(self, copies: Sequence[Rows], epoch: int, rows: Index) -> Tensor:
        """The features of these rows that an epoch sees."""
        if len(copies) == 1:
            return torch.from_numpy(copies[0][rows])
        chosen = (self._first[rows] + epoch) % len(copies)
        return torch.from_numpy(np.stack([copies[copy][row] for copy, row in zip(chosen, rows, strict=True)]))

    def to_batch(self, raw: FeatureBatch, device: torch.device) -> Batch:
        """A batch of this loader on `device`: pooled features are images of one pixel; the truth stays where it is."""
        observed, index = (each.to(device, non_blocking=True) for each in (raw.observed, raw.index))
        second = None if raw.second is None else _as_image(raw.second, device, self.dtype)
        soft = None if raw.soft is None else raw.soft.to(device, non_blocking=True)
        images = _as_image(raw.features, device, self.dtype)
        return Batch(images, observed, index, second, raw.truth, soft, raw.index)


def scoring_loader(features: Rows, truth: LabelTable, batch_size: int, runtime: Runtime) -> FeatureLoader:
    """The features of a split in order, divided among the processes without padding."""
    batches = OrderedBatches(len(features), batch_size, rank=runtime.rank, world_size=runtime.world_size)
    return FeatureLoader([[features]], truth, truth, batches, dtype=runtime.dtype)


def _as_image(features: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Features as maps (B, D, h, w) of floats on `device`; those without positions get one."""
    moved = features.to(device, non_blocking=True).to(dtype)
    return moved[:, :, None, None] if moved.ndim == 2 else moved
