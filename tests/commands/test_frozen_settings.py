"""Plain commands with heads on frozen features of VOC 2007 train as the plan of the photographs chose."""

import importlib
import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from engine.reproduction.campaign import Campaign
from engine.reproduction.lines import LineFile
from engine.reproduction.plan import Cell, RunOf
from engine.reproduction.plan_file import read_plan
from engine.reproduction.planned import Given, Resolver
from tests.commands.scene import ROOT

SCRIPTS = {path.name: lambda name=path.stem: importlib.import_module(name) for path in ROOT.glob("main_*.py")}
LINES = ROOT / "docs" / "reproduction" / "photographs" / "runs.jsonl"
PLAIN = ("--dataset", "voc07", "--split", "train-val", "--weights", "lite0", "--train_mode", "linear_fixed_features")
METHOD = ("loss", "mod_scheme", "method", "prior_scores", "pseudo_weights")
COMMON = {"optimizer", "batch_size", "epochs", "scheduler", "warmup_epoch", "w_d", "head_lr_mult", "val_frac", "lr"}
OTHERWISE = {("CoNeS", "candidate 0.4"): {"beta": "0.3"}}
"""What is not as chosen, for the reason in its file."""
FIRST = (
    *("full", "candidate 0.1", "candidate 0.2", "candidate 0.4", "single", "25 % left", "known 10 %"),
    *("long tail, candidate 0.1", "10 % labelled", "75 % left", "50 % left", "known 50 %", "flip 0.1"),
)
"""The regimes that all have been run under."""


def pairs(flags):
    """Values by flag."""
    return {name[2:]: value for name, value in itertools.pairwise(flags) if name.startswith("--")}


@pytest.mark.slow
def test_plain_commands_have_the_settings_that_were_chosen():
    plan = read_plan(ROOT / "configs" / "plans" / "photographs.yaml", list(SCRIPTS))
    rows = [replace(row, regimes=tuple(name for name in row.regimes if name in FIRST)) for row in plan.rows]
    plan = replace(plan, rows=tuple(row for row in rows if row.regimes))
    resolver = Resolver(SCRIPTS, Given({}))
    results = Campaign(plan, resolver, LineFile(LINES), Path("nowhere")).results()
    done = [one for one in results if len(one.figures) == len(one.cell.seeds)]
    assert len(done) > 40
    for result in done:
        row = result.cell.row
        method = tuple(
            word for name in METHOD if name in pairs(row.flags) for word in (f"--{name}", pairs(row.flags)[name])
        )
        cell = Cell(replace(plan, flags=PLAIN), replace(row, flags=method, choices={}), result.cell.regime)
        found = resolver.plan(RunOf(cell, 21, {})).identity
        wanted = resolver.plan(RunOf(result.cell, 21, result.choice.setting)).identity
        wanted = {**wanted, **OTHERWISE.get(cell.name, {})}
        names = (COMMON | result.choice.setting.keys() | pairs(row.flags).keys()) - {"record", "loss", "method"}
        assert {name: found[name] for name in names} == {name: wanted[name] for name in names}, cell.name
