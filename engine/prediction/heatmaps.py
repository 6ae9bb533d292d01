"""Activation maps of a prediction drawn over its image, one file per class.

H W image, h w activation map.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from data.loading.eval_view import EvalView, VisiblePart
from engine.prediction.predictor import Label, Prediction
from engine.prediction.sources import ImageFile
from utils.image_plots import heat
from utils.safe_files import make_folder, write_atomically

SIDES = (256, 1024)
"""Smallest and largest longer side of a drawing in pixels; other images are enlarged or reduced."""

_STRENGTH = 0.65  # opacity of the largest activation
_LETTERS = 40  # largest length of a class name in a file name


def write_maps(
    prediction: Prediction, labels: Sequence[Label], source: ImageFile, folder: Path, view: EvalView
) -> None:
    """Write `<name>-<rank>-<class>-<score>.jpg` below `folder` for each of `labels`.

    Args:
        prediction: with activation maps.
        labels: the labels to draw, best first.
        source: the image; folders in its name are made.
        folder: an existing folder.
        view: that in which the image was scored.

    Raises:
        RunError: the image no longer opens, or a file cannot be written.
    """
    assert prediction.maps is not None
    if not labels:
        return
    image = _fitted(view.files([source.path]).open(0))
    stem = folder / source.name
    make_folder(stem.parent)
    for rank, label in enumerate(labels, 1):
        drawn = overlay(image, prediction.maps[label.column], view.visible)
        _save(drawn, stem.with_name(f"{stem.name}-{rank}-{file_word(label.name)}-{label.score:.3f}.jpg"))


def overlay(image: Image.Image, cam: NDArray[np.float32], seen: VisiblePart) -> Image.Image:
    """A grey image (H x W) under the heat of an activation map (h, w) of its part `seen`; the rest has no heat."""
    intensity = image_heat(cam, image.size, seen)[..., None]
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None]
    colour = 255 * colormaps["inferno"](intensity[..., 0])[..., :3]
    opacity = _STRENGTH * intensity
    return Image.fromarray(np.rint((1 - opacity) * grey + opacity * colour).astype(np.uint8))


def image_heat(cam: NDArray[np.float32], size: tuple[int, int], seen: VisiblePart) -> NDArray[np.float32]:
    """Heat in [0, 1], (H, W), of a map (h, w) that covers the part `seen` of an image of `size` (W, H)."""
    (left, right), (top, bottom) = ((round(seen.start * side), max(round(seen.end * side), 1)) for side in size)
    left, top = min(left, right - 1), min(top, bottom - 1)
    intensity = np.zeros(size[::-1], dtype=np.float32)
    intensity[top:bottom, left:right] = heat(cam, (right - left, bottom - top))
    return intensity


def file_word(text: str) -> str:
    """A class name as part of a file name: letters and digits of any alphabet, `_`, `.` and `-`, at most 40."""
    return re.sub(r"[^\w.-]+", "_", text)[:_LETTERS].strip("._") or "class"


def _fitted(image: Image.Image) -> Image.Image:
    """The image with its longer side within `SIDES`; pixels of a small one stay squares."""
    least, most = SIDES
    factor = -(-least // max(image.size))
    if factor > 1:
        return image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    image.thumbnail((most, most))
    return image


def _save(image: Image.Image, path: Path) -> None:
    write_atomically(path, lambda file: image.save(file, "JPEG", quality=90))
