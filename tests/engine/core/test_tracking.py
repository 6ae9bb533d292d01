"""Trackers are told what the log says, none is imported unasked, and none can stop a run. All of them are stand-ins."""

import importlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import PartialState
from PIL import Image

from engine.core.run_folder import FREE_ON_RESUME
from engine.core.tracking import TrackConfig, Tracking, require_tracker
from utils.checks import UserError

ROWS = [{"epoch": 1, "loss": 0.5, "lr": 0.1}, {"epoch": 2, "loss": 0.25, "lr": 0.1}]
RESULT = {"test": {"mAP": 0.75}, "selected_epoch": 1}
SETTINGS = {"lr": 0.1, "epochs": 2, "figures": True, "weights": "none", "milestones": (5, 7), "clip_grad": None}
PLAIN = {"lr": 0.1, "epochs": 2, "figures": True, "weights": "none", "milestones": "(5, 7)", "clip_grad": ""}


def module(name, **held):
    made = ModuleType(name)
    vars(made).update(held)
    return made


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    for name in ("tail", "curves"):
        Image.new("L", (4, 3), 255).save(path / f"{name}.png")
    return path


@pytest.fixture
def told(monkeypatch):
    """What stand-ins of all three trackers are told."""
    told, fresh = [], PartialState._shared_state.copy()
    PartialState(cpu=True)  # as a run has made one

    def note(name):
        return lambda *given, **named: told.append((name, *given, named))

    run = SimpleNamespace(log=note("log"), finish=note("finish"))
    config = SimpleNamespace(update=lambda values, **_: told.append(("settings", values)))
    wandb = module("wandb", init=lambda **named: told.append(("init", named)) or run, config=config, Image=np.shape)
    validation = SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100)
    mlflow = module("mlflow", utils=SimpleNamespace(validation=validation), search_experiments=lambda **_: [])
    mlflow.create_experiment = lambda **named: told.append(("experiment", named["name"])) or "7"
    mlflow.start_run = lambda **named: told.append(("run", named["experiment_id"], named["run_name"]))
    mlflow.log_params = lambda values: told.append(("settings", values))
    mlflow.log_metrics, mlflow.log_artifact = note("log"), note("artifact")
    mlflow.end_run = note("finish")

    class Writer:
        def __init__(self, where):
            told.append(("where", where))

        def add_hparams(self, values, metric_dict):
            told.append(("settings", values))

        def add_scalar(self, name, value, global_step):
            told.append((name, value, global_step))

        def add_images(self, name, images, global_step, dataformats):
            told.append((name, images.shape, global_step, dataformats))

        def flush(self):
            pass

        def close(self):
            told.append(("finish", {}))

    writer = module("torch.utils.tensorboard", SummaryWriter=Writer)
    monkeypatch.setattr(torch.utils, "tensorboard", writer, raising=False)
    board = module("tensorboard")
    for each in (wandb, mlflow, board, writer):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    yield told
    PartialState._shared_state.clear()
    PartialState._shared_state.update(fresh)


def tracked(name, folder):
    """A run of two epochs as its tracker is told of it."""
    tracking = Tracking(require_tracker(name), folder)
    tracking.start(SETTINGS)
    tracking.epoch(ROWS[:1])
    tracking.epoch(ROWS)
    tracking.end(RESULT)
    tracking.close()
    tracking.close()
    return tracking


FIGURES = {"selected_test_mAP": 0.75, "selected_epoch": 1}


def test_wandb(told, folder):
    tracked("wandb", folder)
    rows = [{"loss": row["loss"], "lr": row["lr"]} for row in ROWS]
    assert told == [
        ("init", {"project": "partial-truth", "name": "run", "dir": str(folder)}),
        ("settings", PLAIN),
        ("log", rows[0], {"step": 1}),
        ("log", rows[1], {"step": 2}),
        ("log", FIGURES, {"step": 2}),
        ("log", {"curves": [(3, 4, 3)]}, {"step": 2}),
        ("log", {"tail": [(3, 4, 3)]}, {"step": 2}),
        ("finish", {}),
    ]


