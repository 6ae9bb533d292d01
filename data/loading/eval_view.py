"""The view in which images are scored, the same for evaluation, prediction, figures, the pointing game and export.

H W height and width of an image, s side of the square that a model gets, all in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.images.decoders import DecodedImage, Decoder, image_opener
from data.images.files import FileImages
from data.images.reading import AS_STORED, Reading
from data.loading.transforms import CenterCrop, Normalizer, Pipeline, Resize, eval_transform, normalizer
from utils.types import Boxes, Images


class VisiblePart(NamedTuple):
    """The part of each side of an image that a model sees, as shares of the side; all of it is 0 to 1."""

    start: float
    end: float


class VisibleBoxes(NamedTuple):
    """Boxes in the part of an image that a model sees, in pixels counted from that part's corner."""

    boxes: Boxes
    size: tuple[int, int]
    """Height and width of the part, in pixels of the image."""


@dataclass(frozen=True)
class EvalView:
    """Opening, resizing, the centre crop where training crops windows, and normalisation; nothing random.

    Raises: UserError for an augmentation or a scale of the pixels that there is not.
    """

    img_size: int
    augment: str
    """The augmentation of training, which decides whether images are scored whole or in a centre crop."""
    normalize: str
    decoder: Decoder
    resize: str = "antialias"
    reading: Reading = AS_STORED
    """The rules for files that are named one by one; images of a dataset have rules of their own."""

    def files(self, paths: Sequence[str | Path]) -> FileImages:
        """Image files, read by the rules of this view."""
        return FileImages(paths, reading=self.reading)

    @cached_property
    def transform(self) -> Pipeline:
        """From any image to uint8 (3, s, s)."""
        return eval_transform(self.augment, self.img_size, self.resize)

    @cached_property
    def normalizer(self) -> Normalizer:
        """From uint8 (B, 3, s, s) to the input of a model, on any device."""
        return normalizer(self.normalize)

    def opener(self, images: Images) -> Callable[[int], DecodedImage]:
        """The function that opens the image of a row. Raises: UserError when the decoder is not installed."""
        return image_opener(images, self.decoder)

    @property
    def resized(self) -> int:
        """Side of the square that an image is resized to, before a centre crop if there is one."""
        return self._sides[0]

    @property
    def visible(self) -> VisiblePart:
        """The part of each side that is scored: all, or the middle."""
        whole, kept = self._sides[0], self._sides[-1]
        start = (whole - kept) // 2
        return VisiblePart(start / whole, (start + kept) / whole)

    def visible_boxes(self, boxes: Boxes, size: tuple[int, int]) -> VisibleBoxes:
        """The boxes of one image of (H, W) `size`, cropped as the image is; those that lie outside are left out."""
        start, end = self.visible
        if (start, end) == (0.0, 1.0):
            return VisibleBoxes(boxes, size)
        height, width = (round(side * (end - start)) for side in size)
        corner = np.array([size[1] * start, size[0] * start] * 2, dtype=np.float32)
        limit = np.array([width, height] * 2, dtype=np.float32)
        corners = np.clip(boxes.corners - corner, 0, limit).astype(np.float32)
        kept = (corners[:, 0] < corners[:, 2]) & (corners[:, 1] < corners[:, 3])
        return VisibleBoxes(Boxes(boxes.row[kept], boxes.label[kept], corners[kept]), (height, width))

    @property
    def _sides(self) -> list[int]:
        return [step.size for step in self.transform.steps if isinstance(step, Resize | CenterCrop)]
