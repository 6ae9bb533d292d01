"""Tables of the photographs' runs in the pages that quote them."""

from pathlib import Path

import pytest

from engine.reproduction.plan import cells
from engine.reproduction.plan_file import read_plan
from engine.reproduction.results import CellResult, Choice
from engine.reproduction.tables import tables
from tests.engine.reproduction.fake_runs import write_plan
from tools import figures
from tools.figures import Figures, Told, finished, with_figures

GR, EM = Path("gr.md"), Path("em.md")
BASE, BEST, OTHER = (
    Told(60.0, "60.0", "--lr 1"),
    Told(70.0, "**70.0** (+10.0, 2 of 2)", "--lr 2"),
    Told(65.0, "65.0", ""),
)
FOUND = Figures(
    {"full": {"BCE": BASE}, "single": {"BCE": BASE, "EM": OTHER, "GR": BEST}},
    {"BCE": Path("bce.md"), "GR": GR, "EM": EM, "EM too": EM},
)


def page(*marker, body="old\n"):
    """A page with one table between its marker lines."""
    return f"# A\n\n<!-- {'figures: ' + ' | '.join(marker) if marker else 'figures'} -->\n{body}<!-- end -->\n\nMore.\n"


def test_methods_of_one_regime_stand_by_their_means_with_their_settings():
    rows = "| method | single | chosen |\n| --- | --- | --- |\n| GR | **70.0** (+10.0, 2 of 2) | `--lr 2` |\n"
    rows += "| EM | 65.0 | `` |\n| BCE | 60.0 | `--lr 1` |\n"
    assert with_figures(GR, page("single"), FOUND) == page("single", body=rows)


def test_methods_of_several_regimes_stand_in_the_order_of_the_plan():
    rows = "| method | full | single |\n| --- | --- | --- |\n| BCE | 60.0 | 60.0 |\n"
    rows += "| GR |  | **70.0** (+10.0, 2 of 2) |\n| EM |  | 65.0 |\n"
    assert with_figures(GR, page("full", "single"), FOUND) == page("full", "single", body=rows)


def test_the_page_of_a_method_has_its_own_rows_beside_the_baseline_under_regimes_that_have_them():
    rows = "| labels | BCE | EM | EM too |\n| --- | --- | --- | --- |\n| single | 60.0 | 65.0 |  |\n"
    assert with_figures(EM, page(), FOUND) == page(body=rows)


def test_a_page_that_is_right_stays_as_it_is():
    once = with_figures(GR, page("full", "single") + page(), FOUND)
    assert with_figures(GR, once, FOUND) == once
    assert with_figures(GR, "# Without\n", FOUND) == "# Without\n"


def test_only_rows_with_all_seeds_are_told_with_their_gain_and_the_seeds_that_have_one(tmp_path):
    rows = [{"name": name, "command": "main_BCE.py"} for name in ("BCE", "GR", "EM")]
    plan = read_plan(write_plan(tmp_path, rows=rows, regimes={"single": ""}, seeds=[1, 2, 3]), ["main_BCE.py"])
    by_name = {"BCE": (60, 61, 62), "GR": (64, 60, 65), "EM": (70, 70)}
    choice = Choice({"lr": "1e-3", "tau": "0.5"}, 3, 50.0, 60.0, 61.0)
    results = [
        CellResult(cell, {seed + 1: {"mAP": value} for seed, value in enumerate(by_name[cell.row.name])}, "", choice)
        for cell in cells(plan)
    ]
    found = finished(tables(plan, results)[0])
    assert list(found) == ["BCE", "GR"]
    assert found["BCE"] == Told(61.0, "61.0", "--lr 1e-3 --tau 0.5")
    assert found["GR"] == Told(63.0, "63.0 (+2.0, 2 of 3)", "--lr 1e-3 --tau 0.5")


@pytest.mark.slow
def test_pages_have_the_figures_of_the_finished_runs():
    texts = figures.generated()
    assert {path: text for path, text in texts.items() if path.read_text(encoding="utf-8") != text} == {}
    assert set(figures.figures().pages.values()) <= texts.keys()
