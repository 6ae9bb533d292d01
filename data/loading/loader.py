"""Loaders over samplers and datasets. They never touch the global random state."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.utils.data import DataLoader

from data.images.caching import Keep
from data.images.decoders import Decoder, require_decoder
from data.loading.dataset import Collate, ImageBatch, ImageDataset, Transform
from data.loading.eval_view import EvalView
from data.loading.resizing import RESIZERS
from data.loading.samplers import (
    ClassAwareBatches,
    OrderedBatches,
    SemiBatches,
    ShuffledBatches,
    TrainingBatches,
    class_members,
)
from data.loading.transforms import AUGMENTATIONS, NORMALIZATIONS, SECOND_VIEWS, Normalizer
from utils.checks import require
from utils.labelled_images import labelled_images
from utils.options import option
from utils.types import Annotations, Batch, LabelTable

_PREFETCH = 4  # batches each worker is ahead; a batch of 16 images of 448 x 448 takes 10 MB
_MOST_WORKERS = 16  # measured: benchmarks/results/gpu
_SHARED_MEMORY = Path("/dev/shm")  # workers hand their batches over there
START = "fork" if sys.platform == "linux" else None
"""How loader processes start: on Linux in the one way that shares images kept in memory."""


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """The way from images to batches."""

    img_size: int = option(448, "side of the square that an image is resized to, in pixels", common=True)
    batch_size: int = option(16, "images per step, over all processes together", aliases=("bsize",), common=True)
    eval_batch_size: int | None = option(
        None,
        "images per batch of scoring, over all processes together (default: --batch_size, twice that on a GPU)",
    )
    augment: str = option(
        "crop",
        "augmentation of training images; images are scored whole, but beside resize-crop in a centre crop",
        choices=AUGMENTATIONS,
        common=True,
    )
    second_view: str = option(
        "same",
        "methods that compare two views: the second has --augment drawn anew, or RandAugment before it",
        choices=SECOND_VIEWS,
    )
    normalize: str = option("unit", "scale of the pixels: [0, 1], ImageNet's, +-2, +-1", choices=NORMALIZATIONS)
    resize: str = option(
        "antialias",
        "bilinear, averaging over what falls into a pixel as Pillow does; or between two neighbours alone, as OpenCV "
        "does for DB loss and NDLP",
        choices=RESIZERS,
    )
    decoder: Decoder = option(
        "pillow", "decodes and resizes: pillow gives the papers' pixels, torchcodec is faster and within 2/255"
    )
    cache: Keep = option("none", "keep images: ram, all files in memory; disk, their pixels in one file in --cache_dir")
    sampler: Literal["shuffled", "class-aware", "semi"] = option(
        "shuffled",
        "order of an epoch: every image once; classes in turn, so that rare ones are seen as often; or labelled images "
        "in every batch and each unlabelled one once",
    )
    sampler_labels: Literal["observed", "clean"] = option(
        "observed", "class-aware: whose classes; clean are the true labels, which partial labels do not tell"
    )
    sampler_reduce: int = option(
        4, "class-aware: an epoch has (images of the most frequent class) x classes / this many draws"
    )
    sampler_run: int = option(3, "class-aware: images taken at each class")
    labelled_per_batch: int = option(4, "semi: labelled images in a batch, over all processes together")
    drop_last: tuple[Literal["train", "validation", "test"], ...] | None = option(
        None, "splits of which a last batch that is not full is left out (Cole et al.: train,validation,test)"
    )
    num_workers: int | None = option(None, "loader processes (default: none on a CPU, up to 16 beside a GPU)")
    check_images: bool = option(True, "decode every image once before the first training on it")

    def __post_init__(self) -> None:
        require(self.img_size >= 8, f"--img_size {self.img_size}: must be at least 8 pixels")
        require(self.batch_size >= 1, f"--batch_size {self.batch_size}: must be at least 1")
        require(
            self.eval_batch_size is None or self.eval_batch_size >= 1,
            f"--eval_batch_size {self.eval_batch_size}: must be at least 1",
        )
        require(self.num_workers is None or self.num_workers >= 0, f"--num_workers {self.num_workers}: not negative")
        require(self.sampler_reduce >= 1, f"--sampler_reduce {self.sampler_reduce}: must be at least 1")
        require(self.sampler_run >= 1, f"--sampler_run {self.sampler_run}: must be at least 1 image")
        require(
            self.labelled_per_batch >= 1, f"--labelled_per_batch {self.labelled_per_batch}: must be at least 1 image"
        )
        require(
            self.sampler != "semi" or self.labelled_per_batch < self.batch_size,
            f"--labelled_per_batch {self.labelled_per_batch}: leaves no unlabelled image in a --batch_size of "
            f"{self.batch_size}",
        )
        require_decoder(self.decoder)

    def scored(self, name: str, split: Annotations) -> Annotations:
        """A split without the images of a last batch that is not full, where `drop_last` says so.

        They are the last ones in the order of the published files. Raises: UserError if none are left.
        """
        if name not in (self.drop_last or ()):
            return split
        whole = self.whole_rows(name, len(split))
        return split if whole == len(split) else split.take(np.sort(split.recipe_order()[:whole]))

    def whole_rows(self, name: str, rows: int) -> int:
        """The number of rows in whole batches. Raises: UserError when there is none."""
        size = self.batch_size
        require(rows >= size, f"--drop_last {name}: {rows} images make no batch of {size}; leave {name} out")
        return rows // size * size

    def scoring_batch(self, *, on_gpu: bool) -> int:
        """Images per batch of scoring, over all processes: as set, else `batch_size`, twice that on a GPU.

        Without gradients twice as many fit wherever a whole network trains, and small batches leave a GPU waiting for
        work. A CPU gains nothing, and keeps the last bits of scores.
        """
        return self.eval_batch_size or self.batch_size * (2 if on_gpu else 1)

    def eval_view(self) -> EvalView:
        """The view in which images are scored."""
        return EvalView(self.img_size, self.augment, self.normalize, self.decoder, self.resize)

    def workers(self, *, beside_gpu: bool, processes: int) -> int:
        """Loader processes for each of `processes` on this machine: as set, else as many as help.

        A GPU leaves the cores idle. On a CPU training itself takes them all, and workers only get in its way. Batches
        that wait, of two views each, take at most half of the free shared memory.
        """
        if self.num_workers is not None:
            return self.num_workers
        if not beside_gpu:
            return 0
        training, scoring = (-(-size // processes) for size in (self.batch_size, self.scoring_batch(on_gpu=True)))
        waiting = _PREFETCH * max(2 * training, scoring) * 3 * self.img_size**2
        room = shutil.disk_usage(_SHARED_MEMORY).free // 2 if _SHARED_MEMORY.exists() else waiting * _cores()
        return max(1, min(_MOST_WORKERS, min(_cores(), room // waiting) // processes))


class ImageLoader(DataLoader[ImageBatch]):
    """Yields batches of image bytes, and turns them into the input of a criterion on the device where it is used.

    Bytes travel between processes and to a GPU in a quarter of the time, and a GPU converts them in no time.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batches: TrainingBatches | OrderedBatches,
        collate: Collate,
        normalizer: Normalizer,
        *,
        num_workers: int,
        pin_memory: bool,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(
            dataset,  # type: ignore[arg-type]
            batch_sampler=batches,
            num_workers=num_workers,
            collate_fn=collate,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            prefetch_factor=_PREFETCH if num_workers else None,
            multiprocessing_context=START if num_workers else None,
            generator=torch.Generator(),
        )
        self.normalizer, self.dtype = normalizer, dtype
        self.num_classes = collate.truth.num_classes

    def to_batch(self, raw: ImageBatch, device: torch.device) -> Batch:
        """A batch of this loader on `device`, its images as floats, normalised; the truth stays where it is."""
        return batch_on(device, raw, self.normalizer, self.dtype)


