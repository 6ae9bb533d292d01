"""Which features a checkpoint is scored on, and what is refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from engine.core.checkpoint import SavedModel
from engine.evaluation.features import given_features
from tests.data.features.files import npz, numbers
from utils.checks import UserError


def saved(model, path="best.pth"):
    return SavedModel(Path(path), {}, ("a",), {"model": model}, 1, False, 1, trained_on=torch.empty(0))


def test_a_network_of_images_needs_none(tmp_path):
    assert given_features(None, [saved("resnet50"), saved("scenenet")]) is None
    with pytest.raises(UserError, match=r"^--features x\.npz: best\.pth takes images, with a backbone of its own"):
        given_features(Path("x.npz"), [saved("resnet50")])


def test_a_head_takes_features_of_its_shape(tmp_path):
    path = npz(tmp_path / "x.npz", numbers((4, 3, 2, 2)))
    assert given_features(path, [saved("given/3x2x2"), saved("given/3x2x2")]).shape == (3, 2, 2)
    with pytest.raises(UserError, match=r"holds 3 x 2 x 2 of each image, best\.pth takes features of 3; make them"):
        given_features(path, [saved("given/3")])
    with pytest.raises(
        UserError, match=r"^best\.pth: is a head on features .* score them with evaluate\.py --features"
    ):
        given_features(None, [saved("given/3")])


def test_features_that_are_not_finite_are_refused(tmp_path):
    features = numbers()
    features[0, 0] = float("nan")
    with pytest.raises(UserError, match="are not finite"):
        given_features(npz(tmp_path / "x.npz", features), [saved("given/6")])


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("given/3", "given/4", "--ensemble b.pth: takes features of 4, a.pth takes features of 3"),
        ("given/3", "resnet50", "--ensemble b.pth: takes images, a.pth takes features of 3"),
        ("resnet50", "given/3", "--ensemble b.pth: takes features of 3, a.pth takes images"),
    ],
)
def test_checkpoints_that_take_different_things_are_not_scored_together(first, second, words):
    with pytest.raises(UserError, match=words):
        given_features(None, [saved(first, "a.pth"), saved(second, "b.pth")])


def test_only_a_head_on_features_sees_no_image():
    assert SimpleNamespace(shape=saved("given/7x1x2").given_shape).shape == (7, 1, 2)
    assert saved("resnet50").given_shape is None
    saved("resnet50").require_images()
    with pytest.raises(UserError, match="sees no image"):
        saved("given/7").require_images()
