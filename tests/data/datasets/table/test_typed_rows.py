import pytest

from data.datasets.table.corrections import Edits, NewLine
from data.datasets.table.typed_rows import TypedRows, added_by_row, cells_by_row


@pytest.mark.parametrize(
    ("values", "text", "expected"),
    [
        ([1, 0], "1", 1),
        ([0, 0], "1", 1),
        ([0.0, None], "1.0", 1.0),
        ([False, None], "1", True),
        ([True, None], "0", False),
        ([True, False], "True", True),
        ([1, 0], "", None),
        (["yes", "no"], "x", "x"),
        ([1, "x"], "0", "0"),
        ([7, 8], "word", "word"),
        ([["a"], []], '["a", "b"]', ["a", "b"]),
        ([["a"], ["b"]], "", []),
    ],
)
def test_a_text_becomes_a_value_of_the_kind_of_its_column(values, text, expected):
    rows = TypedRows({row: {"id": row, "x ": value} for row, value in enumerate(values)})
    found = rows.changed(1, {"x": text})
    assert found == {"id": 1, "x ": expected}
    assert type(found["x "]) is type(expected)
    assert rows.objects[1]["x "] == values[1]


def test_edits_by_row():
    lines = [NewLine(0, 3, {"a": "x"}), NewLine(1, 2, {}), NewLine(2, 3, {})]
    assert added_by_row(lines) == {3: [lines[0], lines[2]], 2: [lines[1]]}
    assert cells_by_row(Edits({(1, "a"): "x", (1, "b"): "y", (4, "a"): ""})) == {1: {"a": "x", "b": "y"}, 4: {"a": ""}}