def test_mlflow(told, folder):
    tracked("mlflow", folder)
    rows = [{"loss": row["loss"], "lr": row["lr"]} for row in ROWS]
    assert told == [
        ("experiment", "partial-truth"),
        ("run", "7", "run"),
        ("settings", PLAIN),
        ("log", rows[0], {"step": 1}),
        ("log", rows[1], {"step": 2}),
        ("log", FIGURES, {"step": 2}),
        ("artifact", str(folder / "curves.png"), {}),
        ("artifact", str(folder / "tail.png"), {}),
        ("finish", {}),
    ]


@pytest.mark.parametrize(("name", "sent"), [("wandb", ["CP@3", "a(b)", "c/d-e.f g"]), ("mlflow", None)])
def test_mlflow_is_given_names_that_it_takes(told, folder, name, sent):
    tracking = Tracking(name, folder)
    tracking.start({})
    tracking.epoch([{"epoch": 1, "CP@3": 0.5, "a(b)": 1.0, "c/d-e.f g": 2.0}])
    assert list(told[-1][1]) == (sent or ["CP_at_3", "a_b_", "c/d-e.f g"])


def test_tensorboard(told, folder):
    tracked("tensorboard", folder)
    assert told == [
        ("where", str(folder / "tensorboard") + "/"),
        ("settings", PLAIN),
        *(("loss", 0.5, 1), ("lr", 0.1, 1), ("loss", 0.25, 2), ("lr", 0.1, 2)),
        *(("selected_test_mAP", 0.75, 2), ("selected_epoch", 1, 2)),
        ("curves", (1, 3, 4, 3), 2, "NHWC"),
        ("tail", (1, 3, 4, 3), 2, "NHWC"),
        ("finish", {}),
    ]


def test_a_resumed_run_sends_all_its_epochs_at_once(told, folder):
    tracking = Tracking("wandb", folder)
    tracking.start({})
    tracking.epoch(ROWS)
    assert [entry[-1]["step"] for entry in told if entry[0] == "log"] == [1, 2]


@pytest.mark.parametrize("place", ["init", "log", "Image", "finish"])
def test_a_tracker_that_fails_is_told_once_and_then_left_alone(told, folder, monkeypatch, capsys, place):
    def broken(*_, **__):
        raise ConnectionError("no route to host\nand much more")

    wandb = sys.modules["wandb"]
    run = wandb.init()
    if place in ("init", "Image"):
        monkeypatch.setattr(wandb, place, broken)
    else:
        monkeypatch.setattr(run, place, broken)
    tracking = tracked("wandb", folder)
    said = "--track wandb: ConnectionError: no route to host; the run goes on without it\n"
    assert capsys.readouterr().err == said
    assert tracking.name == "none"
    tracking.start(SETTINGS)
    assert capsys.readouterr().err == ""


def test_without_a_tracker_nothing_is_imported_or_told(told, folder, monkeypatch, capsys):
    monkeypatch.setattr(importlib, "import_module", lambda name: pytest.fail(name))
    assert TrackConfig().track == "none"
    tracked("none", folder)
    assert told == []
    assert capsys.readouterr() == ("", "")
    assert "track" in FREE_ON_RESUME


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_tracker_that_is_missing_is_one_line_with_the_command(monkeypatch, name):
    def refuse(error):
        def load(wanted):
            raise error

        monkeypatch.setattr(importlib, "import_module", load)
        with pytest.raises(UserError) as told:
            require_tracker(name)
        return str(told.value)

    end = f"pip install {name}, or leave --track out"
    assert refuse(ModuleNotFoundError("No module", name=name)) == f"--track {name}: {name} is not installed; {end}"
    why = "cannot be imported (ModuleNotFoundError: No module)"
    assert refuse(ModuleNotFoundError("No module", name="other")) == f"--track {name}: {name} {why}; {end}"
    why = "cannot be imported (ValueError)"
    assert refuse(ValueError()) == f"--track {name}: {name} {why}; {end}"
