"""Scores of the training images from outside: a vision-language model, an old model, a colleague's tagger.

B images, C classes, N training images, M rows and K columns of a file, T tiles of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Kind = Literal["probability", "cosine", "logit"]
KINDS: tuple[str, ...] = get_args(Kind)

Probabilities = NDArray[np.float32]
Places = NDArray[np.int64]


def as_probabilities(values: NDArray[Any], kind: Kind, temperature: float) -> Probabilities:
    """Scores as numbers in [0, 1].

    Args:
        values: (..., C), of the classes of a dataset and no others.
        kind: "probability": these themselves; "logit": their sigmoid; "cosine", of an image and the text of each class:
            the softmax over classes of cosine / temperature, so that those of an image add up to 1.
        temperature: above 0, of cosines.

    Returns:
        The shape of `values`.
    """
    wide = values.astype(np.float64)
    if kind == "probability":
        return wide.astype(np.float32)
    if kind == "logit":
        return (0.5 * (1 + np.tanh(wide / 2))).astype(np.float32)  # the sigmoid, without an overflow
    with np.errstate(over="ignore"):  # of a temperature next to 0
        powers = np.exp((wide - wide.max(axis=-1, keepdims=True)) / temperature)
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float32)


@dataclass(frozen=True)
class PriorScores:
    """Scores of N training images in C classes, read where they lie when they are asked for."""

    values: NDArray[Any]
    """(M, K), perhaps in a file."""
    index: Places
    """(N,) row of each image."""
    columns: Places
    """(C,) column of each class."""
    kind: Kind = "probability"
    temperature: float = 0.01
    tiles: NDArray[Any] | None = None
    """(M, T, K), scores of T parts of each image, of the same kind."""

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, rows: Places | slice) -> Probabilities:
        """(B, C) probabilities of some training images."""
        return self._plain(self.values[self.index[rows]])

    def tile_rows(self, rows: Places | slice) -> Probabilities:
        """(B, T, C) probabilities of the parts of some training images. Raises: ValueError where there are none."""
        if self.tiles is None:
            raise ValueError("these prior scores are of whole images alone")
        return self._plain(self.tiles[self.index[rows]])

    def _plain(self, found: NDArray[Any]) -> Probabilities:
        if found.dtype == np.uint16:  # the bits of bfloat16, which NumPy does not have
            found = (found.astype(np.uint32) << 16).view(np.float32)
        return as_probabilities(found[..., self.columns], self.kind, self.temperature)
