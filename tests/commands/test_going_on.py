"""A run that gets more epochs than it began with ends as one that had them at once, bit for bit."""

import csv
import json
import sys
from types import ModuleType

import pytest
import torch

from tests.commands.scene import SMALL, cut_off, refusal, result, run, same, state, succeed, tiny_voc

RUN = (
    "main_BCE.py",
    "--dataset",
    "voc07",
    *SMALL,
    "--partial_rate",
    "0.3",
    "--warmup_epoch",
    "1",
    "--figures",
    "false",
)
BEST = ("--selection", "test", "--step_size", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("longer")
    tiny_voc(folder)
    return folder


def train(folder, output, epochs, *words, run=succeed):
    return run(folder, *RUN, *BEST, "--output", output, "--epochs", epochs, *words)


def without_clock(path):
    """All that a run left, less what a clock says and the name of its folder."""
    held, ended, best = state(path), result(path), torch.load(path / "best.pth", weights_only=True)
    held["loop"]["position"].pop("seconds")
    ended.pop("images_per_second")
    rows = list(csv.DictReader((path / "metrics.csv").open()))
    for row in [*held["loop"]["position"]["history"], *rows]:
        row.pop("images_per_second")
    for name in ("output", "resume"):
        best["settings"].pop(name)
    best.pop("seal", None)
    return {"state": held, "result": ended, "best": best, "rows": rows}


def test_a_longer_run_is_as_long_as_if_it_had_been_so_from_the_start(folder):
    train(folder, "whole", 4)
    train(folder, "grown", 2)
    short = (folder / "grown" / "result.json").read_bytes()
    line = train(folder, "grown", 4, run=refusal)
    assert "not empty; add --resume to go on with that run" in line

    cut_off(folder, *RUN, *BEST, "--output", "grown", "--epochs", "4", "--resume", saves=1)
    assert (folder / "grown" / "result.json").read_bytes() == short
    line = train(folder, "grown", 2, "--resume", run=refusal)
    assert "was started with --epochs 4, now it is 2" in line
    assert "resuming at epoch 4, after step 0" in train(folder, "grown", 4, "--resume")
    same(without_clock(folder / "grown"), without_clock(folder / "whole"))
    assert "is finished" in train(folder, "grown", 4, "--resume")


def test_what_cannot_go_on_is_refused_and_left_as_it_is(folder):
    words = ("--output", "fallen", "--scheduler", "cosine")
    succeed(folder, *RUN, *words, "--epochs", "2")
    before = {path: path.read_bytes() for path in (folder / "fallen").rglob("*") if path.is_file()}
    assert "--scheduler cosine was laid out" in refusal(folder, *RUN, *words, "--epochs", "3", "--resume")
    assert {path: path.read_bytes() for path in (folder / "fallen").rglob("*") if path.is_file()} == before
    held = torch.load(folder / "fallen" / "best.pth", weights_only=True)
    assert held["settings"]["epochs"] == 2
    for name in ("state.pth", "previous.pth"):
        (folder / "fallen" / "last" / name).unlink(missing_ok=True)
    line = refusal(folder, *RUN, *words, "--epochs", "3", "--resume")
    assert "has a result, but no state to go on from (last/); name another folder" in line
    assert json.loads((folder / "fallen" / "result.json").read_text())["epochs"] == 2


def test_a_tracker_that_fails_leaves_the_run_as_it_is(folder, monkeypatch):
    wandb = ModuleType("wandb")
    wandb.init = lambda **_: (_ for _ in ()).throw(OSError("offline"))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    words = ("--epochs", "1", "--track", "wandb", "--output", "tracked")
    done = run(folder, *RUN, *words)
    assert done.returncode == 0
    assert "--track wandb: OSError: offline; the run goes on without it" in done.stderr
    monkeypatch.setitem(sys.modules, "mlflow", None)
    line = refusal(folder, *RUN, "--track", "mlflow", "--output", "untracked")
    assert line.endswith("pip install mlflow, or leave --track out")
    assert not (folder / "untracked").exists()


@pytest.mark.slow
def test_the_events_of_tensorboard_are_the_figures_of_the_run(folder):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    succeed(folder, *RUN, "--epochs", "3", "--track", "tensorboard", "--output", "board")
    reader = events.EventAccumulator(str(folder / "board" / "tensorboard"))
    reader.Reload()
    rows = list(csv.DictReader((folder / "board" / "metrics.csv").open()))
    assert [event.step for event in reader.Scalars("loss")] == [1, 2, 3]
    assert [event.value for event in reader.Scalars("loss")] == pytest.approx([float(row["loss"]) for row in rows])
