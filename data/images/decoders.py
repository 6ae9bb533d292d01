"""Decoders of images: Pillow, whose pixels the papers used, or torchcodec, which is faster.

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

from data.images.opening import stored_orientation
from data.images.orientation import turned_tensor
from data.images.reading import Reading
from utils.checks import UserError
from utils.types import Images

DecodedImage = Image.Image | Tensor
"""RGB, a Pillow image or uint8 (3, H, W). Never changed in place: its memory may be the dataset's own."""

Decoder = Literal["pillow", "torchcodec"]

_JPEG = b"\xff\xd8\xff"
_EXIF = b"Exif\0\0"  # name of the metadata block that has the orientation of the camera
_HIDDEN = 0xE9  # a type of block that decoders skip
_SCAN = b"\xff\xda"  # marker of the pixel data, which ends the metadata blocks
_INSTALL = 'pip install "torchcodec>=0.16"'


@runtime_checkable
class Encoded(Protocol):
    """Images whose encoded files are available."""

    @property
    def reading(self) -> Reading:
        """The rules by which the files become pixels."""
        ...

    def encoded(self, row: int) -> bytes:
        """The bytes of the file of one row. Raises: RunError naming the file when it cannot be read."""
        ...

    def open(self, row: int) -> Image.Image:
        """The image of one row, decoded by Pillow."""
        ...


@runtime_checkable
class Decoded(Protocol):
    """Images whose decoded pixels are available."""

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """The image of one row, (H, W, 3) RGB; not to be changed."""
        ...


def image_opener(images: Images, decoder: Decoder) -> Callable[[int], DecodedImage]:
    """A function that opens the image of a row: as a Pillow image for `pillow`, as a tensor for `torchcodec`.

    Raises:
        UserError: torchcodec is asked for and not installed.
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
    """Raise UserError, with the command that installs it, when a decoder is not installed."""
    if decoder == "torchcodec":
        _jpeg_decoder()


def as_tensor(image: DecodedImage) -> Tensor:
    """The image as uint8 (3, H, W); converted from Pillow, the channels are innermost in memory."""
    if isinstance(image, Tensor):
        return image
    tensor: Tensor = F.pil_to_tensor(image)
    return tensor


@cache
def _jpeg_decoder() -> Callable[..., Tensor]:
    """The JPEG decoder of torchcodec, loaded on the first call."""
    try:
        decode: Callable[..., Tensor] = importlib.import_module("torchcodec.decoders").decode_jpeg
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"--decoder torchcodec: not available here ({reason}); {_INSTALL}") from None
    return decode


def _from_file(images: Encoded, row: int) -> Tensor:
    """The pixels that Pillow gives, decoded by torchcodec where it gives the same: grey or colour JPEG files."""
    file = images.encoded(row)
    if file.startswith(_JPEG):
        with suppress(RuntimeError, ValueError):  # Pillow then reports the fault, or tolerates it
            channels = _jpeg_decoder()(_without_orientation(file), mode="UNCHANGED")
            if len(channels) in (1, 3):  # else CMYK
                colours = channels.expand(3, -1, -1)
                return turned_tensor(colours, stored_orientation(file)) if images.reading.exif == "apply" else colours
    return as_tensor(images.open(row))


def _without_orientation(file: bytes) -> bytes:
    """A JPEG file with its orientation hidden: torchcodec would turn the image, also where it is to be as stored."""
    offset, exif_offsets = 2, []
    while file[offset : offset + 1] == b"\xff" and file[offset : offset + 2] != _SCAN:
        if file[offset + 4 : offset + 10] == _EXIF:
            exif_offsets.append(offset)
        offset += 2 + int.from_bytes(file[offset + 2 : offset + 4], "big")
    if not exif_offsets:
        return file
    changed = bytearray(file)
    for offset in exif_offsets:
        changed[offset + 1] = _HIDDEN
    return bytes(changed)


def _from_pixels(images: Decoded, row: int) -> Tensor:
    return torch.from_numpy(images.pixels(row)).permute(2, 0, 1)


def _from_pillow(images: Images, row: int) -> Tensor:
    return as_tensor(images.open(row))
