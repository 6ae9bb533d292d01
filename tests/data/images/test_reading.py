"""Rules by which images are read: values of deep images, caches that never mix two kinds of pixels, HEIC pictures."""

import struct
import sys
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from data.files.cache import Cache
from data.images import opening
from data.images.caching import keep_images
from data.images.channels import ChannelImages
from data.images.cropped import CroppedImages
from data.images.depth import DeclinedError
from data.images.files import FileImages
from data.images.reading import AS_STORED, AS_TRAINED, READING, ReadFromFiles, Reading, ReadingConfig
from data.inspection import examine, grey_square
from tests.data.images.test_orientation import UPRIGHT, photo
from utils.checks import RunError, UserError
from utils.types import Annotations, LabelTable

DEEP = Reading(value_range=(1000.0, 3000.0))
VALUES = np.array([[0, 1000, 1500], [2000, 3000, 60000]])
LEVELS = [[0, 0, 64], [128, 255, 255]]  # 255 * (v - 1000) / 2000, clipped; halves to even


@pytest.mark.parametrize("name", ["a.png", "a.tif", "float.tif", "signed.tif"])
def test_deep_values_between_the_limits_become_levels(tmp_path, name):
    kind = {"float.tif": np.float32, "signed.tif": np.int32}.get(name, np.uint16)
    Image.fromarray(VALUES.astype(kind)).save(tmp_path / name)
    found = np.asarray(FileImages([tmp_path / name], reading=DEEP).open(0))
    assert found[..., 0].tolist() == LEVELS
    assert (found == found[..., :1]).all()


def test_where_white_is_zero_and_values_are_missing(tmp_path):
    Image.fromarray(VALUES.astype(np.uint16)).save(tmp_path / "a.tif", tiffinfo={262: 0})
    assert (255 - np.asarray(FileImages([tmp_path / "a.tif"], reading=DEEP).open(0)))[..., 0].tolist() == LEVELS
    Image.fromarray(VALUES.astype(np.float32)).save(tmp_path / "b.tif", tiffinfo={42113: "3000"})
    found = np.asarray(FileImages([tmp_path / "b.tif"], reading=DEEP).open(0))[..., 0]
    assert found.tolist() == [[0, 0, 64], [128, 0, 255]]


def test_images_of_8_bits_stay_as_they_are(tmp_path):
    Image.fromarray(UPRIGHT).save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(FileImages([tmp_path / "a.png"], reading=DEEP).open(0)), UPRIGHT)


def deep_colours(path):
    """Write a PNG of three colours of 16 bits, which Pillow cannot write."""
    line = b"\0" + struct.pack(">6H", 0, 1000, 3000, 300, 60000, 256)
    blocks = [(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(line)), (b"IEND", b"")]
    written = [struct.pack(">I", len(data)) + kind + data for kind, data in blocks]
    sums = [struct.pack(">I", zlib.crc32(kind + data)) for kind, data in blocks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(a + b for a, b in zip(written, sums, strict=True)))
    return path


def test_colours_of_16_bits_cannot_be_scaled_and_are_refused_before_training(tmp_path):
    images = FileImages([deep_colours(tmp_path / "a.png")], Cache(tmp_path / "cache"))
    assert np.asarray(images.open(0)).tolist() == [[[0, 3, 11], [1, 234, 1]]]
    images.check()
    scaled = images.read_as(DEEP)
    told = "has 16 bits in each of several channels, of which Pillow reads the highest 8"
    for _ in range(2):
        with pytest.raises(UserError, match=told):
            scaled.check()
        with pytest.raises(RunError, match=told):
            scaled.open(0)
    with Image.open(tmp_path / "a.png") as image, pytest.raises(DeclinedError, match=told):
        opening.as_read(image, DEEP)
    images.read_as(Reading("apply")).check()


def test_settings_become_rules():
    assert AS_TRAINED.reading == AS_STORED == Reading("ignore", None)
    assert READING == ("exif", "value_range")
    assert ReadingConfig(exif="apply", value_range=(0.0, 4095.0)).reading == Reading("apply", (0.0, 4095.0))
    assert AS_STORED.mark == b""
    others = [Reading("apply"), DEEP, Reading("apply", (1000.0, 3000.0)), Reading(value_range=(1000.0, 3001.0))]
    assert len({one.mark for one in (AS_STORED, *others)}) == 5


@pytest.mark.parametrize("limits", [(1.0,), (1.0, 1.0), (2.0, 1.0), (0.0, 1.0, 2.0), (0.0, float("inf"))])
def test_what_is_no_range_is_refused(limits):
    with pytest.raises(UserError, match=r"^--value_range .*: give two numbers, the lower first, as 0,4095$"):
        ReadingConfig(value_range=limits)


