"""Images of two splits that look alike: found, named, and no error."""

import warnings

import numpy as np
import pytest
from PIL import Image

from data.images.files import ArrayImages, FileImages
from data.inspection import duplicates, grey_square
from data.labels.regime import Regime
from engine.inspection import near as room
from engine.inspection.command import inspect_dataset
from engine.inspection.near import NearDuplicate, near_duplicates
from engine.inspection.report import DataRead, report
from engine.inspection.text import as_text
from tests.engine.checkpoints import pixels
from tests.engine.inspection.test_command import part
from utils.types import LabelTable


def photograph(seed):
    """An image with details of every size, as photographs have them."""
    rng, levels = np.random.default_rng(seed), np.zeros((120, 160))
    for cells in (2, 4, 8, 16, 32):
        small = Image.fromarray(rng.normal(0, 40 / cells**0.5, (cells, cells)).astype(np.float32))
        levels += np.asarray(small.resize((160, 120), Image.Resampling.BICUBIC))
    return Image.fromarray((levels + 128).clip(20, 235).astype(np.uint8)).convert("RGB")


def scene(folder):
    """Eight training, two validation and four test images: training image 0 small, 1 the very file, 2 brighter."""
    paths = {name: [folder / f"{name}-{row}.png" for row in range(count)] for name, count in SIZES.items()}
    seeds = {"train": range(8), "validation": (20, 3), "test": (0, 1, 2, 30)}
    for name, files in paths.items():
        for path, seed in zip(files, seeds[name], strict=True):
            photograph(seed).save(path)
    photograph(0).resize((80, 60)).convert("L").save(paths["test"][0])
    photograph(2).point(lambda level: level + level // 16).save(paths["test"][2])
    photograph(3).resize((100, 75)).save(paths["validation"][1])
    paths["train"][7].write_bytes(b"")
    codes = {name: np.ones((len(files), 2), dtype=np.int8) for name, files in paths.items()}
    parts = {name: part(codes[name], name, images=FileImages(files)) for name, files in paths.items()}
    return DataRead("scene", parts, LabelTable(codes["train"]), Regime(labels="given"), None, {})


SIZES = {"train": 8, "validation": 2, "test": 4}


def test_images_of_an_earlier_split_that_look_alike_are_named_and_no_error(tmp_path):
    findings = inspect_dataset(scene(tmp_path), True)
    found = {(each.of_split, each.of_row, each.split, each.row): each.bits for each in findings.near}
    assert list(found) == [("train", 3, "validation", 1), ("train", 0, "test", 0), ("train", 2, "test", 2)]
    assert all(bits <= 31 for bits in found.values())
    content = report(findings, skip_missing=False)
    near = content["near_duplicates"]
    assert (near["checked"], near["bits"], near["at_most"]) == (True, 255, 31)
    assert near["across_splits"] == {"train and validation": 1, "train and test": 2}
    assert [one["differing_bits"] for one in near["pictures"]] == sorted(found.values())
    pairs = {tuple(each["file"].rsplit("/", 1)[1] for each in one["pictures"]) for one in near["pictures"]}
    assert pairs == {
        *(("train-3.png", "validation-1.png"), ("train-0.png", "test-0.png"), ("train-2.png", "test-2.png"))
    }
    assert content["duplicates"]["across_splits"] == {"train and test": 1}
    notes = {one["text"]: one["which"] for one in content["problems"] if one["level"] == "note"}
    assert len(notes["2 images of test look like one of train"]) == 2
    (line,) = notes["1 image of validation looks like one of train"]
    first, second, bits = tmp_path / "train-3.png", tmp_path / "validation-1.png", found["train", 3, "validation", 1]
    assert line == f"{first} (train) ~ {second} (validation), {bits} of 255 bits differ"
    assert f"  {line}" in as_text(content, 10)


@pytest.mark.parametrize(("checked", "near"), [(False, True), (True, False)])
def test_images_are_not_compared_unless_it_is_wanted(tmp_path, checked, near):
    findings = inspect_dataset(scene(tmp_path), checked, near)
    assert findings.near is None
    assert report(findings, skip_missing=True)["near_duplicates"] == {
        **{"checked": False, "bits": 255, "at_most": 31, "across_splits": {}, "pictures": []}
    }


def test_equal_images_of_a_third_split_do_not_hide_a_pair(tmp_path):
    read = scene(tmp_path)
    (tmp_path / "validation-0.png").write_bytes((tmp_path / "test-0.png").read_bytes())
    found = inspect_dataset(read, True)
    bits = {(each.split, each.row): each.bits for each in found.near if (each.of_split, each.of_row) == ("train", 0)}
    assert list(bits) == [("validation", 0), ("test", 0)]
    assert len(set(bits.values())) == 1
    assert all(isinstance(each, NearDuplicate) and each.of_split == "train" for each in found.near)


def test_an_image_that_has_gone_since_is_left_out(tmp_path, monkeypatch, recwarn):
    read = scene(tmp_path)
    findings = inspect_dataset(read, True, False)
    (tmp_path / "train-0.png").unlink()
    hashed = room.perceptual_hash
    monkeypatch.setattr(room, "perceptual_hash", lambda grey: warnings.warn("odd", stacklevel=1) or hashed(grey))
    found = near_duplicates(read.parts, findings.images, [])
    assert [(each.split, each.row) for each in found] == [("validation", 1), ("test", 1), ("test", 2)]
    assert not recwarn.list


def test_grey_levels_are_those_of_the_whole_image_scaled(tmp_path):
    image = pixels(5, 1600, 1200)
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "a.jpg", quality=95)
    expected = np.asarray(image.convert("L").resize((64, 64), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(grey_square(FileImages([tmp_path / "a.png"]), 0, 64), expected)
    np.testing.assert_array_equal(grey_square(ArrayImages(np.asarray(image)[None], ["a"]), 0, 64), expected)
    reduced = grey_square(FileImages([tmp_path / "a.jpg"]), 0, 64)  # decoded at an eighth
    assert reduced.shape == (64, 64)
    assert np.abs(reduced.astype(int) - expected).max() <= 12
    assert duplicates([]) == []
