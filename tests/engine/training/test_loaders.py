"""Batches of a run: the views of an image. Features: test_features.py."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.loading.loader import LoaderConfig
from data.loading.samplers import ShuffledBatches
from data.loading.transforms import second_transform
from engine.core.distributed import Runtime
from engine.training.loaders import FeatureArrays, FeatureLoaders, ImageLoaders
from tests.engine.training.test_features import array_data
from utils.checks import UserError
from utils.types import LabelTable

CONFIG = LoaderConfig(img_size=16, batch_size=4, augment="none", normalize="unit")


def batches(views, **settings):
    data = array_data()
    feed = ImageLoaders(data, replace(CONFIG, **settings), Runtime("cpu", "fp32"), 0, 0)
    return list(feed.training(ShuffledBatches(len(data.train), 4, seed=0), views))


def test_one_view_is_the_first_of_two():
    for one, two in zip(batches(1), batches(2), strict=True):
        assert one.second_pixels is None
        assert torch.equal(one.pixels, two.pixels)


def test_the_second_view_goes_through_what_the_settings_say():
    same = batches(2)
    assert all(torch.equal(batch.pixels, batch.second_pixels) for batch in same)  # nothing is drawn
    strong = batches(2, second_view="randaugment")
    assert all(torch.equal(one.pixels, other.pixels) for one, other in zip(same, strong, strict=True))
    changed = [
        not torch.equal(*pair) for batch in strong for pair in zip(batch.pixels, batch.second_pixels, strict=True)
    ]
    assert sum(changed) > len(changed) / 2
    steps = second_transform("randaugment", "none", 16).steps
    assert [type(step).__name__ for step in steps] == ["RandAugment", "Resize"]


def test_three_views_are_refused():
    with pytest.raises(ValueError, match="two views at most"):
        batches(3)


def test_an_unknown_second_view_is_refused():
    with pytest.raises(UserError, match="second_view"):
        batches(2, second_view="weaker")


@pytest.mark.parametrize(
    ("kind", "given", "size"), [("cpu", None, 3), ("cuda", None, 6), ("cpu", 7, 7), ("cuda", 7, 7)]
)
def test_what_is_scored_comes_in_batches_of_scoring(monkeypatch, kind, given, size):
    asked = []
    for place in ("engine.training.loaders.build_loader", "engine.core.scoring.build_loader"):
        monkeypatch.setattr(place, lambda *args, **named: asked.append(args[3].batch_size))
    runtime = SimpleNamespace(device=SimpleNamespace(type=kind), dtype=torch.float32, rank=0, world_size=1)
    feed = ImageLoaders(array_data(), replace(CONFIG, batch_size=3, eval_batch_size=given), runtime, 0, 5)
    feed.scoring("test")
    feed.augmented(1, second=False)
    assert asked == [size, size]


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_batches_are_pinned_for_a_gpu_alone_and_loaders_of_evaluation_are_made_once(monkeypatch, kind):
    asked = []
    for place in ("engine.training.loaders.build_loader", "engine.core.scoring.build_loader"):
        monkeypatch.setattr(
            place, lambda *args, **named: asked.append((named["seed"], named["pin_memory"])) or object()
        )
    runtime = SimpleNamespace(device=SimpleNamespace(type=kind), dtype=torch.float32, rank=0, world_size=1)
    feed = ImageLoaders(array_data(), CONFIG, runtime, 0, 5)
    feed.training(None, 1)
    assert feed.scoring("test") is feed.scoring("test")
    assert asked == [(5, kind == "cuda"), (0, kind == "cuda")]


def test_an_image_has_two_views_at_most():
    with pytest.raises(ValueError, match="images have two views at most, not 3"):
        batches(3)


def test_soft_targets_of_the_rows_are_in_the_batch_beside_the_codes():
    data = array_data()
    codes = data.train.truth.dense()
    soft = np.where(codes < 0, -1, np.abs(codes - 0.25)).astype(np.float32)
    data.observed = LabelTable(codes, soft=soft)
    batches, runtime = ShuffledBatches(len(data.train), 4, seed=0), Runtime("cpu", "fp32")
    features = FeatureArrays({}, [np.zeros((len(data.train), 5), dtype=np.float32)], [])
    loaders = ImageLoaders(data, CONFIG, runtime, 0, 0), FeatureLoaders(data, features, 4, runtime, 0)
    for loader in (each.training(batches, 1) for each in loaders):
        for raw in loader:
            batch = loader.to_batch(raw, torch.device("cpu"))
            np.testing.assert_array_equal(batch.soft, soft[batch.index])
            np.testing.assert_array_equal(batch.observed, codes[batch.index])
    hard = ImageLoaders(array_data(), CONFIG, runtime, 0, 0).training(batches, 1)
    assert all(hard.to_batch(raw, torch.device("cpu")).soft is None for raw in hard)
