import hashlib
import os
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from data.files import cache as cache_module
from data.files.cache import Cache, default_folder, fingerprint, pack, stamp, unpack


def test_what_is_saved_is_loaded(tmp_path):
    cache = Cache(tmp_path / "deep" / "folder")
    codes = np.array([[1, 0], [-1, 1]], dtype=np.int8)
    cache.save("voc", "a" * 64, {"codes": codes, "names": pack(["ä b", "c"])})
    content = cache.load("voc", "a" * 64, ["codes", "names"])
    np.testing.assert_array_equal(content["codes"], codes)
    assert content["codes"].dtype == np.int8
    assert unpack(content["names"]) == ("ä b", "c")
    assert cache.load("coco", "a" * 64, ["codes"]) is None
    assert cache.load("voc", "b" * 64, ["codes"]) is None
    assert cache.load("voc", "a" * 64, ["codes", "boxes"]) is None


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" + b[1:], lambda b: b[:-60]]
)
def test_a_damaged_entry_counts_as_absent(tmp_path, damage):
    cache = Cache(tmp_path)
    cache.save("voc", "a" * 64, {"codes": np.arange(1000)})
    path = cache.path("voc", "a" * 64)
    path.write_bytes(damage(path.read_bytes()))
    assert cache.load("voc", "a" * 64, ["codes"]) is None
    cache.save("voc", "a" * 64, {"codes": np.arange(3)})
    np.testing.assert_array_equal(cache.load("voc", "a" * 64, ["codes"])["codes"], np.arange(3))


def test_flipped_bits_in_the_data_are_noticed(tmp_path):
    cache = Cache(tmp_path)
    cache.save("voc", "a" * 64, {"codes": np.zeros(1000, dtype=np.int8)})
    path = cache.path("voc", "a" * 64)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert cache.load("voc", "a" * 64, ["codes"]) is None


def test_pickled_objects_are_not_loaded(tmp_path):
    cache = Cache(tmp_path)
    np.savez(cache.path("voc", "a" * 64), codes=np.array([{"a": 1}], dtype=object))
    assert cache.load("voc", "a" * 64, ["codes"]) is None


def test_a_folder_that_cannot_be_written_is_passed_over(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / "file" / "cache")
    cache.save("voc", "a" * 64, {"codes": np.zeros(1)})
    assert cache.load("voc", "a" * 64, ["codes"]) is None


def test_nothing_half_written_is_left(tmp_path):
    Cache(tmp_path).save("voc", "a" * 64, {"codes": np.zeros(10)})
    assert [path.name for path in tmp_path.iterdir()] == [Cache(tmp_path).path("voc", "a" * 64).name]


