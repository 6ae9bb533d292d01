import numpy as np

from data.datasets.table.columns import read_table
from data.datasets.table.config import TableConfig
from data.datasets.table.described import TableReport, collected, entries_of, report_of, report_of_joined
from data.datasets.table.joined import joined
from tests.data.datasets.table.test_joined import labelled
from tests.data.datasets.table.test_reader import written


def test_what_a_table_holds_before_a_policy_and_how_far_annotators_agree(tmp_path):
    text = "image,cat,dog\na.jpg,-1,1\na.jpg,0,1\nb.jpg,-1,\nb.jpg,-1,0\nc.jpg,1,0\nc.jpg,1,1\n"
    path = written(tmp_path / "t.csv", text)
    config = TableConfig(table=(path,), repeated="first")
    entries = entries_of(read_table(path, config, None, tmp_path))
    assert entries.classes == ("cat", "dog")
    assert entries.uncertain.tolist() == [3, 0]
    assert entries.blank.tolist() == [0, 1]
    np.testing.assert_array_equal(entries.agreement, [1.0, 0.5])  # of c alone; of a and c
    once = written(tmp_path / "u.csv", "image,cat\na.jpg,-1\nb.jpg,1\n")
    assert entries_of(read_table(once, TableConfig(table=(once,)), None, tmp_path)).agreement is None


def test_reports_of_tables_are_told_one_after_the_other(tmp_path):
    parts = []
    for name in ("a", "b"):
        path = written(tmp_path / f"{name}.csv", f"image,{name}\n1.jpg,1\n2.jpg,0\n")
        parts.append(report_of(read_table(path, TableConfig(table=(path,)), None, tmp_path)))
    found = collected(parts)
    assert [(column.table[-5:], column.title) for column in found.columns] == [
        ("a.csv", "image"),
        ("a.csv", "a"),
        ("b.csv", "image"),
        ("b.csv", "b"),
    ]
    assert [entries.classes for entries in found.entries] == [("a",), ("b",)]
    assert collected([]) == TableReport()


def test_how_far_tables_agree_is_told_where_they_share_images():
    one, other = labelled("a", "12", "xy", [[1, 0], [1, -1]]), labelled("b", "23", "xy", [[0, 1], [1, 1]])
    (entries,) = report_of_joined(joined([one, other], "union")).entries
    np.testing.assert_array_equal(entries.agreement, [0.0, np.nan])
    assert entries.uncertain.tolist() == entries.blank.tolist() == [0, 0]
    assert report_of_joined(joined([one, labelled("b", "3", "x", [[1]])], "refuse")) == TableReport()


def test_lines_of_a_class_each_are_no_annotators(tmp_path):
    path = written(tmp_path / "t.csv", "image,label\na.jpg,cat\na.jpg,dog\nb.jpg,cat\n")
    assert entries_of(read_table(path, TableConfig(table=(path,)), None, tmp_path)).agreement is None
