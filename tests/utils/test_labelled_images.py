import numpy as np
import pytest
from scipy.sparse import csr_array

from utils.checks import UserError
from utils.labelled_images import labelled_images
from utils.types import ABSENT, UNKNOWN, LabelTable

CODES = np.array([[0, 0, 1], [-1, -1, -1], [0, 0, 0], [-1, -1, -1]], np.int8)


def sparse(codes, default):
    row, column = np.nonzero(codes != default)
    return LabelTable(csr_array((codes[row, column], (row, column)), shape=codes.shape), default=default)


@pytest.mark.parametrize(
    "table", [LabelTable, lambda codes: sparse(codes, UNKNOWN), lambda codes: sparse(codes, ABSENT)]
)
@pytest.mark.parametrize("block", [1, 6, 1 << 22])
def test_images_with_all_labels_and_images_with_none(table, block, monkeypatch):
    monkeypatch.setattr("utils.labelled_images._BLOCK", block)
    found = labelled_images("x", table(CODES.copy()))
    assert found.dtype == bool
    assert found.tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (
            [[0, 1, -1], [1, -1, -1], [0, 0, 0], [-1, -1, -1]],
            "and 2 of 4 have some of their labels; take --labels",
        ),
        ([[0, 1, 1], [0, 0, 0]], "x: no image is unlabelled; take --labels semi"),
        ([[-1, -1, -1]], "x: no image is labelled; take --labels semi"),
    ],
)
def test_other_labels_are_refused(rows, line):
    with pytest.raises(UserError, match=line) as error:
        labelled_images("x", LabelTable(np.array(rows, np.int8)))
    assert str(error.value).startswith("x: ")


def test_without_images_none_is_labelled():
    with pytest.raises(UserError, match="no image is labelled"):
        labelled_images("x", LabelTable(np.empty((0, 3), np.int8)))
