"""`--resize`: OpenCV's bilinear to the byte, Pillow's by Pillow, the same image whatever kind it comes as."""

import numpy as np
import pytest
import torch
from PIL import Image

from data.images.decoders import as_tensor
from data.loading.loader import LoaderConfig
from data.loading.resizing import RESIZERS, antialiased, cv2_like, neighbours, resampled
from data.loading.transforms import AUGMENTATIONS, eval_transform, second_transform, train_transform
from tests import golden_files
from utils.checks import UserError


def picture(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def golden_cases():
    golden = golden_files.load("cv2_resize.npz")
    for number in range(int(golden["num_cases"])):
        image, wanted = (golden[f"case{number}_{name}"] for name in ("image", "resized"))
        yield number, image, tuple(golden[f"case{number}_size"].tolist()), wanted


def test_golden_bytes_of_opencv():
    for number, image, size, wanted in golden_cases():
        found = resampled(torch.from_numpy(image).permute(2, 0, 1), size).permute(1, 2, 0)
        np.testing.assert_array_equal(found, wanted, err_msg=f"case {number}")


def between_neighbours(image, size):
    """Plain loops in double precision: each new centre between its two neighbours along both sides."""
    result = np.zeros((*size, image.shape[2]))
    for place in np.ndindex(size):
        ends = []
        for new, old, at in zip(size, image.shape[:2], place, strict=True):
            x = min(max((at + 0.5) * old / new - 0.5, 0), old - 1)
            low = min(int(x), old - 2) if old > 1 else 0
            ends.append(((low, 1 - (x - low)), (min(low + 1, old - 1), x - low)))
        result[place] = sum(a * b * image[row, column] for row, a in ends[0] for column, b in ends[1])
    return result


@pytest.mark.parametrize("shape", [(9, 14), (1, 1), (2, 30), (25, 8)])
@pytest.mark.parametrize("size", [8, 13])
def test_cv2_like_is_plain_interpolation_within_one_grey_level(shape, size):
    image = picture(*shape)
    found = np.asarray(cv2_like(image, size)).astype(float)
    assert np.abs(found - between_neighbours(np.asarray(image).astype(float), (size, size))).max() < 1


def test_weights_of_neighbours_are_whole_and_sum_to_one():
    for old, new in ((500, 224), (37, 24), (3, 448), (1, 5)):
        found = neighbours(old, new)
        assert set((found.low_weight + found.high_weight).tolist()) == {2048}
        assert torch.equal(found.high - found.low, torch.ones(new, dtype=torch.long))


@pytest.mark.parametrize("grey", [0, 77, 255])
def test_a_flat_image_stays_flat(grey):
    flat = Image.new("RGB", (31, 17), (grey, grey, grey))
    for resized in RESIZERS.values():
        assert set(np.asarray(resized(flat, 12)).ravel().tolist()) == {grey}


@pytest.mark.parametrize("name", RESIZERS)
def test_an_image_of_either_kind_becomes_a_square_and_stays_as_it_was(name):
    image = picture(40, 23)
    given = as_tensor(image)
    before = image.tobytes(), given.clone()
    one, other = (RESIZERS[name](each, 16) for each in (image, given))
    assert (one.size, tuple(other.shape), other.dtype) == ((16, 16), (3, 16, 16), torch.uint8)
    assert other.permute(1, 2, 0).is_contiguous()
    assert (as_tensor(one).int() - other.int()).abs().max() <= (0 if name == "cv2-like" else 1)
    assert (image.tobytes(), torch.equal(given, before[1])) == (before[0], True)


def test_only_antialiasing_sees_what_lies_between_the_neighbours():
    lines = Image.fromarray(np.tile(np.array([0, 0, 0, 255], np.uint8)[:, None, None], (16, 64, 3)))
    thin = np.asarray(cv2_like(lines, 16))
    assert thin.max() < 255 / 4 < np.asarray(antialiased(lines, 16)).max() or not thin.any()


@pytest.mark.parametrize("augment", sorted(AUGMENTATIONS))
def test_every_view_resizes_as_it_is_told(augment):
    image = picture(90, 70, 3)
    views = []
    for name in RESIZERS:
        for transform in (train_transform(augment, 24, name), eval_transform(augment, 24, name)):
            torch.manual_seed(5)
            views.append(transform(image))
    assert not torch.equal(views[0], views[2])
    assert not torch.equal(views[1], views[3])
    torch.manual_seed(5)
    assert torch.equal(second_transform("same", augment, 24, "cv2-like")(image), views[2])


def test_the_setting_reaches_the_view_of_evaluation():
    view = LoaderConfig(img_size=24, resize="cv2-like").eval_view()
    image = picture(50, 60)
    assert torch.equal(view.transform(image), as_tensor(cv2_like(image, 24)))
    assert LoaderConfig().eval_view().resize == "antialias"


def test_an_unknown_way_is_told_with_the_choices():
    with pytest.raises(UserError, match="--resize nearest: no such choice; there are antialias, cv2-like"):
        train_transform("none", 8, "nearest")
