import pytest

from data.datasets.table.cells import are_marks, is_other_content, names_of_list, read_cells, split_names
from utils.checks import UserError


def names(texts, requested=None, **more):
    reading = read_cells(texts, "t.csv: column 'tags'", requested, **more)
    return sorted({name for text in texts for name in reading.names(text)}), reading


@pytest.mark.parametrize(
    "texts, separator, found",
    [
        (["cat;dog", "dog"], ";", ["cat", "dog"]),
        (["cat; dog", "dog ;bird"], ";", ["bird", "cat", "dog"]),
        (["a|b", "c"], "|", ["a", "b", "c"]),
        (["a, b", "c"], ",", ["a", "b", "c"]),
        (["Smith, J;Doe, A", "Doe, A"], ";", ["Doe, A", "Smith, J"]),
        (["traffic light|stop sign", "stop sign"], "|", ["stop sign", "traffic light"]),
        (["clear primary", "clear", "primary road clear"], " ", ["clear", "primary", "road"]),
        (["16 0", "7 1  2 0", "5", "1"], " ", ["0", "1", "16", "2", "5", "7"]),
        (["a+b", "b+c+a", "c"], "+", ["a", "b", "c"]),
        (["a#b", "b", "a#b#c"], "#", ["a", "b", "c"]),
        (["a/b", "b/c/a", "c"], "/", ["a", "b", "c"]),
        (["16 0", "7 1 2 0", "5 3 8", "1"], " ", ["0", "1", "16", "2", "3", "5", "7", "8"]),  # a quarter recurs
    ],
)
def test_the_separator_is_found_from_the_cells(texts, separator, found):
    got, reading = names(texts)
    assert got == found
    assert reading.separator == separator
    assert reading.notes == ()


@pytest.mark.parametrize(
    "texts",
    [
        ["stop sign", "traffic light", "dining table"],  # no part recurs
        ["/m/cat", "/m/dog", "/m/car"],  # nothing before the first
        ["scab", "frog_eye_leaf_spot"],
        ["cat", "dog"],
        ["C++", "C", "C#"],
        ["", "one name"],
    ],
)
def test_names_that_hold_what_could_separate_stay_whole(texts):
    got, reading = names(texts)
    assert got == sorted(filter(None, texts))
    assert reading.separator is None
    assert reading.notes == ()


def test_a_name_that_holds_another_is_a_note():
    singles = [f"class{n}" for n in range(30)]
    _, reading = names(["stop sign", "stop", *singles])
    assert reading.separator is None
    assert "a name holds another ('stop', with blanks beside it); is --label_separator ' ' meant?" in reading.notes[0]


def test_two_readings_that_are_equally_likely_are_refused_and_both_shown():
    texts = ["red car", "blue car", "red bus", "blue bus"]
    with pytest.raises(UserError) as refusal:
        names(texts)
    said = str(refusal.value)
    assert (
        "t.csv: column 'tags': can be read in 2 ways: 4 classes such as 'red car', 'blue car', 'red bus', ..." in said
    )
    assert "with --label_separator ' ' 4 such as 'blue', 'bus', 'car', ..." in said
    assert names(texts, " ")[0] == ["blue", "bus", "car", "red"]
    assert names(texts, ";")[0] == sorted(texts)
    with pytest.raises(UserError, match="in 2 ways: 4 classes"):  # a blank cell is no name of another length
        names([*texts, ""])
    with pytest.raises(UserError, match="3 ways"):
        names(["a b+c", "c+a b", "a b", "c", "c b+a", "b", "a"])


