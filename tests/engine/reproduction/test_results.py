"""What finished runs say about cells: choices, and words on what is missing."""

import pytest

from engine.reproduction.lines import FinishedLine
from engine.reproduction.plan import RunOf, cells
from engine.reproduction.plan_file import read_plan
from engine.reproduction.results import cell_result, choice_of, chosen
from tests.engine.reproduction.fake_runs import write_plan

TUNED = {"name": "X", "command": "main_BCE.py", "try": {"lr": [1, 2]}}
PLAIN = {"name": "P", "command": "main_BCE.py"}
KEPT = {"mAP": 0.5, "validation mAP": 0.25, "epoch": 3}


def line(seed, **figures):
    return FinishedLine("bce", seed, {}, KEPT | figures, {"test_mAP": [0.1, 0.2, 0.3]}, "x", {}, 1.0, {})


def state(cell, done, reasons=None):
    """Words on a cell of which these runs are done, by seed and learning rate."""

    def named(run):
        return run.seed, run.setting.get("lr", "")

    def find(run):
        return line(run.seed) if named(run) in done else None

    def reason(run):
        return (reasons or {}).get(named(run), "")

    def failure(run):
        return reason(run) if reason(run).startswith("failed") else ""

    return cell_result(cell, choice_of(cell, find, failure), find, reason).state


@pytest.fixture
def plan(tmp_path):
    content = {"rows": [TUNED, PLAIN], "regimes": {"a": ""}, "seeds": [1, 2], "tuning": {"seed": 9}}
    return read_plan(write_plan(tmp_path, content), ["main_BCE.py"])


ALL = {(9, "1"), (9, "2"), (1, "1"), (2, "1")}


@pytest.mark.parametrize(
    ("done", "reasons", "expected"),
    [
        (ALL, {}, ""),
        (ALL - {(1, "1")}, {}, "1 of 2 seeds"),
        (ALL - {(1, "1")}, {(1, "1"): "failed: why"}, "1 of 2 seeds: failed: why"),
        (ALL - {(1, "1"), (2, "1")}, {}, "not run"),
        ({(9, "1")}, {}, "1 of 2 settings tried"),
        ({(9, "2")}, {(9, "1"): "failed: x"}, "not run"),  # of the setting that is left
        ({(9, "2")}, {(9, "1"): "no data"}, "1 of 2 settings tried: no data"),
        (set(), {}, "not run"),
        (set(), {(9, "1"): "no data", (9, "2"): "no data"}, "not run: no data"),
        (set(), {(9, "1"): "no data", (9, "2"): "failed: x"}, "not run: no data; failed: x"),
    ],
)
def test_what_is_missing_of_a_tuned_cell(plan, done, reasons, expected):
    assert state(cells(plan)[0], done, reasons) == expected


def test_a_row_without_tuning_keeps_the_figures_of_its_own_epoch(plan):
    plain = cells(plan)[1]
    assert state(plain, {(1, ""), (2, "")}) == ""
    result = cell_result(plain, None, lambda run: line(run.seed), lambda run: "")
    assert result.of("mAP") == {1: 50, 2: 50}


def test_nothing_is_chosen_while_a_run_still_waits(plan):
    tuned = cells(plan)[0]

    def find(run):
        return line(run.seed) if run.setting["lr"] == "1" else None

    assert choice_of(tuned, find, lambda run: "") is None
    assert choice_of(tuned, find, lambda run: "failed: why").setting == {"lr": "1"}


def test_a_line_with_no_more_than_the_wanted_figures_can_be_chosen():
    assert chosen([({"lr": "1"}, line(9))]) == ({"lr": "1"}, 3, 25, 50, 50)


def test_the_setting_of_another_plan_is_waited_for_or_is_there(tmp_path, plan):
    plan.path.rename(tmp_path / "other.yaml")
    content = {"like": "other.yaml", "seeds": [7], "regimes": {"a": ""}}
    tuned, plain = cells(read_plan(write_plan(tmp_path, content), ["main_BCE.py"]))
    choice = chosen([({"lr": "1"}, line(9))])
    cases = [(tuned, None, None), (tuned, choice, line(7)), (tuned, choice, None), (plain, None, None)]
    found = [cell_result(cell, one, lambda run, known=known: known, lambda run: "") for cell, one, known in cases]
    waits = f"not run: {tmp_path / 'other.yaml'} has not chosen its setting yet"
    assert [each.state for each in found] == [waits, "", "not run", "not run"]
    assert RunOf(plain, 7, {}).title == "P, a, seed 7"
