import builtins
import os
import pickle
import re
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch

from utils.checks import UserError
from utils.safe_files import (
    all_finite,
    load_npy,
    load_pickle,
    load_pickled_npy,
    load_tensors,
)

LABELS = np.array([[1, 0, 1], [0, 1, 0]], dtype=np.int32)


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def touching(marker):
    """Objects whose unpickling makes the file `marker`, by various roads."""
    script = f"open({str(marker)!r}, 'w')"
    return {
        "shell": Calls(os.system, f"touch {marker}"),
        "eval": Calls(eval, script),
        "exec": Calls(exec, script),
        "attribute": Calls(getattr(builtins, "exec"), script),  # noqa: B009
        "open": Calls(open, str(marker), "w"),
        "numpy": Calls(np.savetxt, str(marker), [1.0]),
        "nested": {"partial_labels": [LABELS, (1, {"deep": Calls(eval, script)})]},
        "in an array": np.array([1, Calls(eval, script)], dtype=object),
        "as a key": {Calls(eval, script): 1},
        "reduce of reduce": Calls(Calls, eval, script),
    }


ROADS = [name for name in touching("x") if name != "reduce of reduce"]


def one_line(error, path):
    """The message, checked to be one line that names the file."""
    text = str(error.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def write_pickled_npy(path, content):
    np.save(path, np.array(content, dtype=object), allow_pickle=True)


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_hostile_pickles_are_refused_and_not_run(tmp_path, road, protocol):
    marker, file = tmp_path / "marker", tmp_path / "labels.pkl"
    file.write_bytes(pickle.dumps(touching(marker)[road], protocol))
    with pytest.raises(UserError) as error:
        load_pickle(file)
    assert "refused" in one_line(error, file)
    assert not marker.exists()
    pickle.loads(file.read_bytes())
    assert marker.exists()  # the payload was a live one


@pytest.mark.parametrize("road", ROADS)
def test_hostile_npy_is_refused_and_not_run(tmp_path, road):
    marker, file = tmp_path / "marker", tmp_path / "voc07_0.1.npy"
    content = np.empty((), dtype=object)
    content[()] = touching(marker)[road]
    np.save(file, content, allow_pickle=True)
    for load in (load_pickled_npy, load_npy):
        with pytest.raises(UserError) as error:
            load(file)
        one_line(error, file)
    assert not marker.exists()
    np.load(file, allow_pickle=True)
    assert marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("road", ROADS)
def test_hostile_torch_files_are_refused_and_not_run(tmp_path, road, zipped):
    marker, file = tmp_path / "marker", tmp_path / "epoch_30.pth"
    torch.save({"w": torch.ones(2), "x": touching(marker)[road]}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError) as error:
        load_tensors(file)
    one_line(error, file)
    assert not marker.exists()
    torch.load(file, weights_only=False)
    assert marker.exists()


def test_a_refusal_names_what_was_asked_for(tmp_path):
    file = tmp_path / "labels.pkl"
    file.write_bytes(pickle.dumps(Calls(os.system, "true")))
    with pytest.raises(UserError, match=rf"{os.system.__module__}\.system"):
        load_pickle(file)
    torch.save(Calls(os.system, "true"), tmp_path / "a.pth")
    with pytest.raises(UserError, match=rf"{os.system.__module__}\.system"):
        load_tensors(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "module, name",
    [
        ("numpy", "load"),
        ("numpy.core.multiarray", "fromfile"),
        ("numpy.core.multiarray", "_reconstruct.__globals__"),
        ("numpy", "ndarray.tofile"),
        ("numpy.f2py", "main"),
        ("numpy._core._multiarray_umath", "_reconstruct"),
        ("numpy.core.multiarray ", "scalar"),
        ("collections", "defaultdict"),
        ("builtins", "getattr"),
        ("utils.safe_files", "load_pickle"),
    ],
)
def test_names_beside_the_admitted_ones_are_refused(tmp_path, module, name):
    file = tmp_path / "labels.pkl"
    words = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name))
    file.write_bytes(b"\x80\x04" + words + b"\x93.")
    with pytest.raises(UserError, match="refused"):
        load_pickle(file)


