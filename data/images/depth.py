"""Any image of Pillow as 8-bit RGB, whatever its depth. H W: height and width in pixels."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_EIGHT_BITS = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"})
_DEEP_GREY = "I"  # first letter of the modes of 16 and 32 bits: I;16 I;16B I;16L I;16N I
_FLOAT = "F"
_FULL_SIXTEEN = frozenset({"PNG", "PPM"})  # formats whose mode I is 16 bits, over their whole range
_FEW_BITS = (8, 10, 12)  # depths of cameras and microscopes, which store them in 16 bits
_NO_DATA = 42113  # tag of a TIFF: the value of pixels that were not measured
_SAMPLE_FORMAT = 339  # tag of a TIFF: 1 unsigned, 2 signed, 3 floating point
_UNSIGNED = 1
_HALVED = "partial-truth: the lowest 8 of 16 bits are not read"  # key of what is known of an opened image
_PHOTOMETRIC = 262  # tag of a TIFF: 0 where the lowest value is white
_WHITE_IS_ZERO = 0


class DeclinedError(ValueError):
    """An image that is whole and cannot be used; its text is the end of a sentence."""


def to_rgb(image: Image.Image, value_range: tuple[float, float] | None = None) -> Image.Image:
    """Any image as 8-bit RGB: grey repeated, palettes looked up, alpha dropped, deeper values scaled.

    Values of 16 bits are divided by 256, or by less where none needs more than 8, 10 or 12 bits. Values of 32 bits and
    signed ones are scaled by the image's own range: its lowest value is black, its highest white.

    Args:
        image: the image, loaded.
        value_range: the values that become black and white, of all images deeper than 8 bits instead of that.

    Raises: DeclinedError for a mode that cannot be made RGB, and as `require_rgb` does.
    """
    require_rgb(image, value_range)
    if image.mode == "RGB":
        return image
    if image.mode == _FLOAT or image.mode.startswith(_DEEP_GREY):
        return Image.fromarray(grey_levels(image, value_range)).convert("RGB")
    if image.mode in ("P", "La", "RGBa"):  # a palette may have transparent colours
        return image.convert("LA" if image.mode == "La" else "RGBA").convert("RGB")
    return image.convert("RGB")


def note_depth(image: Image.Image) -> None:
    """Remember of an image, opened and not yet loaded, whether its colours have 16 bits, of which Pillow gives 8."""
    halved = len(image.getbands()) > 1 and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    if halved:
        image.info[_HALVED] = True


def require_rgb(image: Image.Image, value_range: tuple[float, float] | None = None) -> None:
    """Raise DeclinedError, which names the mode, for an image that `to_rgb` does not take.

    Of colours of 16 bits only the highest 8 are there, to which no range of values applies.
    """
    if value_range is not None and image.info.get(_HALVED):
        raise DeclinedError(
            "has 16 bits in each of several channels, of which Pillow reads the highest 8, so --value_range cannot "
            "scale them: save each channel as a file (--image_pattern), or leave the flag out"
        )
    deep = image.mode == _FLOAT or image.mode.startswith(_DEEP_GREY)
    if image.mode not in _EIGHT_BITS and not deep and not _becomes_rgb(image.mode):
        raise DeclinedError(f"has colours of mode {image.mode}, which are not read here: convert it to RGB")


@cache
def _becomes_rgb(mode: str) -> bool:
    """True if this version of Pillow converts a mode to RGB."""
    try:
        return Image.new(mode, (1, 1)).convert("RGB").mode == "RGB"
    except ValueError:
        return False


def grey_levels(image: Image.Image, value_range: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """(H, W) levels 0 .. 255 of an image of mode I, F or of 16 bits; `value_range` as in `to_rgb`."""
    values = np.asarray(image)
    sixteen = image.mode.startswith("I;16") or (image.mode == _DEEP_GREY and image.format in _FULL_SIXTEEN)
    if image.mode == _DEEP_GREY and not sixteen and _tag(image, _SAMPLE_FORMAT) == _UNSIGNED:
        values = values.view(np.uint32)  # Pillow takes the highest half of them for negative
    no_data = _number(_tag(image, _NO_DATA))
    if value_range is not None:
        levels = given_range_levels(values.astype(np.float64), *value_range, no_data)
    elif sixteen:
        levels = sixteen_bit_levels(values)
    else:
        levels = own_range_levels(values.astype(np.float64), no_data)
    if _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO:
        np.subtract(255, levels, out=levels)
    return levels


def sixteen_bit_levels(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Levels 0 .. 255 of values 0 .. 65535: divided by 256, or by the step of 8, 10 or 12 bits if none needs more."""
    highest = int(values.max(initial=0))
    bits = next((bits for bits in _FEW_BITS if highest < 2**bits), 16)
    levels: NDArray[np.uint8] = (values.astype(np.int64) >> (bits - 8)).astype(np.uint8)
    return levels


def own_range_levels(values: NDArray[np.float64], no_data: float | None = None) -> NDArray[np.uint8]:
    """Levels of values of any range: the lowest is 0, the highest 255; those without a measurement are 0.

    Values that are all alike have no range: they are 0 if they are zero or less, else 255.
    """
    measured = _measured(values, no_data)
    if not measured.any():
        return np.zeros(values.shape, dtype=np.uint8)
    lowest, highest = values[measured].min(), values[measured].max()
    if lowest == highest:
        return np.where(measured & (values > 0), 255, 0).astype(np.uint8)
    return given_range_levels(values, lowest, highest, no_data)


def given_range_levels(
    values: NDArray[np.float64], lowest: float, highest: float, no_data: float | None = None
) -> NDArray[np.uint8]:
    """Levels of values of any range: `lowest` and what is below are 0, `highest` and what is above are 255.

    Values without a measurement are 0.
    """
    share = (np.where(_measured(values, no_data), values, lowest) - lowest) / (highest - lowest)
    levels: NDArray[np.uint8] = np.rint(255 * share.clip(0, 1)).astype(np.uint8)
    return levels


def _measured(values: NDArray[np.float64], no_data: float | None) -> NDArray[np.bool_]:
    """True for values that are measurements."""
    measured: NDArray[np.bool_] = np.isfinite(values) & (np.abs(values) < np.finfo(np.float32).max)
    return measured if no_data is None else measured & (values != no_data)


def _tag(image: Image.Image, tag: int) -> Any:
    """The first value of a tag of a TIFF; None for another file, or without that tag."""
    value = getattr(image, "tag_v2", {}).get(tag)
    return value[0] if isinstance(value, tuple) and value else value


def _number(value: Any) -> float | None:
    """A text or number as a number; None if it is none."""
    try:
        return None if value is None else float(str(value).strip("\0 "))
    except ValueError:
        return None
