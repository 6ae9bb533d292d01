"""RandAugment with Cutout: each operation against its formula pixel by pixel, and what is drawn."""

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from data.images.decoders import as_tensor
from data.loading import randaugment
from data.loading.randaugment import GREY, LEVELS, OPERATIONS, Cutout, RandAugment, as_pillow
from data.loading.transforms import sample_generator, train_transform

EVERY_LEVEL = range(1, LEVELS + 1)


def picture(width=20, height=16, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(image):
    return np.asarray(image).astype(int)


def seeded(seed, change, *values):
    with sample_generator(seed):
        return change(*values)


def of_both_signs(name, image, level):
    """What an operation makes of an image whatever its coin says, without repeats."""
    found = {image.tobytes(): image for image in (seeded(seed, OPERATIONS[name], image, level) for seed in range(12))}
    return list(found.values())


def same(found, expected):
    """Whether two lists hold the same images in some order."""
    return sorted(image.tobytes() for image in found) == sorted({image.tobytes() for image in expected})


def test_the_operations_are_the_published_fifteen():
    published = "Invert Cutout Sharpness AutoContrast Posterize ShearX TranslateX TranslateY ShearY Rotate Equalize"
    published = f"{published} Contrast Color Solarize Brightness".lower().split()
    assert [name.replace("_", "") for name in OPERATIONS] == published
    assert (LEVELS, GREY) == (9, (128, 128, 128))


@pytest.mark.parametrize("level", EVERY_LEVEL)
def test_changes_of_values(level):
    image, share = picture(), level / 9
    values = pixels(image)
    bits = 8 - round(8 - 4 * share)
    np.testing.assert_array_equal(pixels(OPERATIONS["posterize"](image, level)), values >> bits << bits)
    turned = np.where(values < 256 - 256 * share, values, 255 - values)
    np.testing.assert_array_equal(pixels(OPERATIONS["solarize"](image, level)), turned)
    np.testing.assert_array_equal(pixels(OPERATIONS["invert"](image, level)), 255 - values)
    for name, plain in (("autocontrast", ImageOps.autocontrast), ("equalize", ImageOps.equalize)):
        assert OPERATIONS[name](image, level).tobytes() == plain(image).tobytes()


@pytest.mark.parametrize("level", EVERY_LEVEL)
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sharpness", ImageEnhance.Sharpness),
        ("contrast", ImageEnhance.Contrast),
        ("color", ImageEnhance.Color),
        ("brightness", ImageEnhance.Brightness),
    ],
)
def test_qualities_are_raised_or_lowered_by_up_to_nine_tenths(name, kind, level):
    image = picture()
    expected = [kind(image).enhance(1 + sign * level * (0.9 / 9)) for sign in (1, -1)]
    assert same(of_both_signs(name, image, level), expected)


def test_moved_images_leave_grey_behind():
    side = 3 * 331  # each level moves it by 50 pixels
    for (name, axis), level in product((("translate_x", 1), ("translate_y", 0)), (1, 4, 9)):
        image = picture(side, 4) if axis else picture(4, side)
        found = of_both_signs(name, image, level)
        shift, expected = 50 * level, []
        for sign in (1, -1):
            moved = np.roll(pixels(image), -sign * shift, axis=axis)
            gap = [slice(None)] * 2
            gap[axis] = slice(side - shift, None) if sign > 0 else slice(0, shift)
            moved[tuple(gap)] = GREY
            expected.append(Image.fromarray(moved.astype(np.uint8)))
        assert same(found, expected)


def test_sheared_images_keep_their_first_line_and_lean_the_more_the_farther_off():
    image = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8)[None, :, None] * 3, (40, 1, 3)))
    leaning = of_both_signs("shear_x", image, 9)
    assert len(leaning) == 2
    for sign, one in zip((-1, 1), sorted(leaning, key=lambda each: pixels(each)[-1, 32, 0]), strict=True):
        middle = pixels(one)[:, 32, 0]  # three values for each pixel to the right
        np.testing.assert_allclose(middle, 3 * (32 + sign * 0.3 * (np.arange(40) + 0.5)), atol=1.5)
    upright = of_both_signs("shear_y", image.transpose(Image.Transpose.TRANSPOSE), 9)
    assert same([one.transpose(Image.Transpose.TRANSPOSE) for one in upright], leaning)


def test_images_turn_by_up_to_thirty_degrees_against_the_clock():
    spot = np.zeros((101, 101, 3), dtype=np.uint8)
    spot[48:53, 88:93] = 255  # 40 pixels to the right of the middle
    for level in (3, 9):
        found = of_both_signs("rotate", Image.fromarray(spot), level)
        assert len(found) == 1
        rows, columns = np.nonzero(pixels(found[0])[:, :, 0] == 255)
        angle = math.degrees(math.atan2(50 - rows.mean(), columns.mean() - 50))
        assert angle == pytest.approx(30 * level / 9, abs=1)
        assert tuple(pixels(found[0])[0, 0]) == GREY