def test_bytes_are_only_ever_decoded_from_latin1(tmp_path):
    file = tmp_path / "labels.pkl"
    file.write_bytes(b"c_codecs\nencode\n(Vabc\nVrot13\ntR.")
    with pytest.raises(UserError, match="rot13"):
        load_pickle(file)
    file.write_bytes(b"c_codecs\nencode\n(Vab\\u00e9\nVlatin1\ntR.")
    assert load_pickle(file) == b"ab\xe9"


def test_arrays_within_arrays_and_shared_ones_load(tmp_path):
    inner = np.empty((2, 2), dtype=object, order="F")
    inner[:] = [[LABELS, "a"], [None, {"k": LABELS}]]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([inner, LABELS], 2))
    found, again = load_pickle(tmp_path / "a.pkl")
    assert found.shape == (2, 2)
    assert (found[0, 1], found[1, 0]) == ("a", None)
    assert found[0, 0] is found[1, 1]["k"] is again
    np.testing.assert_array_equal(again, LABELS)


@pytest.mark.parametrize("dtype", ["?", "i1", "u2", ">i4", "<u8", "f2", "f8", "c16", "U7", "S3"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_of_every_plain_type_load(tmp_path, dtype, protocol):
    values = np.arange(6).reshape(3, 2).astype(dtype)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([values, values[2, 1]], protocol))
    found, scalar = load_pickle(tmp_path / "a.pkl")
    np.testing.assert_array_equal(found, values)
    assert found.dtype == values.dtype
    assert found.flags.writeable
    assert scalar == values[2, 1]


@pytest.mark.parametrize(
    "content",
    [np.zeros(2, dtype="i4, f8"), np.datetime64("2020-01-01"), np.ma.masked_array([1]), np.dtype("i4"), OrderedDict],
)
def test_what_is_not_plain_data_is_refused(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"x": content}))
    with pytest.raises(UserError) as error:
        load_pickle(tmp_path / "a.pkl")
    one_line(error, tmp_path / "a.pkl")


def test_a_pickle_that_holds_itself_or_unfolds_without_end_is_harmless(tmp_path):
    cycle = []
    cycle.append(cycle)
    (tmp_path / "cycle.pkl").write_bytes(pickle.dumps(cycle))
    with pytest.raises(UserError):
        load_pickle(tmp_path / "cycle.pkl")
    laughs = ["ha"]
    for _ in range(60):
        laughs = [laughs, laughs]
    (tmp_path / "laughs.pkl").write_bytes(pickle.dumps(laughs))
    found = load_pickle(tmp_path / "laughs.pkl")
    assert found[0] is found[1]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("numpy_1", [True, False])
def test_plain_pickles_load(tmp_path, protocol, numpy_1):
    content = OrderedDict(labels=LABELS, fortran=np.asfortranarray(LABELS), scalar=np.float32(0.5), raw=b"\x00\xff")
    content |= {"names": ["a", "\u00e9"], "nested": {1: (True, None, 2.5)}, "words": np.array(["cat", "dog"])}
    data = pickle.dumps(content, protocol)
    if protocol < 4:  # later protocols store the length of each name
        assert b"numpy._core" in data or b"numpy.core" in data
        data = re.sub(rb"numpy\._?core", b"numpy.core" if numpy_1 else b"numpy._core", data)
    file = tmp_path / "class_freq.pkl"
    file.write_bytes(data)
    found = load_pickle(file)
    assert list(found) == list(content)
    for key, value in content.items():
        np.testing.assert_equal(found[key], value)
        assert type(found[key]) is type(value)


