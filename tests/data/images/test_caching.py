"""Cached images are the images of the files, bit for bit, and an outdated cache is noticed."""

import os
import pickle
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from data.files.cache import Cache
from data.images import caching
from data.images.caching import MemoryImages, PixelImages, keep_images
from data.images.cropped import CroppedImages
from data.images.files import ArrayImages, FileImages
from data.loading.loader import build_loader
from data.loading.samplers import ShuffledBatches
from data.loading.transforms import normalizer, train_transform
from utils.checks import RunError, UserError
from utils.types import Annotations, LabelTable

KINDS = ("ram", "disk")
MODES = ("RGB", "L", "CMYK", "RGB", "RGB", "L", "RGB")


def photo(path, seed, mode="RGB", size=None):
    rng = np.random.default_rng(seed)
    width, height = size or rng.integers(20, 60, 2).tolist()
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode).save(path)
    return path


def split(paths):
    names = tuple(path.name for path in paths)
    return Annotations(FileImages(paths), names, ("x",), LabelTable(np.zeros((len(paths), 1), dtype=np.int8)))


@pytest.fixture
def paths(tmp_path):
    (tmp_path / "images").mkdir()
    return [photo(tmp_path / "images" / f"{seed}.jpg", seed, mode) for seed, mode in enumerate(MODES)]


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


@pytest.fixture
def decoded(monkeypatch):
    """The rows of files that were decoded while a store of pixels was written."""
    rows, real = [], FileImages.open
    monkeypatch.setattr(FileImages, "open", lambda self, row: rows.append(row) or real(self, row))
    return rows


def keep(splits, kind, cache, *, processes=1, shown=False):
    return keep_images(splits, kind, cache, processes=processes, shown=shown)


def kept(paths, kind, cache):
    return keep({"train": split(paths)}, kind, cache)["train"].images


def assert_same_images(images, paths):
    assert len(images) == len(paths)
    plain = FileImages(paths)
    for row in range(len(paths)):
        assert images.name(row) == plain.name(row)
        opened = images.open(row)
        assert opened.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(opened), np.asarray(plain.open(row)))


def pixel_file(cache):
    (file,) = cache.folder.glob("pixels-*.rgb")
    return file


@pytest.mark.parametrize("kind", KINDS)
def test_every_split_keeps_its_images_and_labels(paths, cache, kind):
    parts = {"train": split(paths[4:] + paths[:2]), "validation": None, "test": split(paths[1:3])}
    held = keep(parts, kind, cache)
    assert held.keys() == parts.keys()
    assert held["validation"] is None
    for name in ("train", "test"):
        assert_same_images(held[name].images, _of(parts[name]))
        assert held[name].ids == parts[name].ids
        assert held[name].truth is parts[name].truth
    part = held["train"].take(np.array([3, 0])).images
    assert [part.name(row) for row in range(2)] == [str(paths[0]), str(paths[4])]
    assert_same_images(part, [paths[0], paths[4]])
    assert held["train"].images.missing().tolist() == []
    held["train"].images.check()


def _of(annotations):
    return [annotations.images.name(row) for row in range(len(annotations))]


@pytest.mark.parametrize("kind", KINDS)
def test_kept_images_travel_to_other_processes(paths, cache, kind):
    assert_same_images(pickle.loads(pickle.dumps(kept(paths, kind, cache))), paths)


