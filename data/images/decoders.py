"""From a row to a decoded picture: by Pillow, whose pixels the papers saw, or by torchcodec, which is faster.

H W: height and width in pixels.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from utils.checks import UserError
from utils.types import Images

DecodedImage = Image.Image | Tensor
"""RGB, as Pillow holds it or as uint8 (3, H, W). Never changed in place: its memory may be the dataset's own."""

Decoder = Literal["pillow", "torchcodec"]

_JPEG = b"\xff\xd8\xff"
_EXIF = b"Exif\0\0"  # the name of the block that says how the camera was held
_HIDDEN = 0xE9  # a kind of block that decoders pass over
_SCAN = b"\xff\xda"  # what ends the blocks before the pixels
_INSTALL = 'pip install "torchcodec>=0.16"'


@runtime_checkable
class Encoded(Protocol):
    """Pictures of which the files can be had as they are."""

    def encoded(self, row: int) -> bytes:
        """The file of one row. Raises: RunError naming the file when it cannot be read."""
        ...

    def open(self, row: int) -> Image.Image:
        """The picture of one row, decoded by Pillow."""
        ...


@runtime_checkable
class Decoded(Protocol):
    """Pictures that lie there decoded."""

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """The picture of one row, (H, W, 3) RGB; not to be changed."""
        ...


def image_opener(images: Images, decoder: Decoder) -> Callable[[int], DecodedImage]:
    """What opens the picture of a row: as Pillow's for `pillow`, as a tensor for `torchcodec`.

    Raises:
        UserError: torchcodec is wanted and not there.
    """
    require_decoder(decoder)
    if decoder == "pillow":
        return images.open
    if isinstance(images, Decoded):
        return partial(_from_pixels, images)
    if isinstance(images, Encoded):
        return partial(_from_file, images)
    return partial(_from_pillow, images)


def require_decoder(decoder: Decoder) -> None:
    """Raise UserError, with the command that installs it, when a decoder is not there."""
    if decoder == "torchcodec":
        _jpeg_decoder()


def as_tensor(picture: DecodedImage) -> Tensor:
    """The picture as uint8 (3, H, W); of a Pillow picture with the channels innermost in memory."""
    if isinstance(picture, Tensor):
        return picture
    tensor: Tensor = F.pil_to_tensor(picture)
    return tensor


@cache
def _jpeg_decoder() -> Callable[..., Tensor]:
    """What torchcodec decodes JPEG with; loaded when first asked for."""
    try:
        decode: Callable[..., Tensor] = importlib.import_module("torchcodec.decoders").decode_jpeg
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"--decoder torchcodec: not to be had here ({reason}); {_INSTALL}") from None
    return decode


def _from_file(images: Encoded, row: int) -> Tensor:
    """The pixels that Pillow gives, by torchcodec where it gives the same: of JPEG files, grey or in colour."""
    file = images.encoded(row)
    if file.startswith(_JPEG):
        with suppress(RuntimeError, ValueError):  # Pillow then says what is wrong, or gets along with it
            channels = _jpeg_decoder()(_upright(file), mode="UNCHANGED")
            if len(channels) in (1, 3):  # else CMYK
                return channels.expand(3, -1, -1)
    return as_tensor(images.open(row))


def _upright(file: bytes) -> bytes:
    """A JPEG file that hides how the camera was held: torchcodec would turn the picture, Pillow does not."""
    place, found = 2, []
    while file[place : place + 1] == b"\xff" and file[place : place + 2] != _SCAN:
        if file[place + 4 : place + 10] == _EXIF:
            found.append(place)
        place += 2 + int.from_bytes(file[place + 2 : place + 4], "big")
    if not found:
        return file
    changed = bytearray(file)
    for place in found:
        changed[place + 1] = _HIDDEN
    return bytes(changed)


def _from_pixels(images: Decoded, row: int) -> Tensor:
    return torch.from_numpy(images.pixels(row)).permute(2, 0, 1)


def _from_pillow(images: Images, row: int) -> Tensor:
    return as_tensor(images.open(row))
