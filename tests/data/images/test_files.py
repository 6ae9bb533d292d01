import pickle
import threading

import numpy as np
import pytest
from PIL import Image

from data.files.cache import Cache
from data.images import files as module
from data.images.depth import to_rgb
from data.images.files import ArrayImages, FileImages, in_threads
from data.images.opening import fault
from tests.data.trees import picture
from utils.checks import RunError, UserError


def noise(path, size=(64, 48), **options):
    pixels = np.random.RandomState(len(path.name)).randint(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize(
    "mode, colour", [("1", 1), ("L", 255), ("LA", (255, 9)), ("RGBA", (255, 255, 255, 3)), ("P", 255)]
)
def test_white_of_any_mode_is_white(mode, colour):
    image = Image.new(mode, (5, 4), colour)
    if mode == "P":
        image.putpalette([255] * 768)
    rgb = to_rgb(image)
    assert rgb.mode == "RGB"
    assert rgb.size == (5, 4)
    assert (np.asarray(rgb) == 255).all()


def test_cmyk_and_palettes_keep_their_colours():
    red = np.asarray(to_rgb(Image.new("CMYK", (2, 2), (0, 255, 255, 0))))
    assert red[0, 0, 0] > 200
    assert red[0, 0, 1:].max() < 60
    paletted = Image.new("RGB", (2, 2), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    np.testing.assert_array_equal(np.asarray(to_rgb(paletted)), np.full((2, 2, 3), (10, 200, 30)))
    paletted.info["transparency"] = bytes(256)
    np.testing.assert_array_equal(np.asarray(to_rgb(paletted)), np.full((2, 2, 3), (10, 200, 30)))


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    values = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    rgb = np.asarray(FileImages([tmp_path / "deep.png"]).open(0))
    np.testing.assert_array_equal(rgb[0, :, 0], [0, 1, 128, 255])
    np.testing.assert_array_equal(rgb[..., 0], rgb[..., 2])


def test_files_open_in_row_order_and_can_be_taken(tmp_path):
    paths = [picture(tmp_path / f"{n}.png", colour=(n, n, n)) for n in range(5)]
    images = FileImages(paths)
    assert len(images) == 5
    assert images.name(3) == str(paths[3])
    part = images.take(np.array([4, 0]))
    assert [part.open(row).getpixel((0, 0))[0] for row in range(len(part))] == [4, 0]
    assert len(images.take(np.array([], dtype=np.int64))) == 0
    again = pickle.loads(pickle.dumps(images))
    assert again.open(2).getpixel((0, 0)) == (2, 2, 2)


def test_arrays_are_images_too():
    pixels = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    images = ArrayImages(pixels, ["a", "b"])
    images.check()
    np.testing.assert_array_equal(np.asarray(images.open(1)), pixels[1])
    copy = images.pixels(1)
    np.testing.assert_array_equal(copy, pixels[1])
    copy[:] = 0
    assert pixels[1].any()
    part = images.take(np.array([1]))
    assert (len(images), len(part), part.name(0)) == (2, 1, "b")
    for wrong in (pixels.astype(np.float32), pixels[0], pixels[..., :2]):
        with pytest.raises(TypeError, match="images must be uint8 \\(N, H, W, 3\\), got"):
            ArrayImages(wrong, ["a", "b"])
    for names in (["a"], ["a", "b", "c"]):
        with pytest.raises(ValueError, match=f"{len(names)} names for 2 images"):
            ArrayImages(pixels, names)


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(b"<html>not found</html>"), "is a web page, not the image"),
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:300] + bytes(len(path.read_bytes()) - 300)), "is damaged"),
    ],
)
@pytest.mark.parametrize("progressive", [False, True])
def test_missing_and_damaged_files_are_found_and_named(tmp_path, spoil, words, progressive):
    paths = [noise(tmp_path / f"{n}.jpg", progressive=progressive) for n in range(6)]
    FileImages(paths).check()
    for row in (4, 2):
        spoil(paths[row])
    with pytest.raises(UserError) as caught:
        FileImages(paths).check()
    text = str(caught.value)
    assert str(paths[2]) in text
    assert words in text
    assert "row 2" in text
    assert "1 more of 6" in text
    assert "\n" not in text
    with pytest.raises(RunError, match=r"2\.\w+ \(row 2\)"):
        FileImages(paths).open(2)


@pytest.mark.parametrize(
    "gone, empty, flags",
    [
        ((), (2,), "--bad_images skip"),
        ((2,), (), "--missing_images skip"),
        ((2,), (3,), "--bad_images skip and --missing_images skip"),
        ((3,), (2,), "--bad_images skip and --missing_images skip"),
    ],
)
def test_the_first_fault_is_told_with_the_number_of_others_and_the_way_on(tmp_path, gone, empty, flags):
    paths = [picture(tmp_path / f"{n}.png") for n in range(4)]
    for row in gone:
        paths[row].unlink()
    for row in empty:
        paths[row].write_bytes(b"")
    with pytest.raises(UserError) as refusal:
        FileImages([*paths, paths[2]]).check()  # two rows of one file are one fault
    others = "; 1 more of 5 are missing or cannot be read" if gone and empty else ""
    assert str(refusal.value) == (
        f"image {paths[2]} (row 2) {'does not exist' if 2 in gone else 'is empty'}{others}:"
        f" put good copies there and start again, or leave them out with {flags}"
    )