@pytest.mark.parametrize("decoder", ["pillow", "torchcodec"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_equal_bit_for_bit(paths, cache, decoder, workers):
    if decoder == "torchcodec":
        pytest.importorskip("torchcodec")

    def batches(annotations):
        return build_loader(
            annotations,
            annotations.truth,
            [train_transform("crop", 24)] * 2,
            ShuffledBatches(len(paths), 3, seed=1),
            normalizer=normalizer("unit"),
            decoder=decoder,
            seed=1,
            num_workers=workers,
            pin_memory=False,
        )

    plain = list(batches(split(paths)))
    for kind in KINDS:
        for one, other in zip(batches(keep({"train": split(paths)}, kind, cache)["train"]), plain, strict=True):
            assert one.pixels.equal(other.pixels)
            assert one.second_pixels.equal(other.second_pixels)
            assert one.index.equal(other.index)


def test_nothing_is_kept_unless_asked_for_and_arrays_stay_where_they_are(paths, cache, capsys):
    parts = {"train": split(paths)}
    assert keep(parts, "none", cache, shown=True) == parts
    ids = tuple("ab")
    table = LabelTable(np.zeros((2, 1), dtype=np.int8))
    held = {"train": Annotations(ArrayImages(np.zeros((2, 4, 4, 3), dtype=np.uint8), ids), ids, ("x",), table)}
    for kind in KINDS:
        assert keep(held, kind, cache, shown=True)["train"] is held["train"]
    assert capsys.readouterr().out == ""
    assert not cache.folder.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_files_are_left_as_they_are_and_that_is_said(paths, cache, kind, capsys):
    boxes = np.tile(np.array([[1.0, 1.0, 9.0, 9.0]]), (2, 1))
    images = CroppedImages(FileImages(paths[:2]), boxes)
    table = LabelTable(np.zeros((2, 1), dtype=np.int8))
    held = {"train": Annotations(images, tuple("ab"), ("x",), table), "test": None}
    assert keep(held, kind, cache, shown=True)["train"].images is images
    assert f"--cache {kind}" in capsys.readouterr().out
    assert keep(held, kind, cache)["train"].images is images
    assert capsys.readouterr().out == ""
    pixels = Annotations(ArrayImages(np.zeros((2, 4, 4, 3), dtype=np.uint8), ("a", "b")), tuple("ab"), ("x",), table)
    keep({**held, "test": pixels}, kind, cache, shown=True)
    assert f"--cache {kind}" in capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_how_much_it_takes_is_said_once(paths, cache, kind, capsys):
    keep({"train": split(paths)}, kind, cache, shown=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert f"--cache {kind}: 7 " in lines[0]
    assert "GB" in lines[0]
    keep({"train": split(paths)}, kind, cache)
    assert capsys.readouterr().out == ""


def test_files_in_memory_no_longer_depend_on_the_disk(paths, cache):
    before = [np.asarray(FileImages(paths).open(row)) for row in range(len(paths))]
    images = kept(paths, "ram", cache)
    assert isinstance(images, MemoryImages)
    assert [images.encoded(row) for row in range(len(paths))] == [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    for row, expected in enumerate(before):
        np.testing.assert_array_equal(np.asarray(images.open(row)), expected)


def test_a_damaged_file_in_memory_is_named(paths, cache):
    paths[3].write_bytes(paths[3].read_bytes()[:-30])
    images = kept(paths, "ram", cache)
    with pytest.raises(RunError, match=r"3\.jpg \(row 3\) cannot be read"):
        images.open(3)


@pytest.mark.parametrize("processes, free", [(1, 5_000), (4, 40_000)])
def test_memory_that_does_not_suffice_is_refused_before_reading(paths, cache, monkeypatch, processes, free):
    total = sum(path.stat().st_size for path in paths)
    assert free / processes < total < 40_000
    monkeypatch.setattr(caching, "free_memory", lambda: free)
    monkeypatch.setattr(caching, "_read_into", lambda *_: pytest.fail("read"))
    with pytest.raises(UserError, match=r"--cache ram: 7 files take 0\.00 GB.*disk or none") as refusal:
        keep({"train": split(paths)}, "ram", cache, processes=processes)
    assert len(str(refusal.value).splitlines()) == 1
    assert ("each of 4 processes" in str(refusal.value)) == (processes == 4)


@pytest.mark.parametrize("free, fits", [(1000, True), (999, False)])
def test_nine_tenths_of_the_free_memory_may_be_taken(tmp_path, monkeypatch, free, fits):
    (tmp_path / "a").write_bytes(bytes(450))
    monkeypatch.setattr(caching, "free_memory", lambda: free)
    if fits:
        assert caching.read_files([str(tmp_path / "a")], processes=2, shown=False).encoded(0) == bytes(450)
    else:
        with pytest.raises(UserError, match=r"0\.00 GB for each of 2 processes, and 0\.00 GB of memory are free"):
            caching.read_files([str(tmp_path / "a")], processes=2, shown=False)


def test_sizes_are_told_in_gigabytes(tmp_path, monkeypatch, capsys):
    (tmp_path / "a").touch()
    os.truncate(tmp_path / "a", 2_500_000_000)  # takes no room on the disk
    monkeypatch.setattr(caching, "free_memory", lambda: 1_230_000_000)
    with pytest.raises(UserError, match=r"1 files take 2\.50 GB, and 1\.23 GB of memory are free"):
        caching.read_files([str(tmp_path / "a")], processes=1, shown=True)
    os.truncate(tmp_path / "a", 3)
    caching.read_files([str(tmp_path / "a")], processes=1, shown=True)
    assert capsys.readouterr().out == "--cache ram: 1 files take 0.00 GB of 1.23 GB of free memory\n"
    monkeypatch.setattr(caching, "header", lambda path: ((20_000, 10_000), "RGB", "JPEG"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_010_000_000))
    with pytest.raises(UserError, match=r"2 decoded images take 1\.20 GB in .*, and 1\.01 GB are free; name"):
        caching.write_pixels(["a", "b"], tmp_path / "pixels.rgb", shown=True)
    with pytest.raises(RunError, match="nowhere"):
        caching.write_pixels(["nowhere"], tmp_path / "pixels.rgb", shown=True)
    text = f"--cache disk: 1 decoded images take 0.60 GB in {tmp_path} (1.01 GB free)\n"
    assert capsys.readouterr().out == text


def test_memory_of_which_nobody_knows_is_taken(paths, cache, monkeypatch, capsys):
    monkeypatch.setattr(caching, "free_memory", lambda: None)
    assert_same_images(keep({"train": split(paths)}, "ram", cache, shown=True)["train"].images, paths)
    assert "free" not in capsys.readouterr().out


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b"x"), lambda path: path.write_bytes(bytes(9999))])
def test_a_file_that_changes_while_it_is_read_is_told(paths, cache, monkeypatch, change):
    real = caching._read_into
    monkeypatch.setattr(caching, "_read_into", lambda buffer, path: (change(paths[2]), real(buffer, path)))
    with pytest.raises(RunError, match=r"2\.jpg: has changed"):
        keep({"train": split(paths[2:3])}, "ram", cache)


@pytest.mark.parametrize("kind, error", [("ram", UserError), ("disk", RunError)])
def test_a_missing_file_is_named_and_nothing_is_left(paths, cache, kind, error):
    paths[5].unlink()
    with pytest.raises(error, match=r"5\.jpg"):
        kept(paths, kind, cache)
    assert not cache.folder.exists() or not list(cache.folder.iterdir())


def test_pixels_are_found_again_whatever_the_split(paths, cache, decoded, capsys):
    kept(paths, "disk", cache)
    assert sorted(decoded) == list(range(7))
    decoded.clear()
    other = {"train": split(paths[3:]), "validation": split(paths[:3])}
    held = keep(other, "disk", cache, shown=True)
    assert decoded == []
    assert str(pixel_file(cache)) in capsys.readouterr().out
    assert isinstance(held["train"].images, PixelImages)
    assert_same_images(held["validation"].images, paths[:3])
    assert_same_images(held["train"].images, paths[3:])


def test_pixels_can_be_had_uncopied_and_a_change_never_reaches_the_file(paths, cache):
    images = kept([paths[0], *paths[:0:-1]], "disk", cache)
    before = pixel_file(cache).read_bytes()
    assert before == b"".join(FileImages([path]).open(0).tobytes() for path in paths)  # in the order of their paths
    images.pixels(0)[:] = 7
    np.asarray(images.open(1))
    assert pixel_file(cache).read_bytes() == before
    assert sum(images.pixels(row).size for row in range(7)) == len(before)
    assert_same_images(kept(paths, "disk", cache), paths)


def spoil_shorter(cache, paths):
    os.truncate(pixel_file(cache), pixel_file(cache).stat().st_size - 1)


def spoil_byte(cache, paths):
    time.sleep(0.02)  # file times advance in steps
    with pixel_file(cache).open("r+b") as file:
        file.seek(100)
        file.write(b"\x00\xff\x00")


def spoil_empty(cache, paths):
    pixel_file(cache).write_bytes(b"")


def spoil_gone(cache, paths):
    pixel_file(cache).unlink()


def spoil_index(cache, paths):
    (index,) = cache.folder.glob("pixels-*.npz")
    index.write_bytes(index.read_bytes()[:-40])


def spoil_layout(change):
    def spoil(cache, paths):
        (index,) = cache.folder.glob("pixels-*.npz")
        with np.load(index) as held:
            arrays = dict(held)
        np.savez(index, **(arrays | {"places": change(arrays["places"])}))

    return spoil


def spoil_image(cache, paths):
    photo(paths[4], 99, size=(33, 44))


def spoil_time(cache, paths):
    os.utime(paths[4], (1, 1))


@pytest.mark.parametrize(
    "spoil",
    [
        *(spoil_shorter, spoil_byte, spoil_empty, spoil_gone, spoil_index, spoil_image, spoil_time),
        *map(spoil_layout, (lambda places: places[:-1], lambda places: places[:, :2], lambda places: 1.0 * places)),
    ],
)
def test_pixels_that_do_not_hold_are_written_anew(paths, cache, decoded, spoil):
    kept(paths, "disk", cache)
    decoded.clear()
    spoil(cache, paths)
    images = kept(paths, "disk", cache)
    assert len(decoded) == 7
    assert_same_images(images, paths)
    decoded.clear()
    kept(paths, "disk", cache)
    assert decoded == []
    assert len(list(cache.folder.iterdir())) == 2


def test_a_write_that_is_cut_off_leaves_the_next_run_to_start_over(paths, cache, monkeypatch):
    whole = FileImages.open
    monkeypatch.setattr(FileImages, "open", lambda self, row: 1 // 0 if row == 4 else whole(self, row))
    with pytest.raises(ZeroDivisionError):
        kept(paths, "disk", cache)
    assert list(cache.folder.iterdir()) == []
    monkeypatch.setattr(FileImages, "open", whole)
    assert_same_images(kept(paths, "disk", cache), paths)


def test_a_disk_without_the_room_is_refused_before_decoding(paths, cache, decoded, monkeypatch):
    total = sum(3 * image.width * image.height for image in map(FileImages(paths).open, range(7)))
    decoded.clear()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=total))
    with pytest.raises(UserError, match=r"--cache disk: 7 decoded images take 0\.00 GB.*--cache_dir") as refusal:
        kept(paths, "disk", cache)
    assert str(cache.folder) in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1
    assert decoded == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=total + 1))
    assert_same_images(kept(paths, "disk", cache), paths)


def test_a_folder_that_cannot_be_made_is_refused(paths, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--cache_dir .*file.*name another"):
        kept(paths, "disk", Cache(tmp_path / "file" / "cache"))


def test_a_file_of_pixels_that_vanishes_is_told(paths, cache):
    state = pickle.dumps(kept(paths, "disk", cache))
    pixel_file(cache).unlink()
    with pytest.raises(RunError, match="cannot be read"):
        pickle.loads(state)
