"""Tables in every form, of lines that are known."""

import csv
import io
import re
from html.parser import HTMLParser

import pytest

from engine.reproduction.lines import FinishedLine
from engine.reproduction.plan import cells
from engine.reproduction.plan_file import read_plan
from engine.reproduction.results import cell_result, chosen
from engine.reproduction.tables import tables
from engine.reproduction.writers import comma_separated, latex, markdown, page
from tests.engine.reproduction.fake_runs import write_plan

FIGURES = {
    ("BCE", "a"): {1: 0.70, 2: 0.72, 3: 0.74},
    ("CoNeS & <b>", "a"): {1: 0.75, 2: 0.80, 3: 0.76},
    ("BCE", "b_1"): {1: 0.5},
}
ROWS = [
    {"name": "BCE", "command": "main_BCE.py", "published": {"a": {"mAP": 73.5}, "b_1": {"mAP": 40}}},
    {"name": "CoNeS & <b>", "command": "main_BCE.py", "published": {"a": {"mAP": 88.43}}, "remark": "100 % | odd"},
]
PLAN = {
    "title": "Plan <1>",
    "seeds": [1, 2, 3],
    "regimes": {"a": "", "b_1": ""},
    "rows": ROWS,
    "figures": ["mAP", "OF1"],
}


def line(seed, value, labels="x", **figures):
    found = {"mAP": value, **figures}
    return FinishedLine("bce", seed, {}, found, {}, labels, {"test": "t"}, 1.0, {})


@pytest.fixture
def plan(tmp_path):
    return read_plan(write_plan(tmp_path, PLAN, source="A paper", tolerance="1.5"), ["main_BCE.py"])


def found(plan, labels=lambda name, seed: "x"):
    def find(run):
        value = FIGURES.get(run.cell.name, {}).get(run.seed)
        return None if value is None else line(run.seed, value, labels(run.cell.name[0], run.seed))

    return tables(plan, [cell_result(cell, None, find, lambda run: "needs VOC 2007") for cell in cells(plan)])


def test_mean_deviation_paired_difference_and_verdict(plan):
    first, second = found(plan)
    base, other = first.rows
    assert base.gain is None
    assert [round(value, 4) for value in other.spreads["mAP"][1:]] == [77.0, 2.6458]
    # Gains 5, 8 and 2: mean 5, deviation 3, and t of 2 degrees at 97.5 % is 4.3027.
    assert [round(value, 3) for value in other.gain] == [3, 5.0, -2.452, 12.452]
    assert [row.best for row in first.rows] == [frozenset(), {"mAP"}]
    assert [(row.verdicts[0].word, round(row.verdicts[0].difference, 2)) for row in first.rows] == [
        ("agrees", -1.5),
        ("lower", -11.43),
    ]
    assert second.rows[0].verdicts[0].word == "higher"
    assert second.rows[0].remark == "1 of 3 seeds: needs VOC 2007"
    assert second.rows[1].remark == "not run: needs VOC 2007; 100 % | odd"
    assert second.rows[1].gain is None
    assert second.rows[0].best == frozenset()  # nothing to compare with


def test_of_errors_and_seconds_the_lowest_is_best(tmp_path):
    plan = read_plan(
        write_plan(
            tmp_path,
            PLAN,
            figures=["mAP", "ECE", "seconds"],
            regimes={"a": ""},
            rows=[{"name": "X", "command": "main_BCE.py"}, {"name": "Y", "command": "main_BCE.py"}],
        ),
        ["main_BCE.py"],
    )

    def find(run):
        first = run.cell.name[0] == "X"
        return line(run.seed, 0.5, ECE=0.1 if first else 0.2)._replace(seconds=9.0 if first else 3.5)

    (table,) = tables(plan, [cell_result(cell, None, find, lambda run: "") for cell in cells(plan)])
    assert [row.best for row in table.rows] == [{"mAP", "ECE"}, {"mAP", "seconds"}]
    assert [row.spreads["seconds"].mean for row in table.rows] == [9.0, 3.5]


def test_markdown(plan):
    text = markdown(plan, found(plan))
    head = "| method | seeds | mAP | mAP - BCE | published | ours | difference | verdict | remark |"
    assert text.splitlines()[4] == "## All regimes: mAP"
    assert text.splitlines()[11:14] == ["## a", "", head]
    assert "| BCE | 3 | 72.00 ± 2.00 |  | 73.5 | 72.00 | -1.50 | agrees |  |" in text
    assert "| CoNeS & <b> | 3 | **77.00 ± 2.65** | +5.00 [-2.45, +12.45] | 88.43 | 77.00 | -11.43 | lower |" in text
    assert "100 % \\| odd |" in text
    assert text.endswith("Published: A paper (BCE, CoNeS & <b>; tolerance 1.5).\n")


