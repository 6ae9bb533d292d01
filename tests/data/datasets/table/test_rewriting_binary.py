"""Workbooks and parquet files, corrected: values keep their kinds, rows their places."""

import io

import openpyxl
import pyarrow as pa
import pytest
from openpyxl.styles import Font
from pyarrow import parquet

from data.datasets.table.config import TableConfig
from data.datasets.table.corrected import corrected, open_table
from data.datasets.table.corrections import Change


def after(path, changes, **config):
    """The file of a table after changes, to be read."""
    table = open_table(path, TableConfig(table=(path,), **config), path.parent)
    return io.BytesIO(corrected(table, [Change(*one) for one in changes]).content)


def workbook(path, rows):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.active["B2"].font = Font(bold=True)
    book.create_sheet("other")["A1"] = "=1+1"
    book.save(path)


def cells(file):
    book = openpyxl.load_workbook(file)
    assert book["other"]["A1"].value == "=1+1"
    return [list(row) for row in book.active.iter_rows(values_only=True)]


def test_cells_of_a_workbook(tmp_path):
    rows = [["image", "cat", "dog", "n"], ["1.jpg", 1, 0, 2.5], ["2.jpg", 0, None, "x"], ["3.jpg", 0, 1, None]]
    workbook(tmp_path / "t.xlsx", rows)
    found = after(tmp_path / "t.xlsx", [("1.jpg", "dog", 1), ("3.jpg", "dog", -1), ("2.jpg", "dog", 0)])
    rows[1][2], rows[2][2], rows[3][2] = 1, 0, None
    assert cells(found) == rows
    assert openpyxl.load_workbook(found).active["B2"].font.bold


def test_rows_of_a_workbook(tmp_path):
    rows = [["image", "tag"], ["1.jpg", "cat"], ["1.jpg", "dog"], ["2.jpg", "dog"], ["3.jpg", "cat"]]
    workbook(tmp_path / "t.xlsx", rows)
    found = after(tmp_path / "t.xlsx", [("2.jpg", "cat", 1), ("1.jpg", "cat", 0), ("3.jpg", "dog", 1)])
    lines = [["image", "tag"], ["1.jpg", "dog"], ["2.jpg", "dog"], ["2.jpg", "cat"], ["3.jpg", "cat"], ["3.jpg", "dog"]]
    assert cells(found) == lines


@pytest.mark.parametrize("kind", [pa.int8(), pa.float32(), pa.bool_(), pa.string()])
def test_cells_of_a_parquet_file(tmp_path, kind):
    one, zero = {pa.bool_(): (True, False), pa.string(): ("yes", "no")}.get(kind, (1, 0))
    columns = {"image": ["1.jpg", "2.jpg"], "cat": pa.array([one, zero], kind), "dog": pa.array([zero, None], kind)}
    table = pa.table(columns).replace_schema_metadata({"by": "me"})
    parquet.write_table(table, tmp_path / "t.parquet")
    found = parquet.read_table(after(tmp_path / "t.parquet", [("2.jpg", "dog", 1), ("1.jpg", "cat", -1)]))
    assert found.schema.equals(table.schema, check_metadata=True)
    assert found["dog"].to_pylist() == [zero, one]
    assert found["cat"].to_pylist() == [None, zero]


def test_rows_of_a_parquet_file(tmp_path):
    columns = {"image": ["1.jpg", "1.jpg", "2.jpg", "3.jpg"], "tag": ["cat", "dog", "dog", "cat"], "n": [1, 2, 3, 4]}
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    changes = [("2.jpg", "cat", 1), ("1.jpg", "cat", 0)]
    found = parquet.read_table(after(tmp_path / "t.parquet", changes, label_column="tag")).to_pydict()
    assert found == {
        "image": ["1.jpg", "2.jpg", "2.jpg", "3.jpg"],
        "tag": ["dog", "dog", "cat", "cat"],
        "n": [2, 3, 3, 4],
    }


def test_lists_of_a_parquet_file(tmp_path):
    columns = {"image": ["1.jpg", "2.jpg"], "tags": [["cat", "dog"], ["dog"]]}
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    found = parquet.read_table(after(tmp_path / "t.parquet", [("2.jpg", "cat", 1)]))
    assert found["tags"].to_pylist() == [["cat", "dog"], ["dog", "cat"]]
