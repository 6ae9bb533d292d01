from pathlib import Path

import pytest

from data.datasets.table.config import (
    FOUND,
    PER_TABLE,
    TableConfig,
    found_in_both,
    named,
    settings_by_table,
    split_list,
)
from utils.checks import UserError

A = (Path("a.csv"),)


@pytest.mark.parametrize(
    "values, word",
    [
        ({"test_frac": 0.0}, "--test_frac 0.0"),
        ({"test_frac": 1.0}, "--test_frac 1.0"),
        ({"test_frac": float("nan")}, "--test_frac nan"),
        ({"label_separator": ""}, "--label_separator"),
        ({"label_separator": "::::"}, "--label_separator"),
        ({"label_separator": ", a"}, "--label_separator"),
        ({"label_separator": "a"}, "--label_separator"),
        ({"label_separator": "\n"}, "--label_separator"),
        ({"test_table": (Path("val.csv"),)}, "--test_table"),
        ({"table": (Path("a.csv"), Path("b.csv"), Path("a.csv"))}, "--table a.csv: is there twice"),
        ({"table": A, "test_table": A * 2}, "--test_table a.csv: is there twice"),
        ({"table": A, "table_columns": "{"}, "--table_columns: must be JSON such as"),
        ({"table": A, "table_columns": "[]"}, "--table_columns: must be JSON such as"),
        ({"table": A, "table_columns": '{"a.csv": "x"}'}, "--table_columns: must be JSON such as"),
        ({"table": A, "table_columns": '{"a.csv": {"label_column": 1}}'}, "--table_columns: must be JSON such as"),
        (
            {"table": A, "table_columns": '{"a.csv": {"label_column": "x", "encoding": 1}}'},
            "--table_columns: must be JSON such as",
        ),
        ({"table": A, "table_columns": '{"a.csv": {}, "b.csv": "x"}'}, "--table_columns: must be JSON such as"),
        (
            {"table": A, "table_columns": '{"b.csv": {}}'},
            "--table_columns: names b.csv, but the tables are a.csv;",
        ),
        ({"table_columns": '{"b.csv": {}}'}, "--table_columns: names b.csv, but the tables are none"),
        ({"table": A, "table_columns": '{"a.csv": {"tabel": "x"}}'}, "--table_columns: a.csv: tabel: must be one of"),
    ],
)
def test_settings_are_checked_at_birth(values, word):
    with pytest.raises(UserError, match=word):
        TableConfig(**values)


@pytest.mark.parametrize("separator", [";", ",", "|", " ", "\t", "/", "+", "_", "-", "::", " - "])
def test_separators_that_can_stand_between_names(separator):
    assert TableConfig(label_separator=separator).label_separator == separator


@pytest.mark.parametrize("alone", ["t.csv", Path("t.csv")])
def test_one_table_may_be_given_as_a_path(alone):
    config = TableConfig(table=alone, test_table="u.csv")
    assert (config.table, config.test_table) == ((Path("t.csv"),), (Path("u.csv"),))


def test_tables_in_a_sentence():
    paths = [Path(name) for name in ("a.csv", "b.csv", "c.csv")]
    assert [named(paths[:count]) for count in range(1, 4)] == ["a.csv", "a.csv and b.csv", "a.csv, b.csv and c.csv"]
    assert named(None) == "none"


def test_what_is_kept_of_tables_for_training_and_for_the_test():
    one, other = {"image_column": "file", "label_column": "x"}, {"image_column": "file", "label_column": "y"}
    single = TableConfig(table=A, test_table=(Path("t.csv"),))
    assert found_in_both(single, one, other) == {"image_column": "file"}
    several = TableConfig(table=(*A, Path("b.csv")), test_table=(Path("t.csv"),))
    joined = {"table_columns": '{"a.csv": {"label_column": "é"}, "b.csv": {}}'}
    kept = found_in_both(several, joined, other)["table_columns"]
    assert settings_by_table(kept) == {"a.csv": {"label_column": "é"}, "b.csv": {}, "t.csv": other}
    assert "é" in kept
    assert (single.has_several, several.has_several, TableConfig().has_several) == (False, True, False)
    assert TableConfig(table=A, test_table=(*A, Path("b.csv"))).has_several


def test_each_of_several_tables_may_be_told_what_is_found_in_one():
    assert {name for name in FOUND if name != "table_columns"} <= set(PER_TABLE)
    assert settings_by_table(None) == settings_by_table("") == {}


def test_a_blank_may_stand_before_a_quoted_title():
    assert split_list('c, "a, b"') == ("c", "a, b")
