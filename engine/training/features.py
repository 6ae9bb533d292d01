"""Cached features of a frozen backbone, on which a linear layer trains in seconds.

N rows, D feature width. As with the pre-extracted features of the single-positive papers (Cole et al., CVPR 2021,
published code, single-positive-multi-label), images are in the test view and maps are averaged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from data.files.cache import Cache
from data.images.caching import MemoryImages, PixelImages
from data.images.files import ArrayImages, FileImages, file_marks
from data.loading.loader import LoaderConfig
from data.loading.transforms import CENTRED
from engine.core.distributed import Runtime
from engine.core.scoring import require_finite, rows_in_order
from engine.training.loaders import ImageLoaders, SplitName, split_of
from models.classifier import Classifier, Pooling
from utils.checks import require
from utils.types import Annotations, Images

Features = NDArray[np.float32]

_VERSION = "pooled features 2"
_SCORED = ("decoder", "img_size", "normalize", "batch_size")
"""Settings of the loader that change features; the batch size only by rounding."""


def require_pooled(network: Classifier, needs: frozenset[str], method: str) -> None:
    """Raise UserError unless `network` and a criterion with these `needs` use pooled features only."""
    start = "--train_mode linear_fixed_features: there are pooled features only, but"
    instead = "; take --train_mode linear, which reads the images in every epoch"
    maps = sorted(needs & {"cam", "features", "second_view", "peers"})
    require(not maps, f"{start} {method} needs {', '.join(maps)}{instead}")
    head = type(network.head).__name__
    require(network.reads_pooled(), f"{start} the head ({head}) reads the feature map itself{instead}")


def pooled_features(
    network: Classifier, loaders: ImageLoaders, splits: Mapping[SplitName, int], cache: Cache
) -> dict[SplitName, Features]:
    """Features of each split, read from the cache if they are in it.

    Args:
        network: on the CPU; moved to the device of the run and left in evaluation mode.
        loaders: loaders of the images.
        splits: splits to compute, with their numbers of rows.
        cache: cache of the features, in files of N * D * 4 bytes.

    Returns:
        (N, D) float32 per split, rows in order, on every process.

    Raises:
        RunError: an image cannot be read, or a feature is not finite.
    """
    runtime = loaders.runtime
    model = runtime.to_device(Pooling(network)).eval()
    weights = weights_hash(network.backbone)
    result: dict[SplitName, Features] = {}
    for split, rows in splits.items():
        entry = features_fingerprint(weights, split_of(loaders.data, split), loaders.config, runtime)
        features = None if entry is None else _recall(cache, entry, (rows, network.feature_width))
        if runtime.agree(features is None):
            loader, label = loaders.scoring(split), f"features of {split}"
            features = rows_in_order(model, network.feature_width, loader, rows, runtime, label=label)
            require_finite(bool(np.isfinite(features).all()), label)
            if entry is not None and runtime.is_main:
                cache.save("features", entry, {"features": features})
        assert features is not None
        result[split] = features
    return result


def weights_hash(module: torch.nn.Module) -> str:
    """SHA-256 (hex) of names, types, shapes and values of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        array = value.cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
        digest.update(array.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def features_fingerprint(weights: str, annotations: Annotations, config: LoaderConfig, runtime: Runtime) -> str | None:
    """SHA-256 (hex) of all that features depend on: weights, rows, images, their view, precision and device.

    None for images whose changes cannot be noticed.
    """
    content = _content_marks(annotations.images)
    if content is None:
        return None
    view = {name: getattr(config, name) for name in _SCORED}
    view["centred"] = config.augment in CENTRED
    computed = [runtime.precision, runtime.device.type, runtime.world_size, torch.__version__]
    text = json.dumps([_VERSION, weights, annotations.row_hash(), view, computed])
    return hashlib.sha256(text.encode() + content).hexdigest()


def _content_marks(images: Images) -> bytes | None:
    """Bytes that change when an image does: marks of the files, or a hash of pixels that are in memory anyway."""
    if isinstance(images, ArrayImages):
        digest = hashlib.sha256()
        for row in range(len(images)):
            digest.update(images.pixels(row).tobytes())
        return digest.digest()
    if isinstance(images, FileImages | MemoryImages | PixelImages):
        return file_marks([images.name(row) for row in range(len(images))]).tobytes()
    return None


def _recall(cache: Cache, entry: str, shape: tuple[int, int]) -> Features | None:
    """Features of an entry; None if it is absent, or of another shape or type."""
    content = cache.load("features", entry, ["features"])
    if content is None or content["features"].shape != shape or content["features"].dtype != np.float32:
        return None
    features: Features = content["features"]
    return features
