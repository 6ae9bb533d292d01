"""Lines of the text of a report: where lists are cut, and when names stand side by side."""

import pytest

from engine.inspection import text as room


def columns(number):
    """Columns of a user's table."""
    return [
        {
            "table": "t.csv",
            "title": "t" * 27 + f"{k:02}",
            "role": "a label",
            "why": "it says",
            "examples": ["1" * 20, "0" * 25],
        }
        for k in range(number)
    ]


@pytest.mark.parametrize(("number", "more"), [(0, None), (5, None), (6, None), (7, 1), (9, 3)])
def test_columns_of_a_table_are_told_up_to_three_times_the_length_of_lists(number, more):
    lines = list(room._columns({"columns": columns(number)}, 2))
    shown = min(number, 6)
    head = ["column                        is       because  for instance"] if number else []
    cells = [f"{'t' * 27}0  a label  it says  {'1' * 20}, {'0' * 18}"] * shown
    last = [f"and {more} more columns (report.json)"] if more else []
    assert lines == [*head, *cells, *last]


def test_columns_of_several_tables_are_told_with_their_table():
    held = [
        {**column, "title": "x", "table": f"{'f' * 30}/{name}.csv"}
        for column, name in zip(columns(2), "ab", strict=True)
    ]
    lines = list(room._columns({"columns": held}, 2))
    assert lines[0].split() == ["table", "column", "is", "because", "for", "instance"]
    assert [line.split("  ")[:2] for line in lines[1:]] == [[f"{'f' * 22}/{name}.csv", "x     "[:1]] for name in "ab"]


def entries(*rows):
    keys = ("class", "uncertain", "blank", "soft", "agreement")
    return {"entries": [dict(zip(keys, row, strict=True)) for row in rows]}


def test_entries_that_a_policy_decides_are_told():
    rows = (
        *(("k" * 30, 1200, 0, 0, None), ("b", 0, 3, 4000, None), ("c", 0, 0, 0, 0.5)),
        *(("d", 0, 0, 0, None), ("e", 0, 0, 0, 0.0), ("f", 0, 0, 1, None)),
    )
    lines = list(room._entries(entries(*rows), 1))
    assert lines == [
        "in the table                  uncertain (-1)  blank  between 0 and 1  annotators agree",
        f"{'k' * 28}           1,200      0                0",
        "b                                          0      3            4,000",
        "c                                          0      0                0            50.0 %",
    ]
    assert len(list(room._entries(entries(*rows), 2))) == 6
    assert list(room._entries(entries(rows[3]), 1)) == []


def problems(*which):
    """The lines about one problem, without the verdict, where lists are three long."""
    report = {
        "problems": [{"level": "note", "text": "something", "which": list(which)}],
        "duplicates": {"checked": True},
    }
    first, *lines, verdict = room._problems(report, 3)
    assert (first, verdict) == ("note: something", "verdict: usable, 1 note")
    return lines


@pytest.mark.parametrize(
    ("which", "lines"),
    [
        ((), []),
        (("a", "b"), ["  a, b"]),
        (("a", "b", "c"), ["  a, b, c"]),
        (("a", "b", "c", "d"), ["  a, b, c, ... (more in report.json)"]),
        (("a", "b" * 28), [f"  a, {'b' * 28}"]),
        (("a", "b" * 29), ["  a", f"  {'b' * 29}"]),
        (("b" * 29, "c", "d", "e"), [f"  {'b' * 29}", "  c", "  d", "  ... (more in report.json)"]),
    ],
)
def test_short_names_stand_side_by_side_and_others_below_each_other(which, lines):
    assert problems(*which) == lines


@pytest.mark.parametrize(("first", "length"), [("bb", 110), ("ccc", 108)])
def test_lines_are_at_most_110_wide(first, length):
    names = [first, *["a"] * 60]
    report = {"problems": [{"level": "note", "text": "something", "which": names}], "duplicates": {"checked": False}}
    _, line, _, verdict = room._problems(report, 100)
    assert len(line) == length
    assert verdict == "verdict: usable, 1 note; images were not decoded"


def test_shares_of_nothing_are_not_told():
    train = {"present": 6, "absent": 3, "unknown": 1000}
    seen = {"labelled": 4, "unlabelled": 2, "denied": 1, "wrong": 0, "judged": 0}
    one = {"train": train, "observed": seen, "test": {"present": 7}}
    figures = list(room._class_figures(one, ["test"], True))
    assert figures == ["6", "3", "1,000", "4", "-", " 50.0 %", "7"]
    seen |= {"judged": 4, "wrong": 1}
    assert list(room._class_figures(one, [], True))[4:] == [" 25.0 %", " 50.0 %"]
    assert list(room._class_figures(one, [], False))[4:] == ["-", "-"]
    train["present"] = 0
    assert list(room._class_figures(one, [], True))[4:] == [" 25.0 %", "-"]


@pytest.mark.parametrize(
    ("counts", "bins"), [([], [0] * 11), ([3], [3, *[0] * 10]), ([1] * 11, [1] * 11), ([1] * 12, [*[1] * 10, 2])]
)
def test_the_last_bin_has_all_with_ten_labels_or_more(counts, bins):
    assert room._binned(counts) == bins


@pytest.mark.parametrize(
    ("name", "short"), [("x" * 28, "x" * 28), ("x" * 29, "x" * 25 + "..."), (" two\n words ", "two words")]
)
def test_names_are_cut_where_they_are_too_long(name, short):
    assert room._short(name) == short
