"""Features of every form are read where they are, and what is wrong with a file is one line."""

import hashlib
import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from data.features.reader import FeatureFile, ids_beside, mapped_features, plain_numbers, read_features
from tests.data.features.files import FORMS, IDS, npy, npz, numbers, tensors
from utils.checks import UserError


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 2, 2)])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_numbers_and_ids_that_were_written(tmp_path, form, shape, dtype):
    features = numbers(shape, dtype)
    file = read_features(FORMS[form](tmp_path / f"x{form}", features))
    assert (file.ids, file.shape) == (IDS, shape[1:])
    found = file.rows(np.array([2, 0]))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, features[[2, 0]])
    assert file.rows(np.array([], dtype=np.int64)).shape == (0, *shape[1:])
    file.require_finite()


def test_bfloat16_becomes_single_precision_without_a_change(tmp_path):
    features = torch.from_numpy(numbers()).bfloat16()
    file = read_features(tensors(tmp_path / "x.safetensors", features))
    found = file.rows(np.array([3, 1]))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, features[[3, 1]].float())
    file.require_finite()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">f8"])
def test_arrays_of_other_orders_are_the_same_numbers(tmp_path, dtype, order):
    features = numbers().astype(dtype)
    file = read_features(npy(tmp_path / "x.npy", np.asarray(features, order=order)))
    found = file.rows(np.array([1, 2]))
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, features[1:3])
    torch.from_numpy(found)
    file.require_finite()


@pytest.mark.parametrize("form", FORMS)
def test_the_numbers_stay_in_the_file(tmp_path, form):
    values = mapped_features(FORMS[form](tmp_path / f"x{form}", numbers()))
    base = values
    while isinstance(base, np.ndarray):
        base = base.base
    assert type(base.obj if isinstance(base, memoryview) else base).__name__ == "mmap"
    assert not values.flags.writeable


def test_compressed_arrays_are_read_and_compared_with_their_checksum(tmp_path):
    path = npz(tmp_path / "x.npz", np.zeros((4, 900), np.float32), save=np.savez_compressed)
    np.testing.assert_array_equal(read_features(path).rows(slice(None)), np.zeros((4, 900)))
    content = bytearray(path.read_bytes())
    content[content.index(b"features.npy") + 60] ^= 255
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.npz: damaged, or no \.npz file"):
        read_features(path)


def test_large_compressed_arrays_are_refused(tmp_path, monkeypatch):
    path = npz(tmp_path / "x.npz", np.zeros((4, 900), np.float32), save=np.savez_compressed)
    monkeypatch.setattr("data.features.reader._LARGEST_PACKED", 1000)
    with pytest.raises(UserError, match=r"features\.npy takes 0\.0 GB and is compressed.* numpy\.savez, or as \.npy"):
        read_features(path)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (np.array([7, 8, 9, 10]), ("7", "8", "9", "10")),
        (np.array(["é".encode(), b"b", b"c", b"d"]), ("é", "b", "c", "d")),
        (np.array(["a b", "c", "d", "e"]).astype(">U3"), ("a b", "c", "d", "e")),
    ],
)
def test_ids_are_texts_bytes_or_whole_numbers(tmp_path, ids, expected):
    assert read_features(npz(tmp_path / "x.npz", numbers(), ids)).ids == expected


def test_ids_in_metadata_may_be_whole_numbers(tmp_path):
    assert read_features(tensors(tmp_path / "x.safetensors", numbers(), [1, "b", 3, 4])).ids == ("1", "b", "3", "4")


def test_lines_of_ids_may_end_as_on_windows_and_without_a_last_break(tmp_path):
    path = npy(tmp_path / "x.npy", numbers())
    ids_beside(path).write_bytes(b"\xef\xbb\xbfa\r\nb\r\n c \r\nd")
    assert read_features(path).ids == ("a", "b", "c", "d")


def test_the_hash_is_that_of_the_files(tmp_path):
    path = npy(tmp_path / "x.npy", numbers())
    expected = hashlib.sha256(path.read_bytes() + ids_beside(path).read_bytes()).hexdigest()
    assert read_features(path).content_hash() == expected
    other = npz(tmp_path / "x.npz", numbers())
    assert read_features(other).content_hash() == hashlib.sha256(other.read_bytes()).hexdigest()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
@pytest.mark.parametrize("block", [1, 1 << 24])
def test_a_number_that_is_not_finite_is_named_by_its_image(tmp_path, monkeypatch, value, block):
    monkeypatch.setattr("data.features.reader._BLOCK", block)
    features = numbers((4, 2, 2, 2), np.float64)
    features[1, 1, 0, 1] = value
    file = read_features(npz(tmp_path / "x.npz", features))
    with pytest.raises(UserError, match=r"x\.npz: the features of 'b/2\.jpg' \(row 1\) are not finite"):
        file.require_finite()
    if not abs(value) < np.inf:
        file = read_features(tensors(tmp_path / "x.safetensors", torch.from_numpy(features).bfloat16()))
        with pytest.raises(UserError, match=r"'b/2\.jpg' \(row 1\)"):
            file.require_finite()


