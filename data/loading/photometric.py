"""The augmentation of the long-tail papers: images cut at their sides, brightness, contrast and colours distorted.

Wu et al., ECCV 2020, published code wutong16/DistributionBalancedLoss, `extra_aug` of configs/voc and configs/coco,
which NDLP takes over; it is that of SSD (Liu et al., ECCV 2016). H W: height and width in pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from data.images.decoders import DecodedImage, as_tensor

_TRIES = 50
_FLATTEST, _TALLEST = 0.5, 2.0  # height over width of what is left of an image


class Distortion(NamedTuple):
    """Changes to the colours of one image; by default none."""

    brightness: float = 0.0  # added to each value
    contrast: float = 1.0  # factor of each value is multiplied by
    contrast_first: bool = True  # before saturation and hue, or behind them
    saturation: float = 1.0
    hue: float = 0.0  # degrees of 360
    channels: tuple[int, ...] = (0, 1, 2)  # red, green and blue are taken from these


class Photometric:
    """Colours distorted at random, each kind with probability 1/2: see `draw_distortion`.

    The published code goes on with values outside 0 to 255 and with fractions; here an image stays bytes, so values
    are rounded and cut off, once, behind the last distortion.
    """

    def __call__(self, image: DecodedImage) -> DecodedImage:
        """An image of the same kind and size."""
        values = distorted(as_tensor(image).float(), draw_distortion())
        pixels = values.round().clamp(0, 255).to(torch.uint8)
        return pixels if isinstance(image, Tensor) else Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


class SideCut:
    """A part of an image, each of its sides 80 to 100 % of the image's, at any position; not resized.

    Sides are drawn anew where height over width is not in [1/2, 2]; after 50 draws the image stays whole. Every
    position is as likely. In the published code the offset starts at 1 pixel instead of 0, by a slip of an argument.

    Args:
        least: smallest share of a side.
    """

    def __init__(self, least: float = 0.8) -> None:
        self.least = least

    def __call__(self, image: DecodedImage) -> DecodedImage:
        """The part of the image that is left."""
        rows, columns = F.get_size(image)
        for _ in range(_TRIES):
            width, height = (max(1, int(side * _between(self.least, 1.0))) for side in (columns, rows))
            if _FLATTEST <= height / width <= _TALLEST:
                left, top = (int(torch.randint(room + 1, (1,))) for room in (columns - width, rows - height))
                return _cut(image, top, left, height, width)
        return image


def draw_distortion() -> Distortion:
    """The changes to one image, drawn from torch's default CPU generator, each in half of the images.

    In order: brightness, -32 to 32; contrast, 0.5 to 1.5, and whether it comes before saturation and hue; saturation,
    0.5 to 1.5; hue, -18 to 18 degrees; an order of the channels. A value is drawn where its coin says so.
    """
    return Distortion(
        brightness=_between(-32.0, 32.0) if _coin() else 0.0,
        contrast=_between(0.5, 1.5) if _coin() else 1.0,
        contrast_first=_coin(),
        saturation=_between(0.5, 1.5) if _coin() else 1.0,
        hue=_between(-18.0, 18.0) if _coin() else 0.0,
        channels=tuple(torch.randperm(3).tolist()) if _coin() else (0, 1, 2),
    )


def distorted(pixels: Tensor, distortion: Distortion) -> Tensor:
    """Values (3, H, W), red, green and blue from 0 to 255, distorted: floats, some of them outside that range."""
    before, behind = (distortion.contrast, 1.0) if distortion.contrast_first else (1.0, distortion.contrast)
    values = (pixels + distortion.brightness) * before
    if (distortion.saturation, distortion.hue) != (1.0, 0.0):
        values = recoloured(values, distortion.saturation, distortion.hue)
    return values[list(distortion.channels)] * behind


def recoloured(pixels: Tensor, saturation: float, hue: float) -> Tensor:
    """Values (3, H, W) with their HSV saturation multiplied and their hue turned; the value, the maximum, stays.

    With M the maximum, D its distance from the minimum and h the hue in sixths of the circle, a channel is
    M - D max(0, min(k, 4 - k, 1)), k = (n + h) mod 6, n = 5, 3, 1 for red, green and blue. As D is saturation times M,
    it takes the factor, and M is never divided by: negative values do no harm.

    Args:
        pixels: red, green and blue, of any range.
        saturation: what D is multiplied by.
        hue: degrees of 360 to turn by.
    """
    red, green, blue = pixels
    top = pixels.amax(dim=0)
    spread = top - pixels.amin(dim=0)
    divisor = torch.where(spread > 0, spread, torch.ones_like(spread))  # grey has no hue, and none is seen
    from_green = torch.where(top == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    sixths = torch.where(top == red, (green - blue) / divisor, from_green) + hue / 60
    positions = [(start + sixths) % 6 for start in (5, 3, 1)]
    return torch.stack([top - saturation * spread * torch.minimum(k, 4 - k).clamp(0, 1) for k in positions])


def _cut(image: DecodedImage, top: int, left: int, height: int, width: int) -> DecodedImage:
    """A part of an image, a tensor's in memory of its own with the channels innermost."""
    part: DecodedImage = F.crop(image, top, left, height, width)
    return part.permute(1, 2, 0).contiguous().permute(2, 0, 1) if isinstance(part, Tensor) else part


def _between(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(1))


def _coin() -> bool:
    return bool(torch.rand(1) < 0.5)
