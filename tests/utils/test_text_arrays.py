"""`.npy` files at the limits: every character that there is, none that there is not, and the longest side."""

import pickle

import numpy as np
import pytest

from utils.checks import UserError
from utils.safe_files import load_npy, load_pickled_npy


def file_of(path, points, byteorder="<"):
    """An `.npy` of texts of two characters each, from their code points, valid or not."""
    with path.open("wb") as file:
        header = {"descr": f"{byteorder}U2", "fortran_order": False, "shape": (len(points),)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(np.array(points, dtype=f"{byteorder}u4").tobytes())
    return path


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("point", [0xD7FF, 0xE000, 0x10FFFF, 0xFFFF, 1])
def test_the_last_characters_before_and_behind_the_surrogates_are_read(tmp_path, point, byteorder):
    file = file_of(tmp_path / "names.npy", [(ord("a"), point), (point, ord("b"))], byteorder)
    assert load_npy(file).tolist() == [f"a{chr(point)}", f"{chr(point)}b"]


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("point", [0xD800, 0xDBFF, 0xDC00, 0xDFFF, 0x110000, 0xFFFFFFFF])
@pytest.mark.parametrize("place", [0, 1])
def test_half_characters_and_numbers_beyond_unicode_are_refused_by_number(tmp_path, point, byteorder, place):
    texts = [[ord("a"), ord("b")] for _ in range(4)]
    texts[2][place] = point
    with pytest.raises(UserError, match=r"names\.npy: text 2 contains an invalid character"):
        load_npy(file_of(tmp_path / "names.npy", texts, byteorder))


def test_the_first_of_several_is_named(tmp_path):
    with pytest.raises(UserError, match="text 1 contains"):
        load_npy(file_of(tmp_path / "names.npy", [(97, 98), (0xD800, 98), (97, 98), (0xDFFF, 98)]))


def empty_file(path, shape, kind="|i1"):
    """An `.npy` with a header alone."""
    with path.open("wb") as file:
        header = {"descr": kind, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
    return path


def test_the_longest_side_of_an_array_is_one_below_2_to_the_62(tmp_path):
    assert load_npy(empty_file(tmp_path / "long.npy", (0, 2**62 - 1))).shape == (0, 2**62 - 1)
    with pytest.raises(UserError, match=r"no array has shape \(0, 4611686018427387904\)"):
        load_npy(empty_file(tmp_path / "longer.npy", (0, 2**62)))
    assert load_npy(empty_file(tmp_path / "none.npy", (0,), "<U0")).shape == (0,)
    with pytest.raises(UserError, match=r"no array has shape \(3,\) of <U0"):
        load_npy(empty_file(tmp_path / "some.npy", (3,), "<U0"))


def test_newer_files_are_refused_by_their_version(tmp_path):
    with (tmp_path / "new.npy").open("wb") as file:
        np.lib.format.write_array(file, np.arange(3), version=(3, 0))
    with pytest.raises(UserError, match=r"new\.npy: \.npy format \(3, 0\) is not supported"):
        load_npy(tmp_path / "new.npy")


def test_what_lies_behind_the_numbers_is_not_read_and_too_few_are_counted(tmp_path):
    file = tmp_path / "a.npy"
    np.save(file, np.arange(6, dtype="<i4").reshape(2, 3))
    data = file.read_bytes()
    file.write_bytes(data + b"more")
    assert load_npy(file).tolist() == [[0, 1, 2], [3, 4, 5]]
    file.write_bytes(data[:-1])
    with pytest.raises(UserError, match=r"cut short: 23 bytes of data where \(2, 3\) int32 needs 24"):
        load_npy(file)


@pytest.mark.parametrize(
    ("content", "kind"), [({"a": 1}, "dict"), (np.array(3), "ndarray"), (np.array([{}], dtype=object), "ndarray")]
)
def test_a_pickled_array_is_one_object(tmp_path, content, kind):
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(content, file)
    with pytest.raises(UserError, match=rf"expected one pickled object, found {kind} with shape \(\)"):
        load_pickled_npy(tmp_path / "a.npy")
