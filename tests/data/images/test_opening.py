import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data.images import opening
from data.images.files import FileImages
from data.images.kinds import declined_kind
from data.images.opening import decode, explained, fault, header, opened, without_texts
from data.inspection import examine
from utils.checks import RunError

SHAPE = (24, 32, 3)
PIXELS = np.random.RandomState(0).randint(0, 256, SHAPE, dtype=np.uint8)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(*, before=(), after=()):
    """A PNG of `PIXELS` with further blocks before and after the pixels."""
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    content = file.getvalue()
    pixels, end = content.index(b"IDAT") - 4, content.index(b"IEND") - 4
    return content[:pixels] + b"".join(before) + content[pixels:end] + b"".join(after) + content[end:]


LONG = zlib.compress(b"x" * (2 << 20))
TEXTS = {
    "zTXt": chunk(b"zTXt", b"Comment\0\0" + LONG),
    "iTXt": chunk(b"iTXt", b"Comment\0\1\0\0\0" + LONG),
    "iCCP": chunk(b"iCCP", b"profile\0\0" + LONG),
}
MANY = [chunk(b"tEXt", b"k%d\0" % n + b"y" * (9 << 20)) for n in range(8)]


@pytest.mark.parametrize("blocks", [*([text] for text in TEXTS.values()), MANY], ids=[*TEXTS, "many"])
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_png_with_long_texts_is_read(tmp_path, blocks, place):
    path = tmp_path / "a.png"
    path.write_bytes(png(**{place: blocks}))
    assert fault(str(path)) is None
    np.testing.assert_array_equal(np.asarray(FileImages([path]).open(0)), PIXELS)
    assert header(str(path)) == ((32, 24), "RGB", "PNG")
    assert examine(FileImages([path]), 0).side == (32, 24)
    np.testing.assert_array_equal(np.asarray(decode(path.read_bytes())), PIXELS)


def test_a_png_with_a_long_text_that_is_cut_is_still_damaged(tmp_path):
    (tmp_path / "a.png").write_bytes(png(before=[TEXTS["zTXt"]])[:-1500])
    assert fault(str(tmp_path / "a.png")).startswith("is damaged (")


def test_texts_are_left_out_of_a_png_only():
    content = png(before=[TEXTS["zTXt"]], after=[TEXTS["iTXt"]])
    assert without_texts(content) == png()
    assert without_texts(png()) is None
    assert without_texts(b"GIF89a") is None


def large(path, width, height):
    """A grey PNG of one row of zeros after the other."""
    squeeze = zlib.compressobj(1)
    row = bytes(width + 1)
    data = b"".join(squeeze.compress(row) for _ in range(height)) + squeeze.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def test_a_photograph_of_190_megapixels_is_read(tmp_path, recwarn):
    path = large(tmp_path / "a.png", 19_000, 10_000)
    assert fault(str(path)) is None
    with opened(str(path)) as image:
        assert image.size == (19_000, 10_000)
    assert not [one for one in recwarn if "bomb" in str(one.message)]