def test_a_published_figure_other_than_the_compared_one_has_its_name(tmp_path):
    row = {"name": "BCE", "command": "main_BCE.py", "published": {"a": {"OF1": 60}}, "source": "S", "tolerance": 2}
    plan = read_plan(write_plan(tmp_path, PLAN, rows=[row], regimes={"a": ""}, seeds=[1]), ["main_BCE.py"])
    (cell,) = cells(plan)
    result = cell_result(cell, None, lambda run: line(run.seed, 0.7, OF1=0.615), lambda run: "")
    text = markdown(plan, tables(plan, [result]))
    assert "| BCE | 1 | 70.00 | 61.50 | OF1 60 | OF1 61.50 | OF1 +1.50 | OF1 agrees |  |" in text


def test_csv_holds_numbers_in_full(plan):
    rows = list(csv.DictReader(io.StringIO(comma_separated(plan, found(plan)))))
    assert [(row["regime"], row["row"], row["figure"], row["seeds"]) for row in rows] == [
        ("a", "BCE", "mAP", "3"),
        ("a", "CoNeS & <b>", "mAP", "3"),
        ("b_1", "BCE", "mAP", "1"),
        ("b_1", "CoNeS & <b>", "mAP", "0"),
    ]
    assert float(rows[1]["mean"]) == pytest.approx(77)
    assert [round(float(rows[1][name]), 3) for name in ("difference", "low", "high")] == [5.0, -2.452, 12.452]
    assert (rows[1]["published"], rows[1]["tolerance"], rows[1]["verdict"]) == ("88.43", "1.5", "lower")
    assert rows[3]["remark"] == "not run: needs VOC 2007; 100 % | odd"


def test_latex_escapes_and_has_a_cell_for_each_heading(plan):
    text = latex(plan, found(plan))
    assert text.count(r"\begin{tabular}{lrrrrrrrl}") == text.count(r"\end{tabular}") - 1 == 2
    assert r"CoNeS \& <b> & 3 & \textbf{77.00 $\pm$ 2.65} &" in text
    assert r"100 \% | odd \\" in text
    rows = [row for row in text.splitlines() if row.endswith(r"\\")]
    assert [len(re.split(r"(?<!\\)&", row)) for row in rows] == [3] * 3 + [9] * 6


class Reader(HTMLParser):
    """Tags, and the attributes that would load something."""

    def __init__(self):
        super().__init__()
        self.tags, self.loads = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [name for name, _ in attrs if name in ("src", "href", "action", "background")]


def test_html_loads_nothing_and_escapes(plan):
    text = page(plan, found(plan))
    reader = Reader()
    reader.feed(text)
    assert not reader.loads
    assert "http" not in text.replace("http-equiv", "")
    assert "<title>Plan &lt;1&gt;</title>" in text
    assert "CoNeS &amp; &lt;b&gt;" in text
    assert (reader.tags.count("table"), reader.tags.count("th"), reader.tags.count("td")) == (3, 21, 42)
    assert "<strong>77.00 ± 2.65</strong>" in text


def test_runs_of_a_seed_on_other_labels_are_said(plan):
    first, second = found(plan, lambda name, seed: name if seed == 2 else "x")
    assert first.notes == ("not the same labels for all rows of seed 2",)
    assert second.notes == ()
    assert "Note: not the same labels for all rows of seed 2." in markdown(plan, [first])


def test_seeds_and_kinds_of_data_that_differ_are_listed(plan):
    data = {1: {"train": "x", "test": "t"}, 2: {"train": "y", "test": "t"}, 3: {"train": "z", "test": "u"}}

    def find(run):
        at = run.seed if run.cell.row.name == "BCE" else 1
        return line(run.seed, 0.5)._replace(data=data[at] if run.cell.regime.name == "a" else {})

    first, second = tables(plan, [cell_result(cell, None, find, lambda run: "") for cell in cells(plan)])
    assert first.notes == (
        "not the same training set for all rows of seed 2, 3",
        "not the same test set for all rows of seed 3",
    )
    assert second.notes == ()


def written(folder, of_rows, published=None, **changes):
    """A plan of one regime whose rows have these figures, and its table."""
    names = {name: {"name": name, "command": "main_BCE.py"} for name in of_rows}
    rows = [row | {"published": {"a": (published or {}).get(name, {})}} for name, row in names.items()]
    rows = [{key: value for key, value in row.items() if value != {"a": {}}} for row in rows]
    held = {"source": "S", "tolerance": "0", "regimes": {"a": ""}, "seeds": [1], **changes}
    plan = read_plan(write_plan(folder, {"figures": ["mAP", "OF1"]}, rows=rows, **held), ["main_BCE.py"])

    def find(run):
        figures = of_rows[run.cell.row.name]
        return FinishedLine("bce", 1, {}, figures, {}, "x", {}, 1.0, {}) if figures else None

    return plan, tables(plan, [cell_result(cell, None, find, lambda run: "") for cell in cells(plan)])


