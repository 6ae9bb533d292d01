import dataclasses
import hashlib
import tracemalloc

import numpy as np
import pytest
from scipy.sparse import csr_array

from data.images.files import ArrayImages
from utils import types
from utils.class_facts import ClassCounts
from utils.types import ABSENT, PRESENT, UNKNOWN, Annotations, Boxes, CriterionInfo, LabelTable


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


def plain_hash(codes):
    return hashlib.sha256(repr(codes.shape).encode() + np.ascontiguousarray(codes).tobytes()).hexdigest()


@pytest.mark.parametrize("block", [1, 10, 64, 1 << 22])
def test_hash_and_counts_do_not_depend_on_the_size_of_blocks(tables, monkeypatch, block):
    codes, dense, sparse = tables
    monkeypatch.setattr(types, "_BLOCK", block)
    for table in (dense, sparse):
        assert table.hash() == plain_hash(codes)
        for code in (PRESENT, ABSENT, UNKNOWN):
            np.testing.assert_array_equal(table.counts(code), (codes == code).sum(axis=0))


@pytest.mark.parametrize("classes, block, size", [(7, 14, 2), (7, 20, 2), (7, 6, 1), (1, 4, 4)])
def test_hash_reads_as_many_rows_at_a_time_as_a_block_has_entries(monkeypatch, classes, block, size):
    read, rows = [], LabelTable.rows
    monkeypatch.setattr(types, "_BLOCK", block)
    monkeypatch.setattr(LabelTable, "rows", lambda self, index: read.append(index) or rows(self, index))
    table = LabelTable(np.zeros((9, classes), dtype=np.int8))
    assert table.hash() == table.hash()
    assert read == [slice(start, start + size) for start in range(0, 9, size)], "each once: the hash is kept"


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (0, 0), (1, 1)])
def test_tables_of_nothing_have_hashes_and_counts(shape):
    codes = np.zeros(shape, dtype=np.int8)
    for table in both(codes, UNKNOWN):
        assert table.hash() == plain_hash(codes)
        assert table.counts(ABSENT).tolist() == [shape[0]] * shape[1]


def test_hash_reads_labels_row_by_row_however_they_lie_in_memory(tables):
    codes, dense, _ = tables
    assert LabelTable(np.asfortranarray(codes)).hash() == LabelTable(codes[::-1][::-1]).hash() == dense.hash()


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_indices_of_either_width(tables, kind):
    codes, dense, sparse = tables
    held = sparse.codes
    parts = held.data.copy(), held.indices.astype(kind), held.indptr.astype(kind)
    wide = csr_array(parts, shape=codes.shape)
    wide.indices, wide.indptr = parts[1:]  # scipy narrows them where it can
    table = LabelTable(wide, default=sparse.default)
    assert table.codes.indptr.dtype == kind
    index = np.array([4, -1, 3, 4])
    np.testing.assert_array_equal(table.rows(index), codes[index])
    np.testing.assert_array_equal(table.rows(index.astype(np.int32)), codes[index])
    np.testing.assert_array_equal(table.rows(slice(5, 45, 3)), codes[5:45:3])
    np.testing.assert_array_equal(table.take(index).dense(), codes[index])
    np.testing.assert_array_equal(table.rows(np.array([], dtype=np.int64)), codes[:0])
    assert table.hash() == dense.hash()


def test_who_stores_known_labels_only(tables):
    _, dense, sparse = tables
    assert not dense.stores_known_only
    assert sparse.stores_known_only == (sparse.default == UNKNOWN)
    assert sparse.take(np.array([1])).stores_known_only == sparse.stores_known_only