def test_plain_numbers_leaves_what_is_plain():
    features = numbers()
    assert plain_numbers(features) is features


def with_line(path, text):
    npy(path, numbers())
    ids_beside(path).write_text(text)


def bare(path, features=None, **more):
    safetensors.torch.save_file({"features": torch.zeros(4, 6) if features is None else features}, path, **more)


def packed(path, **arrays):
    np.savez(path, **arrays)


class Payload:
    def __reduce__(self):
        return pytest.fail, ("code of a file ran",)


def pickled(path):
    array = np.empty((4, 6), object)
    array[:] = Payload()
    np.save(path, array)
    ids_beside(path).write_text("a\nb\nc\nd")


def pickled_npz(path):
    np.savez(path, features=numbers(), ids=np.array([Payload()] * 4, object))


def bare_pickle(path):
    path.write_bytes(pickle.dumps(Payload()))
    ids_beside(path).write_text("a")


def cut(path, number):
    npy(path, numbers())
    path.write_bytes(path.read_bytes()[:-number])


def doubled(path):
    content = io.BytesIO()
    np.save(content, numbers())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("features.npy", content.getvalue())
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("features.npy", content.getvalue())


def moved(path):
    """A central directory that points where no member is."""
    npz(path, numbers())
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02") + 42
    content[at : at + 4] = (7).to_bytes(4, "little")
    path.write_bytes(content)


def flipped(path):
    """One bit of the numbers of a stored array."""
    npz(path, np.zeros((4, 6), np.float32))
    content = bytearray(path.read_bytes())
    content[content.index(b"ids.npy") - 60] ^= 1  # a small number, which is finite
    path.write_bytes(content)


def write_text(path):
    path.write_text("not what the name says")


FAULTS = [
    ("x.csv", write_text, "features are read from .npz, .safetensors, .npy"),
    ("x.npz", lambda path: None, "cannot be read: No such file"),
    ("x.npz", lambda path: path.mkdir(), "cannot be read: Is a directory"),
    ("x.npy", lambda path: path.write_bytes(b""), "is empty"),
    ("x.npz", write_text, "damaged, or no .npz file"),
    ("x.npy", write_text, "not an .npy file"),
    ("x.safetensors", write_text, "not a readable file of tensors"),
    ("x.npz", lambda path: packed(path, x=numbers(), ids=np.array(IDS)), "no arrays `features` (there is x, ids)"),
    ("x.npz", lambda path: packed(path, features=numbers()), "no arrays `ids` (there is features)"),
    ("x.npz", doubled, "2 arrays `features`"),
    ("x.npz", moved, "damaged"),
    ("x.npz", flipped, "damaged"),
    ("x.npz", lambda path: packed(path, features=numbers(), ids=np.zeros(4)), "`ids` is float64 of the shape 4"),
    ("x.npz", lambda path: packed(path, features=numbers(), ids=np.array([IDS])), "of the shape 1 x 4"),
    ("x.npz", lambda path: npz(path, numbers(), np.array([b"\xff", b"b", b"c", b"d"])), "not UTF-8"),
    ("x.npz", lambda path: npz(path, numbers(), IDS[:3]), "`ids`: 3 ids for 4 rows"),
    ("x.npz", lambda path: npz(path, numbers(), np.array([], "U3")), "`ids`: 0 ids for 4 rows"),
    ("x.npz", lambda path: npz(path, numbers(), np.array([], "U3").view("S1")), "0 ids for 4 rows"),
    ("x.npz", lambda path: npz(path, numbers(), np.array([0x110000] * 4, "u4").view("U1")), "id 0 contains an invalid"),
    ("x.npz", lambda path: npz(path, numbers(), [*"abca"]), "'a' stands there twice (rows 0 and 3)"),
    ("x.npz", lambda path: npz(path, numbers(), ["a", "", "c", "d"]), "id 1 (from 0) is ''"),
    ("x.npz", lambda path: npz(path, numbers(), ["a", "b\x1b", "c", "d"]), "id 1 (from 0) is 'b\\x1b'"),
    ("x.npz", lambda path: npz(path, numbers((4,))), "shape 4; must be N x D"),
    ("x.npz", lambda path: npz(path, numbers((4, 2, 3))), "shape 4 x 2 x 3; must be N x D, or N x D x h x w"),
    ("x.npz", lambda path: npz(path, numbers((4, 0))), "shape 4 x 0"),
    ("x.npz", lambda path: npz(path, np.ones((4, 6), int)), "features are int64; must be float16"),
    ("x.npz", lambda path: npz(path, np.ones((4, 6), np.uint16)), "features are uint16; must be float16"),
    ("x.npz", pickled_npz, "pickled Python objects"),
    ("x.npy", pickled, "pickled Python objects"),
    ("x.npy", bare_pickle, "not an .npy file"),
    ("x.npy", lambda path: cut(path, 1), "cut short: 95 bytes of data"),
    ("x.npy", lambda path: np.save(path, numbers()), "x.ids.txt: cannot be read"),
    ("x.npy", lambda path: with_line(path, "a\nb\nc\n"), "x.ids.txt: 3 ids for 4 rows"),
    ("x.npy", lambda path: with_line(path, "a\n\nc\nd\n"), "id 1 (from 0) is ''"),
    ("x.safetensors", bare, "has no `ids` in its metadata"),
    ("x.safetensors", lambda path: bare(path, metadata={"ids": "[1,"}), "metadata `ids`: no JSON"),
    ("x.safetensors", lambda path: bare(path, metadata={"ids": '{"a": 1}'}), "must be a list of texts"),
    ("x.safetensors", lambda path: bare(path, metadata={"ids": "[1, 2.5, true, 4]"}), "must be a list of texts"),
    ("x.safetensors", lambda path: bare(path, torch.ones(4, 6, dtype=torch.int64)), "features are I64"),
    (
        "x.safetensors",
        lambda path: safetensors.torch.save_file({"y": torch.ones(1)}, path, {"ids": json.dumps(["a"])}),
        "has no tensor `features` (there is y)",
    ),
]


