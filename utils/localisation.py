"""The pointing game: is the peak of a class's activation map on an object of that class?

C classes, h w activation map, H W image. Source: Zhang et al., "Top-down Neural Attention by Excitation Backprop"
(ECCV 2016); used to compare methods in Kim et al., "Large Loss Matters" (CVPR 2022), Table 4. A map covers its whole
image. Points and boxes are in pixels of the image, counted from 0. All values are fractions.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from utils.collectives import all_sum
from utils.types import PRESENT, Boxes, Codes, Index

Maps = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]


class PointingCases(NamedTuple):
    """Cases of one image: K classes, and True for each that was hit."""

    label: Index  # (K,)
    hit: Mask  # (K,)


class PointingResult(NamedTuple):
    """Share of cases that were hits. `per_class` is (C,), NaN for a class without a case."""

    mean: float  # over the classes that have a case; NaN where none has
    per_class: NDArray[np.float64]
    cases: Index  # (C,) images that show the class and have a box of it


class PointingGame:
    """Hits and cases over the images of a split; C numbers each, for any number of images.

    Args:
        num_classes: C.
        tolerance: distance in pixels from a box at which a point still hits; 15 in much of the literature.

    Raises:
        ValueError: the tolerance is negative or not finite.
    """

    def __init__(self, num_classes: int, tolerance: float = 0.0) -> None:
        if not (math.isfinite(tolerance) and tolerance >= 0):
            raise ValueError(f"tolerance {tolerance}: a number of pixels, at least 0")
        self.tolerance = tolerance
        self._hits = np.zeros(num_classes, dtype=np.int64)
        self._cases = np.zeros(num_classes, dtype=np.int64)

    def add(self, maps: Maps, truth: Codes, boxes: Boxes, size: tuple[int, int]) -> None:
        """Count one image; the arguments are those of `hits`."""
        label, hit = hits(maps, truth, boxes, size, self.tolerance)
        self._cases[label] += 1
        self._hits[label] += hit

    def result(self) -> PointingResult:
        """Result over the images of all processes. Collective: every process must call it."""
        counted, cases = all_sum(torch.from_numpy(np.stack([self._hits, self._cases]))).numpy()
        per_class = np.full(len(cases), np.nan)
        np.divide(counted, cases, out=per_class, where=cases > 0)
        return PointingResult(float(per_class[cases > 0].mean()) if cases.any() else math.nan, per_class, cases)


def hits(maps: Maps, truth: Codes, boxes: Boxes, size: tuple[int, int], tolerance: float = 0.0) -> PointingCases:
    """Classes of one image that are hit: the peak of the map lies in any box of the class, border included.

    Args:
        maps: (C, h, w), finite.
        truth: (C,) codes; only classes that are PRESENT and have a box are cases.
        boxes: those of this image (`by_image`); their rows are not read.
        size: H and W of the image to which the boxes refer.
        tolerance: largest distance in pixels between the point and the nearest box.
    """
    wanted = truth[boxes.label] == PRESENT
    label, which = np.unique(boxes.label[wanted], return_inverse=True)
    points = peaks(maps[label], *size)[which]
    corners = boxes.corners[wanted].astype(np.float64)
    outside = np.maximum(np.maximum(corners[:, :2] - points, points - corners[:, 2:]), 0.0)
    near = np.hypot(outside[:, 0], outside[:, 1]) <= tolerance
    hit = np.zeros(len(label), dtype=np.bool_)
    hit[which[near]] = True
    return PointingCases(label, hit)


def peaks(maps: Maps, height: int, width: int) -> Index:
    """Highest pixel x, y (K, 2) of each map, resized bilinearly to the image; the first by rows of equal ones.

    Resizing is in double precision with the corners of the outer pixels aligned (`align_corners=False`); pixels beyond
    the centres of the outer cells take the value there. Between two cells' centres the resized map is linear, so it
    is computed only at the first and last pixel there: at most 2h x 2w of the H x W pixels, with the same maximum.

    Args:
        maps: (K, h, w), finite.
        height: H, at least 1.
        width: W, at least 1.
    """
    rows, columns = _Axis(maps.shape[1], height), _Axis(maps.shape[2], width)
    values = columns.resized(rows.resized(maps.astype(np.float64), axis=1), axis=2)
    best = values.reshape(len(maps), values.shape[1] * values.shape[2]).argmax(axis=1)
    y, x = np.divmod(best, len(columns.pixels))
    return np.stack([columns.pixels[x], rows.pixels[y]], axis=1)


def by_image(boxes: Boxes, images: int) -> list[Boxes]:
    """Boxes of each of `images` rows, in their order."""
    order = np.argsort(boxes.row, kind="stable")
    ends = np.searchsorted(boxes.row[order], np.arange(1, images))
    return [Boxes(boxes.row[part], boxes.label[part], boxes.corners[part]) for part in np.split(order, ends)]


class _Axis:
    """One axis of a map of `cells` on `pixels`, reduced to the pixels at which a bilinear maximum can lie."""

    def __init__(self, cells: int, pixels: int) -> None:
        position = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
        cell = position.astype(np.int64)
        turns = np.flatnonzero(np.diff(cell))
        self.pixels: Index = np.unique(np.concatenate([[0], turns, turns + 1, [pixels - 1]]))
        self._low = cell[self.pixels]
        self._high = np.minimum(self._low + 1, cells - 1)
        self._weight = position[self.pixels] - self._low

    def resized(self, values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        """`values` at these pixels along `axis`; equal cells stay exactly equal."""
        low, high = values.take(self._low, axis), values.take(self._high, axis)
        weight = self._weight.reshape([-1 if each == axis else 1 for each in range(values.ndim)])
        return np.asarray(low + weight * (high - low))
