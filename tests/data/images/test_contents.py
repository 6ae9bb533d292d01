"""A hash of what images are: blind to place and time, not to content, order or the way of reading."""

import os

import numpy as np
import pytest
from PIL import Image

from data.files.cache import Cache
from data.images import contents
from data.images.caching import MemoryImages
from data.images.contents import content_hash
from data.images.cropped import CroppedImages
from data.images.files import ArrayImages, FileImages
from data.images.reading import Reading

ROWS = 5


@pytest.fixture
def paths(tmp_path):
    """Files in two folders, with gaps of one size so that only their middle differs."""
    made = []
    for row in range(ROWS):
        made.append(tmp_path / f"part{row % 2}" / f"{row}.bin")
        made[-1].parent.mkdir(exist_ok=True)
        made[-1].write_bytes(bytes(3000) + bytes([row]) + bytes(3000))
    return made


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


@pytest.fixture
def read(monkeypatch):
    """The files that were read to their ends."""
    seen = []
    monkeypatch.setattr(contents, "content", lambda path, before=contents.content: (seen.append(path), before(path))[1])
    return seen


def test_each_file_is_read_once(paths, cache, read):
    first = content_hash(FileImages(paths), cache)
    assert sorted(read) == sorted(paths)
    assert content_hash(FileImages(paths), cache) == first
    content_hash(FileImages([paths[3], paths[1], paths[3]]), cache)
    assert len(read) == ROWS


def test_a_file_of_many_rows_is_read_once(paths, cache, read):
    images = FileImages([paths[3], paths[1], paths[3]])
    first = content_hash(images, cache)
    assert sorted(read) == [paths[1], paths[3]]
    assert content_hash(images.take(np.array([1, 0, 2])), cache) != first


def test_a_touched_file_is_read_again_and_is_the_same(paths, cache, read):
    first = content_hash(FileImages(paths), cache)
    os.utime(paths[2], (1, 1))
    assert content_hash(FileImages(paths), cache) == first
    assert read[ROWS:] == [paths[2]]


def test_a_byte_in_the_middle_makes_another(paths, cache):
    first = content_hash(FileImages(paths), cache)
    paths[4].write_bytes(bytes(3000) + b"x" + bytes(3000))
    os.utime(paths[4], (1, 1))
    assert content_hash(FileImages(paths), cache) != first


def test_order_number_and_reading_count(paths, cache):
    images = FileImages(paths)
    chosen = [images, images.take(np.array([1, 0, 2, 3, 4])), images.take(np.arange(4)), images.take(np.array([], int))]
    others = [*chosen, images.read_as(Reading("apply"))]
    assert len({content_hash(one, cache) for one in others}) == len(others)


def test_a_file_that_is_not_there_is_told_by_its_path(tmp_path, cache):
    one, other = (content_hash(FileImages([tmp_path / name]), cache) for name in ("a.jpg", "b.jpg"))
    assert one != other


def test_a_file_that_came_later_is_read(tmp_path, cache, read):
    path = tmp_path / "a.jpg"
    absent = content_hash(FileImages([path]), cache)
    path.write_bytes(b"here")
    assert content_hash(FileImages([path]), cache) != absent


@pytest.mark.parametrize("damage", [b"", b"PK", "shape", "type"])
def test_damaged_hashes_are_made_anew(paths, cache, read, damage):
    first = content_hash(FileImages(paths), cache)
    (kept,) = cache.folder.iterdir()
    if damage == "shape":
        np.savez(kept, marks=np.zeros(3, np.uint64), hashes=np.zeros((2, 32), np.uint8))
    elif damage == "type":
        np.savez(kept, marks=np.zeros(3), hashes=np.zeros((3, 32), np.uint8))
    else:
        kept.write_bytes(damage)
    assert content_hash(FileImages(paths), cache) == first
    assert len(read) == 2 * ROWS


def test_files_in_memory_are_told_by_their_files(paths, cache):
    content = np.frombuffer(b"".join(path.read_bytes() for path in paths), np.uint8)
    ends = np.cumsum([path.stat().st_size for path in paths])
    spans = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1)
    images = FileImages(paths)
    assert content_hash(MemoryImages(images, content, spans), cache) == content_hash(images, cache)


def test_pixels_in_memory_are_told_by_their_values(cache):
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    first = content_hash(ArrayImages(pixels, ["a", "b"]), cache)
    assert content_hash(ArrayImages(pixels, ["c", "d"]), cache) == first
    pixels[1, 2, 2, 2] = 1
    assert content_hash(ArrayImages(pixels, ["a", "b"]), cache) != first


def test_parts_of_files_have_none(tmp_path, cache):
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    assert content_hash(CroppedImages(FileImages([path]), np.array([[0.0, 0.0, 4.0, 4.0]])), cache) is None
