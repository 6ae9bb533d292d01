"""Distorted colours against the standard library's, pixel by pixel, and where pictures are cut."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image

from data.images.decoders import as_tensor
from data.loading.photometric import Distortion, Photometric, SideCut, distorted, draw_distortion, recoloured
from data.loading.transforms import sample_generator


def pixels(seed=0, shape=(3, 9, 11)):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape).astype(np.float64))


def picture(width=40, height=30, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def draws(count):
    found = []
    for seed in range(count):
        with sample_generator(seed):
            found.append(draw_distortion())
    return found


@pytest.mark.parametrize("saturation", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("hue", [-18.0, 0.0, 7.5, 18.0, 200.0])
def test_colours_turn_as_in_the_standard_library(saturation, hue):
    values = pixels()
    values[:, 0, :4] = torch.tensor([[0.0, 255, 90, 90], [0, 255, 90, 200], [0, 255, 90, 200]])
    found = recoloured(values, saturation, hue)
    for y in range(values.shape[1]):
        for x in range(values.shape[2]):
            h, s, v = colorsys.rgb_to_hsv(*(values[:, y, x] / 255).tolist())
            expected = colorsys.hsv_to_rgb((h + hue / 360) % 1.0, s * saturation, v)
            np.testing.assert_allclose(found[:, y, x] / 255, expected, atol=1e-9)


def test_more_saturation_moves_all_channels_away_from_the_maximum():
    values = pixels(1)
    found, top = recoloured(values, 1.5, 0.0), values.amax(dim=0)
    torch.testing.assert_close(top - found, 1.5 * (top - values))
    assert found.min() < 0, "not cut off here"


@pytest.mark.parametrize("first", [True, False])
def test_distortions_come_in_the_published_order(first):
    values = pixels(2)
    one = Distortion(
        brightness=-20.0, contrast=1.25, contrast_first=first, saturation=0.6, hue=11.0, channels=(2, 0, 1)
    )
    expected = values - 20
    if first:
        expected = expected * 1.25
    expected = recoloured(expected, 0.6, 11.0)
    if not first:
        expected = expected * 1.25
    torch.testing.assert_close(distorted(values, one), torch.stack([expected[2], expected[0], expected[1]]))


def test_no_distortion_leaves_every_byte():
    for given in (pixels(), pixels().float()):
        assert torch.equal(distorted(given, Distortion()), given)
    torch.testing.assert_close(recoloured(pixels(), 1.0, 0.0), pixels())


@pytest.mark.parametrize(
    "part, neutral, low, high",
    [("brightness", 0.0, -32, 32), ("contrast", 1.0, 0.5, 1.5), ("saturation", 1.0, 0.5, 1.5), ("hue", 0.0, -18, 18)],
)
def test_each_distortion_strikes_half_of_the_pictures_evenly_over_its_range(part, neutral, low, high):
    found = np.array([getattr(one, part) for one in draws(600)])
    changed = found[found != neutral]
    assert 0.43 < len(changed) / 600 < 0.57
    assert low <= changed.min() < low + 0.05 * (high - low)
    assert high - 0.05 * (high - low) < changed.max() <= high
    assert abs(changed.mean() - (low + high) / 2) < 0.06 * (high - low)


def test_channels_are_mixed_in_half_of_the_pictures_in_every_order():
    orders = [one.channels for one in draws(600)]
    assert len(set(orders)) == 6
    assert 0.5 < orders.count((0, 1, 2)) / 600 < 0.67  # of the mixed ones, a sixth falls on the order that was
    assert 0.43 < sum(one.contrast_first for one in draws(600)) / 600 < 0.57


def test_pictures_and_tensors_are_distorted_alike_and_stay_as_they_are():
    image = picture()
    before = image.tobytes()
    for seed in range(20):
        views = []
        for given in (image, as_tensor(image), as_tensor(image).contiguous()):
            with sample_generator(seed):
                views.append(as_tensor(Photometric()(given)))
        with sample_generator(seed):
            values = distorted(as_tensor(image).float(), draw_distortion())
        assert all(torch.equal(view, values.round().clamp(0, 255).byte()) for view in views)
    assert image.tobytes() == before


def places(width, height, count=400):
    """left, top, width and height of cuts of a picture whose red is its column and whose green is its row."""
    red, green = np.meshgrid(np.arange(width), np.arange(height))
    image = Image.fromarray(np.stack([red, green, 0 * red], axis=2).astype(np.uint8))
    found = []
    for seed in range(count):
        with sample_generator(seed):
            part = SideCut()(image)
        corner = part.getpixel((0, 0))
        found.append((corner[0], corner[1], *part.size))
        last = part.getpixel((part.width - 1, part.height - 1))
        assert last[:2] == (corner[0] + part.width - 1, corner[1] + part.height - 1)
    return np.array(found)


def test_cuts_keep_four_fifths_of_each_side_or_more_anywhere_in_the_picture():
    left, top, width, height = places(100, 80).T
    assert (width.min(), width.max() >= 98) == (80, True)
    assert (height.min(), height.max() >= 78) == (64, True)
    assert abs(width.mean() - 90) < 1
    assert left.min() == top.min() == 0
    assert (left + width).max() == 100
    assert (top + height).max() == 80
    assert np.corrcoef(width, height)[0, 1] < 0.2
    assert (left / np.maximum(100 - width, 1)).mean() == pytest.approx(0.5, abs=0.06)


def test_cuts_are_neither_too_flat_nor_too_tall():
    _, _, width, height = places(200, 90).T  # 0.45 when nothing is cut off its height or width
    assert (height / width).min() >= 0.5
    assert (height / width).max() <= 2
    assert (width < 180).mean() > 0.5


@pytest.mark.parametrize("shape", [(90, 1), (1, 90), (250, 60)])
def test_a_picture_of_which_no_cut_is_allowed_stays_whole(shape):
    assert (places(*shape, count=5) == [0, 0, *shape]).all()


def test_the_smallest_picture_is_cut_to_itself():
    with sample_generator(0):
        assert SideCut()(picture(1, 1)).size == (1, 1)


def test_a_cut_tensor_has_its_channels_innermost_in_memory_and_shows_what_a_cut_picture_shows():
    image = picture(50, 40)
    for seed in range(10):
        views = []
        for given in (image, as_tensor(image).contiguous()):
            with sample_generator(seed):
                views.append(as_tensor(SideCut()(given)))
        assert torch.equal(*views)
        assert views[1].permute(1, 2, 0).is_contiguous()


@pytest.mark.parametrize("size, cut", [((20, 10), True), ((10, 20), True), ((21, 10), False), ((10, 21), False)])
def test_a_cut_may_be_twice_as_long_as_it_is_wide_and_no_longer(size, cut):
    image = picture(*size)
    with sample_generator(0):
        assert (SideCut(least=1.0)(image) is not image) == cut  # it stays whole: an image of its own tells


def test_fifty_cuts_are_drawn_before_a_picture_stays_whole():
    with sample_generator(7):
        SideCut()(picture(90, 1))
        behind = torch.rand(1)
    with sample_generator(7):
        sides = [torch.rand(1) for _ in range(2 * 50)]
        assert torch.equal(torch.rand(1), behind)
    assert not any(torch.equal(side, behind) for side in sides)
