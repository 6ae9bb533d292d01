"""Files of tables that are no plain CSV: encodings, workbooks, JSON lines, columns without a title."""

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from data.datasets.table.sheet import is_sheet, read_sheet, read_titles
from tests.data.datasets.table.test_columns import read
from utils.checks import UserError
from utils.types import UNKNOWN

LINES = "image,labels\na.jpg,größe\nb.jpg,\n"


def cells(sheet):
    return {column.title: column.cells() for column in sheet.columns}


@pytest.mark.parametrize(
    "encoding, given, said",
    [
        ("utf-8", None, None),
        ("utf-8-sig", None, None),
        ("utf-16", None, "read as utf-16"),
        ("utf-32", None, "read as utf-32"),
        ("cp1252", "cp1252", "read as cp1252 (--encoding)"),
        ("utf-16", "cp1252", "read as utf-16"),  # the mark of the file knows better
    ],
)
def test_encodings(tmp_path, encoding, given, said):
    path = tmp_path / "t.csv"
    path.write_bytes(LINES.encode(encoding))
    sheet = read_sheet(path, given)
    assert cells(sheet) == {"image": ["a.jpg", "b.jpg"], "labels": ["größe", ""]}
    assert sheet.notes == (() if said is None else (f"{path}: {said}",))


@pytest.mark.parametrize(
    "data, encoding, words",
    [
        (LINES.encode("cp1252"), None, r"not UTF-8 text \(byte 21\); .*--encoding"),
        (LINES.encode("utf-16")[:-1], None, r"not utf-16 text"),
        (b"\xff\xfea", None, "not utf-16 text"),
        (LINES.encode(), "klingon", "--encoding klingon: Python knows no encoding"),
        (b"image,labels\na.jpg,x\n\0", None, "line 3: holds NUL bytes"),
        (b"", None, "is empty"),
        (b"\xef\xbb\xbf", None, "is empty"),
    ],
)
def test_what_cannot_be_decoded(tmp_path, data, encoding, words):
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    with pytest.raises(UserError, match=words):
        read_sheet(path, encoding)


def workbook(path, *sheets):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets:
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_the_first_sheet_of_a_workbook(tmp_path):
    rows = [["image", "cat", "note"], ["a.jpg", 1, "x"], [None, None, None], ["b.jpg", 0, None], ["c.jpg", True]]
    sheet = read_sheet(workbook(tmp_path / "t.xlsx", ("labels", rows), ("more", []), ("other", [["z"]])))
    assert cells(sheet) == {"image": ["a.jpg", "b.jpg", "c.jpg"], "cat": ["1", "0", "True"], "note": ["x", "", ""]}
    assert sheet.where(1) == f"{tmp_path / 't.xlsx'}, row 4"
    assert sheet.notes == (f"{tmp_path / 't.xlsx'}: only the first sheet, 'labels', is read; not 'more', 'other'",)
    assert read_sheet(workbook(tmp_path / "u.xlsx", ("labels", rows))).notes == ()


def test_rows_longer_than_the_header_have_columns_without_a_title(tmp_path):
    sheet = read_sheet(
        workbook(tmp_path / "t.xlsx", ("labels", [["image", "cat"], ["a.jpg", 1, "more"], ["b.jpg", 0]]))
    )
    assert cells(sheet)["column 3"] == ["more", ""]
    assert sheet.untitled == {"column 3"}


@pytest.mark.parametrize("rows, words", [([], "is empty"), ([["image", "cat"]], "has no row below its header")])
def test_workbooks_without_rows(tmp_path, rows, words):
    with pytest.raises(UserError, match=words):
        read_sheet(workbook(tmp_path / "t.xlsx", ("labels", rows)))


def test_the_result_of_a_formula_is_read_not_the_formula(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    path = workbook(tmp_path / "t.xlsx", ("labels", [["image", "cat"], ["a.jpg", "=1+0"]]))
    assert cells(read_sheet(path))["cat"] == [""]  # a program that never opened the file has no result in it
    assert openpyxl.load_workbook(path)["labels"]["B2"].value == "=1+0"


def test_without_openpyxl_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(UserError, match=r"t\.xlsx: reading it needs openpyxl: pip install openpyxl"):
        read_sheet(tmp_path / "t.xlsx")


def test_json_lines_with_keys_of_all(tmp_path):
    rows = [
        {"image": "a.jpg", "tags": ["größe", "b"]},
        {"image": "b.jpg", "n": 1.5, "tags": None},
        {"image": "c.jpg", "tags": []},
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    sheet = read_sheet(path)
    assert cells(sheet) == {
        "image": ["a.jpg", "b.jpg", "c.jpg"],
        "tags": ['["größe", "b"]', "", ""],
        "n": ["", "1.5", ""],
    }
    assert sheet.numbers.tolist() == [1, 3, 5]
    assert read(path).classes == ("b", "größe")


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ('{"image": "a.jpg"}\n{"image": \n', "line 2: not a JSON object"),
        ('{"image": "a.jpg"}\n[1]\n', "line 2: not a JSON object; write one per line"),
        ("[" * 100_000, "line 1: not a JSON object"),
    ],
)
def test_lines_that_are_no_objects(tmp_path, text, words):
    path = tmp_path / "t.ndjson"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_sheet(path)


