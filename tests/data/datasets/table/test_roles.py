import pytest

from data.datasets.table.roles import Role, listed, quoted, requested
from data.datasets.table.seen import look
from tests.data.datasets.table.sheets import sheet_of
from utils.checks import UserError

TABLE = look(sheet_of({"image": ["a"], "A,B": ["1"], "A": ["0"], "C": ["1"]}))


@pytest.mark.parametrize(
    "text, titles", [(None, ()), ("A", ("A",)), ("A,B", ("A,B",)), ("A, C", ("A", "C")), ('"A,B",C', ("A,B", "C"))]
)
def test_columns_that_a_flag_names(text, titles):
    assert listed(text, TABLE, "class_columns") == titles


@pytest.mark.parametrize("text, words", [("A,D", "--class_columns D: no such column"), ("A,A", "names a column twice")])
def test_columns_that_no_flag_can_name(text, words):
    with pytest.raises(UserError, match=words):
        listed(text, TABLE, "class_columns")


def test_a_column_that_a_flag_names():
    why = {}
    assert requested(TABLE, "label_column", "C", why) == "C"
    assert requested(TABLE, "value_column", None, why) is None
    assert why == {"C": Role("C", "labels", "--label_column")}
    with pytest.raises(UserError, match=r"--value_column D: no such column; it has 'image', 'A,B', 'A', 'C'"):
        requested(TABLE, "value_column", "D", why)


def test_titles_in_a_message():
    assert quoted(["a", "b"]) == "'a', 'b'"
    assert quoted(["a" * 50, "b", "c"], most=2) == f"'{'a' * 40}', 'b', ... (3 in all)"