@pytest.mark.parametrize("level", EVERY_LEVEL)
def test_the_small_patch(level):
    image, half, shapes = picture(50, 50), round(20 * level / 9) // 2, set()
    for seed in range(60):
        changed = (pixels(seeded(seed, OPERATIONS["cutout"], image, level)) == (125, 122, 113)).all(axis=2)
        rows, columns = np.nonzero(changed.any(axis=1))[0], np.nonzero(changed.any(axis=0))[0]
        assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        shapes.add((len(rows), len(columns)))
    assert max(shapes) == (2 * half, 2 * half)
    assert min(rows for rows, _ in shapes) >= half


def painted(image, seed):
    """Where Cutout paints an image: the rectangle, and its colour."""
    found = pixels(seeded(seed, Cutout(), image))
    changed = (found != pixels(image)).any(axis=2)
    rows, columns = np.nonzero(changed.any(axis=1))[0], np.nonzero(changed.any(axis=0))[0]
    box = found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert (box == box[0, 0]).all()
    return (int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])), tuple(box[0, 0])


def test_cutout_paints_half_of_each_side_about_any_centre_cut_off_at_the_edges():
    image, colours, centres = picture(40, 24), set(), set()
    for seed in range(400):
        (left, top, right, bottom), colour = painted(image, seed)
        colours.add(colour)
        assert left == 0 or right == 39 or right - left == 20
        assert top == 0 or bottom == 23 or bottom - top == 12
        assert 10 <= right - left <= 20
        assert 5 <= bottom - top <= 12
        centres.add((left + 10 if left else right - 10, top + 6 if top else bottom - 6))
    assert {x for x, _ in centres} == set(range(40))
    assert {y for _, y in centres} == set(range(24))
    assert len(colours) > 390


@pytest.mark.parametrize("side, reach", [(38, 9), (39, 10), (40, 10), (41, 10), (42, 10), (43, 11)])
def test_half_of_a_side_is_rounded_before_it_is_halved_again(side, reach):
    image = picture(side, side)
    boxes = [painted(image, seed)[0] for seed in range(40)]
    assert max(right - left for left, _, right, _ in boxes) == 2 * reach
    assert max(bottom - top for _, top, _, bottom in boxes) == 2 * reach


def test_centre_and_colour_are_drawn_from_all_there_are(monkeypatch):
    asked = []
    monkeypatch.setattr(randaugment, "_draw", lambda choices: asked.append(choices) or choices - 1)
    assert Cutout()(picture(40, 24)).getpixel((39, 23)) == (255, 255, 255)
    assert asked == [40, 24, 256, 256, 256]


def test_two_operations_strike_half_of_the_images_each_at_strengths_drawn_for_each(monkeypatch):
    seen = []
    spies = {name: lambda image, level, name=name: seen[-1].append((name, level)) or image for name in OPERATIONS}
    monkeypatch.setattr(randaugment, "OPERATIONS", spies)
    image = picture()
    for seed in range(1500):
        seen.append([])
        seeded(seed, RandAugment(), image)
    counts = Counter(map(len, seen))
    assert [counts[number] / 1500 for number in range(3)] == pytest.approx([0.25, 0.5, 0.25], abs=0.04)
    names, levels = (Counter(part) for part in zip(*(each for one in seen for each in one), strict=True))
    assert set(names) == set(OPERATIONS)
    assert max(names.values()) < 1.5 * min(names.values())
    assert sorted(levels) == list(EVERY_LEVEL)
    assert max(levels.values()) < 1.4 * min(levels.values())
    pairs = [one for one in seen if len(one) == 2]
    assert any(first[0] == second[0] for first, second in pairs)


def test_tensors_become_the_same_images_and_stay_as_they_are():
    image = picture(24, 24)
    given = as_tensor(image)
    before, view = given.clone(), train_transform("randaugment-cutout", 24)
    assert as_pillow(given).tobytes() == as_pillow(image).tobytes() == image.tobytes()
    for seed in range(40):  # of the size that is wanted: nothing is interpolated before
        views = [seeded(seed, view, each) for each in (image, given, given.contiguous())]
        assert torch.equal(views[0], views[1])
        assert torch.equal(views[0], views[2])
    assert torch.equal(given, before)


def test_the_view_is_warped_painted_and_changed():
    image = picture(50, 30)
    view = train_transform("randaugment-cutout", 32)
    assert [type(step).__name__ for step in view.steps] == ["Resize", "Cutout", "RandAugment"]
    for seed in range(10):
        with sample_generator(seed):
            painted_over = Cutout()(image.resize((32, 32), Image.Resampling.BILINEAR))
            expected = as_tensor(RandAugment()(painted_over))
        assert torch.equal(seeded(seed, view, image), expected)
