"""Pictures that are missing or cannot be decoded to their end: the check before training names the first, by row."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from data.images.files import FileImages
from tests.data.damage import Case
from tests.data.trees import picture

GOOD = "0.png"


def encoded(kind, mode="RGB", **options):
    """The bytes of an image of noise, which no decoder can guess the end of."""
    channels = {"RGB": 3, "CMYK": 4}.get(mode)
    shape = (48, 64, channels) if channels else (48, 64)
    pixels = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint16 if mode == "I;16" else np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels, mode=None if mode == "I;16" else mode).save(file, kind, **options)
    return file.getvalue()


def bomb():
    """A PNG of 900,000 x 900,000 pixels, more than any memory holds, that says so in a few bytes."""
    header = struct.pack(">IIBBBBB", 900_000, 900_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return start + struct.pack(">I", 9) + b"IDAT"


def second_is(name, content, *words):
    """A case: a good image, and a second row of this content."""

    def make(folder):
        picture(folder / GOOD)
        (folder / name).write_bytes(content)
        return FileImages([folder / GOOD, folder / name]).check

    return Case(f"{name} {words[0]}", make, (name, "(row 1)", *words))


def missing(folder):
    picture(folder / GOOD)
    return FileImages([folder / GOOD, folder / "gone.jpg"]).check


def a_folder(folder):
    picture(folder / GOOD)
    (folder / "1.jpg").mkdir()
    return FileImages([folder / GOOD, folder / "1.jpg"]).check


CASES = [
    Case("missing", missing, ("gone.jpg", "(row 1)", "does not exist")),
    Case("a folder", a_folder, ("1.jpg", "(row 1)", "is damaged")),
    second_is("zero.jpg", b"", "is empty"),
    second_is("zero.png", b"", "is empty"),
    second_is("text.jpg", b"not a picture", "is damaged"),
    second_is("page.jpg", b"<html><body>404 Not Found</body></html>", "is a web page, not the image"),
    second_is("nul.jpg", bytes(1000), "is damaged"),
    second_is("cut.jpg", encoded("JPEG")[:-300], "is damaged"),
    second_is("head.jpg", encoded("JPEG")[:30], "is damaged"),
    second_is("cut-grey.jpg", encoded("JPEG", "L")[:-300], "is damaged"),
    second_is("cut-cmyk.jpg", encoded("JPEG", "CMYK")[:-300], "is damaged"),
    second_is("cut-progressive.jpg", encoded("JPEG", progressive=True)[:-300], "is damaged"),
    second_is("cut.png", encoded("PNG")[:-300], "is damaged"),
    second_is("cut-16-bit.png", encoded("PNG", "I;16")[:-300], "is damaged"),
    second_is("crc.png", encoded("PNG").replace(b"IDAT", b"IDAX", 1), "is damaged"),
    second_is("cut.bmp", encoded("BMP")[:-300], "is damaged"),
    second_is("cut.webp", encoded("WEBP", lossless=True)[:-300], "is damaged"),
    second_is("bomb.png", bomb(), "has 900000 x 900000 pixels, which take", "make it smaller"),
]
