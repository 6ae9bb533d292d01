"""The plans that come with the project: they are read, and every flag of every row is right."""

import importlib
from pathlib import Path

import pytest

from engine.reproduction.plan import RunOf, cells, first_runs
from engine.reproduction.plan_file import read_plan
from engine.reproduction.planned import Given, Resolver, check_tuning

ROOT = Path(__file__).resolve().parents[3]
PLANS = sorted((ROOT / "configs" / "plans").glob("*.yaml"))
SCRIPTS = {path.name: lambda name=path.stem: importlib.import_module(name) for path in ROOT.glob("main_*.py")}


def check(found):
    resolver = Resolver(SCRIPTS, Given({}))
    for cell in found:
        run = (first_runs(cell) or [RunOf(cell, cell.seeds[0], cell.settings[0])])[0]
        planned = resolver.plan(run)
        check_tuning(planned)
        assert planned.identity["seed"] == str(run.seed)


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.name)
def test_a_plan_of_the_project_is_read_and_every_regime_has_a_row(path):
    plan = read_plan(path, list(SCRIPTS))
    assert set(plan.regimes) == {name for row in plan.rows for name in row.regimes}
    check(cells(plan)[:1])


@pytest.mark.slow
@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.name)
def test_every_flag_of_a_plan_of_the_project_is_right(path):
    check(cells(read_plan(path, list(SCRIPTS))))