@pytest.mark.parametrize(("name", "write", "words"), FAULTS, ids=[words for *_, words in FAULTS])
def test_what_is_wrong_with_a_file_is_one_line(tmp_path, name, write, words):
    write(tmp_path / name)
    with pytest.raises(UserError) as told:
        read_features(tmp_path / name).require_finite()
    assert words in str(told.value)
    assert "\n" not in str(told.value)
    assert str(tmp_path / "x") in str(told.value)


def test_a_row_is_found_by_its_place():
    file = FeatureFile(None, numbers(), IDS)
    np.testing.assert_array_equal(file.rows(slice(1, 3)), numbers()[1:3])


@pytest.mark.parametrize("count, shown", [(8, 8), (9, 8)])
def test_eight_arrays_that_there_are_instead_are_shown_and_long_names_cut(tmp_path, count, shown):
    names = [f"{n}".ljust(41, "x") for n in range(count)]
    listed = f"(there is {', '.join(name[:40] for name in names[:shown])});"
    packed(tmp_path / "x.npz", **{name: np.ones(1) for name in names})
    with pytest.raises(UserError) as told:
        read_features(tmp_path / "x.npz")
    assert listed in str(told.value)
    safetensors.torch.save_file({name: torch.ones(1) for name in names}, tmp_path / "x.safetensors")
    with pytest.raises(UserError) as told:
        read_features(tmp_path / "x.safetensors")
    assert len(str(told.value).partition("(there is ")[2].split(", ")) == shown
    assert "x" * 39 in str(told.value)
    assert "x" * 40 not in str(told.value)


def test_eight_sides_of_a_shape_are_shown(tmp_path):
    packed(tmp_path / "x.npz", features=np.ones((1,) * 9, np.float32), ids=np.array(["a"]))
    with pytest.raises(UserError, match=r"the shape 1( x 1){7}; must be N x D"):
        read_features(tmp_path / "x.npz")


def test_of_a_long_error_of_an_archive_160_characters_are_said(tmp_path, monkeypatch):
    def refuse(file):
        raise ValueError("y" * 161 + "\nmore")

    npz(tmp_path / "x.npz", numbers())
    monkeypatch.setattr("data.features.reader.zipfile.ZipFile", refuse)
    with pytest.raises(UserError, match=r"no \.npz file \(y{160}\); save it again"):
        read_features(tmp_path / "x.npz")


@pytest.mark.parametrize("least, fits", [(0, True), (1, False)])
def test_compressed_arrays_may_be_as_large_as_the_limit(tmp_path, monkeypatch, least, fits):
    path = npz(tmp_path / "x.npz", np.zeros((4, 900), np.float32), save=np.savez_compressed)
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo("features.npy").file_size
    monkeypatch.setattr("data.features.reader._LARGEST_PACKED", size - least)
    if fits:
        assert read_features(path).shape == (900,)
    else:
        with pytest.raises(UserError, match="is compressed"):
            read_features(path)


def test_ids_may_hold_unusual_spaces(tmp_path):
    assert read_features(npz(tmp_path / "x.npz", numbers(), ["a\u3000b", "b\u00a0c", "c", "d"])).ids[0] == "a\u3000b"
