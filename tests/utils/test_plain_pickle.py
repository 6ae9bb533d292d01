"""What a pickle asks for, told without running it; what is read of plain pickles: test_safe_files.py."""

import io
import os
import pickle
import subprocess
from collections import OrderedDict

import pytest

from utils.plain_pickle import Fields, named_globals, without_stand_ins


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
