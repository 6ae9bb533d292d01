from pathlib import Path

import numpy as np
import pytest

from data.datasets.table.codes import (
    class_columns,
    name_column,
    read_name_list,
    settled,
    uncertain_policy,
    without_empty,
)
from data.datasets.table.soft import SoftPolicy
from tests.data.datasets.table.sheets import sheet_of
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN


def columns(cells, blank=None, separator=None, listed=None, policy=None):
    return class_columns(sheet_of(cells), list(cells), blank, separator, listed, policy)


def names(cells, separator=None, fixed=None, listed=None, empty=(), **more):
    return name_column(sheet_of({"tags": cells}), "tags", separator, fixed, listed, frozenset(empty), **more)


def test_a_column_per_class_with_all_its_codes():
    found = columns({"a": ["1", "0", "-1", ""], "b": ["yes", "", "No", "TRUE"], "c": ["x", "", "X", ""]})
    assert found.classes == ("a", "b", "c")
    np.testing.assert_array_equal(
        found.codes,
        [[PRESENT, PRESENT, PRESENT], [ABSENT, UNKNOWN, ABSENT], [-2, ABSENT, PRESENT], [UNKNOWN, PRESENT, ABSENT]],
    )
    assert (found.closed, found.one_each, found.reading) == (True, False, None)


@pytest.mark.parametrize("blank, code", [("unknown", UNKNOWN), ("absent", ABSENT)])
def test_what_blank_cells_are_can_be_said(blank, code):
    found = columns({"a": ["1", ""], "b": ["x", ""], "c": ["", ""]}, blank)
    assert found.codes[1].tolist() == [code] * 3
    assert columns({"a": ["1", ""]}).codes[1].tolist() == [UNKNOWN]


@pytest.mark.parametrize("cells, wrong", [(["1", "2"], "'2'"), (["x", "0"], "'0'"), (["x", "y"], "'y'")])
def test_other_cells_are_refused_with_their_line(cells, wrong):
    with pytest.raises(UserError, match=rf"t\.csv, line 3: column 'a' holds {wrong}"):
        columns({"a": cells})


def test_a_class_that_sums_up_the_others_is_noted():
    found = columns({"any": ["1", "0", "1"], "a": ["1", "0", "0"], "b": ["0", "0", "1"]})
    assert "'any' is present exactly where any other is" in found.notes[0]
    assert columns({"any": ["1", "0", "0"], "a": ["1", "0", "0"], "b": ["0", "0", "1"]}).notes == ()
    assert columns({"any": ["1", "0"], "a": ["1", "0"]}).notes == ()  # of two, either would


def test_names_of_cells():
    found = names(["a;b", "", "b", "a;b"])
    assert found.classes == ("a", "b")
    assert found.codes.tolist() == [[1, 1], [0, 0], [0, 1], [1, 1]]
    assert (found.closed, found.one_each, found.reading.separator) == (False, False, ";")
    assert names(["a", "", "b"]).one_each
    assert names(["a,b", "b"], whole=True).classes == ("a,b", "b")
    assert names(["b"], fixed=("c", "b")).classes == ("c", "b")


def test_names_for_none_of_the_classes():
    found = names(["No Finding", "a", "b|No Finding", "a|b"], empty=("No Finding", "empty"))
    assert found.classes == ("a", "b")
    assert found.codes.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]
    assert "1 lines name No Finding, empty beside a class; the class holds" in found.notes[0]
    likely = names(["No Finding", "a|b", "b"])
    assert likely.classes == ("No Finding", "a", "b")
    assert "--empty_names 'No Finding' if it means none of them" in likely.notes[0]


@pytest.mark.parametrize("cells, fault", [(["a;;b"], "has an empty name"), (["a;a"], "names a class twice")])
def test_cells_that_cannot_be_meant_so(cells, fault):
    with pytest.raises(UserError, match=rf"t\.csv, line 3: .* in column 'tags' {fault}"):
        names(["a;b", *cells])


def test_brackets_and_quotes_left_in_names_are_noted():
    found = names(["['a', 'b'", "c"])
    assert any("names with a bracket or quote at an end: " in note for note in found.notes)


