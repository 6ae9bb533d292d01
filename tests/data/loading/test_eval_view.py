"""The view of evaluation: the part of an image that a model sees, and boxes cropped with it."""

import numpy as np
import pytest
import torch
from PIL import Image

from data.loading.eval_view import EvalView
from data.loading.loader import LoaderConfig
from data.loading.transforms import AUGMENTATIONS
from utils.types import Boxes


def view(augment="resize-crop", size=56):
    return LoaderConfig(img_size=size, augment=augment, normalize="half").eval_view()


def boxes(*corners):
    rows = np.arange(len(corners))
    return Boxes(np.zeros(len(corners), dtype=np.int64), rows, np.array(corners, dtype=np.float32))


def painted(width, height, box):
    """A black image with one white box, by pixels."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    left, top, right, bottom = box
    pixels[top:bottom, left:right] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("augment", sorted(AUGMENTATIONS))
def test_only_resize_crop_hides_the_rim(augment):
    part = view(augment).visible
    assert (part == (0.0, 1.0)) == (augment != "resize-crop")
    assert part.start == pytest.approx(1 - part.end)


@pytest.mark.parametrize("size", [(64, 64), (80, 48), (301, 200)])
@pytest.mark.parametrize("box", [(0.1, 0.2, 0.5, 0.6), (0.0, 0.0, 0.4, 1.0), (0.45, 0.5, 0.99, 0.97)])
def test_a_box_lies_where_its_pixels_lie_in_the_view(size, box):
    width, height = size
    corners = tuple(round(share * side) for share, side in zip(box, (width, height, width, height), strict=True))
    seen = view()
    white = seen.transform(painted(width, height, corners))[0].float() / 255 > 0.5
    rows, columns = np.flatnonzero(white.any(dim=1)), np.flatnonzero(white.any(dim=0))
    found = seen.visible_boxes(boxes(corners), (height, width))
    scale = np.array([56 / found.size[1], 56 / found.size[0]] * 2)
    expected = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(found.boxes.corners[0] * scale, expected, atol=1.6)


def test_boxes_beyond_the_crop_are_left_out_and_others_cut():
    beyond = [(0, 0, 3, 64), (61, 10, 64, 20), (10, 0, 20, 4), (10, 60, 20, 64)]
    found = view().visible_boxes(boxes(beyond[0], (0, 0, 64, 64), (30, 30, 34, 34), *beyond[1:]), (64, 64))
    assert found.boxes.label.tolist() == [1, 2]
    assert found.size == (56, 56)
    np.testing.assert_allclose(found.boxes.corners, [[0, 0, 56, 56], [26, 26, 30, 30]])


def test_whole_images_keep_their_boxes():
    given = boxes((0, 0, 3, 64), (5, 6, 7, 8))
    found = view("crop").visible_boxes(given, (64, 48))
    assert found.boxes is given
    assert found.size == (64, 48)


def test_the_view_is_that_of_the_settings():
    seen = view(size=40)
    assert seen == EvalView(40, "resize-crop", "half", "pillow")
    pixels = seen.transform(painted(50, 30, (0, 0, 50, 30)))
    assert (pixels.shape, pixels.dtype, seen.resized) == ((3, 40, 40), torch.uint8, 46)
    torch.testing.assert_close(seen.normalizer(pixels[None]), torch.full((1, 3, 40, 40), 2.0))