def test_means_that_look_equal_are_both_the_best(tmp_path):
    _, (table,) = written(tmp_path, {"A": {"mAP": 0.71001}, "B": {"mAP": 0.71004}, "C": {"mAP": 0.7099}})
    assert [bool(row.best) for row in table.rows] == [True, True, False]
    _, (table,) = written(tmp_path, {"A": {"mAP": 0.7101}, "B": {"mAP": 0.7103}})
    assert [bool(row.best) for row in table.rows] == [False, True]


def test_a_tolerance_of_nought_is_none(tmp_path):
    published = {"A": {"mAP": 70.5}, "B": {"mAP": 70}, "C": {"mAP": 70}}
    plan, found = written(tmp_path, {"A": {"mAP": 0.7}, "B": {"mAP": 0.7}, "C": {"mAP": 0.704}}, published)
    assert [row.verdicts[0].word for row in found[0].rows] == ["lower", "agrees", "higher"]
    assert markdown(plan, found).endswith("Published: S (A, B, C; tolerance 0).\n")


def test_columns_are_there_where_any_row_has_something(tmp_path):
    rows = {"A": {"mAP": 0.7}, "B": {"mAP": 0.6, "OF1": 0.5, "CF1": 0.25}, "C": {}}
    published = {"B": {"mAP": 60, "CF1": 26, "OF1": 50}}
    plan, found = written(tmp_path, rows, published)
    text = markdown(plan, found)
    assert "| method | seeds | mAP | OF1 | mAP - A | published | ours | difference | verdict | remark |" in text
    ours = "mAP 60, CF1 26, OF1 50 | mAP 60.00, CF1 25.00, OF1 50.00 | mAP +0.00, CF1 -1.00, OF1 +0.00 |"
    assert f"| B | 1 | 60.00 | 50.00 | -10.00 | {ours} mAP agrees, CF1 lower, OF1 agrees |  |" in text
    assert text.endswith("Published: S (B; tolerance 0).\n")
    lines = list(csv.DictReader(io.StringIO(comma_separated(plan, found))))
    assert [(row["row"], row["figure"], row["published"]) for row in lines] == [
        ("A", "mAP", ""),
        ("B", "mAP", "60.0"),
        ("B", "OF1", "50.0"),
        ("B", "CF1", "26.0"),
        ("C", "mAP", ""),
    ]


def test_figures_that_no_row_has_are_missing_but_for_the_compared_one(tmp_path):
    plan, found = written(tmp_path, {"A": {}, "B": {}})
    assert "| method | seeds | mAP | mAP - A | remark |" in markdown(plan, found)
    lines = list(csv.DictReader(io.StringIO(comma_separated(plan, found))))
    assert [(row["figure"], row["difference"]) for row in lines] == [("mAP", ""), ("mAP", "")]


def test_a_figure_that_is_published_and_missing_here_does_not_hide_the_next(tmp_path):
    plan, found = written(tmp_path, {"A": {"mAP": 0.5, "CF1": 0.25}}, {"A": {"CF1": 25}})
    lines = list(csv.DictReader(io.StringIO(comma_separated(plan, found))))
    assert [row["figure"] for row in lines] == ["mAP", "CF1"]


def test_how_settings_are_chosen_is_told_where_they_are(tmp_path):
    plan, found = written(tmp_path, {"A": {"mAP": 0.5}})
    assert "Chosen: " not in markdown(plan, found)
    plan, found = written(tmp_path, {"A": {"mAP": 0.5}}, tuning={"seed": 3})
    assert "Chosen: the setting with the highest validation mAP of the tuning seed" in markdown(plan, found)


def test_a_setting_is_chosen_by_its_validation_figure_of_equal_ones_the_first():
    tried = [
        ({"lr": "1"}, line(9, 0.5, **{"validation mAP": 0.4, "epoch": 3, "best on test mAP": 0.7})),
        ({"lr": "2"}, line(9, 0.6, **{"validation mAP": 0.45, "epoch": 5, "best on test mAP": 0.61})),
        ({"lr": "3"}, line(9, 0.9, **{"validation mAP": 0.45, "epoch": 1, "best on test mAP": 0.9})),
        ({"lr": "4"}, line(9, 0.99)),
    ]
    assert chosen(tried) == ({"lr": "2"}, 5, 45.0, 60.0, 90.0)
    assert chosen(tried[:2]).best_on_test == 70.0
    assert chosen(tried[3:]) is None
    assert chosen(tried).words == "lr 2"
