import numpy as np
import pytest
from scipy.sparse import csr_array

from data.images import ArrayImages
from utils.types import ABSENT, PRESENT, UNKNOWN, Annotations, Boxes, LabelTable


def both(codes, default):
    """The same labels stored dense and as CSR around `default`."""
    rows, columns = np.nonzero(codes != default)
    sparse = csr_array((codes[rows, columns], (rows, columns)), shape=codes.shape)
    return LabelTable(codes.copy()), LabelTable(sparse, default=default)


@pytest.fixture(params=[ABSENT, UNKNOWN], ids=["default absent", "default unknown"])
def tables(request):
    rng = np.random.default_rng(0)
    codes = rng.integers(-1, 2, (50, 7)).astype(np.int8)
    codes[3] = request.param
    return codes, *both(codes, request.param)


def test_both_forms_hold_the_same_labels(tables):
    codes, dense, sparse = tables
    index = np.array([4, 0, 3, 4])
    for table in (dense, sparse):
        assert (len(table), table.num_classes) == codes.shape
        np.testing.assert_array_equal(table.dense(), codes)
        np.testing.assert_array_equal(table.rows(index), codes[index])
        np.testing.assert_array_equal(table.take(index).dense(), codes[index])
        for code in (PRESENT, ABSENT, UNKNOWN):
            np.testing.assert_array_equal(table.counts(code), (codes == code).sum(axis=0))


def test_hash_is_of_the_labels_not_of_their_form(tables):
    codes, dense, sparse = tables
    assert dense.hash() == sparse.hash()
    changed = codes.copy()
    changed[10, 2] = PRESENT if changed[10, 2] != PRESENT else ABSENT
    assert LabelTable(changed).hash() != dense.hash()
    assert LabelTable(codes.reshape(7, 50)).hash() != dense.hash()


def test_rows_are_copies_and_the_table_cannot_be_changed(tables):
    _, dense, sparse = tables
    for table in (dense, sparse):
        before = table.hash()
        table.rows(np.array([0]))[:] = PRESENT
        table.dense()[:] = PRESENT
        assert table.hash() == before
    with pytest.raises(ValueError, match="read-only"):
        dense.codes[0, 0] = PRESENT


@pytest.mark.parametrize("codes", [np.zeros((2, 2)), np.zeros(4, np.int8), np.full((2, 2), 2, np.int8)])
def test_what_is_no_label_table_is_refused(codes):
    with pytest.raises((TypeError, ValueError)):
        LabelTable(codes)


def annotations(rows=4):
    ids = tuple(f"{row}" for row in range(rows))
    boxes = Boxes(np.array([0, 2, 2, 3]), np.array([1, 0, 1, 0]), np.arange(16, dtype=np.float32).reshape(4, 4))
    images = ArrayImages(np.zeros((rows, 2, 2, 3), np.uint8), ids)
    return Annotations(images, ids, ("a", "b"), LabelTable(np.eye(rows, 2, dtype=np.int8)), boxes)


def test_taking_rows_takes_their_boxes_along():
    part = annotations().take(np.array([2, 0]))
    assert part.ids == ("2", "0")
    assert part.boxes.row.tolist() == [1, 0, 0]
    assert part.boxes.label.tolist() == [1, 0, 1]
    assert part.boxes.corners[0].tolist() == [0, 1, 2, 3]


def test_row_hash_depends_on_ids_their_order_and_the_classes():
    whole = annotations()
    hashes = {whole.row_hash(), whole.take(np.array([1, 0, 2, 3])).row_hash(), whole.take(np.arange(3)).row_hash()}
    other = Annotations(whole.images, whole.ids, ("a", "c"), whole.truth)
    assert len(hashes | {other.row_hash()}) == 4


def test_annotations_whose_parts_do_not_fit_are_refused():
    whole = annotations()
    with pytest.raises(ValueError, match="pictures"):
        Annotations(whole.images, whole.ids[:2], whole.classes, whole.truth)
    with pytest.raises(ValueError, match="class names"):
        Annotations(whole.images, whole.ids, ("a",), whole.truth)
