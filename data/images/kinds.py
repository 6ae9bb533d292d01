"""Files that are whole and that Pillow does not read: what they are, told by their first bytes."""

from __future__ import annotations

import io
import struct
from pathlib import Path

from PIL.TiffImagePlugin import ImageFileDirectory_v2

_HEAD = 512  # bytes that are looked at
_CONVERT = "convert it to PNG or JPEG"
_BRANDS = {
    **dict.fromkeys(("heic", "heix", "heim", "heis", "hevc", "mif1", "msf1"), "a HEIC picture"),
    **dict.fromkeys(("avif", "avis"), "an AVIF picture"),
    "crx ": "a Canon raw picture",
}
# First bytes: what such a file is, and what to do.
_KINDS = (
    (b"version https://git-lfs", "is a pointer of Git LFS, not the image: get it with git lfs pull"),
    (b"%PDF", f"is a PDF document, no image: {_CONVERT}"),
    (b"\xff\x0a", f"is a JPEG XL image, which Pillow does not read: {_CONVERT}"),
    (b"\0\0\0\x0cJXL ", f"is a JPEG XL image, which Pillow does not read: {_CONVERT}"),
    (b"FUJIFILMCCD-RAW", f"is a raw picture of a camera: {_CONVERT}"),
    (b"IIRO", f"is a raw picture of a camera: {_CONVERT}"),
    (b"IIU\0", f"is a raw picture of a camera: {_CONVERT}"),
    (b"v/1\x01", f"is an OpenEXR image, which Pillow does not read: {_CONVERT}"),
    (b"#?RADIANCE", f"is a Radiance HDR image, which Pillow does not read: {_CONVERT}"),
    (b"II\xbc\x01", f"is a JPEG XR image, which Pillow does not read: {_CONVERT}"),
    (b"\x93NUMPY", "is a NumPy array, no image: save it as PNG"),
    (b"PK\x03\x04", "is a zip archive, no image: unpack it"),
    (b"\x1f\x8b", "is a gzip archive, no image: unpack it"),
    (b"Rar!", "is a rar archive, no image: unpack it"),
)
_MARKUP = (
    ("<!doctype html", "is a web page, not the image: get the image anew"),
    ("<html", "is a web page, not the image: get the image anew"),
    ("<svg", f"is an SVG drawing, which Pillow does not read: {_CONVERT}"),
    ("<!doctype svg", f"is an SVG drawing, which Pillow does not read: {_CONVERT}"),
)
_SAMPLES = {1: "unsigned", 2: "signed", 3: "floating-point", 4: "undefined", 5: "complex", 6: "complex"}
_BITS, _COMPRESSION, _SAMPLE_COUNT, _SAMPLE_FORMAT = 258, 259, 277, 339  # tags of a TIFF


def declined_kind(source: str | bytes) -> str:
    """What an unidentified file is, as the end of a sentence; "" where it is of no known kind."""
    try:
        head = _head(source)
    except OSError:
        return ""
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff(source)
    if head[4:8] == b"ftyp":
        return _container(head[8:12].decode("latin-1"))
    return next((text for start, text in _KINDS if head.startswith(start)), "") or _markup(head)


def _head(source: str | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:_HEAD]
    with Path(source).open("rb") as file:
        return file.read(_HEAD)


def _container(brand: str) -> str:
    """What a file of the MP4 family is."""
    kind = _BRANDS.get(brand)
    return f"is {kind}, which Pillow does not read: {_CONVERT}" if kind else "is a video or sound, no image"


def _markup(head: bytes) -> str:
    text = head.decode("latin-1").lstrip("\xef\xbb\xbf \t\r\n").lower()
    if not text.startswith("<"):
        return ""
    return next((kind for word, kind in _MARKUP if word in text), "")


def _tiff(source: str | bytes) -> str:
    """Depth and compression of a TIFF that Pillow declines; "" if its tags cannot be read, as it is damaged then."""
    try:
        tags = _tiff_tags(source)
        bits, formats = tags[_BITS], tags.get(_SAMPLE_FORMAT, (1,))
    except (OSError, KeyError, ValueError, SyntaxError, TypeError, IndexError, struct.error):
        return ""
    count = tags.get(_SAMPLE_COUNT, 1)
    depth = f"{count} x {bits[0]}-bit {_SAMPLES.get(formats[0], 'unknown')} values per pixel"
    packed = f", compression {tags[_COMPRESSION]}" if tags.get(_COMPRESSION, 1) != 1 else ""
    return f"is a TIFF of {depth}{packed}, which Pillow does not read: {_CONVERT} of 8 bits"


def _tiff_tags(source: str | bytes) -> ImageFileDirectory_v2:
    with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
        start = file.read(8)
        if start[2] == 43 or start[3] == 43:  # a BigTIFF
            start += file.read(8)
        tags = ImageFileDirectory_v2(start)
        file.seek(tags.next)
        tags.load(file)
        return tags
