import numpy as np
import pytest
from PIL import Image

from data.files.cache import Cache
from data.images.cropped import CroppedImages, inside
from data.images.files import FileImages
from tests.data.trees import picture
from utils.checks import RunError, UserError


def noise(path, size, seed):
    """A lossless image of random pixels, so that each crop is like no other."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def cropped(paths, boxes, cache=None):
    return CroppedImages(FileImages(paths, cache), np.array(boxes, dtype=np.float64).reshape(-1, 4))


@pytest.mark.parametrize("seed", range(5))
def test_a_box_inside_gives_the_pixels_that_pillow_gives(tmp_path, seed):
    noise(tmp_path / "a.png", (50, 40), seed)
    rng = np.random.default_rng(seed)
    low, extent = rng.uniform(0, [20, 20]), rng.uniform(1, [29, 19])
    box = [*low, *(low + extent)]
    with Image.open(tmp_path / "a.png") as whole:
        expected = np.asarray(whole.crop(box))
    np.testing.assert_array_equal(np.asarray(cropped([tmp_path / "a.png"], [box]).open(0)), expected)


@pytest.mark.parametrize(
    "box, expected",
    [
        ((2, 3, 10, 20), (2, 3, 10, 20)),
        ((-5, -4, 10, 20), (0, 0, 10, 20)),
        ((30, 20, 80, 90), (30, 20, 50, 40)),
        ((-9, -9, 999, 999), (0, 0, 50, 40)),
        ((0.5, 1.5, 2.5, 3.5), (0, 2, 2, 4)),  # half to even
        ((49.4, 0, 60, 10), (49, 0, 50, 10)),
        ((50, 0, 60, 10), None),
        ((0, -20, 10, 0), None),
        ((3, 3, 3.4, 9), None),
    ],
)
def test_what_lies_beyond_the_image_is_cut_off(tmp_path, box, expected):
    pixels = noise(tmp_path / "a.png", (50, 40), 0)
    assert inside(np.array(box, dtype=np.float64), 50, 40) == expected
    images = cropped([tmp_path / "a.png"], [box])
    if expected is None:
        with pytest.raises(RunError, match=r"a\.png \(row 0\): box .* lies outside its 50 x 40 pixels"):
            images.open(0)
    else:
        x1, y1, x2, y2 = expected
        np.testing.assert_array_equal(np.asarray(images.open(0)), pixels[y1:y2, x1:x2])


def test_several_rows_share_a_file_and_are_taken_together_with_their_boxes(tmp_path):
    pixels = noise(tmp_path / "a.png", (50, 40), 1)
    other = noise(tmp_path / "b.png", (30, 30), 2)
    images = cropped(
        [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "a.png"], [[0, 0, 5, 6], [1, 2, 9, 8], [10, 10, 40, 30]]
    )
    assert len(images) == 3
    assert images.name(1) == str(tmp_path / "b.png")
    part = images.take(np.array([2, 1]))
    assert [part.name(row) for row in range(2)] == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    np.testing.assert_array_equal(np.asarray(part.open(0)), pixels[10:30, 10:40])
    np.testing.assert_array_equal(np.asarray(part.open(1)), other[2:8, 1:9])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_crops_are_rgb_whatever_is_stored(tmp_path, mode):
    picture(tmp_path / "a.png", (50, 40), mode)
    image = cropped([tmp_path / "a.png"], [[1, 1, 9, 9]]).open(0)
    assert (image.mode, image.size) == ("RGB", (8, 8))


def test_check_names_the_first_file_or_box_that_is_wrong(tmp_path):
    noise(tmp_path / "a.png", (50, 40), 1)
    paths = [tmp_path / "a.png"] * 3
    cache = Cache(tmp_path / "cache")
    cropped(paths, [[0, 0, 5, 5]] * 3, cache).check()
    with pytest.raises(UserError, match=r"a\.png \(row 1\): box \(50, 3, 60, 9\) lies outside its 50 x 40 pixels"):
        cropped(paths, [[0, 0, 5, 5], [50, 3, 60, 9], [0, 50, 10, 60]], cache).check()
    gone = cropped([*paths, tmp_path / "gone.png"], [[0, 0, 5, 5]] * 4, cache)
    assert gone.missing().tolist() == [3]
    with pytest.raises(UserError, match=r"gone\.png \(row 3\) does not exist"):
        gone.check()
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:900])
    with pytest.raises(UserError, match=r"a\.png \(row 0\) is damaged"):
        cropped(paths, [[0, 0, 5, 5]] * 3, cache).check()


def test_faults_are_those_of_files_and_of_boxes_in_the_order_of_rows(tmp_path):
    noise(tmp_path / "a.png", (50, 40), 1)
    noise(tmp_path / "b.png", (30, 20), 2)
    paths = [tmp_path / name for name in ("a.png", "gone.png", "b.png", "gone.png", "a.png", "b.png")]
    beyond = [35, 3, 45, 9]
    assert cropped(paths, [[50, 3, 60, 9], *[beyond] * 5]).faults() == [
        (0, "box (50, 3, 60, 9) lies outside its 50 x 40 pixels"),
        (1, "does not exist"),
        (2, "box (35, 3, 45, 9) lies outside its 30 x 20 pixels"),
        (3, "does not exist"),
        (5, "box (35, 3, 45, 9) lies outside its 30 x 20 pixels"),
    ]


def test_there_must_be_a_box_for_each_file(tmp_path):
    with pytest.raises(ValueError, match="boxes"):
        cropped([tmp_path / "a.png"], [[0, 0, 5, 5]] * 2)
