"""Arrays of sparse labels that are checked in parts."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from data.labels import arrays, entries
from data.labels.arrays import read_table, write_table
from data.labels.entries import row_blocks
from utils.checks import UserError
from utils.types import UNKNOWN, LabelTable

ROWS = [[0, 2, 3], [], [1], [0, 1, 2, 3, 4], [4]]


def written(path, columns):
    """Labels of five rows whose classes are `columns`, one after the other."""
    starts = np.cumsum([0, *map(len, ROWS)]).astype(np.int32)
    table = LabelTable(csr_array((np.ones(10, np.int8), columns, starts), shape=(5, 5)), default=UNKNOWN)
    with path.open("wb") as file:
        write_table(file, table)
    return table


@pytest.mark.parametrize("block", [1, 2, 3, 8, 9, 10])
def test_classes_ascend_within_each_row_wherever_a_part_ends(tmp_path, monkeypatch, block):
    monkeypatch.setattr(arrays, "_BLOCK", block)
    path, columns = tmp_path / "x.npz", np.concatenate([*map(np.array, ROWS)]).astype(np.int32)
    table = written(path, columns)
    assert read_table(path, (5, 5)).hash() == table.hash()
    with np.load(path) as held:
        right = dict(held)
    starts = right["indptr"][1:-1]
    for place in range(1, 10):
        twice = columns.copy()
        twice[place] = twice[place - 1]
        np.savez(path, **(right | {"indices": twice}))
        if all((np.diff(row) > 0).all() for row in np.split(twice, starts)):
            read_table(path, (5, 5))
        else:
            with pytest.raises(UserError, match="indices must ascend within each row"):
                read_table(path, (5, 5))


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("default", lambda held: np.int8(1), "default must be one int8, 0 or -1"),
        ("default", lambda held: np.int16(0), "default must be one int8"),
        ("default", lambda held: np.zeros(1, np.int8), "default must be one int8"),
        ("shape", lambda held: held.astype(np.int32), "shape is"),
        ("shape", lambda held: held + 1, "shape is"),
        ("codes", lambda held: held.astype(np.int16), "codes must be int8"),
        ("codes", lambda held: held[:, None], "codes must be int8 in one dimension"),
        (
            "codes",
            lambda held: np.where(np.arange(10) == 4, 2, held).astype(np.int8),
            "holds values other than 1, 0 and -1",
        ),
        (
            "codes",
            lambda held: np.where(np.arange(10) == 4, -2, held).astype(np.int8),
            "holds values other than 1, 0 and -1",
        ),
        ("indptr", lambda held: held.astype(np.int16), "indptr must be 6 integers"),
        ("indptr", lambda held: held[:-1], "indptr must be 6 integers"),
        ("indptr", lambda held: np.maximum(held, 1), "indptr must rise from 0 to 10"),
        ("indptr", lambda held: np.minimum(held, 9), "indptr must rise from 0 to 10"),
        ("indptr", lambda held: held[[0, 2, 1, 3, 4, 5]] - [0, 0, 1, 0, 0, 0], "indptr must rise from 0 to 10"),
        ("indices", lambda held: held.astype(np.int16), "indices must be 10 integers"),
        ("indices", lambda held: held[:-1], "indices must be 10 integers"),
        ("indices", lambda held: held - 1, "indices must be classes, 0 to 4"),
        ("indices", lambda held: held + 1, "indices must be classes, 0 to 4"),
    ],
)
def test_each_array_of_a_sparse_file_is_checked(tmp_path, name, change, words):
    path = tmp_path / "x.npz"
    written(path, np.concatenate([*map(np.array, ROWS)]).astype(np.int32))
    with np.load(path) as held:
        right = dict(held)
    np.savez(path, **(right | {name: change(right[name])}))
    with pytest.raises(UserError, match=rf"x\.npz: .*{words}"):
        read_table(path, (5, 5))


def test_of_a_long_error_of_a_sparse_file_160_characters_are_said(tmp_path, monkeypatch):
    def refuse(path):
        raise ValueError("x" * 161 + "\nmore")

    monkeypatch.setattr(arrays.zipfile, "ZipFile", refuse)
    with pytest.raises(UserError, match=r"sparse labels \(x{160}\); make it anew"):
        read_table(tmp_path / "x.npz", (5, 5))


@pytest.mark.parametrize("width, kind", [(2**31 - 1, np.int32), (2**31, np.int64)])
def test_indices_of_64_bits_are_for_tables_that_need_them(monkeypatch, width, kind):
    monkeypatch.setattr(entries, "csr_array", lambda parts, shape: parts)  # which may choose anew
    _, columns, starts = entries.EntryColumns(np.array([0, 1]), np.array([5])).csr(np.ones(1, np.int8), (1, width))
    assert (columns.dtype, starts.dtype) == (kind, kind)


@pytest.mark.parametrize(
    "rows, classes, size, ends",
    [(3, 0, 2, [2, 3]), (5, 1, 3, [3, 5]), (3, 10, 3, [1, 2, 3]), (5, 2, 4, [2, 4, 5]), (0, 3, 3, [])],
)
def test_blocks_of_rows_have_at_most_so_many_entries_and_one_row(rows, classes, size, ends):
    assert [end for _, end in row_blocks(rows, classes, size)] == ends
