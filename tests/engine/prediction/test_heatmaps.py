"""Maps drawn over images: where they lie, how strong they are, and what the files are called."""

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from data.loading.eval_view import EvalView, VisiblePart
from engine.prediction.heatmaps import _fitted, file_word, image_heat, overlay, write_maps
from engine.prediction.predictor import Label
from engine.prediction.sources import ImageFile

WHOLE = VisiblePart(0.0, 1.0)
VIEW = EvalView(32, "crop", "unit", "pillow")
HOT = np.ones((2, 2), np.float32)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((10, 5), (260, 130)),
        ((255, 9), (510, 18)),
        ((256, 9), (256, 9)),
        ((1024, 100), (1024, 100)),
        ((2048, 512), (1024, 256)),
    ],
)
def test_the_longer_side_is_brought_within_limits(size, expected):
    assert _fitted(Image.new("RGB", size)).size == expected


def test_pixels_of_a_small_image_stay_squares():
    pixels = np.zeros((1, 2, 3), np.uint8)
    pixels[0, 1] = 200
    large = np.asarray(_fitted(Image.fromarray(pixels)))
    assert (large[:, :128] == 0).all()
    assert (large[:, 128:] == 200).all()


def test_heat_lies_on_the_part_that_was_seen():
    found = image_heat(HOT, (40, 20), VisiblePart(0.25, 0.75))
    assert found.shape == (20, 40)
    assert np.argwhere(found > 0).min(axis=0).tolist() == [5, 10]
    assert np.argwhere(found > 0).max(axis=0).tolist() == [14, 29]
    assert (found[5:15, 10:30] == 1).all()


@pytest.mark.parametrize("size", [(1, 9), (9, 1), (1, 1)])
@pytest.mark.parametrize("seen", [WHOLE, VisiblePart(0.125, 0.875), VisiblePart(0.9, 1.0), VisiblePart(0.0, 0.1)])
def test_an_image_of_one_pixel_across_has_heat_too(size, seen):
    assert image_heat(HOT, size, seen).max() == 1


def test_the_largest_activation_covers_65_per_cent_and_none_nothing():
    image = Image.new("RGB", (4, 2), (80, 80, 80))
    drawn = np.asarray(overlay(image, np.array([[0.0, 0.0, 1.0, 1.0]] * 2, np.float32), WHOLE)).astype(float)
    hottest = 255 * np.array(colormaps["inferno"](1.0)[:3])
    np.testing.assert_allclose(drawn[:, 0], [[80] * 3] * 2, atol=0.5)
    np.testing.assert_allclose(drawn[:, 3], [0.35 * 80 + 0.65 * hottest] * 2, atol=0.51)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("traffic light", "traffic_light"),
        ("a/b:c", "a_b_c"),
        ("..x_", "x"),
        ("?", "class"),
        ("狗 1", "狗_1"),
        ("m" * 50, "m" * 40),
    ],
)
def test_a_class_name_becomes_part_of_a_file_name(text, word):
    assert file_word(text) == word


def test_a_file_for_each_label_best_first(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "in.png")
    maps = np.stack([0 * HOT, HOT])
    prediction = type("Maps", (), {"maps": maps})
    labels = [Label("a dog", 0.98765, 1), Label("cat", 0.5, 0)]
    write_maps(prediction, labels, ImageFile(tmp_path / "in.png", tmp_path / "below" / "in"), tmp_path, VIEW)
    assert sorted(path.name for path in (tmp_path / "below").iterdir()) == [
        "in-1-a_dog-0.988.jpg",
        "in-2-cat-0.500.jpg",
    ]
    with (
        Image.open(tmp_path / "below" / "in-1-a_dog-0.988.jpg") as first,
        Image.open(tmp_path / "below" / "in-2-cat-0.500.jpg") as second,
    ):
        Image.new("RGB", (8, 8)).save(tmp_path / "like.jpg", quality=90)
        with Image.open(tmp_path / "like.jpg") as like:
            assert first.quantization == like.quantization
        assert first.format == "JPEG"
        assert np.asarray(first).mean() > 50 > np.asarray(second).mean()


def test_without_labels_nothing_is_written(tmp_path):
    prediction = type("Maps", (), {"maps": HOT[None]})
    write_maps(prediction, [], ImageFile(tmp_path / "gone.png", tmp_path / "x"), tmp_path / "out", VIEW)
    assert not list(tmp_path.iterdir())
