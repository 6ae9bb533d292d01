"""Features from another program in the place of test images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from data.features.matching import find_rows, image_names
from data.features.reader import FeatureFile
from data.loading.loader import LoaderConfig
from engine.core.checkpoint import SavedModel
from engine.core.distributed import Runtime
from engine.core.scoring import EvalResult, measure
from engine.training.given_features import RowsInFile, checked_features
from engine.training.loaders import scoring_loader
from utils.checks import require
from utils.console import say
from utils.types import Annotations, Splits


def given_features(path: Path | None, networks: Sequence[SavedModel]) -> FeatureFile | None:
    """The features that stand in for images where the networks are heads on such; None for networks of images.

    Args:
        path: the file that was named, or that of the training run.
        networks: the checkpoints that are scored together.

    Raises: UserError when networks of both kinds are scored together, the file cannot be read, is not named or not
        wanted, or its features have another shape.
    """
    first = networks[0]
    for other in networks[1:]:
        require(
            other.given_shape == first.given_shape,
            f"--ensemble {other.path}: takes {_taken(other)}, {first.path} takes {_taken(first)}; they cannot be "
            "scored together",
        )
    if first.given_shape is None:
        require(path is None, f"--features {path}: {first.path} takes images, with a backbone of its own; leave it out")
        return None
    if path is None:
        first.require_images()
    assert path is not None
    file = checked_features(path)
    require(
        file.shape == first.given_shape,
        f"--features {path}: holds {_sides(file.shape)} of each image, {first.path} takes {_taken(first)}; make them "
        "as those of training were made",
    )
    return file


def measured_on(
    file: FeatureFile, model: nn.Module, scored: Annotations, splits: Splits, config: LoaderConfig, runtime: Runtime
) -> EvalResult:
    """Metrics of images by their features; says how they were found. Raises: UserError if one lacks.

    Args:
        file: the features.
        model: what makes logits of them.
        scored: the images.
        splits: all of the dataset, whose other images must not be mistaken for these.
        config: how they are loaded.
        runtime: where.
    """
    here, parts = set(scored.ids), (splits.train, splits.validation, splits.test)
    rest = [image for part in parts if part is not None for image in image_names(part) if image.id not in here]
    found = find_rows(file.path, file.ids, image_names(scored), rest)
    for note in found.notes if runtime.is_main else ():
        say(note)
    size = config.scoring_batch(on_gpu=runtime.device.type == "cuda")
    loader = scoring_loader(RowsInFile(file, found.rows), scored.truth, size, runtime)
    return measure(model, loader, scored.truth, runtime)


def _taken(saved: SavedModel) -> str:
    return "images" if saved.given_shape is None else f"features of {_sides(saved.given_shape)}"


def _sides(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
