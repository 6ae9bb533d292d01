"""RandAugment with Cutout as the trainers of ASL, Query2Label, Hill and SPLC have it.

Published code: Alibaba-MIIL/ASL, `src/helper_functions/helper_functions.py` (Cutout), and the package randaugment
1.0.2: two of 15 operations, with probability 1/2 each, at strengths that are drawn. torchvision's RandAugment has one
strength for all, always applies what it draws, and has neither `invert` nor `cutout`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from data.images.decoders import DecodedImage

LEVELS = 9
"""Strengths of an operation, 1 to 9: so many ninths of its greatest."""

GREY = (128, 128, 128)
"""Where a moved, sheared or turned image leaves a gap."""

_PATCH_COLOUR = (125, 122, 113)  # of the operation `cutout`
_SHEAR, _MOVE, _TURN, _ENHANCE, _PATCH = 0.3, 150 / 331, 30.0, 0.9, 20.0  # greatest strengths

Operation = Callable[[Image.Image, int], Image.Image]
"""From an image and a level, 1 to 9, to a new image."""


class Cutout:
    """A rectangle of a random colour, its centre anywhere: up to `share` of each side, less where it leads out.

    Args:
        share: of each side.
    """

    def __init__(self, share: float = 0.5) -> None:
        self.share = share

    def __call__(self, image: DecodedImage) -> Image.Image:
        """A Pillow image of the same size; the given one stays as it is."""
        picture = as_pillow(image).copy()
        across, down = (int(self.share * side + 0.5) // 2 for side in picture.size)
        x, y = (_draw(side) for side in picture.size)
        colour = (_draw(256), _draw(256), _draw(256))
        picture.paste(colour, (max(x - across, 0), max(y - down, 0), x + across + 1, y + down + 1))
        return picture


class RandAugment:
    """Two operations one after the other, drawn from `OPERATIONS`, also the same twice, each in half of the images.

    Each has a strength of its own, 1 to 9 ninths of its greatest. Operations see Pillow's images, so that the pixels
    are those of the published code.
    """

    def __call__(self, image: DecodedImage) -> Image.Image:
        """A Pillow image of the same size."""
        picture = as_pillow(image)
        drawn = [(_NAMES[_draw(len(_NAMES))], 1 + _draw(LEVELS)) for _ in range(2)]
        for name, level in drawn:
            if _coin():
                picture = OPERATIONS[name](picture, level)
        return picture


def as_pillow(image: DecodedImage) -> Image.Image:
    """An image as one of Pillow's: itself, or a copy of a tensor of bytes (3, H, W)."""
    if isinstance(image, Tensor):
        return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    return image


def _enhanced(change: Callable[[Image.Image, float], Image.Image], image: Image.Image, level: int) -> Image.Image:
    """An image with one of its qualities, 1 as it is, raised or lowered."""
    return change(image, 1 + _signed(_strength(level, _ENHANCE)))


def _posterized(image: Image.Image, level: int) -> Image.Image:
    """From 8 bits of each value down to 4."""
    posterized: Image.Image = F.posterize(image, round(8 - _strength(level, 4)))
    return posterized


def _solarized(image: Image.Image, level: int) -> Image.Image:
    """Values from a threshold on, 256 down to 0, turned into their opposites."""
    solarized: Image.Image = F.solarize(image, 256 - _strength(level, 256))
    return solarized


def _sheared(horizontally: bool, image: Image.Image, level: int) -> Image.Image:
    """Lines, or columns, moved by up to 0.3 of their distance from the upper left corner."""
    amount = _signed(_strength(level, _SHEAR))
    across, down = (amount, 0.0) if horizontally else (0.0, amount)
    return _sampled(image, (1, across, 0, down, 1, 0), Image.Resampling.BICUBIC)


def _moved(horizontally: bool, image: Image.Image, level: int) -> Image.Image:
    """An image moved along one side by up to 45 % of it."""
    amount = _signed(_strength(level, _MOVE))
    across, down = (amount * image.width, 0.0) if horizontally else (0.0, amount * image.height)
    return _sampled(image, (1, 0, across, 0, 1, down), Image.Resampling.NEAREST)


def _sampled(image: Image.Image, places: tuple[float, ...], kind: Image.Resampling) -> Image.Image:
    """An image whose pixel (x, y) is taken from (a x + b y + c, d x + e y + f), `places` being a to f."""
    return image.transform(image.size, Image.Transform.AFFINE, places, kind, fillcolor=GREY)


def _turned(image: Image.Image, level: int) -> Image.Image:
    """Against the clock, as published: never the other way."""
    return image.rotate(_strength(level, _TURN), fillcolor=GREY)


def _patched(image: Image.Image, level: int) -> Image.Image:
    """A small square painted over, up to 20 pixels wide."""
    half = round(_strength(level, _PATCH)) // 2
    x, y = (_draw(side) for side in image.size)
    picture = image.copy()
    picture.paste(_PATCH_COLOUR, (max(x - half, 0), max(y - half, 0), x + half, y + half))
    return picture


def _plain(change: Callable[[Image.Image], Image.Image], image: Image.Image, level: int) -> Image.Image:
    """A change that has no strength."""
    return change(image)


OPERATIONS: Mapping[str, Operation] = {
    "invert": partial(_plain, F.invert),
    "cutout": _patched,
    "sharpness": partial(_enhanced, F.adjust_sharpness),
    "autocontrast": partial(_plain, F.autocontrast),
    "posterize": _posterized,
    "shear_x": partial(_sheared, True),
    "translate_x": partial(_moved, True),
    "translate_y": partial(_moved, False),
    "shear_y": partial(_sheared, False),
    "rotate": _turned,
    "equalize": partial(_plain, F.equalize),
    "contrast": partial(_enhanced, F.adjust_contrast),
    "color": partial(_enhanced, F.adjust_saturation),
    "solarize": _solarized,
    "brightness": partial(_enhanced, F.adjust_brightness),
}
"""By name; each is as likely to be drawn."""

_NAMES = tuple(OPERATIONS)


def _strength(level: int, most: float) -> float:
    """So many ninths of `most`, rounded as in the published code: a pixel may hang on the last bit of a shear."""
    return level * (most / LEVELS)


def _signed(amount: float) -> float:
    return amount if _coin() else -amount


def _draw(choices: int) -> int:
    return int(torch.randint(choices, (1,)))


def _coin() -> bool:
    return bool(torch.rand(1) < 0.5)
