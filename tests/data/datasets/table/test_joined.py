"""Several tables as one, against a slow reading of each entry."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.datasets.table.joined import joined, union_of_classes
from data.datasets.table.joined_images import TableLabels
from data.datasets.table.labelled import NO_SPLIT, TEST, TRAIN, VALIDATION, OwnLabels
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN, Boxes


def labelled(name, ids, classes, codes, *, splits=None, group_texts=None, **more):
    """A table called `name`; the line of an image is its row."""
    ids = tuple(ids)
    codes = np.array(codes, dtype=np.int8).reshape(len(ids), len(classes))
    splits = np.array([NO_SPLIT] * len(ids) if splits is None else splits, dtype=np.int8)
    labels = OwnLabels(ids, tuple(classes), codes, splits, **{"closed": True, **more})
    return TableLabels(Path(name), labels, lambda image: f"{name}, line {ids.index(image) + 2}", group_texts)


def entry(tables, image, name, how):
    """One entry of what tables say together, read one by one."""
    told = []
    for table in tables:
        labels = table.labels
        if image in labels.ids and name in labels.classes:
            told.append(int(labels.codes[labels.ids.index(image), labels.classes.index(name)]))
    told = [code for code in told if code != UNKNOWN]
    present, absent = told.count(PRESENT), told.count(ABSENT)
    if not told:
        return UNKNOWN
    if how == "first":
        return told[0]
    if how == "union":
        return PRESENT if present else ABSENT
    if how == "majority":
        return UNKNOWN if present == absent else PRESENT if present > absent else ABSENT
    return UNKNOWN if present and absent else told[0]


@pytest.mark.parametrize("how", ["union", "majority", "unknown", "first"])
@pytest.mark.parametrize("seed", range(10))
def test_each_entry_is_what_the_tables_that_know_it_say(how, seed):
    rng = np.random.default_rng(seed)
    tables = []
    for number in range(int(rng.integers(2, 5))):
        ids = sorted(rng.choice(list("abcdefgh"), int(rng.integers(1, 8)), replace=False).tolist())
        classes = rng.permutation(list("uvwxyz"))[: int(rng.integers(1, 6))].tolist()
        tables.append(labelled(f"{number}.csv", ids, classes, rng.integers(-1, 2, (len(ids), len(classes)))))
    found = joined(tables, how).labels
    assert found.ids == tuple(sorted({one for table in tables for one in table.labels.ids}))
    assert found.classes == tuple(dict.fromkeys(name for table in tables for name in table.labels.classes))
    expected = [[entry(tables, image, name, how) for name in found.classes] for image in found.ids]
    assert found.codes.tolist() == expected
    assert found.codes.dtype == np.int8


def test_an_image_in_two_tables_is_refused_with_both_lines_and_the_flag():
    tables = [labelled("a.csv", "123", "x", [[1]] * 3), labelled("b.csv", "023", "y", [[1]] * 3)]
    with pytest.raises(UserError) as caught:
        joined(tables, "refuse")
    assert str(caught.value) == (
        "b.csv, line 3: image '2' is in another table too (a.csv, line 3); 2 images are; say with --repeated how "
        "tables belong together (union, majority, unknown, first)"
    )


def test_tables_of_different_images_and_classes(tmp_path):
    tables = [labelled("a.csv", "13", "x", [[1], [0]]), labelled("b.csv", "24", "yx", [[1, 0], [0, -1]])]
    found, agreement = joined(tables, "refuse")
    assert found.codes.tolist() == [[1, -1], [0, 1], [0, -1], [-1, 0]]
    assert agreement is None
    assert found.closed
    assert found.notes == (
        "2 tables: 4 images and 2 classes",
        "a.csv: lacks 1 of 2 classes (y), unknown for its 2 images",
    )
    assert json.loads(found.found["table_columns"]) == {"a.csv": {}, "b.csv": {}}
    assert (found.boxes, found.groups) == (None, None)


def test_what_was_found_in_each_table_is_kept_and_its_notes_come_first():
    one = labelled("a.csv", "1", "x", [[1]], found={"image_column": "é"}, notes=("a.csv: read",), closed=False)
    other = labelled("b.csv", "2", "y", [[1]], found={"label_separator": " "})
    found = joined([one, other], "refuse").labels
    assert found.found == {"table_columns": '{"a.csv": {"image_column": "é"}, "b.csv": {"label_separator": " "}}'}
    assert found.notes[0] == "a.csv: read"
    assert not found.closed
    assert found.notes[2].endswith("; absent where --class_names or classes.txt lists them")


def test_a_class_that_only_a_list_gives_to_a_table_is_said():
    names = {"found": {"label_column": "tags"}}
    one = labelled("a.csv", "1", "xyz", [[1, 0, 0]], **names)
    other = labelled("b.csv", "2", "xyz", [[0, 1, 0]], **names)
    notes = joined([one, other], "refuse").labels.notes
    said = "absent for its images as the list of all classes has it; without that list unknown"
    assert notes[1:] == (f"a.csv: never names y, {said}", f"b.csv: never names x, {said}")
    columns = joined([labelled("a.csv", "1", "xy", [[1, 0]]), other], "refuse").labels.notes
    assert not any("a.csv: never" in note for note in columns)


@pytest.mark.parametrize("missing, shown", [(3, "b0, b1, b2"), (4, "b0, b1, b2, ...")])
def test_three_classes_that_a_table_lacks_are_named(missing, shown):
    tables = [
        labelled("a.csv", "1", "x", [[1]]),
        labelled("b.csv", "2", [f"b{k}" for k in range(missing)], [1] * missing),
    ]
    notes = joined(tables, "refuse").labels.notes
    assert notes[1] == f"a.csv: lacks {missing} of {missing + 1} classes ({shown}), unknown for its 1 images"


def test_classes_follow_a_list_and_then_the_tables():
    tables = [labelled("a.csv", "1", "xcd", [[1, 1, 1]]), labelled("b.csv", "2", "bac", [[1, 1, 1]])]
    assert union_of_classes(tables, ("a", "unused", "b", "c")) == ("a", "b", "c", "x", "d")
    assert union_of_classes(tables, ()) == ("x", "c", "d", "b", "a")


def test_a_class_in_two_spellings_is_refused():
    tables = [labelled("a.csv", "1", ["Boat"], [[1]]), labelled("b.csv", "2", ["boat"], [[1]])]
    with pytest.raises(UserError, match=r"b\.csv: class 'boat' is there as 'Boat' too \(a\.csv\)"):
        joined(tables, "refuse")


def test_how_far_tables_agree_is_said():
    tables = [labelled("a.csv", "12", "xy", [[1, 0], [1, -1]]), labelled("b.csv", "23", "xy", [[1, 1], [1, 1]])]
    found, agreement = joined([*tables, labelled("c.csv", "2", "x", [[0]])], "majority")
    np.testing.assert_array_equal(agreement, [0.0, np.nan])
    assert found.notes[0] == (
        "3 tables: 3 images and 2 classes; 1 images are in several, taken together by --repeated majority: tables "
        "agree on 0.0% of the labels that several know"
    )
    silent = [labelled("a.csv", "1", "x", [[1]]), labelled("b.csv", "1", "y", [[1]])]
    assert "agree on 100.0%" in joined(silent, "unknown").labels.notes[0]


def test_splits_of_one_table_hold_for_the_others_and_the_rest_is_for_training():
    one = labelled("a.csv", "123", "x", [[1]] * 3, splits=[TRAIN, VALIDATION, TEST])
    other = labelled("b.csv", "345", "y", [[1]] * 3)
    found = joined([one, other], "union").labels
    assert found.splits.tolist() == [TRAIN, VALIDATION, TEST, TRAIN, TRAIN]
    assert found.splits.dtype == np.int8
    said = "b.csv: without a split; 2 images of which no table names one are for "
    assert found.notes[-1] == f"{said}training"
    held = joined([one, other], "union", rest=TEST).labels
    assert held.splits.tolist() == [TRAIN, VALIDATION, TEST, TEST, TEST]
    assert held.notes[-1] == f"{said}the test"
    assert (joined([other, labelled("c.csv", "7", "y", [[1]])], "union").labels.splits == NO_SPLIT).all()
    partly = labelled("c.csv", "89", "y", [[1]] * 2, splits=[TEST, NO_SPLIT])
    assert joined([one, other, partly], "union").labels.notes[-1].startswith("b.csv: without a split; 3 images")
    covered = joined([one, labelled("b.csv", "3", "y", [[1]])], "union").labels
    assert not any("without a split" in note for note in covered.notes)


def test_two_splits_of_an_image_are_refused_with_both_lines():
    one = labelled("a.csv", "12", "x", [[1]] * 2, splits=[TRAIN, TEST])
    bare = labelled("b.csv", "12", "y", [[1]] * 2)
    other = labelled("c.csv", "23", "z", [[1]] * 2, splits=[VALIDATION, TEST])
    with pytest.raises(UserError) as caught:
        joined([bare, one, other], "union")
    assert (
        str(caught.value) == "c.csv, line 2: image '2' is in 'val', but in 'test' in a.csv, line 3; correct one of them"
    )


def grouped(name, ids, texts):
    """A table with a column of groups."""
    known = tuple(dict.fromkeys(texts))
    groups = np.array([known.index(text) for text in texts])
    return labelled(name, ids, "x", [[1]] * len(ids), groups=groups, group_texts=known)


def together(labels):
    """The images of each group."""
    found = {}
    for image, group in zip(labels.ids, labels.groups.tolist(), strict=True):
        found.setdefault(group, []).append(image)
    return sorted("".join(images) for images in found.values())


def test_a_group_is_the_same_in_all_tables():
    found = joined([grouped("a.csv", "123", "pqp"), grouped("b.csv", "456", "rqq")], "refuse").labels
    assert together(found) == ["13", "256", "4"]
    assert together(
        joined([labelled("c.csv", "78", "x", [[1]] * 2), grouped("a.csv", "12", "pp")], "refuse").labels
    ) == [
        "12",
        "7",
        "8",
    ]


def test_a_blank_group_counts_where_no_table_says_more():
    found = joined([grouped("a.csv", "1234", ["", "", "p", ""]), grouped("b.csv", "24", ["p", ""])], "union").labels
    assert together(found) == ["14", "23"]


def test_images_of_a_line_are_a_group_that_joins_what_it_touches():
    lines = labelled("a.csv", "1234", "x", [[1]] * 4, groups=np.array([5, 5, 2, 2]))
    more = labelled("b.csv", "256", "x", [[1]] * 3, groups=np.array([0, 0, 1]))
    assert together(joined([lines, more], "union").labels) == ["125", "34", "6"]
    assert together(joined([lines, grouped("c.csv", "37", "pp")], "union").labels) == ["12", "347"]
    first = labelled("a.csv", "1234", "x", [[1]] * 4, groups=np.array([1, 1, 0, 0]))
    assert together(joined([first, grouped("c.csv", "5", "p")], "refuse").labels) == ["12", "34", "5"]


def test_two_groups_of_an_image_are_refused_with_both_lines():
    tables = [grouped("a.csv", "12", "pq"), labelled("b.csv", "2", "y", [[1]]), grouped("c.csv", "12", ["", "r"])]
    with pytest.raises(UserError) as caught:
        joined(tables, "union")
    assert str(caught.value) == "c.csv, line 3: image '2' is in 'r', but in 'q' in a.csv, line 3; correct one of them"


def boxed(name, ids, classes, codes, boxes):
    """A table with boxes (image, class, x1)."""
    row, label, start = (np.array(part) for part in zip(*boxes, strict=True))
    corners = np.stack([start, start, start + 1, start + 1], axis=1).astype(np.float32)
    return labelled(name, ids, classes, codes, boxes=Boxes(row, label, corners))


def test_boxes_of_an_image_and_class_are_those_of_the_first_table_that_has_any():
    one = boxed("a.json", "23", "xy", [[1, 0], [1, 1]], [(1, 1, 10), (0, 0, 11), (0, 0, 12), (1, 0, 13)])
    other = boxed("b.json", "12", "zx", [[1, 0], [1, 1]], [(1, 1, 20), (1, 0, 21), (0, 0, 22)])
    found = joined([one, other], "union").labels
    assert found.classes == ("x", "y", "z")
    told = [(found.ids[r], found.classes[k], int(c[0])) for r, k, c in zip(*found.boxes, strict=True)]
    assert told == [("1", "z", 22), ("2", "x", 11), ("2", "x", 12), ("2", "z", 21), ("3", "y", 10), ("3", "x", 13)]


def test_boxes_of_what_is_absent_in_the_end_are_left_out():
    tables = [labelled(name, "1", "x", [[0]], boxes=Boxes(*np.zeros((2, 0), int), np.zeros((0, 4)))) for name in "ab"]
    held = joined([*tables, boxed("c.json", "1", "x", [[1]], [(0, 0, 1)])], "majority").labels.boxes
    assert len(held.row) == 0


def test_boxes_of_only_some_tables_are_not_used_and_that_is_said():
    tables = [boxed("a.json", "1", "x", [[1]], [(0, 0, 1)]), labelled("b.csv", "2", "x", [[1]])]
    found = joined(tables, "refuse").labels
    assert found.boxes is None
    assert found.notes[-1] == "b.csv: without boxes; those of the other tables are not used"


def soft(name, ids, classes, values):
    """A table of soft labels."""
    values = np.array(values, dtype=np.float32)
    codes = np.where(values == UNKNOWN, UNKNOWN, values >= 0.5)
    return labelled(name, ids, classes, codes, soft=values)


def test_soft_labels_stay_so_beside_hard_ones():
    found = joined(
        [soft("a.csv", "12", "xy", [[0.25, 0.75], [-1, 1]]), labelled("b.csv", "3", "y", [[0]])], "refuse"
    ).labels
    assert found.soft.tolist() == [[0.25, 0.75], [-1, 1], [-1, 0]]
    assert found.codes.tolist() == [[0, 1], [-1, 1], [-1, 0]]
    assert (found.soft.dtype, found.codes.dtype) == (np.float32, np.int8)


def test_soft_labels_of_images_in_two_tables_are_those_of_the_first_that_knows():
    tables = [soft("a.csv", "12", "xy", [[0.25, -1], [-1, 1]]), labelled("b.csv", "13", "yx", [[0, 1], [1, -1]])]
    tables.append(soft("c.csv", "2", "yx", [[0.5, 0.125]]))
    found = joined(tables, "first").labels
    assert found.soft.tolist() == [[0.25, 0], [0.125, 1], [-1, 1]]
    assert found.codes.tolist() == [[0, 0], [0, 1], [-1, 1]]
    with pytest.raises(UserError, match="--repeated union: takes marks of tables together, not the values that"):
        joined(tables, "union")
    assert joined([tables[1], labelled("d.csv", "1", "x", [[1]])], "union").labels.soft is None


def test_long_names_of_classes_are_cut():
    tables = [labelled("a.csv", "1", "x", [[1]]), labelled("b.csv", "2", ["b" * 50], [[1]])]
    assert f"({'b' * 40})" in joined(tables, "refuse").labels.notes[1]
