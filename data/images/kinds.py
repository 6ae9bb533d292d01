"""Files that are whole and that Pillow does not read: what they are, told by their first bytes."""

from __future__ import annotations

import io
import struct
from pathlib import Path

from PIL.TiffImagePlugin import COMPRESSION_INFO, OPEN_INFO, ImageFileDirectory_v2

_HEAD = 1 << 17  # bytes that are looked at: a JPEG has its metadata there
_CONVERT = "convert it to PNG or JPEG"
_HEIC = "a HEIC picture"
_BRANDS = {
    **dict.fromkeys(("heic", "heix", "heim", "heis", "hevc", "mif1", "msf1"), _HEIC),
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
    (b"II*\0\x10\0\0\0CR", f"is a raw picture of a camera: {_CONVERT}"),
    (b"8BPS", f"is a Photoshop document of a mode that Pillow does not read: {_CONVERT}"),
    (b"\x89HDF", "is an HDF5 file, no image: save the image as PNG"),
    (b"\x1aE\xdf\xa3", "is a video or sound, no image"),
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
_READ = {(key[2], key[4]) for key in OPEN_INFO}  # formats and bits of the samples that Pillow reads
_MARKER, _USUAL_BITS = 0xFF, 8
_FRAMES = {  # kinds of frames of a JPEG: "a " for those that Pillow reads
    **dict.fromkeys((0xC0, 0xC1, 0xC2), "a "),
    **dict.fromkeys((0xC3, 0xC7, 0xCB, 0xCF), "a lossless "),
    **dict.fromkeys((0xC5, 0xC6), "a hierarchical "),
    **dict.fromkeys((0xC9, 0xCA), "an arithmetic-coded "),
    0xF7: "a near-lossless ",
}
_BITS, _COMPRESSION, _SAMPLE_COUNT, _SAMPLE_FORMAT = 258, 259, 277, 339  # tags of a TIFF


def declined_kind(source: str | bytes) -> str:
    """What an unidentified file is, as the end of a sentence; "" where it is of no known kind."""
    try:
        head = _head(source)
    except OSError:
        return ""
    known = next((text for start, text in _KINDS if head.startswith(start)), "")
    if known:
        return known
    if head[128:132] == b"DICM":
        return f"is a DICOM image, which Pillow does not read: {_CONVERT}"
    if head[:3] == b"\xff\xd8\xff":
        return _jpeg(head)
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0"):
        return _tiff(source)
    if head[4:8] == b"ftyp":
        return _container(head[8:12].decode("latin-1"))
    return _markup(head)


def is_heic(source: str | bytes) -> bool:
    """True for a file that begins as HEIC pictures do."""
    head = _head(source)
    return head[4:8] == b"ftyp" and _BRANDS.get(head[8:12].decode("latin-1")) == _HEIC


def _head(source: str | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:_HEAD]
    with Path(source).open("rb") as file:
        return file.read(_HEAD)


def _container(brand: str) -> str:
    """What a file of the MP4 family is."""
    kind = _BRANDS.get(brand)
    if kind == _HEIC:
        return f"is {kind}, which Pillow does not read: pip install pillow-heif, or {_CONVERT}"
    return f"is {kind}, which Pillow does not read: {_CONVERT}" if kind else "is a video or sound, no image"


def _markup(head: bytes) -> str:
    text = head[:512].decode("latin-1").lstrip("\xef\xbb\xbf \t\r\n").lower()
    if not text.startswith("<"):
        return ""
    return next((kind for word, kind in _MARKUP if word in text), "")


def _jpeg(head: bytes) -> str:
    """Precision and coding of a JPEG that Pillow declines; "" for a usual one, which is damaged then."""
    offset = 2
    while offset + 10 <= len(head) and head[offset] == _MARKER:
        kind, size = head[offset + 1], int.from_bytes(head[offset + 2 : offset + 4], "big")
        if kind in _FRAMES:
            bits, coding = head[offset + 4], _FRAMES[kind]
            usual = bits == _USUAL_BITS and coding == "a "
            return "" if usual else f"is {coding}JPEG of {bits} bits per value, which Pillow does not read: {_CONVERT}"
        offset += 2 + size
    return ""


def _tiff(source: str | bytes) -> str:
    """Depth and compression of a TIFF that Pillow declines; "" if its tags cannot be read, as it is damaged then."""
    try:
        tags = _tiff_tags(source)
        bits, formats = tags[_BITS], tags.get(_SAMPLE_FORMAT, (1,))
    except (OSError, KeyError, ValueError, SyntaxError, TypeError, IndexError, struct.error):
        return ""
    count, compression = tags.get(_SAMPLE_COUNT, 1), tags.get(_COMPRESSION, 1)
    samples = tuple(bits) * count if len(bits) == 1 else tuple(bits)
    if (tuple(set(formats)), samples) in _READ and compression in COMPRESSION_INFO:
        return ""
    depth = f"{count} x {bits[0]}-bit {_SAMPLES.get(formats[0], 'unknown')} values per pixel"
    packed = f", compression {compression}" if compression != 1 else ""
    return f"is a TIFF of {depth}{packed}, which Pillow does not read: {_CONVERT} of 8 bits"


def _tiff_tags(source: str | bytes) -> ImageFileDirectory_v2:
    with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
        start = file.read(8)
        if start.startswith(b"II+"):  # a BigTIFF; Pillow reads none of the other order of bytes
            start += file.read(8)
        tags = ImageFileDirectory_v2(start)
        file.seek(tags.next)
        tags.load(file)
        return tags
