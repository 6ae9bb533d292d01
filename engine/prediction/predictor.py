"""Scores, and activation maps if asked for, of any images by a checkpoint.

B batch, C classes, h w activation map, s side of the square that a model sees, in pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from data.images.decoders import Decoder
from data.images.depth import DeclinedError
from data.images.files import ArrayImages, in_threads
from data.images.opening import as_read, fault
from data.images.reading import AS_TRAINED, READING, ReadingConfig
from data.loading.eval_view import EvalView
from data.loading.loader import LoaderConfig
from engine.core.checkpoint import SavedModel, read_model
from engine.core.decisions import Decisions
from engine.core.distributed import Runtime
from engine.core.inference import infer
from engine.core.scoring import require_finite
from engine.core.setting_table import settings_of
from engine.core.settings_files import typed_values
from models.classifier import Classifier
from models.peers import Peers
from utils.checks import RunError, require
from utils.foreign_states import CheckpointWeights

ImageInput = str | Path | Image.Image
"""An image file, or an image in memory."""

_VIEW = ("img_size", "augment", "normalize", "resize", "decoder")
"""The training settings that define how images are preprocessed."""


class Label(NamedTuple):
    """A class and its probability."""

    name: str
    score: float
    column: int  # from 0


@dataclass(frozen=True)
class Prediction:
    """Logits, scores and activation maps of one image."""

    name: str
    """The path as it was given; `image n` for the n-th image if it was in memory."""
    classes: tuple[str, ...]
    logits: NDArray[np.float32]
    """(C,)"""
    maps: NDArray[np.float32] | None = None
    """(C, h, w) activation maps of the part that was seen, if asked for."""
    decisions: Decisions = field(default_factory=Decisions)
    """The thresholds and the calibration of the checkpoint."""

    @cached_property
    def scores(self) -> NDArray[np.float32]:
        """(C,) probabilities."""
        return np.asarray(self.decisions.probabilities(self.logits[None])[0], dtype=np.float32)

    def labels(self, top: int | None = None, threshold: float | None = None) -> list[Label]:
        """The `top` highest-scoring classes (default: all), best first, of those that are predicted.

        Args:
            top: how many at most.
            threshold: a score of at least this is a prediction; None: the thresholds of the checkpoint decide, and
                without any all classes are.
        """
        order = np.lexsort((-self.logits, -self.scores))[:top].tolist()  # logits tell saturated scores apart
        predicted = self.decisions.predicted(self.logits)
        if predicted is None or threshold is not None:
            predicted = self.scores >= (threshold or 0)
        return [Label(self.classes[k], float(self.scores[k]), k) for k in order if predicted[k]]


class Unreadable(NamedTuple):
    """An image that did not decode, and the reason as the end of a sentence."""

    name: str
    reason: str


class ReadImage(NamedTuple):
    """An image in the view of evaluation."""

    name: str
    pixels: Tensor  # (3, s, s) uint8


class Predictor:
    """A model with its preprocessing, which is that of `evaluate.py` for the same checkpoint.

    Args:
        network: on its device, in evaluation mode.
        classes: C names.
        view: the view of evaluation.
        decisions: thresholds and calibration of its scores.
    """

    def __init__(
        self, network: nn.Module, classes: Sequence[str], view: EvalView, decisions: Decisions | None = None
    ) -> None:
        self.network, self.classes, self.view = network, tuple(classes), view
        self.decisions = decisions or Decisions()

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        classes: Sequence[str] = (),
        decoder: Decoder | None = None,
        checkpoint_weights: CheckpointWeights | None = None,
        reading: ReadingConfig = AS_TRAINED,
    ) -> Predictor:
        """The predictor of a checkpoint; of two networks f, the one reported everywhere.

        Args:
            path: `best.pth` of a run, or another file that `evaluate.py` can score.
            device: auto, cpu or cuda.
            classes: names to use instead of those in the checkpoint.
            decoder: decoder of the images, if not that of training.
            checkpoint_weights: averaged or raw weights of a released file that holds both; None: the averaged ones.
            reading: how files become pixels, where that is not to be as in training.

        Raises:
            UserError: the file is no checkpoint or does not fit, the names are not C, or there is no such device.
        """
        saved = read_model(Path(path), checkpoint_weights=checkpoint_weights)
        return cls.of(saved, device=device, classes=classes, decoder=decoder, reading=reading)

    @classmethod
    def of(
        cls,
        saved: SavedModel,
        *,
        device: str = "auto",
        classes: Sequence[str] = (),
        decoder: Decoder | None = None,
        reading: ReadingConfig = AS_TRAINED,
    ) -> Predictor:
        """The predictor of a checkpoint already read; otherwise as `load`."""
        names, view = class_names(saved, classes), view_of(saved, decoder, reading)
        network = Runtime(device, "fp32").to_device(reported_network(saved)).eval()
        return cls(network, names, view, saved.decisions)

    @property
    def on_gpu(self) -> bool:
        """True if the network is on a GPU."""
        return next(self.network.parameters()).device.type == "cuda"

    def predict(
        self,
        images: Sequence[ImageInput],
        *,
        batch_size: int = 16,
        maps: bool = False,
        unreadable: Callable[[Unreadable], object] | None = None,
    ) -> Iterator[Prediction]:
        """Predictions of the images, in order, computed while they are consumed.

        Args:
            images: paths, or images in memory.
            batch_size: images per forward pass; scores do not depend on it beyond rounding.
            maps: True if activation maps are wanted too.
            unreadable: called with each image that does not decode, which is then left out. Without it the first such
                image raises.

        Raises:
            RunError: an image cannot be read, or a score is not finite.
        """
        read = in_threads(self._read, list(enumerate(images)), "predicting")
        for start in range(0, len(images), batch_size):
            batch = list(islice(read, len(images[start : start + batch_size])))
            for one in batch:
                if isinstance(one, Unreadable):
                    _report(one, unreadable)
            yield from self.scored([one for one in batch if isinstance(one, ReadImage)], maps=maps)

    def _read(self, item: tuple[int, ImageInput]) -> ReadImage | Unreadable:
        """An image in the view of evaluation."""
        number, image = item
        if not isinstance(image, Image.Image):
            return read_image(self.view, os.fspath(image))
        name = f"image {number + 1}"
        try:
            array = ArrayImages(np.asarray(as_read(image, self.view.reading))[None], [name])
        except DeclinedError as error:
            return Unreadable(name, str(error))
        return ReadImage(name, self.view.transform(self.view.opener(array)(0)))

    def scored(self, batch: Sequence[ReadImage], *, maps: bool = False) -> list[Prediction]:
        """Predictions of images in the view of evaluation, in one forward pass; `maps` as in `predict`.

        Raises: RunError when a score is not finite.
        """
        if not batch:
            return []
        output = infer(self.network, [one.pixels for one in batch], self.view, want=frozenset({"cam"} if maps else ()))
        logits = output.logits.cpu().numpy()
        require_finite(bool(np.isfinite(logits).all()), "predicting")
        cams = [None] * len(batch) if output.cam is None else output.cam.cpu().numpy()
        return [
            Prediction(one.name, self.classes, row, cam, self.decisions)
            for one, row, cam in zip(batch, logits, cams, strict=True)
        ]


def read_image(view: EvalView, path: str) -> ReadImage | Unreadable:
    """The image of a file in a view, or why there is none."""
    try:
        return ReadImage(path, view.transform(view.opener(view.files([path]))(0)))
    except RunError as error:
        return Unreadable(path, fault(path, view.reading) or f"cannot be read ({error.__cause__})")


def reported_network(saved: SavedModel) -> Classifier:
    """The network of a checkpoint on the CPU, in evaluation mode; of two networks f.

    Raises: UserError when it cannot be built, or takes features in the place of images.
    """
    saved.require_images()
    network = saved.build()
    return (network.f if isinstance(network, Peers) else network).eval()


def class_names(saved: SavedModel, given: Sequence[str] = ()) -> tuple[str, ...]:
    """`given`, or else the names in the checkpoint. Raises: UserError when none are known, or too few."""
    require(
        bool(given or saved.classes),
        f"{saved.path}: does not say what its {saved.num_classes} classes are called; give --classes FILE, or first "
        "write them into it: evaluate.py --dataset NAME --save_as FILE.safetensors",
    )
    require(
        len(given) in (0, saved.num_classes),
        f"--classes: {len(given)} names, but {saved.path} has {saved.num_classes} classes",
    )
    return tuple(given) or saved.classes


def view_of(saved: SavedModel, decoder: Decoder | None = None, reading: ReadingConfig = AS_TRAINED) -> EvalView:
    """The view of evaluation in the training run of a checkpoint, but for what is given here.

    Raises: UserError if the settings of the checkpoint are damaged.
    """
    loader, rules = _recorded(saved, _VIEW, LoaderConfig), _recorded(saved, READING, ReadingConfig)
    loader |= {} if decoder is None else {"decoder": decoder}
    rules |= {name: getattr(reading, name) for name in READING if getattr(reading, name) is not None}
    return replace(LoaderConfig(**loader).eval_view(), reading=ReadingConfig(**rules).reading)


def _recorded(saved: SavedModel, names: Sequence[str], config: type) -> dict[str, Any]:
    """Those of some settings of a config class that a checkpoint holds. Raises: UserError."""
    texts = {name: str(saved.settings[name]) for name in names if saved.settings.get(name) is not None}
    return dict(typed_values(texts, settings_of(config, "data"), str(saved.path)))


def _report(one: Unreadable, listener: Callable[[Unreadable], object] | None) -> None:
    if listener is None:
        raise RunError(f"{one.name}: {one.reason}")
    listener(one)
