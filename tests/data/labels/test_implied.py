"""Labels that follow by a hierarchy, against rules applied one at a time until nothing changes."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from data.images.files import ArrayImages
from data.labels import implied
from data.labels.hierarchy import classes_above
from data.labels.implied import Changes, completed, with_implied
from tests.oracles.hierarchy import follow
from utils.types import UNKNOWN, Annotations, LabelTable


def random_graph(rng, nodes, share):
    """The numbers directly above each number; a number may have several, and there is no circle."""
    order = rng.permutation(nodes)
    return {
        int(order[one]): {int(order[other]) for other in range(one) if rng.random() < share} for one in range(nodes)
    }


def sparse(codes):
    """The same codes with only known ones stored."""
    row, column = np.nonzero(codes != UNKNOWN)
    starts = np.searchsorted(row, np.arange(len(codes) + 1))
    return LabelTable(csr_array((codes[row, column], column, starts), shape=codes.shape), default=UNKNOWN)


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("stored", [LabelTable, sparse])
def test_random_graphs_give_what_single_rules_give(seed, stored, monkeypatch):
    rng = np.random.default_rng(seed)
    nodes, classes, rows = int(rng.integers(2, 12)), int(rng.integers(1, 9)), int(rng.integers(1, 40))
    classes = min(nodes, classes)  # the others are names between the classes
    parents = random_graph(rng, nodes, rng.choice([0.1, 0.3, 0.6]))
    names = [f"n{number}" for number in range(nodes)]
    above = classes_above({names[k]: {names[one] for one in held} for k, held in parents.items()}, names[:classes])
    codes = rng.choice(np.array([1, 0, -1], dtype=np.int8), (rows, classes), p=rng.dirichlet([1, 1, 2]))
    wide = [[*row, *[-1] * (nodes - classes)] for row in codes.tolist()]
    expected = np.array(follow(wide, parents))[:, :classes]
    monkeypatch.setattr(implied, "_ROWS", 7)
    monkeypatch.setattr(implied, "_CELLS", 7 * classes)
    table, changes = with_implied(stored(codes.copy()), above)
    np.testing.assert_array_equal(table.dense(), expected)
    assert changes == (
        ((expected == 1) & (codes != 1)).sum(),
        ((expected == 0) & (codes != 0)).sum(),
        ((expected == 1) & (codes == 0)).sum(),
    )
    assert table.stores_known_only == (stored is sparse)
    if stored is sparse:
        assert table.codes.has_canonical_format
        assert table.codes.nnz == (expected != UNKNOWN).sum()
    again, nothing = with_implied(table, above)  # all that follows is there
    np.testing.assert_array_equal(again.dense(), expected)
    assert nothing == Changes()


def test_what_is_absent_unless_stored_stays_a_table_of_all():
    above = classes_above({"cat": {"animal"}}, ("animal", "cat"))
    table = LabelTable(csr_array(np.array([[0, 1], [0, 0], [1, 0]], dtype=np.int8)))
    found, changes = with_implied(table, above)
    assert found.dense().tolist() == [[1, 1], [0, 0], [1, 0]]
    assert changes == Changes(present=1, absent=0, overruled=1)


def test_without_rows_or_pairs_a_table_stays_as_it_is():
    above = classes_above({"cat": {"animal"}}, ("animal", "cat"))
    empty, full = LabelTable(np.empty((0, 2), dtype=np.int8)), LabelTable(np.array([[0, 1]], dtype=np.int8))
    assert with_implied(empty, above) == (empty, Changes())
    assert with_implied(full, csr_array((2, 2), dtype=np.int32)) == (full, Changes())


def test_given_labels_are_completed_too_and_only_those_of_the_truth_are_counted():
    above = classes_above({"cat": {"animal"}}, ("animal", "cat"))
    truth, given = (LabelTable(np.array(rows, dtype=np.int8)) for rows in ([[-1, 1], [0, -1]], [[-1, -1], [-1, 1]]))
    images = ArrayImages(np.zeros((2, 1, 1, 3), np.uint8), "ab")
    found, changes = completed(Annotations(images, ("a", "b"), ("animal", "cat"), truth, given=given), above)
    assert found.truth.dense().tolist() == [[1, 1], [0, 0]]
    assert found.given.dense().tolist() == [[-1, -1], [1, 1]]
    assert changes == Changes(1, 1, 0)
    assert completed(Annotations(images, ("a", "b"), ("animal", "cat"), truth), above)[0].given is None
    assert changes.plus(Changes(3, 4, 5)) == (4, 5, 5)
    assert str(Changes(3, 4, 5)).startswith("3 labels became present, as a class below them is; 5 of these were absent")