def test_a_truncated_png_is_damaged(tmp_path):
    path = noise(tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:-2000])
    assert "damaged" in fault(str(path))
    path.write_bytes(path.read_bytes()[:40])
    assert "damaged" in fault(str(path))


def test_a_check_is_remembered_until_the_file_changes(tmp_path, monkeypatch):
    paths = [noise(tmp_path / f"{n}.jpg") for n in range(4)]
    cache = Cache(tmp_path / "cache")
    decoded = []
    monkeypatch.setattr(module, "fault", lambda path, reading: decoded.append(path) or fault(path))
    FileImages(paths[:3], cache).check()
    assert sorted(decoded) == sorted(map(str, paths[:3]))
    decoded.clear()
    FileImages(paths, cache).take(np.array([3, 1])).check()
    assert decoded == [str(paths[3])]
    decoded.clear()
    paths[0].write_bytes(paths[0].read_bytes()[:-300])
    with pytest.raises(UserError, match=r"0\.jpg"):
        FileImages(paths, cache).check()
    assert decoded == [str(paths[0])]
    decoded.clear()
    with pytest.raises(UserError, match=r"0\.jpg"):  # a fault is not remembered, it may be mended
        FileImages(paths, cache).check()
    assert decoded == [str(paths[0])]
    noise(paths[0])
    FileImages(paths, cache).check()


def test_without_a_cache_every_check_decodes(tmp_path, monkeypatch):
    paths = [noise(tmp_path / "a.jpg")]
    decoded = []
    monkeypatch.setattr(module, "fault", lambda path, reading: decoded.append(path))
    FileImages(paths).check()
    FileImages(paths).check()
    assert len(decoded) == 2


def test_files_are_had_as_they_are(tmp_path):
    paths = [noise(tmp_path / name) for name in ("a.jpg", "bb.png")]
    images = FileImages(paths)
    assert [images.encoded(row) for row in range(2)] == [path.read_bytes() for path in paths]
    paths[1].unlink()
    with pytest.raises(RunError, match=r"bb\.png \(row 1\) cannot be read"):
        images.encoded(1)


@pytest.mark.parametrize("count", [0, 1, 7, 300])
def test_threads_keep_the_order_and_stay_near_whoever_takes_the_results(count):
    begun, furthest = [], 0
    for taken, result in enumerate(in_threads(lambda item: begun.append(item) or item * item, range(count), "")):
        assert result == taken * taken
        furthest = max(furthest, len(begun) - taken)
    assert sorted(begun) == list(range(count))
    assert furthest <= 40


@pytest.mark.parametrize("processors, workers", [(None, 2), (1, 2), (3, 4), (15, 16), (64, 16)])
def test_a_thread_more_than_processors_and_two_items_each_are_ahead(monkeypatch, processors, workers):
    pools, handed = [], []
    pool = module.ThreadPoolExecutor
    monkeypatch.setattr(module.os, "cpu_count", lambda: processors)
    monkeypatch.setattr(module, "ThreadPoolExecutor", lambda count: pools.append(count) or pool(count))
    results = in_threads(abs, (handed.append(item) or item for item in range(50)), "", shown=False)
    for taken, _ in enumerate(results):
        assert len(handed) == min(50, 2 * workers + 1 + taken)
    assert pools == [workers]


def test_every_thread_works_at_the_same_time(monkeypatch):
    monkeypatch.setattr(module.os, "cpu_count", lambda: 3)
    meeting = threading.Barrier(4, timeout=20)  # an item alone would wait for the others, and raise
    assert list(in_threads(lambda item: meeting.wait() >= 0 and item, range(1, 9), "")) == list(range(1, 9))


def test_an_error_in_a_thread_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda item: 1 // item, [1, 0, 1], ""))


def test_a_file_of_many_rows_is_decoded_once(tmp_path, monkeypatch):
    one, other = picture(tmp_path / "one.jpg"), picture(tmp_path / "other.jpg")
    seen = []
    monkeypatch.setattr(module, "fault", lambda path, reading: seen.append(path))
    FileImages([one, other, one, one]).check()
    assert sorted(seen) == [str(one), str(other)]


@pytest.mark.parametrize("how, disabled", [({}, None), ({"shown": True}, None), ({"shown": False}, True)])
def test_a_bar_is_drawn_on_a_terminal_unless_it_is_not_to_be_shown(monkeypatch, how, disabled):
    seen = {}

    def bar(items, label, **how):
        seen.update(how, label=label)
        return items

    monkeypatch.setattr("data.images.files.tqdm", bar)
    assert list(in_threads(str, [1, 2, 3], "decoding", **how)) == ["1", "2", "3"]
    assert (seen["label"], seen["unit"], seen["delay"], seen["disable"]) == ("decoding", "img", 2.0, disabled)
