"""Arrays of sparse labels that are checked in parts."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from data.labels import arrays
from data.labels.arrays import read_table, write_table
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