def test_a_large_sparse_table_never_becomes_dense():
    rows, classes = 200_000, 5_000  # a thousand million entries
    columns = np.arange(rows, dtype=np.int32) % classes
    codes = csr_array((np.ones(rows, np.int8), columns, np.arange(rows + 1, dtype=np.int32)), shape=(rows, classes))
    table = LabelTable(codes, default=UNKNOWN)
    tracemalloc.start()
    assert table.rows(np.array([rows - 1]))[0].tolist().index(PRESENT) == classes - 1
    assert table.counts(UNKNOWN).tolist() == [rows - rows // classes] * classes
    table.take(np.arange(0, rows, 2)).counts()
    table.hash()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def test_rows_are_copies_and_the_table_cannot_be_changed(tables):
    _, dense, sparse = tables
    for table in (dense, sparse):
        before = table.hash()
        table.rows(np.array([0]))[:] = PRESENT
        table.dense()[:] = PRESENT
        assert table.hash() == before
    with pytest.raises(ValueError, match="read-only"):
        dense.codes[0, 0] = PRESENT


@pytest.mark.parametrize("codes", [np.zeros((2, 2)), np.zeros(4, np.int8), np.zeros((2, 2, 1), np.int8)])
def test_what_is_no_label_table_is_refused(codes):
    with pytest.raises(TypeError, match="labels must be int8"):
        LabelTable(codes)


@pytest.mark.parametrize("code", [-128, UNKNOWN - 1, PRESENT + 1, 127])
def test_other_codes_are_refused_in_either_form(code):
    codes = np.zeros((3, 2), dtype=np.int8)
    codes[1] = PRESENT, code
    for held in (codes, csr_array(codes)):
        with pytest.raises(ValueError, match="labels must be 1"):
            LabelTable(held)


def test_codes_are_those_of_the_label_files():
    assert (PRESENT, ABSENT, UNKNOWN) == (1, 0, -1)


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


@pytest.mark.parametrize("block", [1, 3, 4, 100])
def test_row_hash_is_that_of_the_joined_text_however_it_is_cut(monkeypatch, block):
    monkeypatch.setattr(types, "_IDS", block)
    whole = annotations()
    for part in (whole, whole.take(np.arange(0))):
        text = "\n".join([*part.ids, "", *part.classes])
        assert part.row_hash() == hashlib.sha256(text.encode()).hexdigest()


def test_annotations_whose_parts_do_not_fit_are_refused():
    whole = annotations()
    with pytest.raises(ValueError, match="images"):
        Annotations(whole.images, whole.ids[:2], whole.classes, whole.truth)
    with pytest.raises(ValueError, match="class names"):
        Annotations(whole.images, whole.ids, ("a",), whole.truth)


def full_annotations():
    whole = annotations()
    return dataclasses.replace(
        whole, given=LabelTable(np.zeros((4, 2), np.int8)), places=np.array([3, 0, 2, 1]), ids=("9", "100", "b", "a")
    )


@pytest.mark.parametrize("part", ["truth", "given", "places"])
@pytest.mark.parametrize("rows", [3, 5])
def test_a_part_of_other_length_is_named(part, rows):
    other = np.arange(rows) if part == "places" else LabelTable(np.zeros((rows, 2), np.int8))
    with pytest.raises(ValueError, match=f"^{part}: {rows} rows for 4 ids$"):
        dataclasses.replace(full_annotations(), **{part: other})


def test_taking_rows_takes_every_part_along_and_adds_none():
    index = np.array([3, 0])
    part = full_annotations().take(index)
    assert (len(part), part.ids, part.classes) == (2, ("a", "9"), ("a", "b"))
    np.testing.assert_array_equal(part.truth.dense(), np.eye(4, 2)[index])
    assert len(part.given) == 2
    assert part.places.tolist() == [1, 3]
    bare = dataclasses.replace(annotations(), boxes=None).take(index)
    assert (bare.boxes, bare.given, bare.places) == (None, None, None)


def test_recipes_draw_in_the_published_order_or_that_of_the_ids_as_text():
    whole = full_annotations()
    assert whole.recipe_order().tolist() == [1, 3, 2, 0]
    assert dataclasses.replace(whole, places=None).recipe_order().tolist() == [1, 0, 3, 2]
    assert dataclasses.replace(whole, places=np.zeros(4, int)).recipe_order().tolist() == [0, 1, 2, 3]
    for ids, order in ((("1", "10", "10", "2"), [0, 1, 2, 3]), (("1", "2", "10", "2"), [0, 2, 1, 3])):
        found = dataclasses.replace(whole, places=None, ids=ids).recipe_order()
        assert (found.tolist(), found.dtype) == (order, np.int64)


def test_the_hash_of_the_content_depends_on_rows_classes_and_true_labels():
    whole = full_annotations()
    changed = (
        {"ids": ("9", "100", "b", "c")},
        {"classes": ("a", "c")},
        {"truth": LabelTable(np.zeros((4, 2), np.int8))},
    )
    assert len({whole.content_hash(), *(dataclasses.replace(whole, **each).content_hash() for each in changed)}) == 4
    assert dataclasses.replace(whole, given=None, boxes=None, places=None).content_hash() == whole.content_hash()


def test_the_backbone_learns_from_the_first_epoch_on_unless_something_else_is_said():
    counts = ClassCounts(np.array([1, 2]), "observed")
    info = CriterionInfo(
        observed=annotations().truth,
        classes=("a", "b"),
        epochs=1,
        steps_per_epoch=1,
        feature_width=8,
        class_counts=counts,
        seed=0,
    )
    assert (info.frozen_epochs, info.clean_counts) == (0, None)


def soft_table():
    soft = np.array([[0.25, 1], [-1, 0.5], [0.75, 0]], dtype=np.float32)
    return LabelTable(np.array([[0, 1], [-1, 1], [1, 0]], dtype=np.int8), soft=soft)


def test_soft_targets_go_with_their_rows_and_into_the_hash():
    table = soft_table()
    taken = table.take(np.array([2, 0]))
    assert taken.soft.tolist() == [[0.75, 0], [0.25, 1]]
    assert taken.dense().tolist() == [[1, 0], [0, 1]]
    assert table.hash() == soft_table().hash()
    changed = table.soft.copy()
    changed[0, 0] = 0.26
    others = {table.hash(), LabelTable(table.codes, soft=changed).hash(), table.hard().hash()}
    assert len(others) == 3
    assert table.hard().hash() == LabelTable(table.dense()).hash()
    assert table.hard().soft is None
    assert taken.hard().hard() is not taken
    assert LabelTable(table.codes).hard().soft is None


def test_a_table_without_soft_targets_is_its_own_hard_table():
    table = LabelTable(np.zeros((2, 2), dtype=np.int8))
    assert table.hard() is table


@pytest.mark.parametrize(
    "soft, error",
    [
        (np.zeros((3, 2)), TypeError),
        (np.zeros((2, 2), dtype=np.float32), TypeError),
        (np.array([[0, 1], [0, 1], [1, 0]], dtype=np.float32), ValueError),
        (np.array([[-1, 1], [-1, 1], [1, 0]], dtype=np.float32), ValueError),
        (np.array([[0, 1.5], [-1, 1], [1, 0]], dtype=np.float32), ValueError),
        (np.array([[0, np.nan], [-1, 1], [1, 0]], dtype=np.float32), ValueError),
        (np.array([[0, 1], [-0.5, 1], [1, 0]], dtype=np.float32), ValueError),
    ],
)
def test_soft_targets_must_fit_the_codes(soft, error):
    codes = np.array([[0, 1], [-1, 1], [1, 0]], dtype=np.int8)
    with pytest.raises(error, match="soft targets must be"):
        LabelTable(codes, soft=soft)


def test_soft_targets_stand_beside_dense_codes_only():
    with pytest.raises(TypeError, match="of dense labels"):
        LabelTable(csr_array(np.zeros((1, 1), dtype=np.int8)), soft=np.zeros((1, 1), dtype=np.float32))


def test_scored_annotations_have_hard_truth():
    images = ArrayImages(np.zeros((3, 4, 4, 3), dtype=np.uint8), ("a", "b", "c"))
    soft = Annotations(images, ("a", "b", "c"), ("x", "y"), soft_table())
    assert soft.scored().truth.soft is None
    assert soft.scored().content_hash() == dataclasses.replace(soft, truth=soft_table().hard()).content_hash()
    assert soft.content_hash() != soft.scored().content_hash()
    assert soft.scored().scored() is not soft
    hard = soft.scored()
    assert hard.scored() is hard


def test_all_rows_in_order_are_taken_without_a_copy(tables):
    _, dense, sparse = tables
    for table in (dense, sparse):
        assert table.take(np.arange(50)) is table
        for other in (np.arange(49), np.arange(50)[::-1], np.roll(np.arange(50), 1), np.zeros(50, dtype=np.int64)):
            assert table.take(other) is not table
            np.testing.assert_array_equal(table.take(other).dense(), table.dense()[other])


def test_all_annotations_in_order_are_taken_without_a_copy():
    ids = ("a", "b", "c")
    images = ArrayImages(np.zeros((3, 4, 4, 3), np.uint8), ids)
    whole = Annotations(images, ids, ("x",), LabelTable(np.array([[1], [0], [-1]], dtype=np.int8)))
    assert whole.take(np.arange(3)) is whole
    assert whole.take(np.array([0, 2, 1])).ids == ("a", "c", "b")
    assert whole.take(np.arange(2)).ids == ("a", "b")


def test_labels_are_counted_once_and_counts_may_be_changed(tables, monkeypatch):
    codes, dense, sparse = tables
    for table in (dense, sparse):
        for code in (PRESENT, ABSENT, UNKNOWN):
            table.counts(code)[:] = -5
    monkeypatch.setattr(LabelTable, "_counted", None)
    for table in (dense, sparse):
        for code in (PRESENT, ABSENT, UNKNOWN):
            np.testing.assert_array_equal(table.counts(code), (codes == code).sum(axis=0))
