import numpy as np
import pytest

from data.datasets.table.columns import read_table
from data.datasets.table.config import TableConfig
from data.datasets.table.corrections import Change, NewLine, edits_of, expected_codes


def edits(folder, text, changes, **config):
    """The edits of a table."""
    path = folder / "labels.csv"
    path.write_text(text)
    settings = TableConfig(table=(path,), **config)
    found = edits_of(read_table(path, settings, None, folder), settings, [Change(*one) for one in changes])
    return found.cells, found.removed, found.added


def test_a_column_per_class_has_a_cell_to_change(tmp_path):
    text = "image,cat,dog\n1.jpg,yes,no\n2.jpg,no,no\n2.jpg,no,\n"
    changes = [("1.jpg", "cat", 0), ("2.jpg", "dog", 1), ("1.jpg", "dog", -1)]
    cells = {(0, "cat"): "no", (1, "dog"): "yes", (2, "dog"): "yes", (0, "dog"): ""}
    assert edits(tmp_path, text, changes, repeated="union") == (cells, set(), [])


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({}, ""), ({"uncertain": "absent"}, ""), ({"blank": "absent"}, "-1")],
)
def test_unknown_is_written_as_it_is_read(tmp_path, flags, expected):
    text = "image,cat,dog\n1.jpg,1,0\n2.jpg,0,1\n"
    assert edits(tmp_path, text, [("1.jpg", "cat", -1)], **flags)[0] == {(0, "cat"): expected}


def test_lines_of_pairs_are_added_filled_and_removed(tmp_path):
    text = "image,tag\n1.jpg,cat\n1.jpg,dog\n2.jpg,\n3.jpg,dog\n"
    assert edits(tmp_path, text, [("2.jpg", "cat", 1)]) == ({(2, "tag"): "cat"}, set(), [])
    assert edits(tmp_path, text, [("3.jpg", "cat", 1)]) == ({}, set(), [NewLine(3, 3, {"tag": "cat"})])
    assert edits(tmp_path, text, [("1.jpg", "cat", 0)]) == ({}, {0}, [])
    assert edits(tmp_path, text, [("1.jpg", "cat", 1), ("2.jpg", "dog", 0)]) == ({}, set(), [])
    assert edits(tmp_path, text, [("3.jpg", "cat", 1), ("3.jpg", "dog", 0)]) == ({(3, "tag"): "cat"}, set(), [])


def test_codes_after_changes():
    codes = np.array([[1, 0], [-1, 1]], dtype=np.int8)
    found = expected_codes(codes, ("a", "b"), ("cat", "dog"), [Change("b", "cat", 0), Change("a", "dog", 1)])
    assert found.tolist() == [[1, 1], [0, 1]]
    assert codes.tolist() == [[1, 0], [-1, 1]]
