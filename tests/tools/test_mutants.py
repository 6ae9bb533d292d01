"""The mutation testing of `tools/mutants`, on a project of a dozen lines."""

import ast
import dataclasses
import signal

import pytest

from tools.mutants.changes import alters, changes_of
from tools.mutants.copies import copy_project
from tools.mutants.plan import LEFT_OUT, QUOTA, WEIGHTS, choose, files_of, load_plan, save_plan, shown
from tools.mutants.reach import Reach, Watch
from tools.mutants.run import Result, begin, load_results, note, outcome_of, restore, table, try_all

CODE = '''"""A toy."""

import torch


def largest(values, limit: int = 3):
    """The largest of the first values, at most `limit` of them."""
    if not values:
        raise ValueError(f"no values, {1 + 1} wanted")
    return max(values[:limit]) + 0.5


@torch.no_grad()
def is_small(value) -> bool:
    """Whether a value is small."""
    return value < 2 and value is not None


def emptied(values):
    """A list without its content."""
    values.sort()
    values.clear()
    return values
'''
TESTS = """from toys.box import emptied, is_small, largest


def test_largest():
    assert largest([1, 5, 2, 9]) == 5.5


def test_small():
    assert is_small(1) and not is_small(2)


def test_emptied():
    assert emptied([2, 1]) == []
"""


@pytest.fixture
def project(tmp_path):
    """A project with one module and its tests."""
    root = tmp_path / "project"
    for file, text in {"toys/box.py": CODE, "tests/toys/test_box.py": TESTS, "pyproject.toml": ""}.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)
    return root


def found(project, kind):
    return [(change.old, change.new) for change in changes_of(project, "toys/box.py") if change.kind == kind]


def test_each_kind_of_change_is_found_where_it_can_be_made(project):
    assert found(project, "default") == [("3", "4")]
    assert found(project, "negate") == [("not values", "not (not values)"), ("not values", "(values)")]
    assert found(project, "guard") == [('raise ValueError(f"no values, {1 + 1} wanted")', "pass")]
    assert found(project, "extreme") == [("max", "min")]
    assert found(project, "slice") == [("limit", "limit - 1")]
    assert found(project, "arith") == [("+", "-")]
    assert found(project, "detach") == [("@torch.no_grad()", "")]
    assert found(project, "compare") == [("<", "<="), ("is not", "is")]
    assert found(project, "boolop") == [("and", "or")]
    assert found(project, "return") == [
        ("return value < 2 and value is not None", "return not (value < 2 and value is not None)")
    ]
    assert found(project, "sort") == [("values.sort()", "pass")]
    assert found(project, "dropcall") == [("values.clear()", "pass")]
    assert found(project, "const") == [("0.5", "1.0"), ("2", "3"), ("2", "1")]


def test_asserts_and_arguments_for_people_or_speed_are_left_alone(project):
    text = "def pairs(a, b):\n    assert a < b\n    a.to(b, non_blocking=True)\n    return zip(a, b, strict=True)\n"
    (project / "toys/box.py").write_text(text)
    assert [change.kind for change in changes_of(project, "toys/box.py")] == ["dropcall"]


def test_every_change_applies_and_most_are_other_python(project):
    changes = changes_of(project, "toys/box.py")
    for change in changes:
        ast.parse(change.applied(CODE))
    assert all(alters(change, CODE) for change in changes)
    assert {change.kind for change in changes} <= WEIGHTS.keys()


def test_a_change_of_another_text_is_refused(project):
    change = changes_of(project, "toys/box.py")[0]
    with pytest.raises(ValueError, match=r"toys/box\.py, line 6: not the file"):
        change.applied("# a new line\n" + CODE)


def test_what_runs_at_import_is_known(project):
    changes = changes_of(project, "toys/box.py")
    assert {change.old for change in changes if change.imported} == {"3", "@torch.no_grad()"}


def test_a_plan_is_the_same_for_the_same_seed_and_another_for_another(project, tmp_path):
    first, again, other = (choose(project, seed, {"toys": 6}) for seed in (1, 1, 2))
    assert first == again != other
    assert len({mutant.change.line for mutant in first}) == 6
    assert [mutant.id for mutant in first] == [f"M{number:03d}" for number in range(6)]
    save_plan(tmp_path / "plan.json", first)
    assert load_plan(tmp_path / "plan.json") == first


def test_a_plan_ends_where_nothing_is_left_to_change(project):
    assert len(choose(project, 0, {"toys": 100})) < 20


