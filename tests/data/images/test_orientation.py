"""Photographs of all eight orientations, upright by either decoder; metadata that cannot be read turn nothing."""

import numpy as np
import pytest
import torch
from PIL import Image

from data.images.decoders import image_opener
from data.images.files import FileImages
from data.images.opening import image_size, stored_orientation
from data.images.orientation import orientation, turned, turned_size, turned_tensor
from data.images.reading import AS_STORED, Reading

UPRIGHT = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
APPLY = Reading(exif="apply")

# What the camera stores of the scene: the first row of the file is which side of the scene (TIFF 6.0, tag 274).
STORED = {
    1: lambda scene: scene,
    2: lambda scene: scene[:, ::-1],
    3: lambda scene: scene[::-1, ::-1],
    4: lambda scene: scene[::-1],
    5: lambda scene: scene.swapaxes(0, 1),
    6: lambda scene: scene.swapaxes(0, 1)[::-1],
    7: lambda scene: scene[::-1, ::-1].swapaxes(0, 1),
    8: lambda scene: scene.swapaxes(0, 1)[:, ::-1],
}


def with_orientation(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def photo(path, number, scene=UPRIGHT):
    Image.fromarray(np.ascontiguousarray(STORED[number](scene))).save(path, exif=with_orientation(number))
    return path


@pytest.mark.parametrize("number", STORED)
def test_every_orientation_becomes_the_scene(number):
    stored = np.ascontiguousarray(STORED[number](UPRIGHT))
    np.testing.assert_array_equal(np.asarray(turned(Image.fromarray(stored), number)), UPRIGHT)
    tensor = turned_tensor(torch.from_numpy(stored).permute(2, 0, 1), number)
    np.testing.assert_array_equal(tensor.permute(1, 2, 0), UPRIGHT)
    assert turned_size(stored.shape[1::-1], number) == (24, 16)


@pytest.mark.parametrize("number", STORED)
def test_a_file_is_upright_only_where_that_is_asked_for(tmp_path, number):
    images = FileImages([photo(tmp_path / "a.png", number)])
    np.testing.assert_array_equal(np.asarray(images.open(0)), STORED[number](UPRIGHT))
    upright = images.read_as(APPLY)
    np.testing.assert_array_equal(np.asarray(upright.open(0)), UPRIGHT)
    np.testing.assert_array_equal(np.asarray(upright.take(np.array([0])).open(0)), UPRIGHT)
    assert image_size(images.name(0), AS_STORED) == STORED[number](UPRIGHT).shape[1::-1]
    assert image_size(images.name(0), APPLY) == (24, 16)


@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_both_decoders_agree(tmp_path, exif):
    pytest.importorskip("torchcodec.decoders")
    for number in STORED:
        images = FileImages([photo(tmp_path / f"{number}.jpg", number)]).read_as(Reading(exif=exif))
        plain, fast = (image_opener(images, decoder)(0) for decoder in ("pillow", "torchcodec"))
        np.testing.assert_array_equal(fast.permute(1, 2, 0), np.asarray(plain))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0no TIFF", with_orientation(9).tobytes()]
)
def test_metadata_that_say_nothing_turn_nothing(tmp_path, exif):
    Image.fromarray(UPRIGHT).save(tmp_path / "a.jpg", exif=exif)
    images = FileImages([tmp_path / "a.jpg"])
    np.testing.assert_array_equal(np.asarray(images.read_as(APPLY).open(0)), np.asarray(images.open(0)))
    with Image.open(tmp_path / "a.jpg") as image:
        assert orientation(image) == 1
    assert stored_orientation(str(tmp_path / "a.jpg")) == 1


def test_what_cannot_be_opened_has_no_orientation(tmp_path):
    assert stored_orientation(str(tmp_path / "gone.jpg")) == 1
    assert stored_orientation(b"no image") == 1
