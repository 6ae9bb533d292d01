"""All regimes of a plan at once, of lines that are known."""

import numpy as np
import pytest

from engine.reproduction import overview as room
from engine.reproduction.lines import FinishedLine
from engine.reproduction.overview import draw_overview, overview
from engine.reproduction.plan import cells
from engine.reproduction.plan_file import read_plan
from engine.reproduction.results import cell_result
from engine.reproduction.tables import tables
from engine.reproduction.writers import comma_separated, markdown
from tests.engine.reproduction.fake_runs import write_plan

FIGURES = {
    ("BCE", "a"): {1: 0.70, 2: 0.72},
    ("X", "a"): {1: 0.75, 2: 0.76},
    ("BCE", "b"): {1: 0.5, 2: 0.5},
    ("Y", "b"): {1: 0.25},
}
PLAN = {
    "title": "A plan",
    "seeds": [1, 2],
    "regimes": {"a": "", "b": ""},
    "figures": ["mAP", "OF1"],
    "rows": [
        {"name": "BCE", "command": "main_BCE.py"},
        {"name": "X", "command": "main_BCE.py", "regimes": ["a"], "elsewhere": "takes nothing but a"},
        {"name": "Y", "command": "main_BCE.py", "elsewhere": "takes nothing but a"},
    ],
}


def found(folder, figures=FIGURES, **changes):
    plan = read_plan(write_plan(folder, PLAN, **changes), ["main_BCE.py"])

    def find(run):
        value = figures.get(run.cell.name, {}).get(run.seed)
        return value and FinishedLine("bce", run.seed, {}, {"mAP": value, "OF1": 1.0}, {}, "x", {}, 1.0, {})

    return plan, tables(plan, [cell_result(cell, None, find, lambda run: "") for cell in cells(plan)])


def test_means_gains_and_the_best_of_each_regime(tmp_path):
    seen = overview(*found(tmp_path))
    assert (seen.rows, seen.regimes) == (("BCE", "X", "Y"), ("a", "b"))
    np.testing.assert_allclose(seen.means, [[71, 50], [75.5, np.nan], [np.nan, 25]])
    np.testing.assert_allclose(seen.gains, [[np.nan, np.nan], [4.5, np.nan], [np.nan, -25]])
    assert seen.best.tolist() == [[False, True], [True, False], [False, False]]


def test_the_first_table_is_that_of_all_regimes_where_there_are_several(tmp_path):
    text = markdown(*found(tmp_path))
    first, second = text.split("## ")[1:3]
    assert first.splitlines()[0] == "All regimes: mAP"
    assert "| method | a | b |" in first
    assert "| X | **75.50** |  |" in first
    assert first.count("Note: ") == 1
    assert "Note: X, Y: takes nothing but a." in first
    assert second.startswith("a\n")
    alone = found(tmp_path, regimes={"a": ""}, rows=PLAN["rows"][:2])
    assert "All regimes" not in markdown(*alone)
    assert "All regimes" not in comma_separated(*found(tmp_path))  # which has every number already


def test_gains_and_rankings_are_drawn(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(room, "plot_gains", lambda *given, title: drawn.update(gains=(*given, title)))
    monkeypatch.setattr(room, "plot_rankings", lambda panels, path, figure: drawn.update(ranks=(panels, path, figure)))
    files = draw_overview(tmp_path, *found(tmp_path))
    rows, columns, values, path, title = drawn["gains"]
    assert (rows, columns) == (["X", "Y"], ["a", "b"])
    np.testing.assert_allclose(values, [[4.5, np.nan], [np.nan, -25]])
    assert title == "A plan: mAP, points above the baseline of each regime"
    panels, other, figure = drawn["ranks"]
    assert (files, figure) == ([path, other], "mAP")
    assert [each[:2] for each in panels["a"]] == [("X", pytest.approx(75.5)), ("BCE", pytest.approx(71))]
    assert [each.is_baseline for each in panels["a"]] == [False, True]
    assert panels["a"][1].deviation == pytest.approx(2**0.5)
    assert [each.deviation for each in panels["b"]] == [0, 0]


@pytest.mark.parametrize(
    ("figures", "changes"),
    [
        ({("BCE", "a"): {1: 0.5}, ("BCE", "b"): {1: 0.5}}, {}),
        (FIGURES, {"regimes": {"a": ""}, "rows": PLAN["rows"][:2]}),
        ({}, {}),
    ],
)
def test_nothing_is_drawn_where_nothing_is_compared(tmp_path, figures, changes):
    assert draw_overview(tmp_path, *found(tmp_path, figures, **changes)) == []
    assert not list(tmp_path.glob("*.png"))


def test_regimes_without_any_figure_have_no_panel_and_no_column(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(room, "plot_gains", lambda rows, columns, values, *_, **__: drawn.append((columns, values)))
    monkeypatch.setattr(room, "plot_rankings", lambda panels, path, figure: drawn.append(list(panels)))
    draw_overview(tmp_path, *found(tmp_path, {name: of for name, of in FIGURES.items() if name[1] == "a"}))
    (columns, values), panels = drawn
    assert (columns, panels) == (["a"], ["a"])
    np.testing.assert_allclose(values, [[4.5]])
