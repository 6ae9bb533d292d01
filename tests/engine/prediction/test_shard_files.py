"""Rows of a shard, as CSV and as Parquet."""

import builtins
import io
import os

import numpy as np
import pytest

from engine.prediction import shard_files
from engine.prediction.predictor import Label
from engine.prediction.shard_files import FORMATS, CsvShard, LabelledImage, ParquetShard
from utils.checks import UserError

ODD = os.fsdecode(b"\xff.png")
IMAGES = [
    LabelledImage("a,b.png", [Label("dog", 0.98765432, 1), Label("=cat", 1e-7, 0)]),
    LabelledImage("none.png", []),
    LabelledImage(ODD, [Label("é", 0.5, 2)]),
]


def test_a_row_of_csv_is_a_label():
    shard = CsvShard()
    shard.add(IMAGES[:1])
    shard.add([])
    shard.add(IMAGES[1:])
    assert shard.finish() == (
        b'path,rank,label,score\n"a,b.png",1,dog,0.987654\n"a,b.png",2,\'=cat,0.000000\n\xff.png,1,\xc3\xa9,0.500000\n'
    )


def read(content):
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.read_table(io.BytesIO(content)), parquet.ParquetFile(io.BytesIO(content)).num_row_groups


@pytest.mark.parametrize(("rows", "groups"), [(1, 3), (2, 2), (3, 2), (4, 1), (65_536, 1)])
def test_parquet_has_the_same_columns_in_groups_of_rows(monkeypatch, rows, groups):
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(shard_files, "_ROWS", rows)
    shard = ParquetShard()
    for images in (IMAGES[:1], IMAGES[1:]):
        shard.add(images)
    table, found = read(shard.finish())
    assert found == groups
    assert {field.name: str(field.type) for field in table.schema} == {
        **{"path": "string", "rank": "int32", "label": "string", "score": "float"}
    }
    assert table.to_pydict() == {
        "path": ["a,b.png", "a,b.png", "\\xff.png"],
        "rank": [1, 2, 1],
        "label": ["dog", "=cat", "é"],
        "score": [float(np.float32(value)) for value in (0.98765432, 1e-7, 0.5)],
    }


@pytest.mark.parametrize("kind", FORMATS)
def test_equal_labels_make_equal_bytes_and_none_a_file_without_rows(kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    first, second = FORMATS[kind](), FORMATS[kind]()
    for shard in (first, second):
        shard.add(IMAGES)
    assert first.finish() == second.finish()
    empty = FORMATS[kind]().finish()
    assert (empty == b"path,rank,label,score\n") if kind == "csv" else (read(empty)[0].num_rows == 0)


def test_parquet_without_pyarrow_is_refused_with_what_to_do(monkeypatch):
    importing = builtins.__import__

    def without(name, *args, **named):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return importing(name, *args, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"^--shard_format parquet: needs pyarrow: pip install pyarrow, or take csv$"):
        ParquetShard()
