"""From lines to images: values between 0 and 1 in columns and in lines, however often an image stands there."""

import numpy as np
import pytest

from data.datasets.table.columns import labels_of, read_table
from data.datasets.table.config import TableConfig
from data.datasets.table.described import entries_of
from utils.checks import UserError
from utils.types import LabelTable

COLUMNS = "image,cat,dog\nb.jpg,0.25,1\na.jpg,,0.5\nc.jpg,-1,0.75\n"
PAIRS = "image,label,score\nb,cat,0.25\na,dog,1\nb,dog,0.75\nc,cat,0\n"


def read(folder, text, **more):
    path = folder / "t.csv"
    path.write_text(text)
    config = TableConfig(table=(path,), **more)
    found = read_table(path, config, None, folder)
    return labels_of(found, config), entries_of(found)


def test_kept_values_of_columns_stand_beside_codes(tmp_path):
    labels, entries = read(tmp_path, COLUMNS, soft_labels="keep")
    assert labels.ids == ("a.jpg", "b.jpg", "c.jpg")
    assert labels.codes.tolist() == [[-1, 1], [0, 1], [-1, 1]]
    assert labels.soft.tolist() == [[-1, 0.5], [0.25, 1], [-1, 0.75]]
    assert labels.found["class_columns"] == "cat,dog"
    assert (entries.soft.tolist(), entries.uncertain.tolist(), entries.blank.tolist()) == ([1, 2], [1, 0], [1, 0])
    assert LabelTable(labels.codes, soft=labels.soft).soft is labels.soft  # it fits


def test_uncertain_entries_follow_their_own_policy(tmp_path):
    labels, _ = read(tmp_path, COLUMNS, soft_labels="keep", uncertain="present")
    assert labels.soft.tolist() == [[-1, 0.5], [0.25, 1], [1, 0.75]]


@pytest.mark.parametrize("form, more", [(COLUMNS, {}), (PAIRS, {"label_column": "label", "value_column": "score"})])
@pytest.mark.parametrize("threshold", ["0.25", "0.5", "0.6"])
def test_a_threshold_is_as_if_the_table_had_been_written_so(tmp_path, form, more, threshold):
    hard = form
    for value in ("0.25", "0.75", "0.5"):
        hard = hard.replace(value, str(int(float(value) >= float(threshold))))
    soft, entries = read(tmp_path, form, soft_labels=f"threshold={threshold}", **more)
    plain, none = read(tmp_path, hard, **more)
    assert soft.soft is None
    assert (soft.ids, soft.classes, soft.found) == (plain.ids, plain.classes, plain.found)
    assert LabelTable(soft.codes).hash() == LabelTable(plain.codes).hash()
    assert entries.soft.sum() > none.soft.sum() == 0


def test_kept_values_of_lines(tmp_path):
    labels, entries = read(tmp_path, PAIRS, soft_labels="keep", label_column="label", value_column="score")
    assert labels.codes.tolist() == [[-1, 1], [0, 1], [0, -1]]
    assert labels.soft.tolist() == [[-1, 1], [0.25, 0.75], [0, -1]]
    assert entries.soft.tolist() == [1, 1]
    assert "2 values between 0 and 1" in " ".join(labels.notes)
    assert labels.notes[-1].endswith("4 lines of 3 images; what has no line is unknown, as some lines say absent")
    alone, _ = read(tmp_path, "image,label\na,cat\nb,dog\na,dog\n")
    assert alone.notes[-1].endswith("3 lines of 2 images; what has no line is absent")


def test_values_and_blanks_of_lines_are_counted(tmp_path):
    text = "image,label,score\na,cat,-1\nb,cat,\nb,dog,0\n"
    _, entries = read(tmp_path, text, label_column="label", value_column="score")
    assert (entries.uncertain.tolist(), entries.blank.tolist()) == ([1, 0], [1, 0])


def test_two_values_of_a_pair_are_refused_only_where_they_differ(tmp_path):
    more = {"label_column": "label", "value_column": "score"}
    text = "image,label,score\na,cat,0.25\na,cat,0.3\n"
    with pytest.raises(UserError, match=r"line 3: 'a' and 'cat' have another value than in .*line 2"):
        read(tmp_path, text, soft_labels="keep", **more)
    assert read(tmp_path, text, soft_labels="threshold=0.5", **more)[0].codes.tolist() == [[0]]
    same = read(tmp_path, "image,label,score\na,cat,1.00\na,cat,1\na,dog,.5\na,dog,0.50\n", soft_labels="keep", **more)
    assert same[0].soft.tolist() == [[1, 0.5]]


@pytest.mark.parametrize(
    "score, fault", [("0.3", "--soft_labels keep trains on them"), ("2", r"must be 1 \(present\)")]
)
def test_values_of_lines_are_refused_by_default(tmp_path, score, fault):
    with pytest.raises(UserError, match=rf"line 2: .*{fault}"):
        read(tmp_path, f"image,label,score\na,cat,{score}\n", label_column="label", value_column="score")


