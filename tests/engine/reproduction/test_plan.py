"""Plans, and the one line for each mistake in one."""

import re

import pytest

from engine.reproduction.plan import RunOf, cells, first_runs, shard
from engine.reproduction.plan_file import read_plan
from tests.engine.reproduction.fake_runs import PLAN, write_plan
from utils.checks import UserError

SCRIPTS = ("main_BCE.py", "main_CoNeS.py")
ROW = {"name": "X", "command": "main_BCE.py"}
PUBLISHED_ROW = {
    "name": "Y",
    "command": "main_BCE.py",
    "published": {"easy": {"mAP": 9}},
    "source": "S",
    "tolerance": 1,
}


def read(folder, **changes):
    return read_plan(write_plan(folder, **changes), SCRIPTS)


def test_a_row_and_a_regime_make_a_cell(tmp_path):
    rows = [*PLAN["rows"], {**ROW, "regimes": ["hard"], "seeds": [7]}]
    regimes = {"easy": {"flags": "--partial_rate 0.1", "seeds": [5]}, "hard": "--partial_rate 0.4"}
    plan = read(tmp_path, rows=rows, regimes=regimes)
    assert [(cell.name, cell.seeds) for cell in cells(plan)] == [
        (("BCE", "easy"), (5,)),
        (("AN", "easy"), (5,)),
        (("BCE", "hard"), (1, 2)),
        (("AN", "hard"), (1, 2)),
        (("X", "hard"), (7,)),
    ]
    assert (plan.name, plan.figures, plan.tuning) == ("plan", ("mAP", "CF1", "OF1"), None)


def test_flags_of_a_row_come_behind_those_of_its_regime_and_the_plan(tmp_path):
    cell = cells(read(tmp_path))[1]
    flags = ("--dataset", "digits", "--partial_rate", "0.1", "--loss", "an", "--lr", "0.5")
    assert cell.flags == flags
    run = RunOf(cell, 3, {"w_d": "1"})
    assert run.flags == (*flags, "--w_d=1", "--seed=3")
    assert run.title == "AN, easy, seed 3, w_d 1"


def test_every_combination_of_settings_is_tried_with_the_tuning_seed(tmp_path):
    row = {**ROW, "try": {"lr": [1, 2], "w_d": ["a", "b"]}}
    (cell,) = cells(read(tmp_path, rows=[row], regimes={"easy": ""}, tuning={"seed": 11}))
    runs = first_runs(cell)
    assert [(run.seed, tuple(run.setting.values())) for run in runs] == [
        (11, ("1", "a")),
        (11, ("1", "b")),
        (11, ("2", "a")),
        (11, ("2", "b")),
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_parts_hold_every_run_once(tmp_path, count):
    rows = [*PLAN["rows"], {**ROW, "try": {"lr": [1, 2]}}]
    found = cells(read(tmp_path, rows=rows, tuning={"seed": 11}, seeds=[1, 2, 3]))
    parts = [shard(found, number, count) for number in range(1, count + 1)]
    dealt = [(cell.name, seed) for part in parts for cell, seeds in part for seed in seeds]
    assert sorted(dealt) == sorted((cell.name, seed) for cell in found for seed in cell.seeds)
    tuned = [(cell.name, seeds) for part in parts for cell, seeds in part if cell.is_tuned]
    assert sorted(tuned) == [(("X", "easy"), (1, 2, 3)), (("X", "hard"), (1, 2, 3))]


TUNED = {
    "rows": [{**ROW, "try": {"lr": [1, 2]}, "regimes": ["hard"]}, {**PUBLISHED_ROW, "seeds": [8]}],
    "tuning": {"seed": 11},
    "figures": ["OF1"],
}


def like(folder, **changes):
    """A plan like another one that stands beside it, with data of its own."""
    write_plan(folder, name="other.yaml", **TUNED)
    content = {"like": "other.yaml", "flags": "--dataset voc07", "seeds": [5, 6], "regimes": {"hard": "--x"}, **changes}
    return read_plan(write_plan(folder, content), SCRIPTS)


def test_a_plan_like_another_has_its_rows_and_none_of_its_data(tmp_path):
    plan = like(tmp_path)
    tuned, plain = cells(plan)
    assert [(cell.name, cell.seeds, cell.is_tuned) for cell in (tuned, plain)] == [
        (("X", "hard"), (5, 6), True),
        (("Y", "hard"), (5, 6), False),
    ]
    assert tuned.flags == ("--dataset", "digits", "--dataset", "voc07", "--x")
    assert plain.row.published == {}
    assert (plan.figures, plan.title, plan.tuning.seed) == (("OF1",), "plan", 11)
    assert first_runs(tuned) == []  # the other plan tries the settings
    assert [run.seed for run in first_runs(plain)] == [5, 6]
    assert (tuned.model.name, tuned.model.plan.name) == (tuned.name, "other")
    assert [run.seed for run in first_runs(tuned.model)] == [11, 11]
    assert cells(plan.like)[0].model is None
    assert like(tmp_path, regimes={"easy": ""}, figures=["CF1"]).figures == ("CF1",)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"rows": [ROW]},
            "plan.yaml: unknown key 'rows'; there are title, about, figures, flags, seeds, regimes, needs, like",
        ),
        ({"regimes": {"hart": ""}}, "like: {folder}/other.yaml: no regime is called 'hart'; did you mean hard?"),
        ({"seeds": [11]}, "row X, regime hard: seed 11 is that of the tuning"),
        ({"like": "none.yaml"}, "none.yaml"),
        ({"like": "plan.yaml"}, "plan.yaml is like another plan itself; name that one"),
        ({"like": ["other.yaml"]}, "plan.yaml: like: must be a text"),
        (
            {"without": {"Xx": "no"}},
            "plan.yaml: without: no row of {folder}/other.yaml is called 'Xx'; did you mean X?",
        ),
        ({"without": {"X": ""}}, "plan.yaml: without: X: must say why"),
        ({"without": ["X"]}, "plan.yaml: without: must be `key: value` pairs"),
    ],
)
def test_a_plan_that_cannot_be_like_another_is_refused(tmp_path, changes, text):
    with pytest.raises(UserError, match=re.escape(text.format(folder=tmp_path))) as caught:
        like(tmp_path, **changes)
    assert "\n" not in str(caught.value)