def listed_in(tmp_path, text):
    path = tmp_path / "names.csv"
    path.write_text(text)
    return read_name_list(path, None)


def test_names_of_ids_fix_order_and_number_of_classes(tmp_path):
    listed = listed_in(tmp_path, "id,name\n7,mitochondria\n0,nucleus\n5,golgi\n")
    found = names(["0;7", "7", "7;0"], listed=listed)
    assert found.classes == ("mitochondria", "nucleus", "golgi")
    assert found.codes.tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 0]]
    assert found.closed
    assert columns({"0": ["1"], "7": ["0"]}, listed=listed).classes == ("nucleus", "mitochondria")
    with pytest.raises(UserError, match=r"line 2: class '9' is not in .*names\.csv"):
        names(["9", "7"], listed=listed)


@pytest.mark.parametrize(
    "text, words",
    [
        ("id,name\n1,a\n1,b\n", "line 3: id '1' is there already"),
        ("id,name\n1,a\n2,a\n", "line 3"),
        ("id\n1\n", "line 2: has one column"),
        ("id,name\n", "names no class"),
    ],
)
def test_lists_of_names_that_do_not_work(tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        listed_in(tmp_path, text)


def test_policies_for_uncertain_entries(tmp_path):
    codes = np.array([[-2, PRESENT], [UNKNOWN, -2], [ABSENT, -2]], dtype=np.int8)
    for word, code in (("unknown", UNKNOWN), ("present", PRESENT), ("absent", ABSENT)):
        found = settled(codes, uncertain_policy(word, ("a", "b")))
        assert found.tolist() == [[code, PRESENT], [UNKNOWN, code], [ABSENT, code]]
        assert found.dtype == np.int8
    path = tmp_path / "policy.csv"
    path.write_text("class,uncertain\nb,absent\n")
    assert settled(codes, uncertain_policy(str(path), ("a", "b"))).tolist() == [[-1, 1], [-1, 0], [0, 0]]
    path.write_text("class,uncertain\nc,absent\n")
    with pytest.raises(UserError, match=r"policy\.csv, line 2: 'c' is no class"):
        uncertain_policy(str(path), ("a", "b"))
    path.write_text("class,uncertain\nb,maybe\n")
    with pytest.raises(UserError, match=r"policy\.csv, line 2: 'maybe' must be one of unknown, present, absent"):
        uncertain_policy(str(path), ("a", "b"))


def test_values_between_0_and_1_are_codes_by_the_threshold_and_stay_beside_them():
    cells = {"a": ["0.25", "1", "-1"], "b": ["x", "", ""], "c": ["", ".5", "0"]}
    found = columns(cells, policy=SoftPolicy(0.5, keep=True))
    assert found.codes.tolist() == [[0, 1, UNKNOWN], [1, 0, 1], [-2, 0, 0]]
    np.testing.assert_array_equal(
        found.soft, np.array([[0.25, np.nan, np.nan], [np.nan, np.nan, 0.5], [np.nan] * 3], dtype=np.float32)
    )
    assert columns({"a": ["1", "0"]}, policy=SoftPolicy(0.5, keep=True)).soft is None


@pytest.mark.parametrize(
    "cells, policy, fault",
    [
        (["1", "0.3"], None, "'0.3', between absent .0. and present .1.; --soft_labels threshold=0.5"),
        (["0.3", "1.3"], SoftPolicy(0.5, keep=False), "'1.3'; values go from 0 to 1"),
        (["x", "0.7"], SoftPolicy(0.5, keep=False), "'0.7', must be 1, 0, -1 or empty"),
    ],
)
def test_values_that_nobody_asked_for_or_outside_are_refused(cells, policy, fault):
    with pytest.raises(UserError, match=rf"t\.csv, line 3: column 'a' holds {fault}"):
        columns({"a": cells}, policy=policy)


def test_columns_that_stand_for_none_of_the_classes():
    found = columns({"none": ["1", "1", "0", "", "-1"], "a": ["", "1", "", "0", ""], "b": ["-1", "0", "", "1", ""]})
    left = without_empty(Path("t.csv"), found, frozenset(("none", "empty")))
    assert left.classes == ("a", "b")
    unknown, unsure = UNKNOWN, -2
    expected = [[ABSENT, unsure], [PRESENT, ABSENT], [unknown, unknown], [ABSENT, PRESENT], [unknown, unknown]]
    assert left.codes.tolist() == expected
    assert left.notes == ("t.csv: 2 lines are none: a blank is absent; in 1 a class is present, which holds",)
    assert without_empty(Path("t.csv"), found, frozenset(("empty",))) is found
    with pytest.raises(UserError, match="--empty_names: names all classes"):
        without_empty(Path("t.csv"), found, frozenset(("none", "a", "b")))
    soft = columns({"none": ["1", "0"], "a": ["0.3", "1"]}, policy=SoftPolicy(0.5, keep=True))
    assert without_empty(Path("t.csv"), soft, frozenset(("none",))).soft.shape == (2, 1)


def test_lines_that_name_nothing_are_marked():
    assert names(["none", "a;none", "a", ""], empty=("none",)).none.tolist() == [True, False, False, False]
    assert names(["a", ""], empty=("none",)).none is None


def test_lists_of_other_things_and_marks_in_one_cell_are_refused():
    with pytest.raises(
        UserError, match=r"t\.csv, line 3: '\[\"a\", null\]' in column 'tags' holds other things than names"
    ):
        names(["a", '["a", null]'])
    with pytest.raises(UserError, match=r"column 'tags' holds a 1 or 0 for each class in one cell \('0 1 1'\)"):
        names(["0 1 1", "1 0 0"])
    assert names(["0 1 1", "1 0 0"], ";").classes == ("0 1 1", "1 0 0")  # the flag is obeyed


def test_ids_of_names_as_programs_write_them(tmp_path):
    (tmp_path / "names.csv").write_text("id;name\n7;ape\n8.0;bee\n")
    listed = read_name_list(tmp_path / "names.csv", None)
    assert names(["7.0", "8.0", "7"], listed=listed).classes == ("ape", "bee")
    assert names(["7.0", "7"], listed=listed).codes.tolist() == [[1, 0], [1, 0]]
    (tmp_path / "names.csv").write_text("/m/1,ape\n/m/2,bee\n")
    with pytest.raises(UserError, match=r"class '/m/1' is not in .*names\.csv \(its first line is taken for titles"):
        names(["/m/1"], listed=read_name_list(tmp_path / "names.csv", None))


def test_a_policy_with_semicolons(tmp_path):
    (tmp_path / "u.csv").write_text("class;uncertain\nb;absent\n")
    assert uncertain_policy(str(tmp_path / "u.csv"), ("a", "b")).tolist() == [UNKNOWN, ABSENT]


def test_lines_that_name_none_beside_a_class_are_counted_over_all_cells():
    notes = names(["b;none", "a;none", "b;none", "a"], empty=("none",)).notes
    assert notes == ("t.csv: 3 lines name none beside a class; the class holds",)


def test_one_of_several_columns_for_none_of_the_classes_is_enough():
    found = columns({"z": ["1", "0"], "y": ["0", "0"], "x": ["", "0"], "a": ["", ""]})
    left = without_empty(Path("t.csv"), found, frozenset("xyz"))
    assert left.codes.tolist() == [[ABSENT], [UNKNOWN]]
    assert left.notes[-1].startswith("t.csv: 1 lines are x, y, z: a blank is absent")


def test_a_bracket_at_the_end_of_a_name_is_noted_too():
    assert "names with a bracket or quote at an end: 'b]';" in names(["a;b]", "a"]).notes[0]
    assert names(["a;b", "a"]).notes == ()


def test_no_class_holds_what_separates_names(tmp_path):
    with pytest.raises(UserError, match="holds the separator ';'"):
        columns({"a;b": ["1"]})
    assert columns({"a;b": ["1"]}, separator="|").classes == ("a;b",)
    path = tmp_path / "names.csv"
    path.write_text("id,name\n1,a;b\n")
    with pytest.raises(UserError, match="holds the separator ';'"):
        read_name_list(path, None)
    assert read_name_list(path, "|").names == ("a;b",)
