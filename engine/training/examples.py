"""Figures of a run: a few test images with the labels and maps of models, and average precision along the tail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data.build import Data
from data.images.decoders import DecodedImage, as_tensor
from data.loading.eval_view import EvalView
from engine.core.inference import infer
from models.peers import Network
from utils.image_plots import Example, ModelView, plot_examples
from utils.metrics import Metrics
from utils.plots import plot_tail
from utils.types import PRESENT, UNKNOWN, Annotations, Codes, ModelOutput

EXAMPLES = 8
"""Images of a run."""
SHOWN = 3
"""Classes named below each image."""
_BLOCK = 4096  # rows looked at a time
_LEAST_SCORE = 0.5
"""Probability from which on a label counts as predicted."""


def choose_rows(truth: Annotations, count: int, seed: int = 0) -> list[int]:
    """Up to `count` rows (sorted) with at least one true label; images with several labels first, they show more."""
    order = np.random.default_rng(seed).permutation(len(truth))
    blocks = [order[start : start + _BLOCK] for start in range(0, len(order), _BLOCK)]  # never all rows as one matrix
    present = np.concatenate([(truth.truth.rows(rows) == PRESENT).sum(axis=1) for rows in blocks])
    ranked = np.argsort(-np.minimum(present, 3), kind="stable")
    return sorted(int(order[index]) for index in ranked[:count] if present[index])


def draw_tail(data: Data, metrics: Metrics, path: Path) -> None:
    """Plot average precision per class over its true training images, where there are head, middle and tail."""
    if data.groups.keys() >= {"head", "middle", "tail"}:
        groups = {name: data.groups[name] for name in ("head", "middle", "tail")}
        plot_tail(data.test.classes, data.train.truth.counts(), metrics.per_class, groups, path)


def draw_examples(method: str, model: Network, test: Annotations, view: EvalView, path: Path) -> None:
    """Plot a few test images with their true labels and the model's; nothing where none has a label."""
    rows = choose_rows(test, EXAMPLES)
    if rows:
        plot_examples(examples([model], test, rows, view), [method], path)


def examples(models: Sequence[Network], annotations: Annotations, rows: Sequence[int], view: EvalView) -> list[Example]:
    """The images of `rows`, as far as models see them, with their true labels and each model's highest scores."""
    opener = view.opener(annotations.images)
    images = [opener(row) for row in rows]
    pixels = [view.transform(image) for image in images]
    truth = annotations.truth.rows(np.array(rows, dtype=np.int64))
    views = []
    for model in models:
        output = infer(model.eval(), pixels, view, want=frozenset({"cam"}))
        views.append(_model_views(output, truth, annotations.classes))
    names = [tuple(annotations.classes[k] for k in np.flatnonzero(row == PRESENT)) for row in truth]
    shown = [visible_image(image, view) for image in images]
    return [Example(*parts) for parts in zip(shown, names, zip(*views, strict=True), strict=True)]


def visible_image(image: DecodedImage, view: EvalView) -> Image.Image:
    """The part of an image that models see in the view of evaluation, in the image's own pixels."""
    whole = image if isinstance(image, Image.Image) else Image.fromarray(as_tensor(image).permute(1, 2, 0).numpy())
    left, top, right, bottom = (round(side * share) for share in view.visible for side in whole.size)
    return whole.crop((left, top, right, bottom))  # most of every side is seen, so that a pixel of it is left


def _kind(code: int, score: float) -> str:
    """Kind of a predicted label, a key of `PREDICTED`: a score of at least 0.5 says that it is present."""
    if code == UNKNOWN:
        return "unknown"
    kinds = {(True, True): "found", (True, False): "missed", (False, True): "wrong", (False, False): "rejected"}
    return kinds[code == PRESENT, score >= _LEAST_SCORE]


def _model_views(output: ModelOutput, truth: Codes, classes: Sequence[str]) -> list[ModelView]:
    """The highest scores of each image, and the map of the highest; truth (B, C) 1 present, 0 absent, -1 unknown."""
    assert output.cam is not None
    scores, best = output.logits.sigmoid().topk(min(SHOWN, len(classes)))
    maps = output.cam.cpu().numpy()
    return [
        ModelView(
            tuple(classes[k] for k in labels),
            tuple(values),
            tuple(_kind(int(truth[row, k]), score) for k, score in zip(labels, values, strict=True)),
            maps[row, labels[0]],
        )
        for row, (labels, values) in enumerate(zip(best.tolist(), scores.tolist(), strict=True))
    ]