def split(images):
    ids = tuple(str(row) for row in range(len(images)))
    return Annotations(images, ids, ("a",), LabelTable(np.zeros((len(ids), 1), dtype=np.int8)))


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_caches_hold_what_is_read_and_never_mix_two_kinds(tmp_path, kind):
    files, cache = FileImages([photo(tmp_path / f"{n}.png", n) for n in (1, 6, 3)]), Cache(tmp_path / "cache")
    for reading in (AS_STORED, Reading("apply"), AS_STORED):
        plain = files.read_as(reading)
        kept = keep_images({"train": split(plain)}, kind, cache, processes=1, shown=False)["train"].images
        assert kept.reading == reading
        for row in range(3):
            np.testing.assert_array_equal(np.asarray(kept.open(row)), np.asarray(plain.open(row)))
    assert len(list((tmp_path / "cache").glob("pixels-*.rgb"))) == (2 if kind == "disk" else 0)


def test_splits_that_are_read_differently_are_no_one_cache(tmp_path):
    files = FileImages([photo(tmp_path / "a.png", 6)])
    parts = {"train": split(files), "test": split(files.read_as(Reading("apply")))}
    with pytest.raises(ValueError, match="too many values"):
        keep_images(parts, "ram", Cache(tmp_path / "cache"), processes=1, shown=False)


def test_channels_are_read_by_the_rules_and_boxes_stay_where_they_are(tmp_path):
    files = [FileImages([photo(tmp_path / "a.png", 6, scene)]) for scene in (UPRIGHT, UPRIGHT[::-1], UPRIGHT // 2)]
    channels = ChannelImages(files).read_as(Reading("apply"))
    assert (channels.reading, channels.open(0).size) == (Reading("apply"), (24, 16))
    Image.fromarray(VALUES.astype(np.uint16)).save(tmp_path / "deep.png")
    parts = CroppedImages(FileImages([tmp_path / "deep.png"]), np.array([[1.0, 0.0, 3.0, 2.0]])).read_as(DEEP)
    assert np.asarray(parts.open(0))[..., 0].tolist() == [[0, 64], [255, 255]]
    assert parts.reading == DEEP
    assert all(isinstance(one, ReadFromFiles) for one in (files[0], channels, parts))
    with pytest.raises(UserError, match=r"^--exif apply: .* boxes.*; take --exif ignore$"):
        parts.read_as(Reading("apply"))


def test_an_inspection_measures_and_compares_images_as_they_are_read(tmp_path):
    images = FileImages([photo(tmp_path / "a.png", 6), photo(tmp_path / "b.png", 1)])
    assert [examine(images, row).side for row in (0, 1)] == [(16, 24), (24, 16)]
    upright = images.read_as(Reading("apply"))
    assert [examine(upright, row).side for row in (0, 1)] == [(24, 16), (24, 16)]
    np.testing.assert_array_equal(grey_square(upright, 0, 8), grey_square(images, 1, 8))
    assert (grey_square(images, 0, 8) != grey_square(images, 1, 8)).any()


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


@pytest.fixture
def no_heif(monkeypatch):
    """pillow-heif is not installed; whether it is will be asked anew."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    opening._reads_heic.cache_clear()
    yield monkeypatch
    opening._reads_heic.cache_clear()


def test_a_heic_picture_is_named_with_the_way_out(tmp_path, no_heif):
    (tmp_path / "a.heic").write_bytes(HEIC)
    told = r"a\.heic .*is a HEIC picture.*pip install pillow-heif, or convert it to PNG or JPEG$"
    with pytest.raises(RunError, match=told):
        FileImages([tmp_path / "a.heic"]).open(0)


def test_it_is_read_where_pillow_heif_is_installed(tmp_path, no_heif):
    real, calls = Image.open, []

    def register():
        calls.append(1)
        no_heif.setattr(Image, "open", lambda file: Image.fromarray(UPRIGHT) if file == str(path) else real(file))

    no_heif.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    Image.fromarray(UPRIGHT).save(tmp_path / "b.png")
    other = FileImages([tmp_path / "b.png"])
    other.open(0)
    assert not calls, "not loaded before there is such a picture"
    path = tmp_path / "a.heic"
    path.write_bytes(HEIC)
    for _ in range(2):
        np.testing.assert_array_equal(np.asarray(FileImages([path]).open(0)), UPRIGHT)
    assert len(calls) == 1


def test_a_real_heic_picture_is_read_upright_once(tmp_path, no_heif):
    """Its container turns it, and the orientation that a phone writes beside that must not turn it again."""
    no_heif.undo()
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    exif = Image.Exif()
    exif[274] = 6  # the camera was held upright: to be turned by a quarter
    picture = Image.new("RGB", (64, 32), "red")
    picture.paste("blue", (32, 0, 64, 32))
    picture.save(tmp_path / "turned.heic", quality=90, exif=exif.tobytes())
    picture.save(tmp_path / "plain.heic", quality=90)
    for reading in (AS_STORED, Reading("apply")):
        plain, turned = (
            np.asarray(FileImages([tmp_path / name], reading=reading).open(0)).astype(int)
            for name in ("plain.heic", "turned.heic")
        )
        assert plain.shape == (32, 64, 3)
        assert np.abs(plain - np.asarray(picture)).mean() < 8
        assert turned.shape == (64, 32, 3)
        assert np.abs(turned - np.rot90(np.asarray(picture), -1)).mean() < 8
