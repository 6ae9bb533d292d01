"""How an image becomes a square of s x s pixels: `--resize`. H W height and width of the image, in pixels.

`antialias` is Pillow's bilinear filter, which averages over all pixels that fall into a new one; torchvision and the
papers that use it do the same. `cv2-like` is bilinear between the two nearest pixels however much smaller the square
is, as OpenCV's INTER_LINEAR does it in integers, which the code of DB loss and NDLP calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from data.images.decoders import DecodedImage, as_tensor

Resizer = Callable[[DecodedImage, int], DecodedImage]
"""From an image of any size and the side s to an image of the same kind, s x s."""

_ONE = 1 << 11  # a weight of 1 in the integers of cv2-like


class Neighbours(NamedTuple):
    """For each of m new positions along one side: the old ones it lies between, and the integer weight of each."""

    low: Tensor  # (m,) long
    high: Tensor  # (m,) long
    low_weight: Tensor  # (m,) int32
    high_weight: Tensor  # (m,) int32


def antialiased(image: DecodedImage, size: int) -> DecodedImage:
    """Bilinear with antialiasing; of a tensor as fast as can be, with the channels innermost in memory."""
    if not isinstance(image, Tensor):
        return image.resize((size, size), Image.Resampling.BILINEAR)
    batch = image.permute(1, 2, 0).contiguous()[None].permute(0, 3, 1, 2)
    return interpolate(batch, (size, size), mode="bilinear", antialias=True)[0]


def cv2_like(image: DecodedImage, size: int) -> DecodedImage:
    """Bilinear without antialiasing, byte for byte what OpenCV gives; a tensor has its channels innermost in memory."""
    pixels = resampled(as_tensor(image), (size, size)).permute(1, 2, 0).contiguous()
    return pixels.permute(2, 0, 1) if isinstance(image, Tensor) else Image.fromarray(pixels.numpy())


RESIZERS: dict[str, Resizer] = {"antialias": antialiased, "cv2-like": cv2_like}
"""Ways to resize by name; the first is the default."""


def resampled(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Bytes (C, H, W) as bytes of another (height, width), between the two nearest rows and columns.

    Columns first, exactly; then rows, each half rounded down to 1/4 of a grey level, and their sum rounded.
    """
    rows, columns = (neighbours(old, new) for old, new in zip(pixels.shape[1:], size, strict=True))
    columns = _within(columns, pixels.shape[2])
    rows = rows._replace(low=rows.low.clamp(min=0), high=rows.high.clamp(max=pixels.shape[1] - 1))
    wide = pixels[..., columns.low].int() * columns.low_weight + pixels[..., columns.high].int() * columns.high_weight
    wide >>= 4
    upper, lower = (
        (wide[:, row] * weight[:, None]) >> 16
        for row, weight in ((rows.low, rows.low_weight), (rows.high, rows.high_weight))
    )
    return ((upper + lower + 2) >> 2).to(torch.uint8)


def neighbours(old: int, new: int) -> Neighbours:
    """The neighbours along a side of `old` pixels of each pixel of a side of `new`; at the ends they may lie outside.

    The centre of a new pixel y lies at (y + 1/2) old/new - 1/2; its fraction is taken in single precision.
    """
    centres = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
    low = np.floor(centres)
    fraction = centres - low
    weights = (np.rint((share * np.float32(_ONE)).astype(np.float32)) for share in (1 - fraction, fraction))
    low_weight, high_weight = (torch.from_numpy(weight.astype(np.int32)) for weight in weights)
    first = torch.from_numpy(low.astype(np.int64))
    return Neighbours(first, first + 1, low_weight, high_weight)


def _within(found: Neighbours, length: int) -> Neighbours:
    """Neighbours of which both lie on the side: at its ends the pixel itself, with all the weight."""
    outside = (found.low < 0) | (found.high >= length)
    low = found.low.clamp(0, length - 1)
    weights = found.low_weight.masked_fill(outside, _ONE), found.high_weight.masked_fill(outside, 0)
    return Neighbours(low, torch.where(outside, low, found.high), *weights)