def test_every_package_has_its_share_and_only_files_that_there_are_are_left_out():
    assert all(quota >= 40 for quota in QUOTA.values())
    assert sum(QUOTA.values()) >= 260
    from tools.mutants.__main__ import ROOT

    assert all((ROOT / file).exists() for file in LEFT_OUT)
    assert "losses/cones.py" in files_of(ROOT, "losses")
    assert not LEFT_OUT.keys() & set(files_of(ROOT, "models"))


def test_changes_are_named_anywhere_on_the_command_line(tmp_path):
    from tools.mutants.__main__ import arguments

    for words in (["diff", "M001", "--work", "w", "M002"], ["--work", "w", "diff", "M001", "M002"]):
        given = arguments(words)
        assert (given.what, given.ids, str(given.work), given.seed) == ("diff", ["M001", "M002"], "w", 0)


def test_a_change_is_shown_as_a_diff(project):
    (mutant,) = [each for each in choose(project, 0, {"toys": 100}) if each.change.kind == "extreme"]
    assert shown(project, mutant).splitlines() == [
        f"{mutant.id} toys/box.py:10 extreme in largest",
        "@@ -10 +10 @@",
        "-    return max(values[:limit]) + 0.5",
        "+    return min(values[:limit]) + 0.5",
    ]


def reach_of(project):
    """Which test enters which function, as the watch would note it."""
    tests = [f"tests/toys/test_box.py::test_{name}" for name in ("largest", "small", "emptied")]
    spans = ["6-10", "13-16", "19-23"]
    functions = {"toys/box.py": {span: [test] for span, test in zip(spans, tests, strict=True)}}
    return Reach(functions, dict(zip(tests, (3.0, 2.0, 1.0), strict=True)))


def test_the_tests_that_reach_a_change_are_those_that_enter_its_function(project, tmp_path):
    reach = reach_of(project)
    reach.save(tmp_path / "reach.json")
    assert Reach.load(tmp_path / "reach.json") == reach
    changes = {change.kind: change for change in changes_of(project, "toys/box.py")}
    assert reach.tests(changes["extreme"]) == {"tests/toys/test_box.py::test_largest"}
    names = [test.split("_")[-1] for test in reach.quickest(changes["default"], budget=3.5)]
    assert names == ["emptied", "small"]  # all, for it runs at import, but for the time
    without = dataclasses.replace(reach, functions={"toys/box.py": {"13-16": ["tests/toys/test_box.py::test_small"]}})
    assert without.tests(changes["extreme"]) == {"tests/toys/test_box.py::test_small"}  # it may be called at import
    with_whole = dataclasses.replace(reach, seconds={**reach.seconds, "tests/test_tables.py::test_it": 9.0})
    assert with_whole.quickest(changes["default"], budget=1.0) == ["tests/test_tables.py::test_it"]
    every = [f"tests/toys/test_box.py::test_{name}" for name in ("emptied", "small", "largest")]
    assert reach.others(changes["default"], project, every[:1], 9.0) == every[1:]
    assert reach.cost(["tests/toys/test_box.py"]) == 6.0


def test_a_file_whose_tests_share_a_fixture_is_tried_as_a_whole(project):
    (project / "tests/toys/test_box.py").write_text('@pytest.fixture(scope="module")')
    (change,) = [each for each in changes_of(project, "toys/box.py") if each.kind == "extreme"]
    tried = ["tests/toys/test_box.py::test_largest"]
    assert reach_of(project).others(change, project, tried, 9.0) == ["tests/toys/test_box.py"]


def test_files_that_run_ranks_reach_the_modules_that_they_name(project):
    (project / "tests" / "test_ranks.py").write_text("from toys.box import largest\nrun_ranks(largest)\n")
    (project / "tests" / "test_more_ranks.py").write_text("from toys import box\nrun_ranks(box.largest)\n")
    (project / "tests" / "test_other_ranks.py").write_text("run_ranks(print)\n")
    change = changes_of(project, "toys/box.py")[0]
    naming = ["tests/test_more_ranks.py", "tests/test_ranks.py"]
    found = reach_of(project).others(change, project, [], 9.0)
    assert sorted(set(found) - reach_of(project).tests(change)) == naming
    assert Reach().others(change, project, [], 9.0) == sorted([*naming, "tests/test_other_ranks.py"])


def test_the_watch_notes_functions_of_the_product_only(project):
    class Item:
        nodeid = "tests/test_it.py::test_it[1]"

    (project / "toys" / "plain.py").write_text("def one():\n    return 1\n\n\nclass Two:\n    three = 3\n")
    watch = Watch(project, ["toys"])
    space = {}
    watch.pytest_runtest_protocol(Item, None)
    exec(compile((project / "toys" / "plain.py").read_text(), project / "toys" / "plain.py", "exec"), space)
    space["one"]()
    found = watch.reach()
    assert found.functions == {"toys/plain.py": {"1-2": ["tests/test_it.py::test_it"]}}
    assert list(found.seconds) == ["tests/test_it.py::test_it"]


