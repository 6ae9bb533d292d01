"""Features from another program in the place of images (`--features`): the settings that follow, and their rows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.features.matching import find_rows, image_names, passed_over
from data.features.reader import FeatureFile, mapped_features, read_features
from engine.core.settings import Settings
from engine.training.config import RunConfig
from engine.training.features import FeatureConfig
from engine.training.loaders import FeatureArrays, SplitName
from models.backbones.given import given_name, given_shape
from models.build import ModelConfig
from utils.checks import require
from utils.console import note, say
from utils.types import Annotations, Index

MODE = "linear_fixed_features"
_NETWORK = ("model", "weights", "checkpoint_weights", "frozen_stages", "norm_eval", "norm_frozen")
"""Settings of a backbone, of which there is none."""
_IMAGES = (
    *("img_size", "augment", "second_view", "normalize", "resize", "decoder", "cache", "num_workers", "check_images"),
    *("missing_images", "bad_images"),
)
"""Settings of images, of which none is opened."""


def with_given_features(settings: Settings) -> Settings:
    """The settings of a run with what follows from `--features`: its network is a head on what the file holds.

    Raises: UserError when the file cannot be read, or a backbone or another mode is asked for beside it.
    """
    path = settings.of(FeatureConfig).features
    if path is None:
        model = settings.of(ModelConfig).model
        require(given_shape(model) is None, f"--model {model}: stands for features from a file; give --features FILE")
        return settings
    _require_alone(settings)
    shape = mapped_features(path).shape[1:]
    note_unread_images(settings)
    network = {"model": given_name(shape), "weights": "none", "checkpoint_weights": None, "frozen_stages": -1}
    network |= {"norm_eval": False, "norm_frozen": False, "train_mode": MODE}
    images = {"check_images": False, "cache": "none", "missing_images": "error", "bad_images": "error"}
    return settings.with_values({**network, **images}, "--features")


def _require_alone(settings: Settings) -> None:
    """Raise UserError for a backbone or a mode that was typed beside `--features`."""
    typed = [f"--{name}" for name in _NETWORK if settings.is_typed(name)]
    require(
        not typed,
        f"{', '.join(typed)}: the features of --features stand in for images, so there is no backbone; leave out one "
        "or the other",
    )
    mode = settings.of(RunConfig).train_mode
    require(
        mode == MODE or not settings.is_typed("train_mode"),
        f"--train_mode {mode}: on --features only the head learns, which is {MODE}; leave the flag out",
    )


def note_unread_images(settings: Settings) -> None:
    """Warn, once over all processes, of settings of images that were typed beside `--features`."""
    typed = [f"--{name}" for name in _IMAGES if settings.is_typed(name)]
    if typed and os.environ.get("RANK", "0") == "0":
        note(f"{', '.join(typed)}: no image is opened beside --features, so this has no effect")


@dataclass(frozen=True)
class RowsInFile:
    """Rows of a file of features, one for each image of a split, in order."""

    file: FeatureFile
    index: Index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Index) -> NDArray[Any]:
        """The features (B, D), or maps (B, D, h, w), of rows (B,)."""
        return self.file.rows(self.index[rows])


class SplitFeatures(NamedTuple):
    """The features of the splits of a run."""

    rows: Mapping[SplitName, RowsInFile]
    content_hash: str

    def arrays(self) -> FeatureArrays:
        """As loaders read them; there is one view of each image."""
        train = [self.rows["train"]]
        return FeatureArrays(self.rows, train, train)


def split_features(path: Path, splits: Mapping[SplitName, Annotations], *, shown: bool) -> SplitFeatures:
    """The rows of each split in a file of features, all of it checked.

    Args:
        path: the file.
        splits: the images by split.
        shown: whether this process says how images were found.

    Raises: UserError when the file cannot be read, has values that are not finite, or lacks images.
    """
    file = checked_features(path)
    names = {split: image_names(annotations) for split, annotations in splits.items()}
    found = find_rows(path, file.ids, [name for each in names.values() for name in each])
    if shown:
        for note in (*found.notes, *passed_over(path, file.ids, found.rows)):
            say(note)
    borders = list(accumulate(len(each) for each in names.values()))[:-1]
    parts = np.split(found.rows, borders)
    rows = {split: RowsInFile(file, part) for split, part in zip(names, parts, strict=True)}
    return SplitFeatures(rows, file.content_hash())


def checked_features(path: Path) -> FeatureFile:
    """The features of a file, all numbers finite. Raises: UserError."""
    file = read_features(path)
    file.require_finite()
    return file
