"""Scenes are those that the published figures were measured on: labels, places and pixels of some are kept.

`tests/fixtures/scenes.npz` is what `drawn()` gave; a change of it alters the figures of `benchmarks/README.md`.
"""

from pathlib import Path

import numpy as np

from data.datasets.generated import digits, letters

KEPT = Path(__file__).parents[3] / "fixtures" / "scenes.npz"
ROWS = {"digits": (0, 1, 2, 499, 500, 619), "tail": (0, 1), "digits_test": (0, 1), "letters": (0, 1, 2, 3, 39)}


def drawn():
    """Some scenes of every kind by name, with the number of scenes made small."""
    digits.SCENES, letters.SCENES = {"train": 620, "test": 40}, {"train": 40, "test": 20}
    letters.VARIANTS = {"train": 5, "test": 3}
    every = {
        "digits": digits.digit_scenes(3, "train"),
        "tail": digits.digit_scenes(3, "train", long_tail=True),
        "digits_test": digits.digit_scenes(3, "test"),
        "letters": letters.letter_scenes(3, "train"),
        "letters_test": letters.letter_scenes(3, "test"),
    }
    found = {}
    for name, scenes in every.items():
        rows = np.array(ROWS.get(name, (0, 1)))
        pixels = np.stack([np.asarray(scenes.images.open(row)) for row in rows])
        corners = scenes.boxes.corners.astype(np.uint8)
        parts = {"rows": rows, "pixels": pixels, "codes": scenes.truth.dense(), "corners": corners}
        found |= {f"{name}_{part}": values for part, values in parts.items()}
    return found


def test_scenes_are_as_they_were(monkeypatch):
    for module, name in ((digits, "SCENES"), (letters, "SCENES"), (letters, "VARIANTS")):
        monkeypatch.setattr(module, name, getattr(module, name))
    found, kept = drawn(), np.load(KEPT)
    assert found.keys() == set(kept.files)
    for name, values in found.items():
        if name.endswith("pixels"):  # fonts and interpolation may round differently
            apart = np.abs(values.astype(int) - kept[name])
            assert apart.max() <= 2, name
            assert (apart > 0).mean() < 0.005, name
        else:
            np.testing.assert_array_equal(values, kept[name], err_msg=name)


def test_the_numbers_of_scenes_and_of_shapes():
    assert digits.SCENES == {"train": 3000, "test": 1500}
    assert letters.SCENES == {"train": 8000, "test": 1000}
    assert letters.VARIANTS == {"train": 250, "test": 60}
