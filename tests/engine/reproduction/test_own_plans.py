"""The plans that come with the project: they are read, and every flag of every row is right."""

import contextlib
import importlib
import io
from pathlib import Path

import pytest

from engine.reproduction.plan import cells, first_runs
from engine.reproduction.plan_file import read_plan
from engine.reproduction.planned import Given, Resolver, check_tuning

ROOT = Path(__file__).resolve().parents[3]
PLANS = sorted((ROOT / "configs" / "plans").glob("*.yaml"))
SCRIPTS = {path.name: lambda name=path.stem: importlib.import_module(name) for path in ROOT.glob("main_*.py")}


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.name)
def test_a_plan_of_the_project_can_be_run(path):
    resolver = Resolver(SCRIPTS, Given({}))
    plan = read_plan(path, list(SCRIPTS))
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in cells(plan):
            planned = resolver.plan(first_runs(cell)[0])
            check_tuning(planned)
            assert planned.identity["seed"] == str(first_runs(cell)[0].seed)
    assert set(plan.regimes) == {name for row in plan.rows for name in row.regimes}
