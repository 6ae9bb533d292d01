import csv
import io

import numpy as np
import pytest

from data.files import csv_blocks
from data.files.csv_blocks import read_blocks
from utils.checks import UserError

PURPOSE = "it has the labels"
TEXT = "\ufeffid, name ,x\r\n12,caf\u00e9,\r\n\r\n3,,yy\n,longer than four,z"


def rows_read(path, columns, width=40):
    """Line numbers, and the fields of each row, of all blocks."""
    rows = []
    for block in read_blocks(path, columns, PURPOSE):
        fields = [[text.decode() for text in block.texts(k, width)] for k in range(len(columns))]
        rows += zip(block.line.tolist(), *fields, strict=True)
    return rows


@pytest.mark.parametrize("size", [21, 22, 34, 1 << 24])  # the longest line and its mark: 21 bytes
@pytest.mark.parametrize("end", ["", "\n", "\r\n\r\n"])
def test_rows_are_those_of_the_csv_module_with_their_lines(tmp_path, monkeypatch, size, end):
    monkeypatch.setattr(csv_blocks, "_SIZE", size)
    path = tmp_path / "x.csv"
    path.write_bytes((TEXT + end).encode())
    reader = csv.reader(io.StringIO(TEXT, newline=""))
    expected = [(reader.line_num, row[2], row[0], row[1]) for row in reader if row][1:]
    assert rows_read(path, ["x", "id", "name"]) == expected
    cut = [(line, *(field.encode()[:2].decode() for field in fields)) for line, *fields in expected]
    assert rows_read(path, ["x", "id", "name"], 2) == cut


def test_fields_are_cut_and_filled_with_zeros(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,234\n,5\n")
    (block,) = read_blocks(path, ["b", "a"], PURPOSE)
    assert block.lengths(0).tolist() == [3, 1]
    assert block.lengths(1).tolist() == [1, 0]
    assert block.chars(0, 2).tolist() == [[50, 51], [53, 0]]
    assert block.texts(0, 2).tolist() == [b"23", b"5"]
    assert block.chars(1, 2).tolist() == [[49, 0], [0, 0]]


def test_the_first_row_that_is_not_valid_is_quoted(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(f"a,b\n1,2\n3,{'4' * 61}\n5,6\n")
    (block,) = read_blocks(path, ["a", "b"], PURPOSE)
    block.require(np.array([True, True, True]), 1, "a number is expected")
    with pytest.raises(UserError) as refusal:
        block.require(np.array([True, False, False]), 1, "a number is expected")
    assert str(refusal.value) == f"{path}, line 3: '{'4' * 60}': a number is expected"


@pytest.mark.parametrize(
    "text, fault",
    [
        ("", ": is empty; it has the labels"),
        ("a,c\n1,2\n", ", line 1: must name the column b once, it is 'a, c'"),
        ("b,a,b\n", ", line 1: must name the column b once, it is 'b, a, b'"),
        ("a,b\n1,2\n1\n", ", line 3: '1': 2 fields are expected, as in the first line"),
        ("a,b\n1,2,3\n1\n", ", line 2: '1,2,3': 2 fields are expected, as in the first line"),
        ('a,b\n\n1,"2"\n', ", line 3: '1,\"2\"': holds a quotation mark, which no such table has"),
        ("a,b\n1,2\n\0,2\n", ", line 3: '\\x00,2': holds a NUL byte, which no such table has"),
    ],
)
def test_damage_is_refused_with_its_line(tmp_path, text, fault):
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(UserError) as refusal:
        rows_read(path, ["b"])
    assert str(refusal.value) == f"{path}{fault}"


def test_a_quotation_mark_in_the_header_is_a_part_of_a_name(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('"a",b\n1,2\n')
    assert rows_read(path, ["b"]) == [(2, "2")]


def test_a_line_may_have_as_many_bytes_as_a_block_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_blocks, "_SIZE", 1 << 20)
    path = tmp_path / "x.csv"
    path.write_text(f"b,a\n{'x' * ((1 << 20) - 2)},y")
    assert [block.lengths(0).tolist() for block in read_blocks(path, ["b"], PURPOSE)] == [[], [(1 << 20) - 2]]
    path.write_text(f"b,a\n{'x' * ((1 << 20) - 1)},yz")
    with pytest.raises(UserError) as refusal:
        rows_read(path, ["b"])
    assert str(refusal.value) == f"{path}: has a line of more than 1 MiB, so it is no such table"


def test_a_file_that_is_not_there_is_named_with_its_purpose(tmp_path):
    with pytest.raises(UserError) as refusal:
        rows_read(tmp_path / "none.csv", ["b"])
    assert str(refusal.value) == f"{tmp_path / 'none.csv'}: cannot be read (No such file or directory); {PURPOSE}"
