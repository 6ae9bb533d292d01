"""What the page of several runs is made of."""

from types import SimpleNamespace

from engine.analysis.comparison_report import class_table, comparison_report, differing_settings
from engine.report.content import Table


def run(per_class=None, **settings):
    rows = None if per_class is None else [{"class": name, "AP": value} for name, value in per_class.items()]
    return SimpleNamespace(result={} if rows is None else {"per_class": rows}, settings=settings)


def test_classes_that_runs_differ_in_most_come_first_and_the_best_run_is_marked():
    first = run({"cat": 0.5, "dog": 0.25, "owl": None, "emu": 0.75})
    second = run({"cat": 0.625, "dog": 0.75, "owl": None, "emu": 0.75})
    table, best = class_table(["a", "b"], [first, second])
    assert table == (
        ["class", "a", "b"],
        [["dog", "25.00", "75.00"], ["cat", "50.00", "62.50"], ["emu", "75.00", "75.00"], ["owl", "-", "-"]],
    )
    assert best == [2, 2, 1, 0]
    assert class_table(["b", "a"], [second, first])[1][:2] == [1, 1]
    alone, none = class_table(["a"], [first])
    assert [row[0] for row in alone.rows] == ["cat", "dog", "emu", "owl"]
    assert none == [0] * 4


def test_runs_of_other_classes_or_of_before_such_figures_have_no_table():
    some = run({"cat": 0.5})
    for other in (run({"dog": 0.5}), run({"cat": 0.5, "dog": 0.5}), run()):
        assert class_table(["a", "b"], [some, other]) == (Table(["class", "a", "b"], []), [])
        assert class_table(["a", "b"], [other, some]) == (Table(["class", "a", "b"], []), [])


def test_settings_that_differ_are_listed_but_not_where_a_run_was_computed():
    runs = [run(lr=0.1, output="x", seed=1, beta=0.5), run(lr=0.2, output="y", seed=1, table=("t",))]
    assert differing_settings(["a", "b"], runs) == (
        ["setting", "a", "b"],
        [["lr", "0.1", "0.2"], ["beta", "0.5", ""], ["table", "", "t"]],
    )


def test_the_page_has_the_pictures_that_were_drawn(tmp_path):
    (tmp_path / "curves.png").write_bytes(b"x")
    figures = Table(["method"], [["a"], ["b"]])
    runs = [run({"cat": 0.5}), run({"cat": 0.25})]
    found = comparison_report(["a", "b"], runs, figures, "means", ["a note"], tmp_path)
    assert (found.title, found.runs, found.means, found.notes) == ("2 runs side by side", figures, "means", ["a note"])
    assert [one.title for one in found.pictures] == ["Curves"]
    assert found.best == [1]
    assert comparison_report(["a"], runs[:1], figures, "", [], tmp_path).title == "a"
