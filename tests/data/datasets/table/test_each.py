import json
from pathlib import Path

import pytest

from data.datasets.table.config import TableConfig
from data.datasets.table.each import check_titles, of_run, own_sheet, with_own, with_own_columns, with_own_encoding
from tests.data.datasets.table.sheets import sheet_of, table_config
from tests.data.datasets.table.test_reader import written
from utils.checks import UserError


def two(**more):
    return table_config((Path("a.csv"), Path("b.csv")), **more)


def test_flags_name_the_columns_that_a_table_has():
    lists = {"image_column": "left,right", "class_columns": 'cat,"a, b",dog', "ignore_columns": "x"}
    config = two(**lists, label_column="tags", group_column="who")
    found = with_own_columns(config, sheet_of({"right": ["1"], "a, b": ["1"], "dog": ["1"], "who": ["p"]}, "b.csv"))
    assert (found.image_column, found.class_columns, found.ignore_columns) == ("right", '"a, b",dog', None)
    assert (found.label_column, found.group_column) == (None, "who")


def test_a_title_that_equals_the_whole_text_wins():
    assert with_own_columns(two(class_columns="a,b"), sheet_of({"a,b": ["1"], "a": ["1"]})).class_columns == "a,b"
    with pytest.raises(UserError, match="--class_columns c"):
        check_titles(two(class_columns="a,c"), [sheet_of({"a": ["1"]}), sheet_of({"b": ["1"]})])
    with pytest.raises(UserError, match="--label_column tags"):  # though the titles before it are there as a whole
        check_titles(two(class_columns="a,b", label_column="tags"), [sheet_of({"a,b": ["1"]}), sheet_of({"b": ["1"]})])
    check_titles(two(class_columns="a,b"), [sheet_of({"a": ["1"]}), sheet_of({"b": ["1"]})])
    check_titles(two(class_columns="a,b"), [sheet_of({"c": ["1"]}), sheet_of({"a,b": ["1"]})])


def test_what_is_said_of_one_table_holds_before_all_else():
    own = json.dumps({"b.csv": {"label_column": "what", "label_separator": " "}})
    config = two(class_columns="cat", label_separator=";", table_columns=own)
    assert with_own(config, Path("a.csv")) is config
    found = with_own(config, Path("b.csv"))
    assert (found.label_column, found.class_columns, found.label_separator) == ("what", None, " ")
    other = two(label_column="tags", table_columns=json.dumps({"b.csv": {"encoding": "cp1252"}}))
    assert with_own(other, Path("b.csv")).label_column == "tags"
    with pytest.raises(UserError, match=r"--table_columns: b\.csv: --label_separator 'abc': must be"):
        with_own(two(table_columns=json.dumps({"b.csv": {"label_separator": "abc"}})), Path("b.csv"))


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        ("größe".encode(), None),
        ("größe".encode("utf-8-sig"), None),
        ("größe".encode("cp1252"), "cp1252"),
        (b"ascii", None),
        ("ascii".encode("utf-16-le"), "cp1252"),
        (("a" * ((1 << 20) - 1) + "ß").encode(), None),  # cut between two blocks
        ("ß".encode()[:1], "cp1252"),  # cut at its end
    ],
)
def test_an_encoding_is_for_the_tables_that_are_no_utf_8(tmp_path, data, encoding):
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    assert with_own_encoding(two(encoding="cp1252"), path).encoding == encoding
    assert with_own_encoding(two(), path).encoding is None
    one = written(tmp_path / "one.csv", "image,x\na,1\n")
    config = TableConfig(table=(one,), encoding="cp1252")
    assert own_sheet(one, config, several=False)[1] is config


def test_an_encoding_of_one_table_holds_even_where_it_is_utf_8(tmp_path):
    path = written(tmp_path / "t.csv", "image,x\nß,1\n")
    config = TableConfig(table=(path,), table_columns=json.dumps({str(path): {"encoding": "cp1252"}}))
    for several in (True, False):
        sheet, own = own_sheet(path, config, several=several)
        assert own.encoding == "cp1252"
        assert sheet.column("image").texts == ("\u00c3\u0178",)


@pytest.fixture
def other(tmp_path):
    return written(tmp_path / "other.csv", "image,tags,cat,dog\na,x,1,0\n")


def test_what_a_run_says_holds_for_its_own_tables_and_those_with_the_same_columns(other):
    run = {"table": (Path("own.csv"),), "label_column": "tags", "class_columns": None, "ignore_columns": "dog,cat"}
    assert of_run(run, [Path("own.csv")], None) == (run, ())
    assert of_run(run, [other], None) == ({**run, "table_columns": None}, ())
    assert of_run({"label_column": "x"}, [], None).notes == ()
    assert of_run({"label_column": "x"}, [other.parent], None).notes == ()  # a folder has no columns
    assert len(of_run({"label_column": "tags,cat"}, [other], None).notes) == 1  # one title, which it lacks


def test_what_a_run_says_of_columns_that_another_table_lacks_is_left_out_and_said(other):
    run = {"table": (Path("own.csv"),), "label_column": "what", "ignore_columns": "dog,who", "image_column": "image"}
    found = of_run(run, [other], None)
    assert found.settings == {**run, "label_column": None, "ignore_columns": None, "table_columns": None}
    assert found.notes == (
        f"--ignore_columns dog,who of the run is not used: {other} has no such column",
        f"--label_column what of the run is not used: {other} has no such column",
    )
    both = of_run(run, [Path("own.csv"), other], None).settings  # the table of the run goes on by it
    assert json.loads(both["table_columns"]) == {"own.csv": {"ignore_columns": "dog,who", "label_column": "what"}}
    assert both["label_column"] is None


def test_what_a_run_says_of_each_of_its_tables_is_for_those(other):
    own = {"a.csv": {"label_column": "x"}, "b.csv": {"label_column": "y"}}
    run = {"table": (Path("a.csv"), Path("b.csv")), "test_table": (), "table_columns": json.dumps(own)}
    found = of_run(run, [other], None)
    assert found.settings["table_columns"] is None
    assert found.notes == tuple(f"--table_columns of the run is not used for {name}" for name in ("a.csv", "b.csv"))
    found = of_run({**run, "label_column": "z"}, [Path("b.csv"), other], None)
    assert json.loads(found.settings["table_columns"]) == {"b.csv": {"label_column": "y"}}
