import csv
import io
import random

import pytest

from data.datasets.table.delimited import delimited, in_blocks
from utils.checks import UserError


def rows_of(tmp_path, text, name="t.csv"):
    header, blocks = delimited(tmp_path / name, text)
    found = [(int(n), row) for block in blocks for n, row in zip(block.numbers, block.rows, strict=True)]
    return header, found


@pytest.mark.parametrize("block", [1, 3, 4096])
@pytest.mark.parametrize("seed", range(6))
def test_rows_and_numbers_are_those_of_a_plain_reader(tmp_path, monkeypatch, block, seed):
    monkeypatch.setattr("data.datasets.table.delimited._BLOCK", block)
    rng = random.Random(seed)
    pieces = ["a", "", " ", "b c", '"x,y"', '"line\nbreak"', '"q""q"']
    lines = [",".join(rng.choice(pieces) for _ in range(3)) for _ in range(20)]
    text = "one,two,three\n" + "".join(f"{line}\n" for line in rng.sample([*lines, "", " ", ",,"], 23))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    expected = [(reader.line_num, row) for row in reader if "".join(row).strip()]
    header, found = rows_of(tmp_path, text)
    assert [(1, header), *found] == expected


@pytest.mark.parametrize(
    "text, name, header",
    [
        ("a;b,c\n", "t.csv", ["a", "b,c"]),
        ("a|b\n", "t.csv", ["a", "b"]),
        ("a|b,c\n", "t.csv", ["a|b", "c"]),
        ('"a;b",c\n', "t.csv", ["a;b", "c"]),
        ("a,b\tc\n", "t.tsv", ["a,b", "c"]),
        ("\n  \na,b\n", "t.csv", ["a", "b"]),
        ("sep=;\na;b,c\n", "t.csv", ["a", "b,c"]),
        ('"sep=|"\r\na|b\r\n', "t.csv", ["a", "b"]),
        ("SEP=\t\na\tb\n", "t.txt", ["a", "b"]),
        ("", "t.csv", []),
        ("\n \n", "t.csv", []),
        ("a,b\n,\n\n ,\n", "t.csv", ["a", "b"]),
    ],
)
def test_what_separates_the_fields(tmp_path, text, name, header):
    assert rows_of(tmp_path, text, name) == (header, [])


@pytest.mark.parametrize("block", [1, 2, 4096])
@pytest.mark.parametrize(
    "text, message",
    [
        ("a,b\n1,2\n\n3\n4,5\n", r"t\.csv, line 4: 1 fields, the header has 2 columns"),
        ('a,b\n1,2\n3\n4,"5\n', r"t\.csv, line 3: 1 fields, the header has 2 columns"),
        ('a,b\n1,2\n4,"5\n', r"t\.csv, line 3: not a table of text"),
        ('a,"b\n', r"t\.csv, line 1: not a table of text"),
    ],
)
def test_the_first_faulty_line_is_named(tmp_path, monkeypatch, block, text, message):
    monkeypatch.setattr("data.datasets.table.delimited._BLOCK", block)
    with pytest.raises(UserError, match=message):
        rows_of(tmp_path, text)


def test_numbered_rows_in_blocks(monkeypatch):
    monkeypatch.setattr("data.datasets.table.delimited._BLOCK", 2)
    blocks = list(in_blocks((n, [str(n)]) for n in (1, 4, 5)))
    assert [(block.numbers.tolist(), block.rows) for block in blocks] == [([1, 4], [["1"], ["4"]]), ([5], [["5"]])]