def test_python_2_pickle_loads(tmp_path):
    file = tmp_path / "class_freq.pkl"
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    dtype = b"cnumpy\ndtype\n(S'i2'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    state = b"(I1\n(I2\nt" + dtype + b"I00\nS'\\x01\\x00\\xff\\x00'\nt"
    file.write_bytes(b"(dS'freq'\n" + empty + state + b"bs.")
    np.testing.assert_array_equal(load_pickle(file)["freq"], np.array([1, 255], dtype=np.int16))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_sets_load(tmp_path, protocol):
    content = {"tail": {np.int64(3), 5}, "head": set(), "words": ["a", {"b", 2.5}]}
    file = tmp_path / "class_split.pkl"
    file.write_bytes(pickle.dumps(content, protocol))
    assert load_pickle(file) == content


def test_sets_of_python_2_load(tmp_path):
    file = tmp_path / "class_split.pkl"
    file.write_bytes(b"(dS'tail'\nc__builtin__\nset\n((lI3\naI5\natRs.")
    assert load_pickle(file) == {"tail": {3, 5}}


@pytest.mark.parametrize(
    "data",
    [
        b"c__builtin__\nset\n.",  # the type itself
        b"c__builtin__\nset\n(I1\ntR.",  # of something that is no collection
        b"c__builtin__\nset\n(N}S'__doc__'\nS'x'\nstb.",  # with another state
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"cbuiltins\nset.__class__\n(S'x'\ntR.",
        pickle.dumps({(1, 2): {3}, "x": frozenset([4])}, 2),
    ],
)
def test_what_is_done_to_sets_beyond_filling_them_is_refused(tmp_path, data):
    file = tmp_path / "class_split.pkl"
    file.write_bytes(data)
    with pytest.raises(UserError) as error:
        load_pickle(file)
    one_line(error, file)


def test_a_set_of_arrays_is_refused(tmp_path):
    file = tmp_path / "class_split.pkl"
    file.write_bytes(pickle.dumps(Calls(set, [LABELS]), 2))
    with pytest.raises(UserError, match="where a number or a string is expected") as error:
        load_pickle(file)
    one_line(error, file)


def test_pickled_npy_gives_its_dictionary(tmp_path):
    file = tmp_path / "voc07_0.1.npy"
    write_pickled_npy(file, {"partial_labels": LABELS})
    found = load_pickled_npy(file)
    assert list(found) == ["partial_labels"]
    np.testing.assert_array_equal(found["partial_labels"], LABELS)
    assert found["partial_labels"].dtype == LABELS.dtype


def test_pickled_npy_of_another_form_is_refused(tmp_path):
    np.save(tmp_path / "plain.npy", LABELS)
    with pytest.raises(UserError, match="plain int32 array"):
        load_pickled_npy(tmp_path / "plain.npy")
    np.save(tmp_path / "many.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="one pickled object"):
        load_pickled_npy(tmp_path / "many.npy")


@pytest.mark.parametrize("dtype", ["i1", "u1", "<i4", ">f8", "?", "U5"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_plain_npy_loads(tmp_path, dtype, order, version):
    values = np.arange(6).reshape(2, 3).astype(dtype, order=order)
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, values, version=version)
    found = load_npy(tmp_path / "a.npy")
    np.testing.assert_array_equal(found, values)
    assert found.dtype == values.dtype


def test_a_header_that_promises_too_much_is_refused_without_allocating(tmp_path):
    file = tmp_path / "a.npy"
    with file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": (2**40, 2**30)})
    with pytest.raises(UserError, match="cut short"):
        load_npy(file)


def small_files(folder):
    """A reader and a small good file for each format."""
    np.save(folder / "plain.npy", LABELS)
    write_pickled_npy(folder / "pickled.npy", {"partial_labels": LABELS})
    (folder / "a.pkl").write_bytes(pickle.dumps({"a": LABELS, "b": np.float64(1)}, 2))
    torch.save({"w": torch.arange(4.0)}, folder / "a.pth")
    safetensors.torch.save_file({"w": torch.arange(4.0)}, folder / "a.safetensors")
    return {
        "plain.npy": load_npy, "pickled.npy": load_pickled_npy, "a.pkl": load_pickle,
        "a.pth": load_tensors, "a.safetensors": load_tensors,
    }  # fmt: skip


def test_every_cut_file_is_refused_in_one_line(tmp_path):
    for name, load in small_files(tmp_path).items():
        file, data = tmp_path / name, (tmp_path / name).read_bytes()
        for length in range(0, len(data), max(1, len(data) // 60)):
            file.write_bytes(data[:length])
            with pytest.raises(UserError) as error:
                load(file)
            one_line(error, file)


def test_damaged_bytes_never_escape_as_another_error(tmp_path):
    rng = np.random.default_rng(0)
    for name, load in small_files(tmp_path).items():
        file, data = tmp_path / name, (tmp_path / name).read_bytes()
        said = []
        for place in rng.integers(0, len(data), 150):
            file.write_bytes(data[:place] + bytes([data[place] ^ int(rng.integers(1, 256))]) + data[place + 1 :])
            try:
                load(file)
            except UserError as error:
                said.append(str(error))
        assert said
        assert not any("\n" in text for text in said)


@pytest.mark.parametrize("load", [load_npy, load_pickled_npy, load_pickle, load_tensors])
def test_missing_files_and_folders_are_user_errors(tmp_path, load):
    for path in (tmp_path / "absent.npy", tmp_path):
        with pytest.raises(UserError) as error:
            load(path)
        one_line(error, path)


def test_tensors_load_from_both_formats(tmp_path):
    state = {"a.weight": torch.arange(6.0).view(2, 3), "n": torch.tensor(3)}
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    torch.save({"model": state, "epoch": 3, "names": ["x"]}, tmp_path / "a.pth")
    torch.testing.assert_close(load_tensors(tmp_path / "a.safetensors"), state, rtol=0, atol=0)
    found = load_tensors(tmp_path / "a.pth")
    assert found["epoch"] == 3
    torch.testing.assert_close(found["model"], state, rtol=0, atol=0)


class Twins:
    """Pickles as a tuple of two of itself, many times over: small to store, endless to hash."""

    def __init__(self, depth):
        self.depth = depth

    def held(self):
        value = (1, 2)
        for _ in range(self.depth):
            value = (value, value)
        return value


@pytest.mark.parametrize("wrap", [lambda key: [key], lambda key: (key, 1)], ids=["list", "tuple"])
def test_what_is_endless_to_hash_is_never_hashed(tmp_path, wrap):
    bomb = Twins(60).held()
    body = pickle.dumps(wrap(bomb), protocol=2)[2:-1]  # without the protocol sign and the end
    for name, stream in {
        "set": b"\x80\x02c__builtin__\nset\n" + pickle.dumps([bomb], 2)[2:-1] + b"\x85R.",
        "frozenset": b"\x80\x04(" + body + b"\x91.",
        "additems": b"\x80\x04\x8f(" + body + b"\x90.",
        "setitem": b"\x80\x02}" + body + b"K\x01s.",
        "setitems": b"\x80\x02}(" + body + b"K\x01u.",
        "dict": b"\x80\x02(" + body + b"K\x01d.",
        "ordered": b"\x80\x02ccollections\nOrderedDict\n]((" + body + b"K\x01le\x85R.",
    }.items():
        file = tmp_path / f"{name}.pkl"
        file.write_bytes(stream)
        with pytest.raises(UserError, match=f"{name}\\.pkl"):
            load_pickle(file)


@pytest.mark.parametrize("shape", ["(0, 10**30)", "(-2, -3)", "(True,)", "(-1,)"])
def test_a_header_with_a_shape_that_no_array_has_is_refused(tmp_path, shape):
    file = tmp_path / "x.npy"
    np.save(file, np.arange(6))
    head = b"{'descr': '<i8', 'fortran_order': False, 'shape': %s, }" % shape.replace("10**30", "1" + "0" * 30).encode()
    head = head.ljust(117) + b"\n"
    file.write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + bytes(48))
    with pytest.raises(UserError, match=r"x\.npy"):
        load_npy(file)


def test_texts_that_are_none_are_refused(tmp_path):
    file = tmp_path / "x.npy"
    np.save(file, np.array([0x110000, 65], dtype="u4").view("U2"))
    with pytest.raises(UserError, match="text 0 contains an invalid character"):
        load_npy(file)
    np.save(file, np.array(["a\u00e9", "\U0001f600"]))
    assert load_npy(file).tolist() == ["a\u00e9", "\U0001f600"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_one_number_that_is_not_finite_is_seen_wherever_it_is(dtype):
    for bad in (float("nan"), float("inf"), -float("inf")):
        for place in range(35):
            value = torch.randn(5, 7).to(dtype)
            assert all_finite(value)
            value.view(-1)[place] = bad
            assert not all_finite(value)


def test_whole_numbers_and_nothing_are_finite():
    assert all(all_finite(torch.ones(3, dtype=dtype)) for dtype in (torch.int64, torch.uint8, torch.bool))
    assert all_finite(torch.empty(0, 4))
