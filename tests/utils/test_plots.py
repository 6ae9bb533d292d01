import numpy as np
from PIL import Image

from utils.plots import Example, View, heat, plot_curves, plot_examples


def test_heat_is_the_positive_part_scaled_to_one():
    cam = np.array([[-1.0, 0.0], [2.0, 4.0]], dtype=np.float32)
    warmth = heat(cam, (2, 2))
    np.testing.assert_allclose(warmth, [[0, 0], [0.5, 1.0]])
    assert heat(-np.ones((2, 2), np.float32), (8, 6)).max() == 0
    assert heat(cam, (8, 6)).shape == (6, 8)


def test_curves_are_drawn_for_whatever_columns_there_are(tmp_path):
    rows = [{"epoch": n, "loss": 1.0 / n, "validation_mAP": n / 10} for n in (1, 2, 3)]
    plot_curves({"one": rows, "two": [{"epoch": 1, "loss": 2.0, "test_mAP": 0.5}], "none": []}, tmp_path / "c.png")
    assert Image.open(tmp_path / "c.png").size[0] > 500


def test_the_grid_has_a_row_a_picture_and_shows_the_heat(tmp_path):
    picture = Image.new("RGB", (20, 16), (90, 90, 90))
    cold, hot = np.zeros((2, 2), np.float32), np.ones((2, 2), np.float32)

    def example(cam):
        return Example(picture, ("cat",), [View(("cat", "dog"), (0.9, 0.2), (True, False), cam)])

    plot_examples([example(cold)], ["m"], tmp_path / "cold.png")
    plot_examples([example(hot)], ["m"], tmp_path / "hot.png")
    plot_examples([example(hot)] * 3, ["m"], tmp_path / "three.png")
    cold_pixels, hot_pixels = (np.asarray(Image.open(tmp_path / f"{name}.png"), dtype=int) for name in ("cold", "hot"))
    assert np.abs(cold_pixels - hot_pixels).max() > 50
    assert Image.open(tmp_path / "three.png").height > 2 * Image.open(tmp_path / "hot.png").height
