import numpy as np
import pytest
from PIL import Image

from data.images.depth import (
    DeclinedError,
    _becomes_rgb,
    grey_levels,
    own_range_levels,
    sixteen_bit_levels,
    to_rgb,
)
from data.images.files import FileImages
from data.images.opening import fault
from data.inspection import examine

RAMP = np.tile(np.linspace(0, 255, 64), (64, 1))


def stored(path, values, **options):
    Image.fromarray(values).save(path, **options)
    return path


def grey(path):
    """The one channel of an image that is opened as training opens it."""
    pixels = np.asarray(FileImages([path]).open(0))
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 1])
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])
    return pixels[..., 0].astype(int)


@pytest.mark.parametrize(
    "values",
    [
        (RAMP / 255).astype(np.float32),
        RAMP.astype(np.float32),
        (RAMP * 1e6 - 3e7).astype(np.float32),
        (RAMP / 255 * 0.01).astype(np.float32),
        (-RAMP[:, ::-1]).astype(np.float32),
        RAMP.astype(np.int32),
        (RAMP * 8_000_000).astype(np.int32),
        (RAMP * 100 - 1000).astype(np.int32),
        (RAMP * 100).astype(np.int16),
    ],
)
def test_32_bits_are_scaled_by_their_own_range(tmp_path, values):
    path = stored(tmp_path / "a.tif", values)
    assert fault(str(path)) is None
    assert examine(FileImages([path]), 0).fault is None
    assert abs(grey(path) - RAMP).max() <= 1


def test_all_openers_see_the_same_of_32_bits(tmp_path):
    path = stored(tmp_path / "a.tif", (RAMP / 255).astype(np.float32))
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(to_rgb(image)), np.asarray(FileImages([path]).open(0)))


def test_what_was_not_measured_is_black_and_does_not_stretch_the_range():
    values = np.array([[np.nan, 0.0, 0.5], [1.0, np.inf, -3.4028234663852886e38]])
    np.testing.assert_array_equal(own_range_levels(values), [[0, 0, 128], [255, 0, 0]])
    np.testing.assert_array_equal(own_range_levels(np.array([[-9999.0, 1.0, 3.0]]), -9999.0), [[0, 0, 255]])
    np.testing.assert_array_equal(own_range_levels(np.array([[-9999.0, 1.0, 3.0]])), [[0, 255, 255]])
    assert not own_range_levels(np.full((2, 2), np.nan)).any()
    np.testing.assert_array_equal(own_range_levels(np.array([[7.0, np.inf, 7.0, 9.0]]), 9.0), [[255, 0, 255, 0]])


def test_no_data_is_read_from_the_tag_of_a_map(tmp_path):
    values = np.array([[-9999, 10, 20, 30]], dtype=np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo={42113: "-9999"})
    assert grey(tmp_path / "a.tif").tolist() == [[0, 0, 128, 255]]
    Image.fromarray(values).save(tmp_path / "b.tif", tiffinfo={42113: "none"})
    assert grey(tmp_path / "b.tif").tolist()[0][3] == 255


@pytest.mark.parametrize("value, level", [(0.0, 0), (-2.0, 0), (0.5, 255), (70000.0, 255)])
def test_an_image_of_one_value_is_black_only_at_zero_or_less(value, level):
    assert (own_range_levels(np.full((3, 3), value)) == level).all()


@pytest.mark.parametrize(
    "highest, step", [(200, 1), (255, 1), (256, 4), (1000, 4), (4095, 16), (4096, 256), (16383, 256), (65535, 256)]
)
@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_16_bits_are_divided_by_the_step_of_the_depth_that_they_need(tmp_path, highest, step, suffix):
    values = np.array([[0, highest // 3, highest]], dtype=np.uint16)
    path = stored(tmp_path / f"a{suffix}", values)
    assert grey(path).tolist() == [[int(value) // step for value in values[0]]]
    assert sixteen_bit_levels(values).tolist() == grey(path).tolist()


@pytest.mark.parametrize("mode, order", [("I;16", "<u2"), ("I;16B", ">u2"), ("I;16L", "<u2")])
def test_16_bits_in_any_order_of_bytes(mode, order):
    image = Image.frombytes(mode, (3, 1), np.array([0, 32768, 65535]).astype(order).tobytes())
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [0, 128, 255]


def test_16_bits_of_a_pgm(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 65535\n" + np.array([0, 32768, 65535]).astype(">u2").tobytes())
    assert grey(tmp_path / "a.pgm").tolist() == [[0, 128, 255]]


def test_unsigned_32_bits_beyond_the_half_are_bright(tmp_path):
    values = np.array([[0, 2**31, 2**32 - 1]], dtype=np.uint32)
    image = Image.fromarray(values.view(np.int32))
    image.save(tmp_path / "a.tif")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[content.index(b"\x53\x01\x03\x00\x01\x00\x00\x00\x02") + 8] = 1  # the tag 339: unsigned
    (tmp_path / "a.tif").write_bytes(content)
    assert grey(tmp_path / "a.tif").tolist() == [[0, 128, 255]]


@pytest.mark.parametrize("values", [np.array([[0, 65535]], dtype=np.uint16), np.array([[0, 1]], dtype=np.float32)])
def test_where_zero_is_white_levels_are_turned_round(tmp_path, values):
    path = stored(tmp_path / "a.tif", values)
    content = bytearray(path.read_bytes())
    tag = content.index(b"\x06\x01\x03\x00\x01\x00\x00\x00\x01")  # the tag 262 with its one value, 1
    content[tag + 8] = 0
    path.write_bytes(content)
    assert grey(path).tolist() == [[255, 0]]


@pytest.mark.parametrize("mode", ["La", "RGBa", "RGBX", "PA", "YCbCr", "HSV"])
def test_other_modes_of_8_bits_become_rgb(mode):
    image = Image.new("RGB", (4, 3), (200, 100, 50)).convert("LA" if mode == "La" else "RGBA")
    rgb = np.asarray(to_rgb(image.convert(mode if mode in ("La", "RGBa") else "RGB").convert(mode)))
    expected = (124, 124, 124) if mode == "La" else (200, 100, 50)
    assert abs(rgb.astype(int) - expected).max() <= (25 if mode == "PA" else 3)


def test_a_mode_that_pillow_does_not_convert_is_named_by_check_and_opener(tmp_path, monkeypatch):
    monkeypatch.setattr("data.images.depth._becomes_rgb", lambda mode: False)
    image = Image.new("LAB", (4, 4))
    with pytest.raises(DeclinedError, match="has colours of mode LAB, which are not read here: convert it to RGB"):
        to_rgb(image)
    image.save(tmp_path / "a.tif")
    assert fault(str(tmp_path / "a.tif")) == "has colours of mode LAB, which are not read here: convert it to RGB"


def test_levels_have_the_shape_of_the_image():
    assert grey_levels(Image.new("F", (5, 2), 1.0)).shape == (2, 5)


def test_whether_pillow_makes_rgb_of_a_mode_is_tried():
    assert _becomes_rgb("YCbCr")
    assert not _becomes_rgb("no mode")