def test_the_fingerprint_sees_version_names_content_order_and_absence(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    prints = [fingerprint("v1", [one]), fingerprint("v2", [one]), fingerprint("v1", [one, two])]
    two.write_text("22")
    prints.append(fingerprint("v1", [one, two]))
    two.write_text("333")
    prints.append(fingerprint("v1", [one, two]))
    os.utime(two, ns=(5, 5))
    assert fingerprint("v1", [one, two]) == prints[-1]
    prints.append(fingerprint("v1", [two, one]))
    assert len(set(prints)) == len(prints)
    assert fingerprint("v1", [two, one]) == prints[-1]


def test_an_entry_is_named_by_half_of_its_fingerprint(tmp_path):
    print_of = "0123456789abcdef" * 4
    assert Cache(tmp_path).path("voc", print_of) == tmp_path / "voc-0123456789abcdef0123456789abcdef.npz"


def test_the_default_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "partial-truth"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_folder() == tmp_path / "home" / ".cache" / "partial-truth"
    assert Cache().folder == default_folder()


def test_no_texts_pack_to_nothing():
    assert unpack(pack([])) == ()


def replaced(file, content):
    """Give a file another content, and keep its time."""
    status = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("place", [0, 5_000, 9_999])
def test_an_annotation_file_is_known_by_its_content(tmp_path, place):
    file = tmp_path / "a.json"
    content = bytearray(range(250)) * 40
    file.write_bytes(content)
    before = fingerprint("v1", [file])
    replaced(file, bytes(content))
    assert fingerprint("v1", [file]) == before
    content[place] ^= 1
    replaced(file, bytes(content))
    assert fingerprint("v1", [file]) != before
    os.utime(file, ns=(1, 1))
    content[place] ^= 1
    file.write_bytes(content)
    assert fingerprint("v1", [file]) == before


@pytest.mark.parametrize(
    ("size", "place"), [(1, 0), (100, 99), (4096, 2048), (4097, 0), (4097, 4096), (90_000, 88_000)]
)
def test_an_image_file_is_known_by_its_ends_too(tmp_path, size, place):
    file = tmp_path / "a.jpg"
    content = bytearray(size)
    file.write_bytes(content)
    before = stamp(file)
    replaced(file, bytes(content))
    assert stamp(file) == before
    content[place] ^= 1
    replaced(file, bytes(content))
    assert stamp(file) != before


def test_an_empty_file_is_no_absent_file(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert stamp(tmp_path / "empty") != stamp(tmp_path / "none") == "absent"
    assert fingerprint("v1", [tmp_path / "empty"]) != fingerprint("v1", [tmp_path / "none"])
    assert stamp(tmp_path) == "absent"  # a folder


SIZES = (0, 1, 2047, 2048, 2049, 4095, 4096, 4097, 65535, 65536, 65537, 300_000)


@pytest.fixture
def files(tmp_path):
    """Files of sizes at which reading takes another turn, a link, a folder, and one that is not there."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"größe {size}" for size in SIZES]
    for path, size in zip(paths, SIZES, strict=True):
        path.write_bytes(rng.bytes(size))
        os.utime(path, ns=(5, 10**18 + size))
    (tmp_path / "link").symlink_to(paths[3])
    (tmp_path / "folder").mkdir()
    return [*paths, tmp_path / "link", tmp_path / "folder", tmp_path / "gone"]


def test_a_fingerprint_is_what_plain_reading_gives(files):
    expected = hashlib.sha256(b"v1")
    for path in files:
        content = hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"absent"
        expected.update(b"\0" + os.fsencode(path) + b"\0" + content)
    assert fingerprint("v1", files) == expected.hexdigest()


def test_a_stamp_is_what_plain_reading_gives(files):
    for path in files:
        if path.is_file():
            content, status = path.read_bytes(), path.stat()
            ends = content[:2048], content[max(2048, len(content) - 2048) :]
            sums = "".join(f"{zlib.crc32(end):08x}" for end in ends)
            assert stamp(path) == stamp(str(path)) == f"{len(content)}:{status.st_mtime_ns}:{sums}"
        else:
            assert stamp(path) == "absent"


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux lists what is open")
def test_nothing_stays_open(files):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        fingerprint("v1", files)
        for path in files:
            stamp(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("content", [b"no array", b"", b"\x93NUMPY\x09\x00"])
def test_an_entry_whose_member_is_no_array_is_absent(tmp_path, content):
    cache = Cache(tmp_path)
    with zipfile.ZipFile(cache.path("voc", "f"), "w") as archive:
        archive.writestr("codes.npy", content)
    assert cache.load("voc", "f", ["codes"]) is None


def test_one_process_at_a_time_computes_an_entry(tmp_path):
    cache, told, inside, leave = Cache(tmp_path / "new"), [], threading.Event(), threading.Event()

    def first():
        with cache.turn("maps", "ab", lambda: told.append("first waits")):
            inside.set()
            leave.wait(10)
            told.append("first is done")

    other = threading.Thread(target=first)
    other.start()
    assert inside.wait(10)
    with cache.turn("maps", "cd", lambda: told.append("another entry waits")):
        pass

    def waits():
        told.append("second waits")
        leave.set()

    with cache.turn("maps", "ab", waits):
        told.append("second is in")
    other.join()
    assert told == ["second waits", "first is done", "second is in"]
    assert list(cache.folder.iterdir()) == []


def test_nobody_waits_where_nothing_can_be_written_or_locked(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with Cache(tmp_path / "file").turn("maps", "ab", lambda: pytest.fail("waits")):
        pass
    monkeypatch.setattr(cache_module, "fcntl", None)
    with Cache(tmp_path).turn("maps", "ab", lambda: pytest.fail("waits")):
        assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_turn_is_given_back_where_computing_fails(tmp_path):
    with pytest.raises(ValueError, match="no image"), Cache(tmp_path).turn("maps", "ab", lambda: None):
        raise ValueError("no image")
    assert list(tmp_path.iterdir()) == []