def without_pixels(path, size):
    """A PNG that ends where its pixels would begin."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b""))
    return str(path)


@pytest.mark.parametrize("size, needed", [((19_000, 10_000), 2.3), ((8_000, 7_000), 0.7), ((65_000, 60_000), 46.8)])
def test_an_image_beyond_the_memory_is_refused_for_what_it_is(tmp_path, monkeypatch, size, needed):
    monkeypatch.setattr(opening, "free_memory", lambda: 500_000_000)
    text = fault(without_pixels(tmp_path / "a.png", size))
    taken = f"has {size[0]} x {size[1]} pixels, which take {needed} GB of memory"
    assert text == f"{taken}, and 0.5 GB are free: make it smaller"
    with pytest.raises(RunError, match=r"a\.png \(row 0\) cannot be read: it has \d+ x \d+ pixels"):
        FileImages([tmp_path / "a.png"]).open(0)


@pytest.mark.parametrize(
    "size, free, words",
    [
        ((10_000, 5_000), 600_000_000 - 1, "has 10000 x 5000 pixels"),
        ((10_000, 5_000), 600_000_000, "is damaged"),
        ((4_999, 10_000), 0, "is damaged"),
        ((7_142_857, 7), 0, "is damaged"),
    ],
)
def test_from_fifty_million_pixels_on_each_takes_twelve_bytes(tmp_path, monkeypatch, size, free, words):
    monkeypatch.setattr(opening, "free_memory", lambda: free)
    assert fault(without_pixels(tmp_path / "a.png", size)).startswith(words)


def test_small_images_ask_for_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "free_memory", lambda: 0)
    (tmp_path / "a.png").write_bytes(png())
    assert fault(str(tmp_path / "a.png")) is None


def test_memory_that_is_not_known_refuses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "free_memory", lambda: None)
    monkeypatch.setattr(opening, "_LARGE", 10)
    (tmp_path / "a.png").write_bytes(png())
    assert fault(str(tmp_path / "a.png")) is None


DECLINED = {
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "a pointer of Git LFS"),
    "page": (b"\n<!DOCTYPE HTML><html><title>404</title>", "a web page, not the image"),
    "xhtml": (b'<?xml version="1.0"?><!DOCTYPE html><html>', "a web page, not the image"),
    "drawing": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
    "iphone": (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC picture, which Pillow does not read"),
    "video": (b"\0\0\0\x18ftypmp42\0\0\0\0", "a video or sound"),
    "xl": (b"\xff\x0a\xfa\x7f", "a JPEG XL image"),
    "document": (b"%PDF-1.7\n", "a PDF document"),
    "zip": (b"PK\x03\x04abc", "a zip archive"),
    "array": (b"\x93NUMPY\x01\0", "a NumPy array"),
    "photoshop": (b"8BPS\0\1", "a Photoshop document"),
    "raw": (b"II*\0\x10\0\0\0CR\2\0", "a raw picture of a camera"),
    "dicom": (bytes(128) + b"DICM", "a DICOM image"),
    "webm": (b"\x1aE\xdf\xa3" + bytes(40), "a video or sound"),
    "exr": (b"v/1\x01\x02\0\0\0", "an OpenEXR image"),
}


@pytest.mark.parametrize("content, words", DECLINED.values(), ids=DECLINED)
def test_files_that_pillow_declines_are_named_for_what_they_are(tmp_path, content, words):
    (tmp_path / "a.jpg").write_bytes(content)
    text = fault(str(tmp_path / "a.jpg"))
    assert text.startswith(f"is {words}")
    assert "damaged" not in text
    with pytest.raises(RunError) as caught:
        FileImages([tmp_path / "a.jpg"]).open(0)
    assert f"cannot be read: it is {words}" in str(caught.value)


def tiff(bits, kind, count, *, big=False, packed=1, place=None):
    """The header of a TIFF of 2 x 2 pixels; its directory stands at `place`, or at once."""
    tags = [(256, 2), (257, 2), (258, bits), (259, packed), (262, 1), (273, 200), (277, count), (278, 2), (279, 64)]
    tags.append((339, kind))
    entry, number = ("<HHQHxxxxxx", "<Q") if big else ("<HHIHxx", "<H")
    place = place or (16 if big else 8)
    content = b"II+\0\x08\0\0\0" + struct.pack("<Q", place) if big else b"II*\0" + struct.pack("<I", place)
    content = content.ljust(place, b"\7")
    content += struct.pack(number, len(tags)) + b"".join(struct.pack(entry, tag, 3, 1, value) for tag, value in tags)
    return content.ljust(500, b"\0")


@pytest.mark.parametrize(
    "content, words",
    [
        (tiff(64, 3, 1), "1 x 64-bit floating-point values"),
        (tiff(32, 3, 3), "3 x 32-bit floating-point values"),
        (tiff(16, 1, 2), "2 x 16-bit unsigned values"),
        (tiff(24, 2, 1), "1 x 24-bit signed values"),
        (tiff(64, 1, 1, big=True), "1 x 64-bit unsigned values"),
        (tiff(64, 3, 1, place=190), "1 x 64-bit floating-point values"),
        (tiff(64, 2, 1, place=190, big=True), "1 x 64-bit signed values"),
    ],
)
def test_the_depth_of_a_tiff_that_pillow_declines_is_named(tmp_path, content, words):
    (tmp_path / "a.tif").write_bytes(content)
    text = fault(str(tmp_path / "a.tif"))
    assert text == f"is a TIFF of {words} per pixel, which Pillow does not read: convert it to PNG or JPEG of 8 bits"


@pytest.mark.parametrize("kind, word", [(4, "undefined"), (5, "complex"), (6, "complex"), (7, "unknown")])
def test_what_a_value_of_a_tiff_is_is_said(kind, word):
    end = "values per pixel, which Pillow does not read: convert it to PNG or JPEG of 8 bits"
    assert declined_kind(tiff(64, kind, 2)) == f"is a TIFF of 2 x 64-bit {word} {end}"


def test_a_tiff_of_the_other_order_of_bytes_is_read_too():
    content = b"MM\0*" + struct.pack(">IH", 8, 2)
    content += b"".join(struct.pack(">HHIHxx", tag, 3, 1, value) for tag, value in ((258, 64), (339, 3)))
    text = "is a TIFF of 1 x 64-bit floating-point values per pixel, which Pillow does not read"
    assert declined_kind(content.ljust(90, b"\0")).startswith(text)


def test_the_compression_of_a_tiff_that_pillow_declines_is_named(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(8, 1, 1, packed=34661))
    text = fault(str(tmp_path / "a.tif"))
    assert text.startswith("is a TIFF of 1 x 8-bit unsigned values per pixel, compression 34661, which Pillow does not")


def test_what_a_tiff_does_not_say_is_one_unsigned_value_without_compression():
    content = tiff(64, 3, 3, packed=34661)
    for tag in (259, 277, 339):
        content = content.replace(struct.pack("<HHI", tag, 3, 1), struct.pack("<HHI", 60_000 + tag, 3, 1))
    assert declined_kind(content).startswith("is a TIFF of 1 x 64-bit unsigned values per pixel, which Pillow does not")


def test_a_tiff_of_a_usual_kind_is_of_no_other():
    assert declined_kind(tiff(8, 1, 3)) == ""
    assert declined_kind(tiff(32, 3, 1)) == ""


def framed(kind, bits):
    """A JPEG of one frame behind metadata."""
    metadata = b"\xff\xe1" + struct.pack(">H", 1000) + bytes(998)
    return b"\xff\xd8" + metadata + bytes([0xFF, kind]) + struct.pack(">HBHHB", 11, bits, 8, 8, 1) + b"\x01\x11\0"


CODINGS = {
    **dict.fromkeys((0xC0, 0xC1, 0xC2), "a"),
    **dict.fromkeys((0xC3, 0xC7, 0xCB, 0xCF), "a lossless"),
    **dict.fromkeys((0xC5, 0xC6), "a hierarchical"),
    **dict.fromkeys((0xC9, 0xCA), "an arithmetic-coded"),
    0xF7: "a near-lossless",
}


def test_the_coding_of_a_jpeg_that_pillow_declines_is_named():
    for kind in range(0xC0, 0x100):
        end = "JPEG of 12 bits per value, which Pillow does not read: convert it to PNG or JPEG"
        assert declined_kind(framed(kind, 12)) == (f"is {CODINGS[kind]} {end}" if kind in CODINGS else "")
        text = f"is {CODINGS.get(kind)} {end.replace('12', '8')}"
        assert declined_kind(framed(kind, 8)) == (text if CODINGS.get(kind, "a") != "a" else "")


@pytest.mark.parametrize("late", [False, True])
def test_the_coding_of_a_jpeg_is_looked_for_in_its_first_128_kilobytes(tmp_path, late):
    frame = b"\xff\xc3" + struct.pack(">HBHHB", 11, 8, 8, 8, 1)
    room = (1 << 17) - len(frame) + late - 2
    content = b"\xff\xd8"
    for size in (60_000, 60_000, room - 120_000):
        content += b"\xff\xe1" + struct.pack(">H", size - 2) + bytes(size - 4)
    (tmp_path / "a.jpg").write_bytes(content + frame + b"\x01\x11\0")
    for given in (content + frame + b"\x01\x11\0", str(tmp_path / "a.jpg")):
        assert declined_kind(given).startswith("is a lossless JPEG of 8 bits") != late


@pytest.mark.parametrize("late", [False, True])
def test_markup_is_looked_for_in_the_first_512_bytes(late):
    content = b"<!--".ljust(512 - 4 + late) + b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    assert declined_kind(content).startswith("is an SVG drawing") != late


def test_a_jpeg_of_a_usual_kind_is_damaged_where_it_is_cut(tmp_path):
    head = b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 11, 8, 8, 8, 1) + b"\x01\x11\0"
    assert declined_kind(head) == ""
    assert declined_kind(head[:9]) == ""


def test_a_tiff_without_its_tags_is_damaged(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(8, 1, 1)[:30])
    assert fault(str(tmp_path / "a.tif")).startswith("is damaged (")


@pytest.mark.parametrize(
    "error, words",
    [
        (FileNotFoundError(2, "No such file"), "does not exist"),
        (PermissionError(13, "Permission denied"), "cannot be read (Permission denied)"),
        (MemoryError(), "takes more memory than there is: make it smaller"),
        (NotImplementedError("pixel format 7"), "is of a kind that Pillow does not read (pixel format 7): convert it"),
        (OSError("Unable to locate Ghostscript on paths"), "is of a kind that Pillow does not read (Unable to locate"),
        (OSError("decoder jpeg2k not available"), "is of a kind that Pillow does not read (decoder jpeg2k not"),
        (OSError("image file is truncated"), "is damaged (image file is truncated)"),
        (EOFError(), "is damaged (EOFError)"),
    ],
)
def test_what_was_raised_is_said_as_what_it_means(error, words):
    assert explained(b"BM", error).startswith(words)
