"""Activation maps of a prediction drawn over its picture, a file a class.

H W picture, h w activation map.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from data.images.files import FileImages
from engine.prediction.predictor import Label, Prediction, VisiblePart
from engine.prediction.sources import ImageFile
from utils.plots import heat
from utils.safe_files import write_atomically

SIDES = (256, 1024)
"""Pixels, at least and at most: the longer side of what is drawn; other pictures are enlarged or reduced."""

_STRENGTH = 0.65  # how much of a picture the hottest place hides
_LETTERS = 40  # kept of a class name in the name of a file


def write_maps(
    prediction: Prediction, labels: Sequence[Label], source: ImageFile, folder: Path, seen: VisiblePart
) -> None:
    """Write `<name>-<rank>-<class>-<score>.jpg` below `folder` for each of `labels`.

    Args:
        prediction: with activation maps.
        labels: what to draw, best first.
        source: the picture; its name may have folders, which are made.
        folder: an existing folder.
        seen: the part of the picture that the maps are of.

    Raises:
        RunError: the picture is gone, or a file cannot be written.
    """
    assert prediction.maps is not None
    if not labels:
        return
    picture = _fitted(FileImages([source.path]).open(0))
    place = folder / source.name
    place.parent.mkdir(parents=True, exist_ok=True)
    for rank, label in enumerate(labels, 1):
        drawn = overlay(picture, prediction.maps[label.column], seen)
        _save(drawn, place.with_name(f"{place.name}-{rank}-{file_word(label.name)}-{label.score:.3f}.jpg"))


def overlay(picture: Image.Image, cam: NDArray[np.float32], seen: VisiblePart) -> Image.Image:
    """A picture in grey (H x W) under the heat of an activation map (h, w) of its part `seen`; the rest has no heat."""
    warmth = placed_heat(cam, picture.size, seen)[..., None]
    grey = np.asarray(picture.convert("L"), dtype=np.float32)[..., None]
    colour = 255 * colormaps["inferno"](warmth[..., 0])[..., :3]
    hidden = _STRENGTH * warmth
    return Image.fromarray(np.rint((1 - hidden) * grey + hidden * colour).astype(np.uint8))


def placed_heat(cam: NDArray[np.float32], size: tuple[int, int], seen: VisiblePart) -> NDArray[np.float32]:
    """Heat in [0, 1], (H, W), of a map (h, w) that covers the part `seen` of a picture of (W, H) `size`."""
    (left, right), (top, bottom) = ((round(seen.start * side), max(round(seen.end * side), 1)) for side in size)
    left, top = min(left, right - 1), min(top, bottom - 1)
    warmth = np.zeros(size[::-1], dtype=np.float32)
    warmth[top:bottom, left:right] = heat(cam, (right - left, bottom - top))
    return warmth


def file_word(text: str) -> str:
    """A class name as a part of a file's name: letters, digits, `_`, `.` and `-` of any alphabet, not too many."""
    return re.sub(r"[^\w.-]+", "_", text)[:_LETTERS].strip("._") or "class"


def _fitted(picture: Image.Image) -> Image.Image:
    """The picture with a longer side within `SIDES`; each pixel of a small one stays a square."""
    least, most = SIDES
    times = -(-least // max(picture.size))
    if times > 1:
        return picture.resize((times * picture.width, times * picture.height), Image.Resampling.NEAREST)
    picture.thumbnail((most, most))
    return picture


def _save(picture: Image.Image, path: Path) -> None:
    write_atomically(path, lambda file: picture.save(file, "JPEG", quality=90))