@pytest.mark.parametrize(
    "cell, found",
    [
        ("['a', 'b c']", ["a", "b c"]),
        ('["a", "b"]', ["a", "b"]),
        ("[]", []),
        ("('a', 'b')", ["a", "b"]),
        ("{'a'}", ["a"]),
        ('{"choices": ["a", "b"]}', ["a", "b"]),
        ('{"choices": "a"}', ["a"]),
        ("[1, 2]", ["1", "2"]),
        ("[a, b c]", ["a", "b c"]),
        ("['Don\\'t', \"x\"]", ["Don't", "x"]),
        ("a", None),
        ("[a", None),
        ("(a) b (c)", None),
        ('{"other": ["a"]}', None),
        ('{"choices": ["a"], "more": 1}', None),
        ("[['a'], 'b']", None),
        ("[True]", None),
        ("[a, 'b]", None),
        ("[" * 3000 + "]" * 3000, None),
        ("['a' 'b c']", ["a", "b c"]),
        ("['a'\n \"b\"]", ["a", "b"]),
        ("[0 12\n 3]", ["0", "12", "3"]),
        ("[a b]", ["a b"]),
        ("{a,b c}", ["a", "b c"]),
        ("{}", []),
        ("set()", []),
        ("()", []),
        ("{a: 1}", None),
        ("['a' b]", None),
    ],
)
def test_lists_that_stand_in_cells(cell, found):
    assert names_of_list(cell) == found


def test_lists_and_single_names_stand_side_by_side_whatever_the_separator():
    texts = ['{"choices": ["a;b", "c"]}', "c", "d"]
    for separator in (None, ";", ","):
        assert names(texts, separator)[0] == ["a;b", "c", "d"]


def test_whole_cells_are_names():
    assert names(["Smith, J", "a;b"], whole=True)[0] == ["Smith, J", "a;b"]


@pytest.mark.parametrize(
    "cell, separator, found",
    [
        ("", ";", []),
        ("a", None, ["a"]),
        ("a;;b", ";", ["a", "", "b"]),
        (" a  b ", " ", ["a", "b"]),
        ("a :: b", "::", ["a", "b"]),
    ],
)
def test_splitting(cell, separator, found):
    assert split_names(cell, separator) == found


@pytest.mark.parametrize(
    "texts, words",
    [
        (["a b", "b", "a"], "separated by blanks"),
        (["a|b"], "separated by '|'"),
        (["['a']"], "in lists"),
        (["['a']", "b;c"], "in lists or separated by ';'"),
        (["a"], "one in a cell"),
    ],
)
def test_a_reading_in_words(texts, words):
    assert str(names(texts)[1]) == words


def test_long_names_and_many_are_cut_in_a_refusal():
    texts = [f"{colour * 30} {thing}" for colour in ("ab", "cd") for thing in ("x", "y")]
    with pytest.raises(UserError) as refusal:
        names(texts)
    shown = ", ".join(repr(text[:40]) for text in texts[:3])
    assert f"4 classes such as {shown}, ..., or with --label_separator ' ' 4 such as" in str(refusal.value)


@pytest.mark.parametrize(
    "cell, other",
    [
        ('["a", null]', True),
        ("[['a']]", True),
        ('{"bbox": [1, 2], "categories": [0]}', True),
        ("{'a': 1}", True),
        ("[a, 'b]", False),
        ("(left) eye (right)", False),
        ("['a']", False),
        ("{}", False),
        ("cat", False),
        ("", False),
    ],
)
def test_lists_of_other_things_than_names(cell, other):
    assert is_other_content(cell) is other


@pytest.mark.parametrize(
    "cells, marks",
    [
        (["0 1 1", "", "1 0 0"], True),
        (["[0, 1, 1]", "[0, 0, 0]"], True),
        (["0.0,1.0,1.0"], True),
        (["0;1;1", "1;1;1"], True),
        (["0 1", "1 0"], False),
        (["0 1 1", "1 0"], False),
        (["0 1 2"], False),
        (["a b c"], False),
        ([""], False),
    ],
)
def test_a_mark_for_each_class_in_a_cell(cells, marks):
    assert are_marks(cells) is marks


def recurring(parts):
    """Names of two words and single ones, with so many different words, of which three recur."""
    return ["a b", "a", "b c", "c", *(f"d{n}" for n in range(parts - 3))]


def test_a_tenth_of_the_words_must_recur_for_a_refusal():
    with pytest.raises(UserError, match="in 2 ways"):
        names(recurring(30))
    got, reading = names(recurring(31))
    assert "a b" in got
    assert "a name holds another ('a', 'b', 'c', with blanks beside it)" in reading.notes[0]


def test_one_word_that_recurs_separates_no_names():
    got, reading = names(["stop sign", "stop", "cat"])
    assert got == ["cat", "stop", "stop sign"]
    assert (reading.separator, len(reading.notes)) == (None, 1)
