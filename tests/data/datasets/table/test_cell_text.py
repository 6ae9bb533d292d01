import pytest

from data.datasets.table.cell_text import joiner, names_text
from data.datasets.table.cells import Reading, names_of_list, read_cells


@pytest.mark.parametrize(
    ("texts", "separator", "expected"),
    [
        (["a", "b, c"], ",", ", "),
        (["a |b", "b|c"], "|", " |"),
        (["a;b"], ";", ";"),
        (["a", ";b"], ";", ";"),
        (["a  b"], " ", " "),
        (["a"], None, ";"),
    ],
)
def test_names_are_joined_as_in_the_first_cell_that_has_two(texts, separator, expected):
    assert joiner(texts, separator) == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ('["a", "b"]', '["b", "c"]'),
        ("['a', 'b']", "['b', 'c']"),
        ("['a' 'b']", "['b' 'c']"),
        ("('a', 'b')", "('b', 'c')"),
        ("{a,b}", "{b,c}"),
        ("{'a', 'b'}", "{'b', 'c'}"),
        ("[a, b]", "[b, c]"),
        ('{"choices": ["a", "b"]}', '{"choices": ["b", "c"]}'),
        ("a;b", "b;c"),
        ("", "['b', 'c']"),
    ],
)
def test_a_cell_is_written_as_it_was(cell, expected):
    texts = [cell, "['x', 'y']", "z"]
    found = names_text(["b", "c"], cell, texts, read_cells(texts, "column", ";"))
    assert found == expected
    assert sorted(names_of_list(found) or found.split(";")) == ["b", "c"]


def test_a_list_of_one_name_is_written_as_longer_ones_of_its_kind():
    texts = ["{a}", "['x' 'y']", "{a,b}"]
    assert names_text(["a", "b"], "{a}", texts, Reading(None, lists=True)) == "{a,b}"
    assert names_text(["a", "b"], "['a']", texts, Reading(None, lists=True)) == "['a' 'b']"
    assert names_text(["a", "b"], '["a"]', ['["a"]'], Reading(None, lists=True)) == '["a", "b"]'