def test_exit_codes_say_what_became_of_a_change():
    assert [outcome_of(code, last=True) for code in (0, 1, 2, 5)] == ["survived", "caught", "caught", "survived"]
    assert [outcome_of(code, last=False) for code in (0, 4, 5)] == ["passed"] * 3
    assert outcome_of(4, last=True) == "caught"
    assert outcome_of(3, last=True) == outcome_of(99, last=True) == "trouble"
    assert outcome_of(-signal.SIGSEGV, last=True) == "caught"
    assert outcome_of(-signal.SIGXCPU, last=True) == outcome_of(-signal.SIGKILL, last=False) == "hangs"


def test_a_change_is_made_in_the_copy_and_taken_back(project, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("tools.mutants.run.fork_pytest", lambda *args: started.append(args) or 1)
    copy = copy_project(project, tmp_path / "work" / "copy0")
    (mutant,) = [each for each in choose(project, 0, {"toys": 100}) if each.change.kind == "extreme"]
    trial = begin(project, mutant, reach_of(project), copy)
    assert "min(values" in (copy / "toys/box.py").read_text()
    assert (project / "toys/box.py").read_text() == CODE
    assert started == [(copy, ["tests/toys/test_box.py::test_largest"], trial.log, 60 + 12)]
    assert trial.selections == []
    assert restore(project, trial) == copy
    assert (copy / "toys/box.py").read_text() == CODE


def test_trials_go_from_the_quickest_tests_to_whole_files_and_keep_their_results(project, tmp_path, monkeypatch):
    """Without forks: a change of `largest` is caught at once, one of `is_small` by the file, one of `sort` never."""
    ends = {"extreme": ["caught"], "compare": ["passed", "caught"], "sort": ["passed", "survived"]}

    def poll(trial):
        outcome = ends[trial.mutant.change.kind].pop(0)
        return None if outcome == "passed" else outcome

    monkeypatch.setattr("tools.mutants.run.fork_pytest", lambda *args: 1)
    monkeypatch.setattr("tools.mutants.run.Trial.poll", poll)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    every = {mutant.change.kind: mutant for mutant in choose(project, 0, {"toys": 100})}
    mutants, results = [every[kind] for kind in ends], tmp_path / "results.jsonl"
    (tmp_path / "work").mkdir()
    got = list(try_all(project, mutants, reach_of(project), tmp_path / "work", results, jobs=2))
    assert {result.kind: result.outcome for result in got} == {
        "extreme": "caught",
        "compare": "caught",
        "sort": "survived",
    }
    assert load_results(results) == got
    assert list(try_all(project, mutants, reach_of(project), tmp_path / "work", results)) == []


def test_a_change_that_no_test_reaches_is_said_to_be_so(project, tmp_path):
    mutant = choose(project, 0, {"toys": 1})[0]
    (tmp_path / "work").mkdir()
    (result,) = try_all(project, [mutant], Reach(), tmp_path / "work", tmp_path / "results.jsonl")
    assert (result.outcome, result.caught) == ("not reached", False)


def test_the_table_counts_by_package_and_names_the_survivors(tmp_path, capsys):
    caught = Result("M000", "toys", "toys/box.py", 3, "sort", "caught", "tests/test_box.py::test_it", 1.0)
    others = [
        dataclasses.replace(caught, id="M001", outcome="hangs"),
        dataclasses.replace(caught, id="M002", outcome="survived"),
        dataclasses.replace(caught, id="M003", package="data", file="data/box.py"),
    ]
    lines = table([note(tmp_path / "results.jsonl", result) for result in (caught, *others)]).splitlines()
    assert lines[2:] == [
        "| toys | 3 | 2 | 1 | 1 | 66.7 % |",
        "| data | 1 | 1 | 0 | 0 | 100.0 % |",
        "| all | 4 | 3 | 1 | 1 | 75.0 % |",
        "",
        "M002 toys/box.py:3 sort: survived",
    ]
    assert "M000 toys/box.py:3 sort caught tests/test_box.py::test_it" in capsys.readouterr().out


def test_a_planted_change_is_caught_and_a_needless_line_survives(project, tmp_path):
    every = {mutant.change.kind: mutant for mutant in choose(project, 0, {"toys": 100})}
    work = tmp_path / "work"
    work.mkdir()
    mutants = [every["extreme"], every["sort"]]
    got = list(try_all(project, mutants, reach_of(project), work, tmp_path / "results.jsonl", jobs=1))
    assert [result.outcome for result in got] == ["caught", "survived"]
    assert got[0].test == "tests/toys/test_box.py::test_largest"
