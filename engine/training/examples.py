"""What models see in test pictures: the examples of a run and of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from data.build import Data
from data.loading.loader import LoaderConfig
from data.loading.transforms import normalizer, test_transform
from models.peers import Network
from utils.metrics import Metrics
from utils.plots import Example, ModelView, plot_examples, plot_tail
from utils.types import PRESENT, Annotations

EXAMPLES = 8
"""Pictures of a run."""
SHOWN = 3
"""Classes named beside each picture."""


def choose_rows(truth: Annotations, count: int, seed: int = 0) -> list[int]:
    """Up to `count` rows (sorted) with at least one true label, pictures with several labels first: they say more."""
    order = np.random.default_rng(seed).permutation(len(truth))
    blocks = [order[start : start + 4096] for start in range(0, len(order), 4096)]  # never all rows as one matrix
    present = np.concatenate([(truth.truth.rows(rows) == PRESENT).sum(axis=1) for rows in blocks])
    ranked = np.argsort(-np.minimum(present, 3), kind="stable")
    return sorted(int(order[place]) for place in ranked[:count] if present[place])


def draw_tail(data: Data, metrics: Metrics, path: Path) -> None:
    """Average precision of each class over its true training images, where the dataset says head, middle and tail."""
    if data.groups.keys() >= {"head", "middle", "tail"}:
        groups = {name: data.groups[name] for name in ("head", "middle", "tail")}
        plot_tail(data.test.classes, data.train.truth.counts(), metrics.per_class, groups, path)


def draw_examples(method: str, model: Network, test: Annotations, config: LoaderConfig, path: Path) -> None:
    """A few test pictures with what is true of them and what the model sees; nothing where none has a label."""
    rows = choose_rows(test, EXAMPLES)
    if rows:
        plot_examples(examples([model], test, rows, config), [method], path)


@torch.no_grad()
def examples(
    models: Sequence[Network], annotations: Annotations, rows: Sequence[int], config: LoaderConfig
) -> list[Example]:
    """The pictures of `rows` with what is true of them and what each model sees, computed on the models' device."""
    transform = test_transform(config.img_size)
    pictures = [annotations.images.open(row) for row in rows]
    images = normalizer(config.normalize)(torch.stack([transform(picture) for picture in pictures]))
    truth = annotations.truth.rows(np.array(rows, dtype=np.int64)) == PRESENT
    seen = [_views(model, images, truth, annotations.classes) for model in models]
    names = [tuple(np.array(annotations.classes)[row].tolist()) for row in truth]
    return [Example(*parts) for parts in zip(pictures, names, zip(*seen, strict=True), strict=True)]


def _views(model: Network, images: torch.Tensor, truth: np.ndarray, classes: Sequence[str]) -> list[ModelView]:
    model.eval()
    device = next(model.parameters()).device
    output = model(images.to(device), want=frozenset({"cam"}))
    assert output.cam is not None
    scores, best = output.logits.sigmoid().topk(min(SHOWN, len(classes)))
    maps = output.cam.float().cpu().numpy()
    return [
        ModelView(
            tuple(classes[k] for k in labels),
            tuple(values),
            tuple(bool(truth[row, k]) for k in labels),
            maps[row, labels[0]],
        )
        for row, (labels, values) in enumerate(zip(best.tolist(), scores.tolist(), strict=True))
    ]
