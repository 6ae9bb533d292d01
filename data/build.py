"""From settings to annotations, observed labels and splits: the one place that knows every dataset by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from data.cache import Cache
from data.datasets import DATASETS, PLANNED, Source
from data.label_files import ResolvedLabels, resolve_labels
from data.observed import Regime
from data.splits import validation_split
from utils.checks import UserError, require
from utils.options import option
from utils.types import Annotations, LabelTable, Splits

LABEL_FOLDER = Path("pre-processed-data")


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Which dataset, and which labels of it are seen; shared by the training scripts and by `generate_labels.py`."""

    dataset: str = option("digits", "name of the dataset: " + " ".join(DATASETS))
    path_images: Path | None = option(None, "folder of the dataset")
    path_lists: Path = option(Path("appendix"), "folder of the lists of the long-tailed splits")
    num_cls: int | None = option(None, "number of classes; only checked against the dataset")
    labels: Literal["candidate", "dropped", "single", "observed", "full", "given"] = option(
        "candidate", "label regime: how the labels that are seen come from the true ones"
    )
    partial_rate: float = option(0.1, "candidate: chance of each absent class to be a candidate too")
    drop_rate: float = option(0.75, "dropped: chance of each positive to go unlabelled")
    num_pos: int = option(1, "observed: positives kept an image, -1 for all")
    num_neg: int = option(0, "observed: negatives kept an image, -1 for all")
    label_file: Path | None = option(None, "take the observed labels from this file")
    label_seed: int | None = option(None, "seed of the label regime (default: --seed)")
    label_rng: Literal["published", "native"] = option(
        "published", "candidate: draw in the published order, or by the faster native generator"
    )
    cache_dir: Path | None = option(None, "where parsed annotations are kept (default: ~/.cache/partial-truth)")

    def __post_init__(self) -> None:
        there = f"there are {', '.join(DATASETS)}"
        require(
            self.dataset not in PLANNED,
            f"--dataset {self.dataset}: this version lacks its reader, data/datasets/ has no file for it; {there}",
        )
        require(self.dataset in DATASETS, f"--dataset {self.dataset}: no such dataset; {there}")

    def regime(self, seed: int) -> Regime:
        """The label regime of these settings; `seed` is used where `--label_seed` says nothing."""
        return Regime(
            name=self.labels,
            partial_rate=self.partial_rate,
            drop_rate=self.drop_rate,
            num_pos=self.num_pos,
            num_neg=self.num_neg,
            seed=seed if self.label_seed is None else self.label_seed,
            rng=self.label_rng,
        )


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How pictures become batches."""

    img_size: int = option(448, "side of the square the picture is brought to, in pixels")
    batch_size: int = option(16, "images a step, over all processes together", aliases=("bsize",))
    augment: Literal["crop", "flip", "multiscale", "shift", "none"] = option("crop", "augmentation of training images")
    normalize: Literal["unit", "imagenet", "half"] = option("unit", "scale of the pixels: [0, 1], ImageNet's, +-2")
    val_frac: float = option(0.0, "share of the training set held out for validation")
    num_workers: int | None = option(None, "loader processes (default: none on a CPU, up to 8 beside a GPU)")
    check_images: bool = option(True, "decode every picture once before the first training on it")

    def __post_init__(self) -> None:
        require(self.img_size >= 8, f"--img_size {self.img_size}: must be at least 8 pixels")
        require(self.batch_size >= 1, f"--batch_size {self.batch_size}: must be at least 1")
        require(0 <= self.val_frac < 1, f"--val_frac {self.val_frac}: must be in [0, 1)")
        require(self.num_workers is None or self.num_workers >= 0, f"--num_workers {self.num_workers}: not negative")


class Data(NamedTuple):
    """What a run trains and is measured on. `observed` holds the rows of `train`, in its order."""

    train: Annotations
    observed: LabelTable
    validation: Annotations | None
    test: Annotations
    labels: ResolvedLabels
    regime: Regime


def load_splits(config: DatasetConfig, seed: int, *, need_images: bool) -> Splits:
    """Read the dataset. Raises: UserError when a folder, file or entry is missing or wrong."""
    source = Source(
        path_images=config.path_images or Path(),
        path_lists=config.path_lists,
        seed=seed,
        cache=Cache(config.cache_dir),
        need_images=need_images,
    )
    splits = DATASETS[config.dataset](source)
    found = len(splits.train.classes)
    if config.num_cls not in (None, found):
        raise UserError(f"--num_cls {config.num_cls}: {config.dataset} has {found} classes; leave the flag out")
    return splits


def build_data(config: DatasetConfig, loader: LoaderConfig, seed: int) -> Data:
    """Read the dataset, find or make its observed labels, take the validation split off.

    Labels are drawn for the whole training set before the split, so a label file serves every `--val_frac`.
    """
    splits = load_splits(config, seed, need_images=True)
    regime = config.regime(seed)
    resolved = resolve_labels(splits.train, config.dataset, regime, LABEL_FOLDER, config.label_file)
    rows, held_out = validation_split(len(splits.train), loader.val_frac, seed)
    train = splits.train.take(rows)
    validation = splits.train.take(held_out) if len(held_out) else None
    return Data(train, resolved.table.take(rows), validation, splits.test, resolved, regime)


def check_pictures(data: Data) -> None:
    """Decode every picture once (remembered in the cache). Raises: UserError naming the first that is damaged."""
    for part in (data.train, data.validation, data.test):
        if part is not None:
            part.images.check()
