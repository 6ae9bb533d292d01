"""The orientation (EXIF) of photographs, and images turned by it. H W: height and width in pixels."""

from __future__ import annotations

import struct

from PIL import Image
from torch import Tensor

_ORIENTATION = 0x0112  # tag of EXIF: 1 to 8, how the camera was held
_SWAPPED = 5  # from this orientation on rows are columns
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MIRRORED = {2: (2,), 3: (1, 2), 4: (1,), 5: (), 6: (2,), 7: (1, 2), 8: (1,)}
"""Sides (1 of H, 2 of W) that are mirrored, once rows and columns are swapped where they are to be."""
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, AttributeError, struct.error)


def orientation(image: Image.Image) -> int:
    """The orientation of an opened image, 1 (as stored) to 8; 1 where it has none, or none that can be read.

    Metadata that are damaged are no fault of the pixels. Pillow turns TIFF and AVIF itself, and they have none then.
    """
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except _BROKEN:
        return 1
    return found if isinstance(found, int) and found in _TURNS else 1


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """An image stored in an orientation, upright."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def turned_tensor(image: Tensor, orientation: int) -> Tensor:
    """The same of an image (3, H, W)."""
    if orientation not in _MIRRORED:
        return image
    rows_first = image.transpose(1, 2) if orientation >= _SWAPPED else image
    return rows_first.flip(_MIRRORED[orientation])


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """The same of two sides."""
    return size[::-1] if orientation >= _SWAPPED else size
