"""Features of a frozen backbone, on which a head trains in seconds. N rows, D feature width, h w feature map.

Maps where the method or the head reads them, else their means over positions. As with the pre-extracted features of
the single-positive papers (Cole et al., CVPR 2021, published code, single-positive-multi-label), images are in the
test view, unless augmented copies are asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data.files.cache import Cache
from data.images.contents import content_hash
from data.loading.transforms import CENTRED
from engine.core.distributed import Runtime
from engine.core.scoring import BatchLoader, require_finite, rows_in_order
from engine.training.feature_maps import MAPS, MapStore
from engine.training.loaders import ChosenRows, FeatureArrays, ImageLoaders, Rows, SplitName, split_of
from models.backbones.feature_extractors import map_shape
from models.classifier import Classifier, Pooling, mean_over_positions
from utils.checks import require
from utils.console import say
from utils.metrics import Scores
from utils.options import option
from utils.types import Annotations

_VERSION = "features 4"
_SCORED = ("decoder", "img_size", "normalize", "resize")
"""Settings of the loader that change features."""
_READ_MAPS = frozenset({"cam", "features", "class_vectors"})
"""Needs of a criterion that means over positions do not meet."""


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """Features of `--train_mode linear_fixed_features`."""

    features: Path | None = option(
        None,
        "features from another program in the place of images: .npz, .safetensors, or .npy with its ids beside it "
        "(docs/features.md); implies --train_mode linear_fixed_features",
        implies={"train_mode": "linear_fixed_features"},
    )
    feature_views: int = option(
        1, "linear_fixed_features: copies of each training image, one of which an epoch sees; 1: the test view"
    )
    half_features: bool = option(False, "linear_fixed_features: keep feature maps in float16, half the size")

    def __post_init__(self) -> None:
        require(self.feature_views >= 1, f"--feature_views {self.feature_views}: must be at least 1")
        for flag, given in self._of_images():
            require(
                not given or self.features is None,
                f"--{flag}: is of features that are computed from images here; leave it out beside --features",
            )

    def _of_images(self) -> tuple[tuple[str, bool], ...]:
        """The settings of features that are computed here, and whether each is given."""
        return ("feature_views", self.feature_views > 1), ("half_features", self.half_features)

    def require_mode(self, mode: str | None) -> None:
        """Raise UserError where features are set and none are used."""
        for flag, given in self._of_images():
            require(
                not given or mode == "linear_fixed_features",
                f"--{flag}: is of --train_mode linear_fixed_features; give that mode, or leave it out",
            )


class FeatureView(NamedTuple):
    """A view of the images of a split that has features."""

    split: SplitName
    copy: int = 0
    """Number of an augmented copy; 0: the view of evaluation."""
    second: bool = False
    """True under the transform of the second view."""

    @property
    def label(self) -> str:
        """The view in messages."""
        copy = f", copy {self.copy}" if self.copy else ""
        return f"features of {self.split}{copy}{' (second view)' if self.second else ''}"


def reads_maps(network: Classifier, needs: frozenset[str]) -> bool:
    """Tell whether the head, or a criterion with these needs, uses more than the mean of a feature map."""
    return bool(needs & _READ_MAPS) or not network.reads_pooled()


def wanted_views(needs: frozenset[str], copies: int, splits: Sequence[SplitName]) -> list[FeatureView]:
    """The views that a run reads: of evaluation, and the augmented copies."""
    scored = [FeatureView(split) for split in splits if split != "train" or copies == 1 or "train_scores" in needs]
    if copies == 1:
        return scored
    seconds = (False, True) if "second_view" in needs else (False,)
    return scored + [FeatureView("train", copy, second) for second in seconds for copy in range(1, copies + 1)]


class FrozenFeatures:
    """Features of one frozen backbone, each view computed once and kept for every run with the same backbone.

    In the view of evaluation those of training and validation are kept together, whichever seed divides them.

    Args:
        network: on the CPU; moved to the device of the run and left in evaluation mode.
        loaders: loaders of the images.
        cache: where features are kept: pooled ones as arrays of N * D floats, maps as files mapped into memory.
        maps: True for maps, False for their means.
        half: True keeps maps in float16.
    """

    def __init__(self, network: Classifier, loaders: ImageLoaders, cache: Cache, *, maps: bool, half: bool) -> None:
        self.network, self.loaders, self.cache = network, loaders, cache
        self.weights = weights_hash(network.backbone)
        self.dtype = "float16" if maps and half else str(loaders.runtime.dtype).removeprefix("torch.")
        side = loaders.config.img_size
        self.shape = map_shape(network.backbone, side, side) if maps else (network.feature_width,)
        self.model = loaders.runtime.to_device(network.backbone if maps else Pooling(network)).eval()

        self._undivided: Rows | None = None

    def of(self, view: FeatureView) -> Rows:
        """Features of a view, rows in order, on every process: (N, D), or maps (N, D, h, w).

        Raises:
            UserError: there is no room for the maps.
            RunError: an image cannot be read, or a feature is not finite.
        """
        data, whole = split_of(self.loaders.data, view.split), self.loaders.data.undivided
        if view.copy:
            return self._found(view, data, self.loaders.augmented(view.copy, second=view.second), view.label)
        if whole is None or view.split == "test":
            return self._found(view, data, self.loaders.of(data), view.label)
        if self._undivided is None:
            self._undivided = self._found(view, whole, self.loaders.of(whole), "features of train and validation")
        row_of = {image: row for row, image in enumerate(whole.ids)}
        return ChosenRows(self._undivided, np.array([row_of[image] for image in data.ids], dtype=np.int64))

    def _found(self, view: FeatureView, data: Annotations, loader: BatchLoader, label: str) -> Rows:
        """Features of some images, out of the cache or computed now: by one of the runs that need them at once."""
        entry = self._entry(view, data)
        with self._turn(entry, label):
            if len(self.shape) == 1:
                return self._pooled(entry, len(data), loader, label)
            store = MapStore(self.model, self.shape, self.dtype, self.cache, self.loaders.runtime)
            return store.maps(loader, len(data), entry, label)

    def _entry(self, view: FeatureView, data: Annotations) -> str | None:
        """The fingerprint of features. The main process says it, so that the others need not read all images too."""
        runtime, found = self.loaders.runtime, None
        if runtime.is_main:
            found = features_fingerprint(self.weights, data, self.loaders, view, self.dtype, self.cache)
        return runtime.same_text(found or "") or None

    def _turn(self, entry: str | None, label: str) -> AbstractContextManager[None]:
        """The turn of this run; its other processes wait for the main one where they first agree on something."""
        if entry is None or not self.loaders.runtime.is_main:
            return nullcontext()
        kind = "features" if len(self.shape) == 1 else MAPS
        return self.cache.turn(kind, entry, lambda: say(f"{label}: another run computes them; waiting"))

    def _pooled(self, entry: str | None, rows: int, loader: BatchLoader, label: str) -> Scores:
        runtime, shape = self.loaders.runtime, (rows, self.network.feature_width)
        features = None if entry is None else _recall(self.cache, entry, shape, self.dtype)
        if runtime.agree(features is None):
            maps = None if entry is None else self._maps_of(entry, rows)
            without_maps = runtime.agree(maps is None)
            if maps is None or without_maps:
                features = rows_in_order(self.model, shape[1], loader, rows, runtime, label=label)
            else:
                features = self._means(maps)
            require_finite(bool(np.isfinite(features).all()), label)
            if entry is not None and runtime.is_main:
                self.cache.save("features", entry, {"features": features})
        assert features is not None
        return features

    def _maps_of(self, entry: str, rows: int) -> NDArray[Any] | None:
        """The maps (N, D, h, w) of an entry that a run with a head on maps has left; None where there are none."""
        side = self.loaders.config.img_size
        return self.cache.array(MAPS, entry, (rows, *map_shape(self.network.backbone, side, side)), self.dtype)

    def _means(self, maps: NDArray[Any]) -> Scores:
        """Means (N, D) of maps over positions, equal to the bit to those of the images."""
        size, device = self.loaders.scoring_batch, self.loaders.runtime.device
        batches = (torch.from_numpy(np.array(maps[first : first + size])) for first in range(0, len(maps), size))
        return torch.cat([mean_over_positions(batch.to(device)).cpu() for batch in batches]).numpy()


def feature_arrays(features: FrozenFeatures, views: list[FeatureView]) -> FeatureArrays:
    """The features of all views of a run, as its loaders read them."""
    found = {view: features.of(view) for view in views}
    copies = [array for view, array in found.items() if view.copy and not view.second]
    second = [array for view, array in found.items() if view.second]
    scored = {view.split: array for view, array in found.items() if not view.copy}
    return FeatureArrays(scored, copies or [scored["train"]], second or copies or [scored["train"]])


def weights_hash(module: torch.nn.Module) -> str:
    """SHA-256 (hex) of names, types, shapes and values of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        array = value.cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
        digest.update(array.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def features_fingerprint(
    weights: str, annotations: Annotations, loaders: ImageLoaders, view: FeatureView, dtype: str, cache: Cache
) -> str | None:
    """SHA-256 (hex) of all that features depend on: weights, rows, images, their view, precision and device.

    None for images whose changes cannot be noticed. The cache keeps the hashes of files.
    """
    content = content_hash(annotations.images, cache)
    if content is None:
        return None
    text = json.dumps(
        [_VERSION, weights, annotations.row_hash(), _view(loaders, view), _computed(loaders.runtime), dtype]
    )
    return hashlib.sha256(text.encode() + content).hexdigest()


def _view(loaders: ImageLoaders, view: FeatureView) -> dict[str, Any]:
    """What is done to the images."""
    config = loaders.config
    shown = {name: getattr(config, name) for name in _SCORED}
    shown |= {"batch_size": loaders.scoring_batch, "centred": config.augment in CENTRED}  # the first by rounding alone
    if not view.copy:
        return shown
    second = {"second": config.second_view} if view.second else {}
    return {**shown, "copy": view.copy, "augment": config.augment, "seed": loaders.seed, **second}


def _computed(runtime: Runtime) -> list[Any]:
    """What the features are computed with."""
    return [runtime.precision, runtime.device.type, runtime.world_size, torch.__version__]


def _recall(cache: Cache, entry: str, shape: tuple[int, int], dtype: str) -> Scores | None:
    """Features of an entry; None if it is absent, or of another shape or type."""
    content = cache.load("features", entry, ["features"])
    if content is None or content["features"].shape != shape or content["features"].dtype != dtype:
        return None
    features: Scores = content["features"]
    return features
