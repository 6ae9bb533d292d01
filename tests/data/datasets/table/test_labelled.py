import numpy as np
import pytest

from data.datasets.table.labelled import (
    TEST,
    TRAIN,
    OwnLabels,
    cached_labels,
    check_classes,
    choose_classes,
    read_class_file,
    sorted_by_id,
    with_classes,
)
from data.files.cache import Cache
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN, Boxes


def labelled(**more):
    boxes = Boxes(np.array([0, 2, 2]), np.array([1, 0, 1]), np.arange(12, dtype=np.float32).reshape(3, 4))
    codes = np.array([[PRESENT, ABSENT], [UNKNOWN, ABSENT], [ABSENT, PRESENT]], dtype=np.int8)
    splits = np.array([TRAIN, TEST, TRAIN], dtype=np.int8)
    given = {"ids": ("c", "a", "b"), "classes": ("dog", "cat"), "codes": codes, "splits": splits, "boxes": boxes}
    return OwnLabels(**{**given, "closed": True, **more})


def by_name(labels):
    """Everything by name: codes by image and class, splits by image, boxes by image and class."""
    codes = {
        (id_, name): labels.codes[r, k] for r, id_ in enumerate(labels.ids) for k, name in enumerate(labels.classes)
    }
    rows, columns, corners = labels.boxes
    boxes = {(labels.ids[r], labels.classes[k], *c) for r, k, c in zip(rows, columns, corners.tolist(), strict=True)}
    return codes, dict(zip(labels.ids, labels.splits, strict=True)), boxes


def test_sorting_changes_the_order_and_nothing_else():
    labels = sorted_by_id(labelled())
    assert labels.ids == ("a", "b", "c")
    assert by_name(labels) == by_name(labelled())
    assert sorted_by_id(labelled(boxes=None)).boxes is None


def test_classes_can_be_reordered_and_added():
    labels = with_classes(labelled(), ("cat", "emu", "dog"), ABSENT)
    codes, splits, boxes = by_name(labels)
    before = by_name(labelled())
    assert {key: code for key, code in codes.items() if key[1] != "emu"} == before[0]
    assert {code for key, code in codes.items() if key[1] == "emu"} == {ABSENT}
    assert (splits, boxes) == before[1:]


def test_valid_names_pass_in_their_order():
    names = ("traffic light", "Ö", "emu, large", "0", "\u200cنی", "x" * 200)
    assert check_classes(((name, f"line {n}") for n, name in enumerate(names)), ";") == names


@pytest.mark.parametrize(
    "names, words",
    [
        (["cat", ""], ["line 2", "no name"]),
        (["cat", " "], ["line 2", "no name"]),
        (["cat", " dog"], ["line 2", "' dog'", "spaces"]),
        (["cat;dog"], ["line 1", "separator ';'"]),
        (["x" * 201], ["line 1", "201 characters"]),
        (["NaN"], ["line 1", "missing value"]),
        (["a\u2028b"], ["line 1", "line breaks"]),
        (["cat", "dog", "cat"], ["line 3", "'cat'", "line 1"]),
        (["stra\u00dfe", "STRASSE"], ["line 2", "line 1"]),
        (["\u00e9", "e\u0301"], ["line 2", "line 1"]),
    ],
)
def test_invalid_names_are_refused_with_their_line(names, words):
    with pytest.raises(UserError) as caught:
        check_classes([(name, f"line {n}") for n, name in enumerate(names, 1)], ";")
    for word in words:
        assert word in str(caught.value)


def test_classes_are_those_in_use_sorted_or_those_fixed():
    used = {"dog": "line 2", "cat": "line 3"}
    assert choose_classes(used, None, ";") == ("cat", "dog")
    assert choose_classes(used, ("emu", "dog", "cat"), ";") == ("emu", "dog", "cat")
    with pytest.raises(UserError, match=r"line 3: class 'cat' is not in classes\.txt"):
        choose_classes(used, ("dog",), ";")


def test_the_class_file_is_looked_for_beside_a_file_and_in_a_folder(tmp_path):
    assert read_class_file(tmp_path / "t.csv", ";") is None
    (tmp_path / "classes.txt").write_text("\ufeffdog\n\n cat \n", encoding="utf-8")
    assert read_class_file(tmp_path / "t.csv", ";") == read_class_file(tmp_path, ";") == ("dog", "cat")


@pytest.mark.parametrize("more", [{}, {"boxes": None}, {"closed": False}, {"notes": ("one", "two")}])
def test_labels_come_back_from_the_cache_unchanged(tmp_path, more):
    cache, reads = Cache(tmp_path), []
    results = [cached_labels(cache, "key", lambda: reads.append(1) or labelled(**more)) for _ in range(2)]
    assert reads == [1]
    one, two = results
    assert (one.ids, one.classes, one.closed, one.notes) == (two.ids, two.classes, two.closed, two.notes)
    for before, after in ((one.codes, two.codes), (one.splits, two.splits)):
        np.testing.assert_array_equal(before, after)
        assert before.dtype == after.dtype
    assert (one.boxes is None) == (two.boxes is None)
    if one.boxes is not None:
        assert by_name(one) == by_name(two)


def test_soft_targets_go_with_their_rows_and_classes():
    soft = np.array([[0.75, 0.25], [-1, 0.25], [0, 1]], dtype=np.float32)
    found = with_classes(sorted_by_id(labelled(soft=soft)), ("bird", "cat", "dog"), ABSENT)
    assert found.soft.dtype == np.float32
    assert found.soft.tolist() == [[0, 0.25, -1], [0, 1, 0], [0, 0.25, 0.75]]
