import sys

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from data.datasets.table.sheet import _first_line, read_sheet
from tests.data.datasets.table.test_columns import as_text, random_table, read
from tests.data.datasets.table.test_reader import written
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN


def as_parquet(path, header, rows):
    columns = zip(*rows, strict=True)
    arrays = {
        name: list(column) if name == "image" else [float("nan") if code == "" else float(code) for code in column]
        for name, column in zip(header, columns, strict=True)
    }
    parquet.write_table(pa.table(arrays), path)
    return path


@pytest.mark.parametrize("form", ["comma", "semicolon", "tab", "tsv", "bom", "cr", "parquet"])
@pytest.mark.parametrize("seed", range(4))
def test_every_file_form_gives_back_what_was_written(tmp_path, form, seed):
    ids, classes, codes, order = random_table(seed)
    header = ["image", *classes]
    rows = [[ids[row], *("" if code == UNKNOWN else str(code) for code in codes[row])] for row in order]
    if form == "parquet":
        path = as_parquet(tmp_path / "t.parquet", header, rows)
    else:
        text = as_text(header, rows, {"semicolon": ";", "tab": "\t", "tsv": "\t"}.get(form, ","))
        text = text.replace("\r\n", "\r") if form == "cr" else text
        path = written(
            tmp_path / f"t.{'tsv' if form == 'tsv' else 'csv'}", text, "utf-8-sig" if form == "bom" else "utf-8"
        )
    found = read(path)
    assert (found.ids, found.classes) == (ids, classes)
    np.testing.assert_array_equal(found.codes, codes)


def test_parquet_values_of_other_types(tmp_path):
    table = pa.table(
        {
            "file": pa.array(["a.jpg", "b.jpg", "c.jpg"]).dictionary_encode(),
            "whole": pa.array([1, 0, None], pa.int8()),
            "truth": [True, False, None],
            "text": ["1", "0", " -1 "],
            "none": pa.nulls(3),
        }
    )
    parquet.write_table(table, tmp_path / "t.parquet")
    found = read(tmp_path / "t.parquet")
    np.testing.assert_array_equal(found.codes[:, :3], [[PRESENT] * 3, [ABSENT] * 3, [UNKNOWN] * 3])
    assert found.codes[:, 3].tolist() == [UNKNOWN] * 3


def test_a_nested_parquet_column_that_is_no_label_does_not_matter(tmp_path):
    nested = {"image": ["a.jpg"], "labels": ["cat"], "meta": [{"x": 1}]}
    parquet.write_table(pa.table(nested), tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet").classes == ("cat",)


def test_without_pyarrow_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"t\.parquet: reading it needs pyarrow: pip install pyarrow"):
        read(written(tmp_path / "t.parquet", ""))


def test_rows_know_their_place_in_the_file(tmp_path):
    path = written(tmp_path / "t.csv", 'image,labels\n\na.jpg,"cat"\n,\nb.jpg,dog\n')
    sheet = read_sheet(path)
    assert sheet.titles == ("image", "labels")
    assert [sheet.where(row) for row in range(2)] == [f"{path}, line 3", f"{path}, line 5"]
    parquet.write_table(pa.table({"image": ["a.jpg", "b.jpg"]}), tmp_path / "t.parquet")
    assert read_sheet(tmp_path / "t.parquet").where(1) == f"{tmp_path / 't.parquet'}, row 2"


@pytest.mark.parametrize(
    "header, cells",
    [
        ("image,labels", {"image": "a", "labels": "b"}),
        ("image;labels", {"image": "a", "labels": "b"}),
        ("image\tone, two;three", {"image": "a", "one, two;three": "b"}),
        ('"image; really",labels', {"image; really": "a", "labels": "b"}),
    ],
)
def test_the_first_delimiter_of_the_header_counts(tmp_path, header, cells):
    row = "a" + next(one for one in ("\t", ",", ";") if one in header.replace("image; really", "")) + "b"
    sheet = read_sheet(written(tmp_path / "t.csv", f"{header}\n{row}\n"))
    assert {name: sheet.column(name).cells()[0] for name in sheet.titles} == cells


def test_of_a_long_error_the_beginning_of_its_first_line_is_said():
    assert _first_line(ValueError("x" * 161 + "\nmore")) == "x" * 160
    assert _first_line(MemoryError()) == "MemoryError"
