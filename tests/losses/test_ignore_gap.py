"""What IGNORE masks, and what it rejects by that, against loops and by properties."""

import math

import numpy as np
import pytest
import torch

from losses.ignore_gap import IgnoreThresholds, class_maps, kept_pixels, normalised, rejected, updated_thresholds
from tests.losses.fake_model import FakeModel
from tests.oracles import ignore as oracle
from tests.ranks import run_ranks
from utils.types import ModelOutput

NORMS = ("spatial", "release", "batch_minmax")


def random_maps(seed, images=5, classes=4, size=3):
    """(maps, observed positives, the class of each): one positive an image."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    return rng.normal(size=(images, classes, size, size)), np.eye(classes, dtype=bool)[labels], labels


def tensors(*arrays):
    return tuple(torch.tensor(np.asarray(array)) for array in arrays)


def test_activation_maps_have_the_bias_and_average_to_the_logit():
    model = FakeModel(3)
    images = torch.randn(4, 3, 12, 12)
    out = model(images, frozenset({"cam"}))
    expected = torch.nn.functional.conv2d(out.features, model.head.weight[:, :, None, None], model.head.bias)
    maps = class_maps(out._replace(cam=out.cam.requires_grad_()), "activation")
    torch.testing.assert_close(maps, expected.detach())
    torch.testing.assert_close(maps.mean(dim=(2, 3)), out.logits.detach())
    assert not maps.requires_grad


def test_attention_maps_are_weighted_by_the_mean_feature():
    features, attention = torch.randn(2, 7, 3, 4, requires_grad=True), torch.rand(2, 5, 3, 4, requires_grad=True)
    maps = class_maps(ModelOutput(torch.randn(2, 5), features, attention), "attention")
    for image, label in np.ndindex(2, 5):
        expected = features[image].mean(dim=0) * attention[image, label]
        torch.testing.assert_close(maps[image, label], expected.detach())
    assert not maps.requires_grad


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("how", NORMS)
def test_normalised_maps_match_loops(seed, how):
    maps, shown, labels = random_maps(seed)
    shown[1] = False  # an image without an observed positive has no say in the extremes of the batch
    others = np.arange(len(maps)) != 1
    expected = oracle.scaled(maps[np.arange(len(maps)), labels][others], how)
    ours = normalised(*tensors(maps, shown), how).numpy()[np.arange(len(maps)), labels][others]
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-14)


def test_spatial_maps_fill_0_to_1_whatever_their_scale_and_offset():
    maps, shown = tensors(*random_maps(0)[:2])
    ours = normalised(maps, shown, "spatial")
    assert torch.equal(ours.amin(dim=(2, 3)), torch.zeros(5, 4))
    torch.testing.assert_close(ours.amax(dim=(2, 3)), torch.ones(5, 4, dtype=torch.float64))
    torch.testing.assert_close(normalised(7 * maps - 30, shown, "spatial"), ours)


@pytest.mark.parametrize("how", ["spatial", "batch_minmax"])
def test_a_map_without_spread_shows_nothing(how):
    maps, shown = torch.full((1, 2, 3, 3), 4.0), torch.tensor([[True, False]])
    assert torch.equal(normalised(maps, shown, how), torch.zeros(1, 2, 3, 3))
    assert not kept_pixels(normalised(maps, shown, how), shown, 0.0, (6, 6)).any()


@pytest.mark.parametrize("how", NORMS)
def test_a_batch_without_positives_stays_whole(how):
    maps, shown = tensors(*random_maps(1)[:2])
    nothing = torch.zeros_like(shown)
    assert kept_pixels(normalised(maps, nothing, how), nothing, 0.8, (9, 9)).all()


@pytest.mark.parametrize("how", ["release", "batch_minmax"])
def test_one_image_alone_has_no_extremes_but_its_own(how):
    maps, shown = tensors(*random_maps(2, images=1)[:2])
    assert not kept_pixels(normalised(maps, shown, how), shown, 0.5, (9, 9)).any()


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_kept_pixels_match_loops(threshold):
    maps, shown, labels = random_maps(3)
    shown[2] = False
    scaled = normalised(*tensors(maps, shown), "spatial")
    ours = kept_pixels(scaled, torch.tensor(shown), threshold, (10, 10)).numpy()
    for image, label in enumerate(labels):
        seen = oracle.enlarged(scaled[image, label].numpy(), 10) > threshold
        np.testing.assert_array_equal(ours[image], seen if shown[image].any() else np.ones_like(seen))


def test_the_threshold_is_exceeded_strictly():
    scaled, shown = torch.full((1, 1, 2, 2), 0.5), torch.ones(1, 1, dtype=torch.bool)
    assert not kept_pixels(scaled, shown, 0.5, (4, 4)).any()
    assert kept_pixels(scaled, shown, 0.49, (4, 4)).all()


def test_of_several_positives_the_highest_map_counts():
    maps, shown, _ = random_maps(4, images=3)
    shown[0], shown[1] = [True, True, False, False], [False, True, False, True]
    maps, shown = tensors(maps, shown)
    scaled = normalised(maps, shown, "spatial")
    highest = scaled.masked_fill(~shown[:, :, None, None], 0).amax(dim=1, keepdim=True)
    one = torch.ones(3, 1, dtype=torch.bool)
    assert torch.equal(kept_pixels(scaled, shown, 0.6, (3, 3)), kept_pixels(highest, one, 0.6, (3, 3)))
    for label in range(4):
        alone = shown & torch.nn.functional.one_hot(torch.tensor(label), 4).bool()
        lone = kept_pixels(scaled, alone, 0.6, (3, 3)) & alone.any(dim=1)[:, None, None]
        assert not (lone & ~kept_pixels(scaled, shown, 0.6, (3, 3))).any()


def test_thresholds_match_loops():
    rng = np.random.default_rng(0)
    held, gap, average = (
        IgnoreThresholds(torch.zeros((), dtype=torch.float64), torch.zeros(4, dtype=torch.float64)),
        0,
        [0] * 4,
    )
    for step in range(6):
        z, z_masked = rng.normal(0, 2, (2, 5, 4))
        observed = np.where(rng.random((5, 4)) < 0.2, 1, -1) if step != 3 else np.full((5, 4), -1)
        gap, average = oracle.move(gap, average, z, z_masked, observed, 0.9, 0.7)
        held = updated_thresholds(held, *tensors(np.abs(z - z_masked), z, observed == 1), (0.9, 0.7))
        assert float(held.gap) == pytest.approx(gap, rel=1e-12)
        np.testing.assert_allclose(held.average, average, rtol=1e-12)


def test_what_is_not_finite_moves_no_threshold():
    held = IgnoreThresholds(torch.tensor(1.5), torch.tensor([0.5, -0.5]))
    logits, shown = torch.tensor([[math.inf, 1.0], [0.0, 2.0]]), torch.eye(2).bool()
    after = updated_thresholds(held, torch.tensor([[math.nan, 1.0], [2.0, 1.0]]), logits, shown, (0.9, 0.9))
    torch.testing.assert_close(after, IgnoreThresholds(torch.tensor(1.5), torch.tensor([0.5, -0.3])))


def test_worked_example():
    z, masked = torch.tensor([[3, 1.5, -0.2, 0.1]]), torch.tensor([[2.4, -0.3, -1.6, -1.5]])
    unknown = torch.tensor([[False, True, True, True]])
    thresholds = IgnoreThresholds(torch.tensor(1.2), torch.tensor([0.5, 0, -1, 0.2]))
    gap = (z - masked).abs()
    assert rejected(gap, z, unknown, thresholds, lat=True).int().tolist() == [[0, 1, 1, 0]]
    assert rejected(gap, z, unknown, thresholds, lat=False).int().tolist() == [[0, 1, 1, 1]]


def test_only_unknown_labels_strictly_above_both_thresholds_are_rejected():
    thresholds = IgnoreThresholds(torch.tensor(1.0), torch.tensor([0.0, 0.0]))
    gap, z = torch.tensor([[1.0, 1.1], [1.1, 1.1]]), torch.tensor([[1.0, 0.0], [1.0, 0.1]])
    everything = torch.ones(2, 2, dtype=torch.bool)
    assert rejected(gap, z, everything, thresholds, lat=True).int().tolist() == [[0, 0], [1, 1]]
    assert not rejected(gap, z, ~everything, thresholds, lat=False).any()


def share_of_maps(rank):
    maps, shown = tensors(*random_maps(6)[:2])
    part = slice(None) if rank is None else slice(rank, None, 2)
    return [normalised(maps[part], shown[part], kind) for kind in NORMS]


def test_extremes_are_those_of_all_processes():
    for whole, first, second in zip(share_of_maps(None), *run_ranks(share_of_maps), strict=True):
        assert torch.equal(first, whole[::2])
        assert torch.equal(second, whole[1::2])
