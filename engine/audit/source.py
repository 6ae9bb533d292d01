"""The images of an audit with their labels, and the features or scores by which these are judged.

N images of all splits together, one split after the other; D features, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import logit

from data.build import Data, DatasetConfig, build_data
from data.features.matching import find_rows, image_names
from data.features.reader import plain_numbers
from data.features.scores import read_scores
from data.files.cache import Cache
from data.labels.regime import Regime
from data.loading.loader import LoaderConfig
from data.subsets.splits import TrainingSplitConfig
from engine.audit.config import AuditConfig
from engine.audit.recorded import TrainingRows, recorded_scores, rows_of_run
from engine.core.distributed import Runtime
from engine.core.settings import Settings
from engine.training.features import FeatureView, FrozenFeatures
from engine.training.given_features import split_features
from engine.training.loaders import ImageLoaders, Rows, SplitName
from models.build import Architecture, ModelConfig, build_model
from models.heads import HEADS
from utils.checks import require
from utils.console import say
from utils.types import ABSENT, UNKNOWN, Annotations, Codes, Index, LabelTable

_MOST_LABELS = 1 << 29  # of int8; a dense table of more would take the memory of a laptop
_BLOCK = 4096  # rows of a file of features at a time
_SURE = 1e-6  # probabilities beyond are taken for this one, whose logit is finite


class AuditedImages:
    """The images and labels of some splits as one list.

    Args:
        parts: the splits in order, at least one.
        labels: those of each that are audited.
    """

    def __init__(self, parts: Mapping[SplitName, Annotations], labels: Mapping[SplitName, LabelTable]) -> None:
        self.parts = parts
        first = next(iter(parts.values()))
        self.classes = first.classes
        entries = sum(map(len, parts.values())) * len(self.classes)
        require(
            entries <= _MOST_LABELS,
            f"{entries:,} labels are too many for an audit at once ({_MOST_LABELS:,}); give a table of fewer images or "
            "classes",
        )
        self.codes: Codes = np.concatenate([labels[name].hard().dense() for name in parts])
        self.ids: tuple[str, ...] = tuple(one for part in parts.values() for one in part.ids)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _starts(self) -> Index:
        return np.cumsum([0, *map(len, self.parts.values())])

    @property
    def groups(self) -> Index | None:
        """(N,) what each image belongs to; None where no split says so."""
        if all(part.groups is None for part in self.parts.values()):
            return None
        own = np.split(-1 - np.arange(len(self)), self._starts[1:-1])
        given = [part.groups for part in self.parts.values()]
        return np.concatenate([alone if known is None else known for alone, known in zip(own, given, strict=True)])

    def place(self, row: int) -> tuple[SplitName, int]:
        """The split of an image, and its row there."""
        at = int(np.searchsorted(self._starts, row, side="right")) - 1
        return list(self.parts)[at], row - int(self._starts[at])

    def open(self, row: int) -> Image.Image:
        """The image. Raises: RunError when it cannot be read."""
        name, own = self.place(row)
        return self.parts[name].images.open(own)


class Read(NamedTuple):
    """A dataset as it is audited."""

    images: AuditedImages
    data: Data


def read_images(settings: Settings) -> Read:
    """The images of the splits that are audited, with the labels that training would see.

    Raises: UserError when the dataset cannot be read.
    """
    config, dataset = settings.of(AuditConfig), settings.of(DatasetConfig)
    need_images = config.features is None and config.scores is None and config.run is None
    whole = TrainingRows(TrainingSplitConfig(), config.seed)
    rows = whole if config.run is None else rows_of_run(config.run)
    new = need_images and config.run is None
    data = build_data(dataset, settings.of(Regime), rows.split, rows.seed, need_images=need_images, new=new)
    parts: dict[SplitName, Annotations] = {"train": data.train}
    usual = "all" if dataset.dataset == "table" and config.run is None else "train"
    if (config.audited or usual) == "all":
        parts |= {} if data.validation is None else {"validation": data.validation}
        parts["test"] = data.test
    labels = {name: data.observed if name == "train" else part.truth for name, part in parts.items()}
    return Read(AuditedImages(parts, labels), data)


def learned_codes(codes: Codes, config: AuditConfig) -> Codes:
    """(N, C) the labels that heads learn: unknown ones as they are, or as absent."""
    return codes if config.unknown == "ignore" else np.where(codes == UNKNOWN, ABSENT, codes).astype(np.int8)


def image_features(read: Read, settings: Settings, runtime: Runtime) -> NDArray[np.floating]:
    """(N, D) features of all images: of a file, or computed by the frozen backbone and kept in the cache.

    Raises:
        UserError: the file cannot be read, or lacks an image; or the backbone cannot be built.
        RunError: an image cannot be read.
    """
    config, parts = settings.of(AuditConfig), read.images.parts
    if config.features is not None:
        rows = split_features(config.features, parts, shown=runtime.is_main).rows
        return np.concatenate([_pooled(rows[name]) for name in parts])
    loader = replace(settings.of(LoaderConfig), drop_last=None)
    if loader.check_images:
        for part in parts.values():
            part.images.check()
    model = settings.of(ModelConfig)
    network = build_model(Architecture(model, HEADS["linear"].config()), len(read.images.classes), config.seed)
    network.check_size(model.model, loader.img_size)
    workers = loader.workers(beside_gpu=runtime.device.type == "cuda", processes=runtime.local_world_size)
    loaders = ImageLoaders(read.data, loader, runtime, workers, config.seed)
    cache = Cache(settings.of(DatasetConfig).cache_dir)
    features = FrozenFeatures(network, loaders, cache, maps=False, half=False)
    return np.concatenate([features.of(FeatureView(name))[:] for name in parts])


def given_logits(read: Read, config: AuditConfig) -> NDArray[np.floating]:
    """(N, C) scores of a file or of a run: probabilities as logits, others as they are.

    Raises: UserError when the file or the run cannot be read, lacks an image or a class, or is of other labels.
    """
    if config.run is not None:
        return _logits(recorded_scores(config.run, read.data))
    assert config.scores is not None
    images = read.images
    file = read_scores(config.scores)
    columns = file.columns(images.classes)
    wanted = [name for part in images.parts.values() for name in image_names(part)]
    found = find_rows(config.scores, file.ids, wanted, what="scores")
    file.require_numbers()
    for note in found.notes:
        say(note)
    values = plain_numbers(file.values[found.rows])[:, columns].astype(np.float64)
    return _logits(values) if file.kind == "probability" else values


def _logits(probabilities: NDArray[np.floating]) -> NDArray[np.floating]:
    """Logits of probabilities, finite also of 0 and 1."""
    found: NDArray[np.floating] = logit(np.clip(probabilities.astype(np.float64), _SURE, 1 - _SURE))
    return found


def _pooled(rows: Rows) -> NDArray[np.floating]:
    """(N, D) features of a split, means over positions where they are maps."""
    parts = []
    for start in range(0, len(rows), _BLOCK):
        part = rows[np.arange(start, min(start + _BLOCK, len(rows)))]
        parts.append(part.astype(np.float32) if part.ndim == 2 else part.astype(np.float32).mean(axis=(2, 3)))
    return np.concatenate(parts)