def test_rows_of_another_plan_are_left_out_with_a_reason(tmp_path):
    plan = like(tmp_path, regimes={"easy": "", "hard": "--x"}, without={"X": "no such data"})
    assert [cell.name for cell in cells(plan)] == [("Y", "easy"), ("Y", "hard")]
    assert [(row.name, row.elsewhere) for row in plan.rows] == [("X", "no such data"), ("Y", "")]
    assert [cell.name for cell in cells(plan.like)] == [("Y", "easy"), ("X", "hard"), ("Y", "hard")]


def test_what_is_like_another_plan_stands_for_no_third(tmp_path):
    like(tmp_path)
    third = write_plan(tmp_path, {"like": "plan.yaml", "seeds": [5], "regimes": {"hard": ""}}, name="third.yaml")
    with pytest.raises(UserError, match=r"plan\.yaml is like another plan itself; name that one"):
        read_plan(third, SCRIPTS)


PUBLISHED = {"published": {"easy": {"mAP": 90}}, "source": "a paper", "tolerance": 1}
MISTAKES = {
    "unknown key 'row'; did you mean rows?": {"row": 1},
    "`regimes:` names the flags of at least one": {"regimes": None},
    "`rows:` must be a list of at least one row": {"rows": []},
    "row 1: must be `key: value` pairs": {"rows": ["BCE"]},
    "row 1: `name:` is missing": {"rows": [{"command": "main_BCE.py"}]},
    "row 1 (X): `command:` is missing": {"rows": [{"name": "X"}]},
    "row 1 (X): command: main_BC.py: no training script of this project; there are main_BCE.py, main_CoNeS.py": {
        "rows": [{**ROW, "command": "main_BC.py"}]
    },
    "row 1 (X): command: No closing quotation": {"rows": [{**ROW, "command": "main_BCE.py '"}]},
    "row 1 (X): no regime is called 'esay'; did you mean easy?": {"rows": [{**ROW, "regimes": ["esay"]}]},
    "row 1 (X): unknown key 'remarks'; did you mean remark?": {"rows": [{**ROW, "remarks": "x"}]},
    "row 1 (X): remark: must be a text": {"rows": [{**ROW, "remark": ["x"]}]},
    "row 1 (X): try: lr: must be a list of values": {"rows": [{**ROW, "try": {"lr": 1}}]},
    "row 2 (Y): try: lr: must be a list of values": {"rows": [ROW, {**ROW, "name": "Y", "try": {"lr": [1, [2]]}}]},
    "row 1 (X): try: w_d: must be a list of values": {"rows": [{**ROW, "try": {"w_d": []}}]},
    "row 1 (X): try: lr: 1 comes twice": {"rows": [{**ROW, "try": {"lr": [1, 1]}}]},
    "row 1 (X): published: must be `key: value` pairs": {"rows": [{**ROW, "published": 3}]},
    "row 1 (X): published: easy: must be figures by name, such as {mAP: 88.4}": {
        "rows": [{**ROW, "published": {"easy": 3}}]
    },
    "row 1 (X): published: easy: mAP '190': must be a percentage": {
        "rows": [{**ROW, "published": {"easy": {"mAP": 190}}}]
    },
    "row 1 (X): published: easy: mAP '100.5': must be a percentage": {
        "rows": [{**ROW, "published": {"easy": {"mAP": 100.5}}}]
    },
    "row 1 (X): published: easy: OF1 '-0.5': must be a percentage": {
        "rows": [{**ROW, "published": {"easy": {"mAP": 1, "OF1": -0.5}}}]
    },
    "row 1 (X): published figures need `source:`": {"rows": [{**ROW, **PUBLISHED, "source": ""}]},
    "row 1 (X): published figures need `tolerance:`, in points": {
        "rows": [{**ROW, "published": {"easy": {"mAP": 90}}, "source": "a paper"}]
    },
    "row 1 (X): tolerance: 'x' is no number of 0 or more": {"rows": [{**ROW, **PUBLISHED, "tolerance": "x"}]},
    "row 1 (X): tolerance: '-1' is no number of 0 or more": {"rows": [{**ROW, **PUBLISHED, "tolerance": -1}]},
    "figures: must be a list of texts": {"figures": ["mAP", ["x"]]},
    "seeds: must be a list of texts ": {"seeds": [1, ""]},
    "row 2 (X): is there twice in regime hard": {"rows": [ROW, {**ROW, "regimes": ["hard"]}]},
    "seeds: '-1' is no whole number of 0 or more": {"seeds": [-1]},
    "seeds: one comes twice": {"seeds": [1, 1]},
    "seeds: must be a list of texts": {"seeds": {"a": 1}},
    "regime easy: unknown key 'flag'; did you mean flags?": {"regimes": {"easy": {"flag": "x"}}},
    "regime easy: must be `key: value` pairs": {"regimes": {"easy": ["--x"]}},
    "row BCE, regime easy: no seeds; give `seeds:` to the plan, the regime or the row": {"seeds": None},
    "row X, regime easy: `try:` needs `tuning: {seed: N}` of the plan": {"rows": [{**ROW, "try": {"lr": [1]}}]},
    "row X, regime easy: seed 1 is that of the tuning": {"rows": [{**ROW, "try": {"lr": [1]}}], "tuning": {"seed": 1}},
    "tuning: `seed:` must be a whole number": {"tuning": {"epoch": "own"}},
    "tuning: `seed:` must be a whole number ": {"tuning": {"seed": 1.5}},
    "tuning: epoch best: choose from tuning, own": {"tuning": {"seed": 1, "epoch": "best"}},
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_one_line_with_the_file_and_the_row(tmp_path, text):
    with pytest.raises(UserError, match=re.escape(text.rstrip())) as caught:  # a blank tells two of one text apart
        read(tmp_path, **MISTAKES[text])
    told = str(caught.value)
    assert told.startswith(f"{tmp_path / 'plan.yaml'}: ")
    assert "\n" not in told


def test_figures_may_be_at_both_ends_and_the_tolerance_and_the_seed_nought(tmp_path):
    row = {**ROW, "published": {"easy": {"mAP": 0, "CF1": 100}}, "source": "S", "tolerance": 0}
    plan = read(tmp_path, rows=[row], tuning={"seed": 0})
    assert plan.rows[0].published == {"easy": {"mAP": 0, "CF1": 100}}
    assert (plan.rows[0].tolerance, plan.tuning.seed) == (0, 0)


def test_what_the_file_says_of_all_rows_holds_where_a_row_says_nothing(tmp_path):
    rows = [{**ROW, "published": {"easy": {"mAP": "90.5"}}}, {**ROW, "name": "Y", **PUBLISHED}]
    first, second = read(tmp_path, rows=rows, source="all", tolerance=2).rows
    assert (first.source, first.tolerance, first.published) == ("all", 2.0, {"easy": {"mAP": 90.5}})
    assert (second.source, second.tolerance) == ("a paper", 1.0)
