import pytest

from data.datasets.table.seen import code_of, look
from data.datasets.table.sheet import read_sheet
from utils.types import ABSENT, PRESENT, UNKNOWN


def column(tmp_path, cells, title="x"):
    path = tmp_path / "t.csv"
    path.write_text(f"image,{title}\n" + "".join(f"{n}.jpg,{cell}\n" for n, cell in enumerate(cells)), encoding="utf-8")
    return look(read_sheet(path)).columns[1]


@pytest.mark.parametrize(
    "cells, content",
    [
        (["1", "0", "-1", ""], "codes"),
        (["True", "no", "1.0", "YES"], "codes"),
        (["1", "1"], "codes"),
        (["x", "", "X"], "ticks"),
        (["✓", ""], "ticks"),
        (["x", "✓"], "other"),
        (["", ""], "empty"),
        (["0", "1", "2", "3"], "count"),
        (["1", "2", "3"], "count"),
        (["2", "3", "4"], "other"),
        (["0", "1", "3", "2"], "mixed"),
        (["0", "1", "2", ""], "mixed"),
        (["1", "cat"], "mixed"),
        (["cat", "dog"], "other"),
        (["0.5", "2"], "other"),
        (["1.00", "0.00", "-1.00"], "codes"),
        (["1.000e+00", "-0.0", "+1", "0."], "codes"),
        (["1", "NA", "0", "n/a", "<NA>", "None"], "codes"),
        (["1", "NA", "0", "NaN"], "mixed"),
        (["1.00", "2.00"], "other"),
        (["NA", "", "null"], "other"),
        (["0.00", "0.37"], "other"),
        (["✅", ""], "ticks"),
        (["x"] * 9, "ticks"),
    ],
)
def test_what_a_column_holds(tmp_path, cells, content):
    assert column(tmp_path, cells).content == content


@pytest.mark.parametrize(
    "cells, content",
    [
        (["0", "1"], "count"),
        (["1", "0"], "codes"),
        (["", ""], "empty"),
        (["7", "0", "1"], "count"),
        (["7", "0", "0"], "mixed"),
        (["7", "cat", "1"], "mixed"),
    ],
)
@pytest.mark.parametrize("title", ["", "Unnamed: 0"])
def test_a_column_without_a_title_may_number_the_rows(tmp_path, cells, content, title):
    assert column(tmp_path, cells, title=title).content == content


def test_the_first_text_that_is_no_code_is_kept_with_its_line(tmp_path):
    assert column(tmp_path, ["1", "0", "maybe", "no idea"]).odd == "'maybe' in line 4"
    assert column(tmp_path, ["1", "0"]).odd == ""


def test_filled_rows_recurring_texts_and_examples(tmp_path):
    seen = column(tmp_path, ["a", "b", "", "a", "c", "d"])
    assert (seen.filled, seen.recurs, seen.examples) == (5, True, ("a", "b", "c"))
    assert not column(tmp_path, ["a", "b", ""]).recurs
    assert column(tmp_path, ["a" * 100]).examples == ("a" * 40,)


@pytest.mark.parametrize(
    "text, code",
    [
        *(("1", PRESENT), ("Yes", PRESENT), ("FALSE", ABSENT), ("-1.0", -2), ("", UNKNOWN), ("2", None)),
        *(("1.00", PRESENT), ("-0.0", ABSENT), ("-1e0", -2), ("NA", UNKNOWN), ("0.5", None), ("nano", None)),
    ],
)
def test_codes(text, code):
    assert code_of(text) == code


@pytest.mark.parametrize(
    "cells, soft, beyond",
    [
        (["1", "0.3", "", "-1"], "'0.3' in line 3", ""),
        (["0.25", "0.3"], "'0.25' in line 2", ""),
        (["0.25", "2.5"], "'0.25' in line 2", "'2.5' in line 3"),
        (["1", "cat", "0.3"], "'0.3' in line 4", "'cat' in line 3"),
        (["0.25", "cat"], "", ""),
        (["2", "3.5"], "", ""),
        (["1", "2"], "", ""),
        (["1", "0"], "", ""),
        (["1.00", "0.3", "NA"], "'0.3' in line 3", ""),
    ],
)
def test_values_between_0_and_1_and_what_stands_beside_them(tmp_path, cells, soft, beyond):
    seen = column(tmp_path, cells)
    assert (seen.soft, seen.beyond, seen.is_soft) == (soft, beyond, bool(soft and not beyond))
