"""`audit.py --next`: the images that are most worth labelling next. N images, C classes, D features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.audit.heads import Floats
from engine.audit.ranking import Probabilities
from engine.audit.scores import Scored
from engine.audit.source import AuditedImages
from utils.checks import require
from utils.csv_cells import csv_text
from utils.types import UNKNOWN, Codes, Index

NEXT_COLUMNS = ("rank", "image", "uncertainty", "unknown_labels", "most_uncertain", "split")
_NAMED = 3  # classes of an image that are named
_LEAST = 1e-6  # distance of an image that equals a chosen one: more than none, so that the more uncertain comes first


class NextImage(NamedTuple):
    """An image that is worth labelling."""

    row: int
    uncertainty: float
    """Bits that its unknown labels are expected to tell."""


def uncertainty(probabilities: Probabilities, codes: Codes) -> Probabilities:
    """(N,) sum of the entropies in bits of the unknown labels of each image, of classes that are ranked."""
    return np.asarray(np.where(codes == UNKNOWN, np.nan_to_num(_entropy(probabilities)), 0).sum(axis=1))


def _entropy(probabilities: Probabilities) -> Probabilities:
    """Bits of yes or no at probabilities; NaN stays."""
    inside = np.clip(probabilities, 1e-12, 1 - 1e-12)
    return np.asarray(-inside * np.log2(inside) - (1 - inside) * np.log2(1 - inside))


def choose_next(values: Probabilities, vectors: Floats, units: Index, count: int) -> Iterator[NextImage]:
    """Images one after another: uncertain ones that do not look like those before them.

    Each is the one with the highest uncertainty times distance (1 - cosine, at most 1) to the nearest that is chosen.
    No two are of one unit before every unit has its turn.

    Args:
        values: (N,) uncertainty; images with 0 are never chosen.
        vectors: (N, D) of length 1.
        units: (N,) images of one group, or nearly the same.
        count: how many, fewer where there are no more.
    """
    distance, left = np.ones(len(values)), values > 0
    turn = left.copy()
    for _ in range(min(count, int(left.sum()))):
        if not turn.any():
            turn = left.copy()
        row = int(np.argmax(np.where(turn, values * np.maximum(distance, _LEAST), -1)))
        yield NextImage(row, float(values[row]))
        left[row] = False
        turn[units == units[row]] = False
        distance = np.minimum(distance, 1 - vectors @ vectors[row])


def next_csv(images: AuditedImages, scored: Scored, count: int) -> str:
    """The images to label next, a line each. Raises: UserError when every label is known."""
    values = uncertainty(scored.probabilities, images.codes)
    require(
        bool((values > 0).any()),
        f"--next: all labels of the {len(images):,} images are known, of the classes that are ranked; it chooses "
        "images with unknown labels (blank cells of a column per class)",
    )
    entropies = np.where(images.codes == UNKNOWN, np.nan_to_num(_entropy(scored.probabilities)), 0)
    rows = []
    for rank, one in enumerate(choose_next(values, scored.vectors, scored.units, count), 1):
        unknown = int((images.codes[one.row] == UNKNOWN).sum())
        classes = _most_uncertain(images, scored, entropies[one.row], one.row)
        split = images.place(one.row)[0]
        rows.append((rank, images.ids[one.row], f"{one.uncertainty:.3f}", unknown, classes, split))
    return csv_text([NEXT_COLUMNS, *rows])


def _most_uncertain(images: AuditedImages, scored: Scored, entropies: NDArray[np.float64], row: int) -> str:
    """The classes that are least certain on an image, with their probabilities."""
    order = np.argsort(-entropies, kind="stable")[:_NAMED]
    named = [label for label in order.tolist() if entropies[label] > 0]
    return "; ".join(f"{images.classes[label]} {scored.probabilities[row, label]:.2f}" for label in named)
