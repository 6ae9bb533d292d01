import csv
import io

import pytest

from data.datasets.table.corrections import Edits, NewLine
from data.datasets.table.rewriting import fields_in, rewritten, with_fields
from data.datasets.table.sheet import read_sheet
from utils.checks import UserError

LINES = ("a,b,c", ' "a, ""x""" ,b,', "a, b ,c d", '""', "", 'a,"x\ny",c', ",,", 'a,"",b', '"a"b,c')


@pytest.mark.parametrize("line", LINES)
def test_fields_are_those_of_the_csv_module(line):
    (expected,) = list(csv.reader(io.StringIO(line, newline=""), skipinitialspace=True)) or [[""]]
    spans = fields_in(line, ",")
    assert len(spans) == len(expected)
    for at in range(len(spans)):
        (changed,) = csv.reader(io.StringIO(with_fields(line, ",", {at: 'n"w, '}), newline=""), skipinitialspace=True)
        assert changed == [*expected[:at], 'n"w, ', *expected[at + 1 :]]


def test_a_field_keeps_its_quotes_and_gets_them_where_it_must():
    assert with_fields('"a";b', ";", {0: "x", 1: "y z"}) == '"x";y z'
    assert with_fields("a;b", ";", {1: "y;z"}) == 'a;"y;z"'
    assert with_fields("a\t b", "\t", {1: " c"}) == 'a\t " c"'


def rewrite(folder, name, text, edits, encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return rewritten(read_sheet(path, encoding), edits, encoding).decode(encoding)


def test_lines_are_removed_and_added_behind_others(tmp_path):
    edits = Edits({(2, "b"): "9"}, {1}, [NewLine(0, 1, {"b": "8"}), NewLine(2, 2, {"a": "z"})])
    assert rewrite(tmp_path, "t.csv", "a,b\r\n1,2\r\n\r\n3,4\r\n5,6", edits) == (
        "a,b\r\n1,2\r\n\r\n1,8\r\n5,9\r\nz,6\r\n"
    )
    lines = '{"a": 1, "b": 2}\n{"a": 3, "b": 4}\n{"a": 5, "b": 6}'
    assert rewrite(tmp_path, "t.jsonl", lines, edits) == (
        '{"a": 1, "b": 2}\n{"a": 1, "b": 8}\n{"a": 5, "b": 9}\n{"a": "z", "b": 6}'
    )
    assert rewrite(tmp_path, "t.json", f"[{lines}]".replace("\n", ", "), edits) == (
        '[{"a": 1, "b": 2}, {"a": 1, "b": 8}, {"a": 5, "b": 9}, {"a": "z", "b": 6}]'
    )


def test_what_a_file_cannot_hold_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"its encoding latin-1 lacks the character '\u2713'; save the table as UTF-8"):
        rewrite(tmp_path, "t.csv", "a,b\n1,é", Edits({(0, "a"): "\u2713"}), "latin-1")