def batch_on(
    device: torch.device, raw: ImageBatch, normalizer: Normalizer, dtype: torch.dtype = torch.float32
) -> Batch:
    """A batch of image bytes on `device`, as floats, normalised there; the truth stays where it is."""
    views = [
        None if pixels is None else normalizer(pixels.to(device, non_blocking=True), dtype)
        for pixels in (raw.pixels, raw.second_pixels)
    ]
    observed, index = (each.to(device, non_blocking=True) for each in (raw.observed, raw.index))
    soft = None if raw.soft is None else raw.soft.to(device, non_blocking=True)
    assert views[0] is not None
    return Batch(views[0], observed, index, views[1], raw.truth, soft, raw.index)


def training_batches(
    annotations: Annotations, observed: LabelTable, config: LoaderConfig, *, seed: int, rank: int, world_size: int
) -> TrainingBatches:
    """The batches of training as `--sampler` orders them.

    Raises: UserError when no row has a class to go by, or not every row is labelled or unlabelled as `semi` wants it.
    """
    size = config.batch_size
    if config.sampler == "shuffled":
        whole = "train" in (config.drop_last or ()) and config.whole_rows("train", len(annotations)) > 0
        return ShuffledBatches(len(annotations), size, seed=seed, rank=rank, world_size=world_size, drop_last=whole)
    if config.sampler == "semi":
        return _semi_batches(observed, config, seed=seed, rank=rank, world_size=world_size)
    return ClassAwareBatches(
        class_members(observed if config.sampler_labels == "observed" else annotations.truth),
        size,
        seed=seed,
        reduce=config.sampler_reduce,
        run=config.sampler_run,
        rank=rank,
        world_size=world_size,
    )


def _semi_batches(observed: LabelTable, config: LoaderConfig, *, seed: int, rank: int, world_size: int) -> SemiBatches:
    """Batches of labelled and unlabelled images. Raises: UserError where these are not told apart, or make no batch."""
    labelled, whole = labelled_images("--sampler semi", observed), "train" in (config.drop_last or ())
    batches = SemiBatches(
        np.flatnonzero(labelled),
        np.flatnonzero(~labelled),
        config.batch_size,
        labelled_per_batch=config.labelled_per_batch,
        seed=seed,
        rank=rank,
        world_size=world_size,
        drop_last=whole,
    )
    require(
        batches.steps > 0,
        f"--drop_last train: {len(batches.unlabelled)} unlabelled images make no batch with {batches.others} of them; "
        "leave train out",
    )
    return batches


def build_loader(
    annotations: Annotations,
    observed: LabelTable,
    views: Sequence[Transform],
    batches: TrainingBatches | OrderedBatches,
    *,
    normalizer: Normalizer,
    decoder: Decoder,
    seed: int,
    num_workers: int,
    pin_memory: bool,
    dtype: torch.dtype = torch.float32,
) -> ImageLoader:
    """A loader of these images with these labels, in the order of `batches`; `dtype` is that of normalised images."""
    return ImageLoader(
        ImageDataset(annotations.images, views, seed=seed, decoder=decoder),
        batches,
        Collate(observed, annotations.truth),
        normalizer,
        num_workers=num_workers,
        pin_memory=pin_memory,
        dtype=dtype,
    )


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