def test_several_lines_with_values(tmp_path):
    text = "image,cat\na,0.75\na,0.25\nb,1\n"
    first, _ = read(tmp_path, text, soft_labels="keep", repeated="first")
    assert first.soft.tolist() == [[0.75], [1]]
    assert read(tmp_path, text, soft_labels="threshold=0.5", repeated="unknown")[0].codes.tolist() == [[-1], [1]]
    for how in ("union", "majority", "unknown"):
        with pytest.raises(UserError, match=rf"--repeated {how}: takes marks together, .* take --repeated first"):
            read(tmp_path, text, soft_labels="keep", repeated=how)


def test_two_images_of_a_line_have_its_values(tmp_path):
    labels, _ = read(tmp_path, "left,right,cat\nb,a,0.25\nd,c,0.75\n", soft_labels="keep", image_column="left,right")
    assert labels.ids == ("a", "b", "c", "d")
    np.testing.assert_array_equal(labels.soft, [[0.25], [0.25], [0.75], [0.75]])


def test_a_table_without_such_values_is_read_as_ever(tmp_path):
    text = "image,cat\na,1\nb,0\n"
    plain, kept = read(tmp_path, text)[0], read(tmp_path, text, soft_labels="keep")[0]
    assert kept.soft is None
    np.testing.assert_array_equal(plain.codes, kept.codes)
    assert "--soft_labels changes nothing" in kept.notes[-1]


def test_a_line_that_names_none_of_the_classes_says_absent_for_all(tmp_path):
    text = "image,label,score\na,none,1\nb,cat,0\nc,none,0\nb,dog,1\n"
    flags = {"label_column": "label", "value_column": "score", "empty_names": "none"}
    labels, _ = read(tmp_path, text, **flags)
    assert labels.classes == ("cat", "dog")
    assert labels.codes.tolist() == [[0, 0], [0, 1], [-1, -1]]
    soft, _ = read(tmp_path, text.replace("dog,1", "dog,0.75"), soft_labels="keep", **flags)
    assert soft.soft.tolist() == [[0, 0], [0, 0.75], [-1, -1]]


@pytest.mark.parametrize("title", ["Confidence", "score", "is_present"])
@pytest.mark.parametrize(
    "second, flag", [("0", "--value_column {}"), ("0.2", "--value_column {} --soft_labels threshold=0.5")]
)
def test_lines_of_a_class_each_that_a_column_contradicts_are_refused(tmp_path, title, second, flag):
    text = f"image,label,{title}\na,cat,1\na,dog,{second}\nb,cat,\n"
    with pytest.raises(UserError) as refusal:
        read(tmp_path, text)
    where = f"t.csv, line 3: names a class in column 'label', but holds '{second}' in column '{title}'; give "
    assert where + flag.format(title) + " if that means absent, else --ignore_columns" in str(refusal.value)
    assert read(tmp_path, text, ignore_columns=title)[0].codes.tolist() == [[1, 1], [1, 0]]
    value = read(tmp_path, text, value_column=title, soft_labels="threshold=0.5")[0]
    assert value.codes.tolist() == [[1, 0], [-1, -1]]
    assert read(tmp_path, text.replace(second, "1"))[0].codes.tolist() == [[1, 1], [1, 0]]
    assert read(tmp_path, text.replace(second, "high"))[0].codes.tolist() == [[1, 1], [1, 0]]
    assert read(tmp_path, text.replace("a,dog", "c,dog"))[0].codes.tolist() == [[1, 0], [1, 0], [0, 1]]


@pytest.mark.parametrize(
    "text, more",
    [
        ("image,label,seen\na,cat,1\na,dog,0\n", {}),  # no title of what a line says of its class
        ("image,label,score\na,cat,high\na,dog,0\n", {}),  # no values
        ("image,label,value,score\na,cat,1,1\na,dog,1,0\n", {"label_column": "label", "value_column": "value"}),
    ],
)
def test_columns_that_contradict_no_line(tmp_path, text, more):
    assert read(tmp_path, text, **more)[0].codes.tolist() == [[1, 1]]


def test_values_need_a_column_of_names_and_one_class_in_a_line(tmp_path):
    with pytest.raises(UserError, match="--value_column score: needs a column of class names, --label_column"):
        read(tmp_path, "image,score,cat\na,1,1\n", value_column="score", class_columns="cat")
    several = "image,labels,score\na,\"['cat', 'dog']\",1\nb,['cat'],1\n"
    with pytest.raises(UserError, match=r"t\.csv: --value_column is for one class per line, but lines name several"):
        read(tmp_path, several, value_column="score")


def test_an_image_in_two_lines_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"t\.csv, line 3: image 'a' is there already \(.*t\.csv, line 2\)"):
        read(tmp_path, "image,cat,dog\na,1,1\na,0,1\n")
