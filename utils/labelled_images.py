"""Images that are labelled and images that are not, where a training set has both kinds and no other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from utils.checks import require
from utils.types import UNKNOWN, Index, LabelTable

_BLOCK = 1 << 22  # labels that are counted at a time


def labelled_images(owner: str, labels: LabelTable) -> NDArray[np.bool_]:
    """(N,) True where all labels of an image are known, False where none is; labels (N, C).

    Args:
        owner: the setting that asks, for messages.
        labels: of the training set.

    Raises:
        UserError: an image has some of its labels alone, or all images are of one kind.
    """
    known = _known_counts(labels)
    some = int(((known > 0) & (known < labels.num_classes)).sum())
    wanted = "take --labels semi"
    require(
        some == 0,
        f"{owner}: is for images that are labelled or not, and {some} of {len(labels)} have some of their labels; "
        f"{wanted}",
    )
    labelled: NDArray[np.bool_] = known > 0
    kind = "unlabelled" if labelled.any() else "labelled"
    require(bool(labelled.any() and not labelled.all()), f"{owner}: no image is {kind}; {wanted}")
    return labelled


def _known_counts(labels: LabelTable) -> Index:
    """(N,) number of known labels of each image, some images at a time."""
    size = max(1, _BLOCK // labels.num_classes)
    parts = [
        (labels.rows(slice(start, start + size)) != UNKNOWN).sum(axis=1, dtype=np.int64)
        for start in range(0, len(labels), size)
    ]
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])
