"""More parts of a run one by one: its folder, what it draws, writes and watches, and which network it scores."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from data.labels.regime import Regime
from engine.training import run as room
from engine.training.loop import TrainState
from engine.training.run import Run
from models.classifier import OnFeatures
from tests.engine.run_folders import settings_of
from tests.engine.training.test_features import network
from utils.checks import RunError, UserError
from utils.types import LabelTable


@pytest.mark.parametrize(("processes", "stops"), [(1, 1), (2, 0)])
def test_a_signal_is_looked_for_between_scored_batches_of_a_single_process(processes, stops):
    asked = []
    loop = SimpleNamespace(check_stop=lambda: asked.append("asked"))
    Run._watch(SimpleNamespace(runtime=SimpleNamespace(world_size=processes), loop=loop))
    assert len(asked) == stops


def test_a_split_is_scored_once_under_the_same_weights(monkeypatch):
    asked = []
    monkeypatch.setattr(room, "measure", lambda *args, **named: asked.append((args, named)) or f"result {len(asked)}")
    test = SimpleNamespace(truth="truth")
    run = SimpleNamespace(
        scored={},
        data=SimpleNamespace(train=None, validation=None, test=test),
        loaders=SimpleNamespace(scoring=lambda split: f"loader of {split}"),
        eval_model="model",
        runtime="runtime",
    )
    watch = object()
    assert Run._score(run, "test", watch) == Run._score(run, "test") == "result 1"
    assert asked == [
        (("model", "loader of test", "truth", "runtime"), {"label": "test", "after_batch": watch}),
    ]


def exporting(export, corrected):
    """A run at its end, and what it wrote."""
    saved = []
    observed = LabelTable(np.array([[1, -1], [-1, -1]], dtype=np.int8))
    return SimpleNamespace(
        recorder=SimpleNamespace(config=SimpleNamespace(export_labels=export), save=saved.append),
        criterion=SimpleNamespace(corrected_labels=lambda: corrected),
        folder=SimpleNamespace(path=Path("run")),
        settings=SimpleNamespace(of=lambda kind: SimpleNamespace(dataset="voc07")),
        data=SimpleNamespace(train="the training set", observed=observed),
        saved=saved,
    )


CORRECTED = LabelTable(np.array([[1, 1], [-1, 1]], dtype=np.int8))


@pytest.mark.parametrize(
    ("export", "corrected", "written"), [(Path("x.npy"), CORRECTED, 1), (None, CORRECTED, 0), (Path("x.npy"), None, 0)]
)
def test_labels_are_written_where_they_are_asked_for_and_corrected(monkeypatch, capsys, export, corrected, written):
    asked = []
    monkeypatch.setattr(room, "write_native", lambda *args: asked.append(args))
    run = exporting(export, corrected)
    Run._write_labels(run)
    assert run.saved == [Path("run/labels.npz")]
    assert asked == [(export, CORRECTED, "the training set", "voc07", Regime(labels="given"))] * written
    said = "x.npy: the labels trained on, with 2 corrected for good\n"
    assert capsys.readouterr().out == said * written


def test_corrected_labels_are_not_gone_through_where_nobody_wants_them():
    run = exporting(None, CORRECTED)
    run.criterion = SimpleNamespace()  # which has none to ask for
    Run._write_labels(run)
    assert run.saved == [Path("run/labels.npz")]


def test_labels_that_a_kill_left_half_written_are_removed(monkeypatch, tmp_path):
    for name in (".x.npy.7.tmp", ".x.json.7.tmp", ".y.npy.7.tmp"):
        (tmp_path / name).write_text("half")
    monkeypatch.setattr(room, "write_native", lambda *args: None)
    Run._write_labels(exporting(tmp_path / "x.npy", CORRECTED))
    assert [path.name for path in tmp_path.iterdir()] == [".y.npy.7.tmp"]


def test_the_page_of_a_run_is_written_behind_its_pictures(monkeypatch, tmp_path):
    told = []
    monkeypatch.setattr(room, "run_info", lambda *args: ("info", args))
    monkeypatch.setattr(room, "draw_pictures", lambda *args, **named: told.append((args, named)))
    monkeypatch.setattr(room, "run_report", lambda ended, folder: (ended, folder))
    monkeypatch.setattr(room, "run_page", lambda report: told.append(report) or "<page>")
    run = SimpleNamespace(
        loop=SimpleNamespace(state=TrainState(history=[{"loss": 1.0}])),
        folder=SimpleNamespace(path=tmp_path),
        data="data",
        settings="settings",
        runtime="runtime",
        recorder="recorder",
        reported="network",
        given=None,
    )
    Run._write_report(run, "content", "results")
    info = ("info", ("settings", "data", "runtime", run.loop.state))
    ended = ("settings", "data", info, "content", "results", [{"loss": 1.0}], "recorder")
    assert told == [((ended, "network", tmp_path), {"with_images": True}), (ended, tmp_path)]
    assert (tmp_path / "report.html").read_text() == "<page>"
    run.given = "features"
    Run._write_report(run, "content", "results")
    assert told[2][1] == {"with_images": False}


@pytest.mark.parametrize("averaged", [False, True])
def test_the_average_is_frozen_with_the_network_and_is_what_is_reported(averaged):
    told = []
    average = SimpleNamespace(freeze_backbone=lambda frozen: told.append(("average", frozen)), network="average")
    trained = SimpleNamespace(freeze_backbone=lambda frozen: told.append(("network", frozen)))
    run = SimpleNamespace(network=trained, ema=average if averaged else None)
    Run._freeze(run, True)
    Run._freeze(run, False)
    both = [[("network", frozen), *([("average", frozen)] if averaged else [])] for frozen in (True, False)]
    assert told == [*both[0], *both[1]]
    assert Run.reported.fget(run) == ("average" if averaged else trained)


@pytest.mark.parametrize("fixed", [None, "a network"])
def test_the_network_that_is_scored_reads_what_the_loaders_give(fixed):
    average = network()
    run = SimpleNamespace(
        ema=None,
        fixed=fixed,
        loop=SimpleNamespace(learner=SimpleNamespace(model="wrapped")),
        runtime=SimpleNamespace(to_device=lambda module: ("moved", module)),
    )
    assert Run._build_eval_model(run) == "wrapped"
    run.ema = SimpleNamespace(network=average)
    moved, model = Run._build_eval_model(run)
    assert (moved, isinstance(model, OnFeatures)) == ("moved", fixed is not None)
    assert fixed or model is average


@pytest.mark.parametrize("of", ["network", "average"])
def test_scores_of_the_training_set_are_of_the_network_that_the_criterion_reads(monkeypatch, of):
    asked, values = [], np.arange(6, dtype=np.float32).reshape(2, 3)
    monkeypatch.setattr(room, "score", lambda *args, **named: asked.append((args, named)) or values)
    run = SimpleNamespace(
        criterion=SimpleNamespace(
            wants_train_scores=lambda epoch: epoch > 2, train_scores_of=of, memories_on_host=False
        ),
        eval_model="average",
        loop=SimpleNamespace(learner=SimpleNamespace(model="network")),
        loaders=SimpleNamespace(scoring=lambda split: f"loader of {split}"),
        data=SimpleNamespace(train=range(2)),
        runtime=SimpleNamespace(device=torch.device("cpu")),
        _watch="watch",
    )
    assert Run._train_scores(run, 2) is None
    assert asked == []
    assert Run._train_scores(run, 3).tolist() == values.tolist()
    named = {"label": "scoring the training set", "after_batch": "watch"}
    assert asked == [((of, "loader of train", 2, run.runtime), named)]
    values[1, 2] = np.inf
    with pytest.raises(RunError, match="scoring the training set: the model gives scores that are not finite"):
        Run._train_scores(run, 3)


def test_what_is_saved_is_what_a_run_goes_on_from():
    saved = []
    run = SimpleNamespace(
        data=SimpleNamespace(labels=SimpleNamespace(label_hash="abc")),
        hashes={"test": "def"},
        folder=SimpleNamespace(save=saved.append),
        recorder=SimpleNamespace(state_dict=lambda: {"r": 1}),
    )
    Run._save(run, {"l": 2})
    expected = {"loop": {"l": 2}, "recorder": {"r": 1}, "label_hash": "abc", "data": {"test": "def"}}
    assert saved == [expected]


class Folder:
    """A folder of a run that notes its checks."""

    def __init__(self, path, result, told):
        self.path, self.result, self.told = path, result, told
        self.log = Path("log")

    def open(self, resume, settings, known):
        self.told.append(("checked", resume, "epochs" in known))

    def close(self):
        self.told.append("closed")

    def summary(self):
        return "mAP 50"


@pytest.mark.parametrize("result", [None, {"test": {}}])
@pytest.mark.parametrize("main", [True, False])
def test_the_folder_is_checked_by_the_main_process_before_the_others_use_it(monkeypatch, capsys, result, main):
    told = []
    monkeypatch.setattr(
        room, "RunFolder", lambda path, epochs, track: told.extend([epochs, track]) or Folder(path, result, told)
    )
    runtime = SimpleNamespace(is_main=main, same_text=lambda text: text, barrier=lambda: told.append("all"), agree=None)
    folder = room.open_folder(settings_of("bce", ["--output", "out", "--resume", "--epochs", "7"]), runtime)
    assert folder.path == Path("out")
    assert told == [7, "none", *([("checked", True, True)] if main else []), "all"]
    assert capsys.readouterr().out == ("out is finished:\nmAP 50\n" if main and result else "")


@pytest.mark.parametrize(("again", "resume"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_run_that_its_launcher_starts_again_is_gone_on_with(monkeypatch, again, resume):
    told = []
    monkeypatch.setattr(room, "RunFolder", lambda path, epochs, track: Folder(path, None, told))
    monkeypatch.setattr(room, "is_started_again", lambda log, agree: told.append((log, agree)) or again)
    monkeypatch.setattr(room, "require_restartable", told.append)
    runtime = SimpleNamespace(is_main=True, same_text=lambda text: text, barrier=lambda: None, agree="all")
    room.open_folder(settings_of("bce", ["--output", "out", *(["--resume"] if resume else [])]), runtime)
    assert told == [Path("out"), (Path("log"), "all"), ("checked", again or resume, True)]


def test_without_a_folder_of_its_own_a_run_has_one_of_its_method_dataset_and_time(monkeypatch):
    monkeypatch.setattr(room, "RunFolder", lambda path, epochs, track: Folder(path, None, []))
    monkeypatch.setattr(room.time, "strftime", lambda text: text.replace("%Y%m%d-%H%M%S", "now"))
    runtime = SimpleNamespace(is_main=False, same_text=lambda text: text, barrier=lambda: None, agree=None)
    assert room.open_folder(settings_of("an", ["--dataset", "coco"]), runtime).path == Path("runs/an-coco-now")


@pytest.mark.parametrize("result", [None, {"test": {}}])
def test_a_finished_run_is_not_trained_again(monkeypatch, result):
    done = []
    monkeypatch.setattr(room, "open_folder", lambda settings, runtime: Folder(None, result, done))
    made = SimpleNamespace(train=lambda: done.append("trained"), finish=lambda: done.append("finished"))
    monkeypatch.setattr(room, "Run", lambda *args: made)
    room._train(None, None)
    assert done == ([] if result else ["trained", "finished"]) + ["closed"]


@pytest.mark.parametrize(("gpus", "fits"), [((), True), (("--gpus", "2"), True), (("--gpus", "1"), False)])
@pytest.mark.parametrize("threads", [(), ("--threads", "3")])
def test_a_command_trains_on_as_many_processes_as_it_says_and_leaves_them(monkeypatch, gpus, fits, threads):
    told = []
    runtime = SimpleNamespace(world_size=2, close=lambda: told.append("closed"))
    monkeypatch.setattr(room, "Runtime", lambda *given: told.append(given[:2]) or runtime)
    monkeypatch.setattr(room, "_train", lambda settings, runtime: told.append(settings.method))
    monkeypatch.setattr(room.torch, "set_num_threads", lambda number: told.append(number))
    words = ["--dataset", "coco", "--precision", "bf16", "--device", "cpu", *gpus, *threads]
    begun = [*([3] if threads else []), ("cpu", "bf16")]
    if fits:
        assert room.train_command("main_BCE.py", {}, words) == 0
        assert told == [*begun, "bce", "closed"]
    else:
        with pytest.raises(UserError, match="--gpus 1: there are 2 processes; start with torchrun --nproc_per_node 1"):
            room.train_command("main_BCE.py", {}, words)
        assert told == [*begun, "closed"]


def test_a_loop_is_given_what_the_settings_say_and_what_learns(monkeypatch):
    wrapped, loop = [], []
    monkeypatch.setattr(room, "Loop", lambda *args, **named: loop.append((args, named)))
    monkeypatch.setattr(room, "build_optimizer", lambda optim, groups: (optim, groups))
    monkeypatch.setattr(room.setup, "parameter_groups", lambda *args: args)
    monkeypatch.setattr(room.setup, "number_of_views", lambda criterion: 2)
    run = SimpleNamespace(
        runtime=SimpleNamespace(
            wrap=lambda module: wrapped.append(module) or "wrapped", wrap_optimizer=lambda one: one
        ),
        network=nn.Identity(),
        fixed=None,
        criterion="criterion",
        optim="optim",
        ema="average",
        loaders=SimpleNamespace(training=lambda batches, views: ("loader", batches, views)),
        batches="batches",
        config=SimpleNamespace(
            epochs=9, training_seed=5, save_minutes=2.0, save_epochs=4, print_freq=7, frozen_epochs=3
        ),
        splicer="splice",
        recorder=SimpleNamespace(step="step", epoch_end="end"),
        data=SimpleNamespace(train=SimpleNamespace(ids=("a",))),
        **{name: name for name in ("_save", "_freeze", "_train_scores")},
    )
    Run._build_loop(run)
    (((runtime, learner, loader, batches), named),) = loop
    assert (runtime, loader, batches) == (run.runtime, ("loader", "batches", 2), "batches")
    assert tuple(learner)[:2] == ("wrapped", "criterion")
    assert tuple(learner)[3:] == ("optim", "average")
    assert learner.optimizer == ("optim", (run.network, "criterion", "optim"))
    assert wrapped == [run.network]
    given = {"epochs": 9, "seed": 5, "save_minutes": 2.0, "save_epochs": 4, "print_freq": 7, "save": "_save"}
    assert {name: named[name] for name in given} == given
    assert tuple(named["freezing"]) == (3, "_freeze")
    assert tuple(named["hooks"]) == ("_train_scores", "splice", "step", "end", ("a",))
    run.fixed = run.network = network()
    Run._build_loop(run)
    assert isinstance(wrapped[1], OnFeatures)
