"""Every decoder opens every image alike; what torchcodec would give otherwise is left to Pillow."""

import io
import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from data.images import decoders
from data.images.cropped import CroppedImages
from data.images.decoders import as_tensor, image_opener, require_decoder
from data.images.files import ArrayImages, FileImages
from data.loading.transforms import sample_generator, train_transform
from tests.data.trees import real_data
from utils.checks import RunError, UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)


def turned():
    """The block of metadata of a camera that was held on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


FILES = {
    "4:4:4.jpg": (Image.fromarray(PIXELS), {"subsampling": 0}),
    "4:2:2.jpg": (Image.fromarray(PIXELS), {"subsampling": 1}),
    "4:2:0.jpg": (Image.fromarray(PIXELS), {"subsampling": 2}),
    "progressive.jpg": (Image.fromarray(PIXELS), {"progressive": True}),
    "rgb.jpg": (Image.fromarray(PIXELS), {"keep_rgb": True}),
    "turned.jpg": (Image.fromarray(PIXELS), {"exif": turned()}),
    "turned, with xmp.jpg": (Image.fromarray(PIXELS), {"exif": turned(), "xmp": b"<x:xmpmeta/>"}),
    "grey.jpg": (Image.fromarray(PIXELS).convert("L"), {}),
    "cmyk.jpg": (Image.fromarray(PIXELS).convert("CMYK"), {}),
    "plain.png": (Image.fromarray(PIXELS), {}),
    "palette.png": (Image.fromarray(PIXELS).convert("P"), {}),
    "alpha.png": (Image.fromarray(PIXELS).convert("RGBA"), {}),
    "deep.png": (Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), {}),
    "photo.webp": (Image.fromarray(PIXELS), {}),
    "bitmap.bmp": (Image.fromarray(PIXELS), {}),
    "png in a.jpg": (Image.fromarray(PIXELS), {"format": "PNG"}),
}


@pytest.fixture
def torchcodec():
    return pytest.importorskip("torchcodec.decoders")


def both(images):
    return [image_opener(images, decoder) for decoder in ("pillow", "torchcodec")]


@pytest.mark.parametrize("name", FILES)
def test_both_decoders_give_equal_pixels(torchcodec, tmp_path, name):
    image, options = FILES[name]
    image.save(tmp_path / name, **options)
    plain, fast = both(FileImages([tmp_path / name]))
    image, tensor = plain(0), fast(0)
    assert isinstance(image, Image.Image)
    assert (tensor.dtype, tensor.shape[0]) == (torch.uint8, 3)
    np.testing.assert_array_equal(tensor.permute(1, 2, 0), np.asarray(image))


def test_jpeg_in_colour_is_decoded_by_torchcodec_alone(torchcodec, tmp_path, monkeypatch):
    for name in ("4:2:0.jpg", "turned.jpg", "grey.jpg", "cmyk.jpg"):
        image, options = FILES[name]
        image.save(tmp_path / name, **options)
    images = FileImages([tmp_path / name for name in ("4:2:0.jpg", "turned.jpg", "grey.jpg", "cmyk.jpg")])
    by_pillow = []
    monkeypatch.setattr(FileImages, "open", lambda self, row: by_pillow.append(row) or Image.new("RGB", (1, 1)))
    opened = [image_opener(images, "torchcodec")(row) for row in range(4)]
    assert by_pillow == [3]
    assert [tuple(tensor.shape[1:]) for tensor in opened] == [(37, 53)] * 3 + [(1, 1)]


def test_real_photographs_are_equal_and_their_crops_nearly_so(torchcodec):
    """The figures the documentation states: equal when decoded, at most 2 of 255 apart when cropped and resized."""
    paths = sorted(real_data("voc_mini").rglob("*.jpg"))[::5] + sorted(real_data("coco_mini").rglob("*.jpg"))[::5]
    plain, fast = both(FileImages(paths))
    view, worst, unequal = train_transform("crop", 224), 0, []
    for row in range(len(paths)):
        image, tensor = plain(row), fast(row)
        np.testing.assert_array_equal(tensor.permute(1, 2, 0), np.asarray(image))
        views = []
        for given in (image, tensor):
            with sample_generator(row):
                views.append(view(given).int())
        gap = (views[0] - views[1]).abs()
        worst = max(worst, int(gap.max()))
        unequal.append((gap > 0).float().mean().item())
    assert worst <= 2
    assert np.mean(unequal) < 0.05


@pytest.mark.parametrize("spoil", [lambda file: b"", lambda file: b"<html>", lambda file: file[:-200]])
def test_a_damaged_file_is_named_whatever_decodes_it(torchcodec, tmp_path, spoil):
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", quality=95)
    (tmp_path / "a.jpg").write_bytes(spoil((tmp_path / "a.jpg").read_bytes()))
    for opener in both(FileImages([tmp_path / "a.jpg"])):
        with pytest.raises(RunError, match=r"a\.jpg \(row 0\) cannot be read"):
            opener(0)


def test_what_pillow_gets_along_with_torchcodec_need_not(torchcodec, tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG", quality=95)
    whole = buffer.getvalue()
    (tmp_path / "a.jpg").write_bytes(whole[:700] + bytes(300) + whole[1000:] + b"and more")
    plain, fast = both(FileImages([tmp_path / "a.jpg"]))
    np.testing.assert_array_equal(fast(0).permute(1, 2, 0), np.asarray(plain(0)))


def test_images_that_are_no_files_become_tensors_too(torchcodec, tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    held = ArrayImages(PIXELS[None], ["a"])
    part = CroppedImages(FileImages([tmp_path / "a.png"]), np.array([[3.0, 2.0, 20.0, 30.0]]))
    for images, expected in ((held, PIXELS), (part, PIXELS[2:30, 3:20])):
        plain, fast = both(images)
        np.testing.assert_array_equal(np.asarray(plain(0)), expected)
        np.testing.assert_array_equal(fast(0).permute(1, 2, 0), expected)


def test_openers_travel_to_other_processes(torchcodec, tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg")
    for images in (FileImages([tmp_path / "a.jpg"]), ArrayImages(PIXELS[None], ["a"])):
        for opener in both(images):
            again = pickle.loads(pickle.dumps(opener))
            assert torch.equal(as_tensor(again(0)), as_tensor(opener(0)))


@pytest.mark.parametrize("module", [None, object()], ids=["absent", "too old to decode images"])
def test_absence_is_one_line_with_the_command_that_helps(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
    decoders._jpeg_decoder.cache_clear()
    require_decoder("pillow")
    with pytest.raises(UserError, match=r'pip install "torchcodec>=0\.16"') as refusal:
        image_opener(ArrayImages(PIXELS[None], ["a"]), "torchcodec")
    assert len(str(refusal.value).splitlines()) == 1
