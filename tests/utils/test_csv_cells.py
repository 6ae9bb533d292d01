"""Cells that spreadsheets take for what they are."""

import csv
import io
import math
from pathlib import Path

import pytest

from utils.csv_cells import cell, csv_text

CELLS = [
    ("cat", "cat"),
    ("", ""),
    ("=1+1", "'=1+1"),
    ('=HYPERLINK("http://x")', '\'=HYPERLINK("http://x")'),
    ("+49 30", "'+49 30"),
    ("-photo.jpg", "'-photo.jpg"),
    ("@SUM(A1)", "'@SUM(A1)"),
    ("\t=1", "'\t=1"),
    ("\r=1", "'\r=1"),
    ("-0.5", "-0.5"),
    ("+1e-3", "+1e-3"),
    ("-1 ", "'-1 "),
    ("a=b", "a=b"),
    ("half \ud83d", "half \\ud83d"),
    ("caf\udce9.jpg", "caf\udce9.jpg"),
    (Path("=x/cat.jpg"), "'=x/cat.jpg"),
    (Path("x/=cat.jpg"), "x/=cat.jpg"),
    (-3, -3),
    (-0.25, -0.25),
    (True, True),
    (None, ""),
    (math.nan, ""),
]


@pytest.mark.parametrize(("value", "expected"), CELLS)
def test_a_cell_is_no_formula(value, expected):
    assert cell(value) == expected
    assert type(cell(value)) is type(expected)


def test_rows_read_back():
    rows = [("path", "label"), ("a,b.jpg", 'say "x"'), (Path("c.jpg"), None), ("d\ne", -1.5)]
    assert list(csv.reader(io.StringIO(csv_text(rows)))) == [
        ["path", "label"],
        ["a,b.jpg", 'say "x"'],
        ["c.jpg", ""],
        ["d\ne", "-1.5"],
    ]
    assert csv_text([]) == ""
    assert csv_text([("a",), ("b",)]) == "a\nb\n"


def test_everything_can_be_written():
    csv_text([(value for value, _ in CELLS)]).encode("utf-8", "surrogateescape")
