"""Opening of image files by Pillow. What it cannot open is named for what it is: damaged, or whole and not read here.

Limits of Pillow against hostile files are replaced by what they stand for: the memory that is free, and text blocks
that are passed over. H W: height and width in pixels.
"""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from data.images.depth import DeclinedError, note_depth, require_rgb, to_rgb
from data.images.kinds import declined_kind, is_heic
from data.images.orientation import orientation, turned, turned_size
from data.images.reading import AS_STORED, Reading
from utils.free_memory import free_memory

Image.MAX_IMAGE_PIXELS = None  # instead of it, `_require_memory`

MISSING = "does not exist"
_LARGE = 50_000_000  # pixels from which the free memory is asked for: 0.6 GB
_BYTES = 12  # of memory for each pixel: as read, as RGB, and as numbers
_GB = 1e9
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf")  # blocks of a PNG that have no pixels
_PNG = b"\x89PNG\r\n\x1a\n"

# What Pillow says of files that are whole, and of a kind that it does not read.
_DECLINED = ("unsupported", "not supported", "not available", "unable to locate", "not implemented", "cannot handle")

# What Pillow raises for input that it cannot read: OSError for most of it, the others from single decoders.
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    MemoryError,
    OverflowError,
    NotImplementedError,
)


def decode(source: str | bytes, reading: Reading = AS_STORED, *, draft: int = 0) -> Image.Image:
    """An image file as RGB, read by the given rules; `draft` as in `opened`. Raises: one of `UNREADABLE`."""
    with opened(source, draft=draft) as image:
        return as_read(image, reading)


def as_read(image: Image.Image, reading: Reading) -> Image.Image:
    """An image that Pillow has opened as RGB, read by the given rules. Raises: DeclinedError as `to_rgb` does."""
    note_depth(image)
    image.load()  # before it there is no orientation of a PNG, and one of a TIFF that Pillow turns itself
    colours = to_rgb(image, reading.value_range)
    return turned(colours, orientation(image)) if reading.exif == "apply" else colours


def fault(path: str, reading: Reading = AS_STORED) -> str | None:
    """Fault of an image file, as the end of a sentence; None when it decodes to its last byte and can be made RGB.

    Of the rules by which it is read, the range of values matters.
    JPEG decodes at an eighth of the size: the whole stream is read, most of the arithmetic is left out.
    """
    try:
        if os.stat(path).st_size == 0:  # noqa: PTH116 - the path is a string here
            return "is empty"
        with opened(path, draft=1) as image:
            require_rgb(image, reading.value_range)
    except UNREADABLE as error:
        return explained(path, error)
    return None


def explained(source: str | bytes, error: BaseException) -> str:
    """Fault of an image that raised `error`, as the end of a sentence."""
    if isinstance(error, FileNotFoundError):
        return MISSING
    if isinstance(error, DeclinedError):
        return str(error)
    if isinstance(error, MemoryError):
        return "takes more memory than there is: make it smaller"
    if isinstance(error, PermissionError):
        return f"cannot be read ({error.strerror})"
    if isinstance(error, UnidentifiedImageError | NotImplementedError | KeyError) and (kind := declined_kind(source)):
        return kind
    if isinstance(error, NotImplementedError) or any(word in str(error).lower() for word in _DECLINED):
        return f"is of a kind that Pillow does not read ({reason(error)}): convert it to PNG or JPEG"
    return f"is damaged ({reason(error)})"


def reason(error: BaseException) -> str:
    """The first line of an error's text; its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def opened(source: str | bytes, *, draft: int = 0) -> Iterator[Image.Image]:
    """An image file, decoded to its end.

    Args:
        source: a path, or the bytes of a file.
        draft: pixels of a side; JPEG is decoded at the smallest size, down to an eighth of its own, that has as many.
            0: at its own.

    Raises: one of `UNREADABLE`.
    """
    try:
        image = _loaded(source, draft)
    except ValueError:  # Pillow refuses PNG files for long texts, which nobody needs here
        bare = without_texts(source)
        if bare is None:
            raise
        image = _loaded(bare, draft)
    with image:
        yield image


def header(source: str | bytes) -> tuple[tuple[int, int], str, str]:
    """Size (W, H), mode and format from the header of an image file. Raises: one of `UNREADABLE`."""
    try:
        with _open(source) as image:
            return image.size, image.mode, image.format or ""
    except ValueError:
        bare = without_texts(source)
        if bare is None:
            raise
        return header(bare)


def stored_orientation(source: str | bytes) -> int:
    """The orientation of an image file by its header, 1 to 8; 1 where it has none or cannot be read."""
    try:
        with _open(source) as image:
            return orientation(image)
    except UNREADABLE:
        return 1


def image_size(source: str | bytes, reading: Reading) -> tuple[int, int]:
    """The size (W, H) that an image file has when it is read by the given rules. Raises: one of `UNREADABLE`."""
    size = header(source)[0]
    return turned_size(size, stored_orientation(source)) if reading.exif == "apply" else size


def without_texts(source: str | bytes) -> bytes | None:
    """The bytes of a PNG without its blocks of text, profile and metadata; None for another file, or without any."""
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    if not content.startswith(_PNG):
        return None
    kept, offset = [_PNG], len(_PNG)
    while offset < len(content):
        end = offset + 12 + int.from_bytes(content[offset : offset + 4], "big")
        if content[offset + 4 : offset + 8] not in _TEXTS:
            kept.append(content[offset:end])
        offset = end
    bare = b"".join(kept)
    return bare if len(bare) < len(content) else None


def _loaded(source: str | bytes, draft: int) -> Image.Image:
    image = _open(source)
    try:
        note_depth(image)
        _require_memory(image.size)
        if draft:
            image.draft("RGB", (draft, draft))
        image.load()
    except BaseException:
        image.close()
        raise
    return image


def _open(source: str | bytes) -> Image.Image:
    """An image file, opened and not yet decoded; a HEIC picture where pillow-heif is installed."""
    try:
        return Image.open(_file(source))
    except UnidentifiedImageError:
        if not (is_heic(source) and _reads_heic()):
            raise
        return Image.open(_file(source))


@cache
def _reads_heic() -> bool:
    """True if HEIC pictures can be opened from now on: pillow-heif is there. Asked when there is such a picture."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except (ImportError, AttributeError, OSError):
        return False
    return True


def _file(source: str | bytes) -> str | io.BytesIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _require_memory(size: tuple[int, int]) -> None:
    """Raise DeclinedError for an image that does not fit into the memory that is free."""
    pixels = size[0] * size[1]
    if pixels < _LARGE:
        return
    free = free_memory()
    if free is not None and pixels * _BYTES > free:
        raise DeclinedError(
            f"has {size[0]} x {size[1]} pixels, which take {pixels * _BYTES / _GB:.1f} GB of memory, and "
            f"{free / _GB:.1f} GB are free: make it smaller"
        )
