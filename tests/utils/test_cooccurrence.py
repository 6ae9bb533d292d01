"""Labels that are present together, counted however they are stored."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from tests.losses.fake_model import random_labels
from tests.oracles import label_graph as oracle
from utils.cooccurrence import cooccurrence
from utils.types import ABSENT, PRESENT, UNKNOWN, LabelTable


def sparse(codes, default):
    """The same labels with those of code `default` not stored."""
    stored = codes != default
    bounds = np.concatenate([[0], stored.sum(axis=1).cumsum()])
    return LabelTable(csr_array((codes[stored], stored.nonzero()[1], bounds), shape=codes.shape), default=default)


@pytest.mark.parametrize("seed", range(3))
def test_counts_equal_the_loops(seed):
    codes = random_labels(40, 6, seed)
    together, alone = oracle.counts(codes == PRESENT)
    found = cooccurrence(LabelTable(codes))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, together + np.diag(alone))


@pytest.mark.parametrize("default", [ABSENT, UNKNOWN, PRESENT])
@pytest.mark.parametrize("block", [3, 1000])
def test_a_table_counts_the_same_however_it_is_stored(default, block):
    codes = random_labels(20, 6)
    table = sparse(codes, default)
    before = table.codes.copy()
    np.testing.assert_array_equal(cooccurrence(table, block=block), cooccurrence(LabelTable(codes)))
    for held, was in ((table.codes.data, before.data), (table.codes.indices, before.indices)):
        np.testing.assert_array_equal(held, was)


@pytest.mark.parametrize("default", [ABSENT, UNKNOWN])
def test_a_sparse_table_is_never_made_dense(default, monkeypatch):
    table = sparse(random_labels(20, 6), default)
    monkeypatch.setattr(LabelTable, "rows", lambda self, index: pytest.fail("rows were made dense"))
    cooccurrence(table)


@pytest.mark.parametrize("block", [3, 7, 20, 1000])
def test_a_dense_table_is_read_block_by_block(block, monkeypatch):
    codes, read, rows = random_labels(20, 6), [], LabelTable.rows
    monkeypatch.setattr(LabelTable, "rows", lambda self, index: read.append(index) or rows(self, index))
    expected = (codes == PRESENT).astype(int).T @ (codes == PRESENT)
    np.testing.assert_array_equal(cooccurrence(LabelTable(codes), block=block), expected)
    assert all(part.stop - part.start == block for part in read)
    assert len(read) == -(-20 // block)


def test_unknown_labels_do_not_count():
    codes = np.array([[1, -1, 0], [1, 1, -1]], dtype=np.int8)
    assert cooccurrence(LabelTable(codes)).tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_nothing_counts_in_an_empty_table():
    assert not cooccurrence(LabelTable(np.zeros((0, 3), dtype=np.int8))).any()
    assert not cooccurrence(LabelTable(np.full((4, 3), UNKNOWN, dtype=np.int8))).any()
