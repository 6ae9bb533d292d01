"""Runs that are resolved: their names, the data that they lack, and what other processes make meanwhile."""

import importlib
from pathlib import Path

import pytest

from engine.reproduction import command, planned
from engine.reproduction.campaign import Campaign
from engine.reproduction.lines import LineFile
from engine.reproduction.plan import RunOf, cells, first_runs
from engine.reproduction.plan_file import read_plan
from engine.reproduction.planned import Given, Resolver
from engine.reproduction.worker import Outcome
from tests.engine.reproduction.fake_runs import FakeScript, parsed_once, write_plan, write_run

pytestmark = pytest.mark.usefixtures("own_folder")
TUNED = {"name": "X", "command": "main_BCE.py --test_every 1", "try": {"lr": [0.1, 0.3]}}


@pytest.fixture
def campaign(tmp_path, monkeypatch):
    monkeypatch.setattr(planned, "parse_settings", parsed_once)
    monkeypatch.setattr(planned, "Request", lambda *given: None)
    rows = [{"name": "BCE", "command": "main_BCE.py"}, TUNED]
    path = write_plan(tmp_path, rows=rows, regimes={"easy": ""}, tuning={"seed": 11}, seeds=[1])
    resolver = Resolver({"main_BCE.py": FakeScript(tmp_path / "trained.txt")}, Given({}))
    return Campaign(read_plan(path, ["main_BCE.py"]), resolver, LineFile(tmp_path / "runs.jsonl"), tmp_path / "w")


def finish(campaign, run, folder):
    """Keep the line of a run as another process does."""
    write_run(folder, "bce", 0.5 + float(run.setting.get("lr", 0)))
    other = Campaign(campaign.plan, campaign.resolver, LineFile(campaign.lines.path), folder)
    other._keep(other.planned(run), folder, None)


def test_a_run_that_another_process_finishes_meanwhile_is_not_made(campaign, tmp_path):
    first, *others = [run for cell in campaign.cells for run in first_runs(cell)]
    jobs = campaign.jobs([first, *others])
    assert next(jobs).script == "main_BCE.py"
    finish(campaign, others[0], tmp_path / "elsewhere")
    assert [job.words[-2] for job in jobs] == ["--lr=0.3"]


def test_its_line_is_not_written_twice(campaign, tmp_path):
    run = RunOf(campaign.cells[0], 1, {})
    write_run(campaign.work / campaign.planned(run).slug, "bce", 0.5)
    finish(campaign, run, tmp_path / "elsewhere")
    assert campaign.take(run, Outcome(None, 0, "", 1.0)) == ""
    assert len(campaign.lines.path.read_text().splitlines()) == 2  # the defaults, and the run


def test_a_choice_waits_for_what_another_process_has_made(campaign, tmp_path, monkeypatch):
    made = []

    def run_all(campaign, runs, workers):
        made.append([(run.seed, dict(run.setting)) for run in runs])
        for run in runs if len(made) == 1 else ():
            finish(campaign, run, tmp_path / f"elsewhere{run.seed}{run.setting}")

    monkeypatch.setattr(command, "run_all", run_all)
    assert command.run_part(campaign, [(cell, cell.seeds) for cell in campaign.cells], 1, "fork") == 0
    assert made == [[(1, {}), (11, {"lr": "0.1"}), (11, {"lr": "0.3"})], [(1, {"lr": "0.3"})]]


def test_a_choice_waits_for_data_that_is_not_here(campaign, tmp_path):
    cell = campaign.cells[1]
    first, other = (RunOf(cell, 11, {"lr": lr}) for lr in ("0.1", "0.3"))
    finish(campaign, first, tmp_path / "one")
    campaign.lines.refresh()
    campaign.resolver.given = Given({"digits": tmp_path / "none"})
    assert campaign.reason(other).startswith("needs digits")
    assert campaign.choice(cell) is None
    campaign.failed[campaign.planned(other).key] = "failed: why"
    assert campaign.choice(cell).setting == {"lr": "0.1"}


def test_the_name_of_a_folder_is_short_plain_and_of_these_settings(campaign):
    run = RunOf(campaign.cells[1], 1, {"lr": "0.3"})
    one = campaign.planned(run)
    assert one.slug == f"x-easy-s1-{one.key}"
    assert len(one.key) == 8
    assert one._replace(identity=dict(reversed(one.identity.items()))).key == one.key
    assert campaign.planned(run._replace(setting={"lr": "0.1"})).key != one.key
    long = type(run.cell)(
        run.cell.plan, run.cell.row, type(run.cell.regime)(name="b" * 90, flags=(), seeds=(), needs="")
    )
    assert one._replace(run=run._replace(cell=long)).slug == f"x-{'b' * 78}-{one.key}"


def test_files_of_a_run_are_those_that_its_flags_name(tmp_path):
    command = "main_BCE.py --loss vlpl --prior_scores scores.npz --labels given --label_file labels.npy"
    rows = [{"name": "BCE", "command": "main_BCE.py"}, {"name": "VLPL", "command": command}]
    path = write_plan(tmp_path, rows=rows, regimes={"easy": ""}, seeds=[1])
    scripts = {"main_BCE.py": lambda: importlib.import_module("main_BCE")}
    plan, resolver = read_plan(path, list(scripts)), Resolver(scripts, Given({}))
    found = [resolver.plan(RunOf(cell, 1, {})).files for cell in cells(plan)]
    assert found == [(), (Path("labels.npy"), Path("scores.npz"))]


def test_data_that_is_lacking_is_named(campaign, tmp_path):
    one = campaign.planned(RunOf(campaign.cells[0], 1, {}))
    labels = Path("labels.npy")
    assert one.lacks_data == ""
    assert one._replace(files=(labels,)).lacks_data == "needs labels.npy"
    labels.touch()
    assert one._replace(files=(labels,)).lacks_data == ""
    assert one._replace(files=(labels, Path("a"), Path("b"))).lacks_data == "needs a and b"
    lacking = one._replace(files=(Path("none.npy"),), folder_of_data=tmp_path / "none")
    assert lacking.lacks_data == "needs digits (--data digits=FOLDER)"
    assert lacking._replace(folder_of_data=tmp_path).lacks_data == "needs none.npy"