def test_titles_that_are_missing_twice_or_clash(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("image,,cat,\na.jpg,0,1,\n")
    sheet = read_sheet(path)
    assert sheet.titles == ("image", "column 2", "cat", "column 4")
    assert sheet.untitled == {"column 2", "column 4"}
    path.write_text("image,,column 2\na.jpg,0,1\n")
    with pytest.raises(UserError, match="'column 2' is a title, and a column there has none"):
        read_sheet(path)
    path.write_text("image,cat, cat\na.jpg,0,1\n")
    with pytest.raises(UserError, match="column 'cat' is there 2 times"):
        read_sheet(path)


def test_lines_of_another_length_are_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("image,cat\na.jpg,1\n\nb.jpg,1,2\n")
    with pytest.raises(UserError, match="line 4: 3 fields, the header has 2 columns"):
        read_sheet(path)


def test_blanks_behind_commas_and_quotes_behind_blanks(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('image, labels\na.jpg, "x, y"\nb.jpg ,  z \n')
    assert cells(read_sheet(path)) == {"image": ["a.jpg", "b.jpg"], "labels": ["x, y", "z"]}


def test_more_rows_than_are_taken_at_a_time_come_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr("data.datasets.table.delimited._BLOCK", 7)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, 40).tolist()
    path = tmp_path / "t.csv"
    path.write_text("image,x\n" + "".join(f"{n}.jpg, {code}\n" for n, code in enumerate(codes)))
    sheet = read_sheet(path)
    assert cells(sheet) == {"image": [f"{n}.jpg" for n in range(40)], "x": list(map(str, codes))}
    assert len(sheet.column("x").texts) == 3
    assert sheet.column("x").first_rows() == [codes.index(int(text)) for text in sheet.column("x").texts]
    assert sheet.rows == 40


def test_values_of_parquet_as_texts(tmp_path):
    columns = {"image": [b"a.jpg", b"b.jpg"], "labels": [["x", "y"], None], "more": [{"k": 1}, None]}
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert cells(read_sheet(tmp_path / "t.parquet")) == {
        "image": ["a.jpg", "b.jpg"],
        "labels": ['["x", "y"]', ""],
        "more": ['{"k": 1}', ""],
    }


def test_a_json_list_of_rows_is_a_table(tmp_path):
    path = tmp_path / "t.json"
    path.write_bytes(
        b'\xef\xbb\xbf [{"image": "a.jpg", "labels": ["cat"]},\n {"labels": [], "image": "b.jpg", "x": 1}]'
    )
    assert is_sheet(path)
    sheet = read_sheet(path)
    assert cells(sheet) == {"image": ["a.jpg", "b.jpg"], "labels": ['["cat"]', ""], "x": ["", "1"]}
    assert sheet.where(1) == f"{path}, entry 2"
    for text, words in (("[]", "is empty"), ("[1]", "entry 1: not a JSON object"), ("[{", "not a json file")):
        path.write_text(text)
        with pytest.raises(UserError, match=words):
            read_sheet(path)
    for text in ('{"images": []}', "[]", "[1]", ""):
        path.write_text(text)
        assert not is_sheet(path)


def test_tables_in_text_files_and_of_codes_in_any_way(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("image\tcat\tdog\tcow\na.jpg\t1.00\tNA\t+1\nb.jpg\t0.00\t1\t-0.0\n")
    found = read(path)
    assert found.codes.tolist() == [[1, UNKNOWN, 1], [0, 1, 0]]
    assert read(path, blank="absent").codes.tolist() == [[1, 0, 1], [0, 1, 0]]


def test_titles_alone(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("image;größe;\na;1\n".encode("utf-16"))  # rows are not looked at
    assert read_titles(path) == ("image", "größe", "column 3")
    (tmp_path / "t.jsonl").write_text('{"image": "a", "x": 1}\n')
    assert read_titles(tmp_path / "t.jsonl") == ("image", "x")
