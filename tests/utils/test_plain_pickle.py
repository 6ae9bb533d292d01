"""What a pickle asks for, told without running it; what is read of plain pickles: test_safe_files.py."""

import io
import os
import pickle
import subprocess
from collections import OrderedDict

import pytest

from utils.plain_pickle import Fields, PlainUnpickler, named_globals, without_stand_ins


class Calls:
    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


def names(content, protocol):
    return named_globals(io.BytesIO(pickle.dumps(content, protocol)))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_name_is_told_whatever_the_protocol(protocol):
    content = [OrderedDict(a=1), Calls(subprocess.check_output, "x"), {"k": Calls(os.system, "true")}, Calls(eval, "1")]
    found = names(content, protocol)
    assert [name for name in found if name != "copyreg._reconstructor"] == [
        "collections.OrderedDict",
        "subprocess.check_output",
        f"{os.system.__module__}.system",
        "builtins.eval",
    ]


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_name_that_is_asked_for_again_is_found_where_it_was_kept(protocol):
    found = names([Calls(os.getenv, "a"), Calls(os.putenv, "b", "c")], protocol)
    assert found == ["os.getenv", f"{os.putenv.__module__}.putenv"]


def test_a_damaged_pickle_tells_what_comes_before_the_damage():
    data = pickle.dumps([Calls(os.getenv, "a"), Calls(eval, "1")], protocol=2)
    cut = data[: data.index(b"eval")]
    assert named_globals(io.BytesIO(cut)) == ["os.getenv"]


@pytest.mark.parametrize("data", [b"", b"a checkpoint\nof words\n" * 4, b"\x00\x01\x02", b"cos\nsystem\n"])
def test_what_is_no_pickle_names_nothing(data):
    assert named_globals(io.BytesIO(data)) == []


def test_objects_of_named_values_become_dictionaries_wherever_they_are():
    inner, outer = Fields(), Fields()
    inner.lr = 0.1
    outer.options, outer.names = [inner], ("a", {"b": inner})
    expected = {"lr": 0.1}
    assert without_stand_ins({"x": outer}, {}) == {"x": {"options": [expected], "names": ("a", {"b": expected})}}


def test_what_holds_itself_is_no_plain_data():
    turning = Fields()
    turning.own = [turning]
    with pytest.raises(RecursionError):
        without_stand_ins(turning, {})


def read(data):
    return without_stand_ins(PlainUnpickler(io.BytesIO(data), encoding="latin1").load(), {})


EMPTY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"


def pickled_dtype(code, state=b"NNN"):
    return b"cnumpy\ndtype\n(S'" + code + b"'\nI00\nI01\ntR(I3\nS'<'\n" + state + b"I-1\nI-1\nI0\ntb"


def pickled_array(dtype, length, data):
    return EMPTY + b"(I1\n(I%d\nt" % length + dtype + b"I00\n" + data + b"tb."


def pickled_buffer(dtype, length, data):
    return b"cnumpy.core.numeric\n_frombuffer\n(" + data + dtype + b"(I%d\ntS'C'\ntR." % length


@pytest.mark.parametrize("pickled", [pickled_array, pickled_buffer])
def test_arrays_are_as_long_as_their_bytes(pickled):
    data = b"S'\\x01\\x00\\xff\\x00'\n"
    assert read(pickled(pickled_dtype(b"i2"), 2, data)).tolist() == [1, 255]
    for length, code in ((1, b"i2"), (3, b"i2"), (2, b"i1"), (2, b"i4")):
        with pytest.raises(ValueError, match="4 bytes for a"):
            read(pickled(pickled_dtype(code), length, data))


def test_objects_are_never_made_of_bytes():
    with pytest.raises(ValueError, match="8 bytes for a object array"):
        read(pickled_buffer(pickled_dtype(b"O8"), 1, b"S'" + rb"\x00" * 8 + b"'\n"))


@pytest.mark.parametrize("state", [b"(NI1\ntNN", b"N(S'a'\ntN", b"NN(d"])
def test_subarrays_names_and_fields_are_not_plain(state):
    with pytest.raises(ValueError, match="structured arrays are not plain"):
        read(pickled_array(pickled_dtype(b"i2", state), 1, b"S'ab'\n"))


def test_an_array_of_objects_holds_as_many_as_its_shape_says():
    assert read(pickled_array(pickled_dtype(b"O8"), 2, b"(lS'a'\naNa")).tolist() == ["a", None]
    for length in (1, 3):
        with pytest.raises(ValueError, match=f"2 objects for an array of shape \\({length},\\)"):
            read(pickled_array(pickled_dtype(b"O8"), length, b"(lS'a'\naNa"))


def test_only_arrays_are_rebuilt_as_arrays():
    with pytest.raises(ValueError, match="only plain arrays are rebuilt"):
        read(EMPTY.replace(b"cnumpy\nndarray\n", b"c_codecs\nencode\n") + b".")


@pytest.mark.parametrize("bare", [b"c_codecs\nencode\n", b"cnumpy\nndarray\n", pickled_dtype(b"i4")])
def test_functions_types_and_dtypes_are_no_data(bare):
    with pytest.raises(ValueError, match="where data is expected"):
        read(b"]" + bare + b"a.")


SET = b"(\x91"  # an empty frozenset, which may be hashed, and which no key or element is
HASHED = {
    "setitems": b"}(" + 2 * b"K\x01K\x02" + SET + b"K\x03u.",
    "dict": b"(" + 2 * b"K\x01K\x02" + SET + b"K\x03d.",
    "additems": b"\x8f(K\x01" + SET + b"\x90.",
    "frozenset": b"(K\x01" + SET + b"\x91.",
    "ordered": b"ccollections\nOrderedDict\n](K\x01K\x02\x86" + SET + b"K\x03\x86e\x85R.",
}


@pytest.mark.parametrize("kind", HASHED)
def test_every_key_and_element_is_checked_and_no_value(kind):
    with pytest.raises(ValueError, match="a frozenset where a number or a string is expected"):
        read(b"\x80\x04" + HASHED[kind])
    keys = b"K\x01" + SET + b"K\x02" + SET + b"K\x03" + SET
    made = {1: frozenset(), 2: frozenset(), 3: frozenset()}
    assert read(b"\x80\x04}(" + keys + b"u.") == read(b"\x80\x04(" + keys + b"d.") == made
    assert read(b"\x80\x04}K\x01" + SET + b"s.") == {1: frozenset()}


def test_names_of_python_2_are_told_as_those_of_python_3():
    data = b"\x80\x02c__builtin__\nxrange\n0ccPickle\nloads\n0(S'x'\nios\nsystem\n."
    assert named_globals(io.BytesIO(data)) == ["builtins.range", "pickle.loads", "os.system"]


def test_the_first_text_that_was_kept_is_found_again():
    data = b"\x80\x04\x8c\x02os\x94\x8c\x06getenv\x94\x930h\x00\x8c\x06putenv\x94\x930h\x00h\x01\x93."
    assert named_globals(io.BytesIO(data)) == ["os.getenv", "os.putenv", "os.getenv"]
