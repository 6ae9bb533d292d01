"""What of a network learns, when a run ends, and which method it trains: as a user asks for it."""

import csv
import itertools
import json
from unittest import mock

import numpy as np
import pytest
import torch

from engine.core import setting_table
from engine.core.run_results import CALIBRATION
from engine.core.scoring import EvalResult
from engine.training import features
from engine.training import run as run_module
from engine.training.loop import Loop
from engine.training.recorder import Recorder
from engine.training.run import Run
from losses import CRITERIA
from models.build import Architecture, build_model
from tests.commands.scene import SMALL, cut_off, refusal, result, run, same, state, succeed, tiny_voc
from tests.commands.test_processes import launch
from tests.commands.test_resume import without_speed
from utils.metrics import evaluate_scores

RUN = (
    "--dataset",
    "voc07",
    *SMALL,
    "--warmup_epoch",
    "0",
    "--val_frac",
    "0.2",
    "--seed",
    "1",
    "--scheduler",
    "constant",
)
THREE = (*RUN, "--epochs", "3")
SAID = ("--w_d", "0", "--head_lr_mult", "1", "--val_set_variant", "observed", "--optimizer", "adam")
"""What heads on features have settings of their own for, said for runs on images too."""
MODES = {
    "linear": ("--train_mode", "linear"),
    "linear_init": ("--train_mode", "linear_init", "--linear_epochs", "1", "--optimizer", "adam", "--lr", "1e-3"),
    "linear_fixed_features": ("--train_mode", "linear_fixed_features", *SAID, "--lr", "1e-3"),
    "curriculum": (
        *("--loss", "curriculum", "--labels", "known", "--known_rate", "0.5"),
        *("--relabel_every", "1", "--score_threshold", "0.1"),
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run of each mode in it."""
    folder = tmp_path_factory.mktemp("modes")
    tiny_voc(folder, rows=30)
    for mode, arguments in MODES.items():
        succeed(folder, "main_BCE.py", *THREE, *arguments, "--output", mode)
    return folder


def start():
    """The network that every run here begins with."""
    return build_model(Architecture.of(model="scenenet", weights="none"), 20, seed=1).state_dict()


@pytest.mark.parametrize("mode", ["linear", "linear_init", "linear_fixed_features"])
def test_the_backbone_learns_only_where_it_should(folder, mode):
    for name, value in state(folder / mode)["loop"]["model"].items():
        name = name.removeprefix("classifier.")
        kept = name.startswith("backbone.") and mode != "linear_init"
        assert torch.equal(value, start()[name]) == kept, name


def test_calibration_is_that_of_the_selected_epoch(folder):
    held = result(folder / "linear_fixed_features")
    with (folder / "linear_fixed_features" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(held["calibration"]) == list(CALIBRATION)
    logged = [{name: float(row[f"test_{name}"]) for name in CALIBRATION} for row in rows]
    assert logged[held["selected_epoch"] - 1] == held["calibration"]
    assert all(one != other for one, other in itertools.pairwise(logged))


@pytest.mark.parametrize("mode", MODES)
def test_evaluate_repeats_the_figures_of_the_run(folder, mode):
    succeed(folder, "evaluate.py", "--load_from", f"{mode}/best.pth", "--json", f"{mode}.json")
    assert json.loads((folder / f"{mode}.json").read_text())["test"] == result(folder / mode)["test"]
    held = result(folder / mode)
    assert held["train_mode"] == (mode if mode != "curriculum" else "end_to_end")
    assert held["epochs_trained"] == held["epochs"] == 3


FAST_STOPS = {("linear", 5), ("linear_init", 8), ("linear_fixed_features", 2), ("curriculum", 12)}
CUT_OFF = [  # 4 saves within an epoch, then one behind it
    pytest.param(mode, stop, marks=() if (mode, stop) in FAST_STOPS else pytest.mark.slow)
    for mode in MODES
    for stop in (2, 5, 8, 12)
]


@pytest.mark.parametrize("mode, stop", CUT_OFF)
def test_a_run_that_is_cut_off_ends_in_the_same_weights(folder, mode, stop):
    arguments = (*THREE, *MODES[mode], "--save_minutes", "0", "--output", f"{mode}-{stop}")
    cut_off(folder, "main_BCE.py", *arguments, saves=stop)
    said = succeed(folder, "main_BCE.py", *arguments, "--resume")
    assert "resuming at epoch" in said
    same(without_speed(folder / f"{mode}-{stop}"), without_speed(folder / mode))
    assert result(folder / f"{mode}-{stop}")["test"] == result(folder / mode)["test"]


def test_linear_on_pictures_without_augmentation_is_linear_on_their_features(folder):
    arguments = (*THREE, *MODES["linear_fixed_features"][2:], "--augment", "none", "--train_mode")
    succeed(folder, "main_BCE.py", *arguments, "linear", "--output", "by-pictures")
    pictures = state(folder / "by-pictures")["loop"]["model"]
    features = state(folder / "linear_fixed_features")["loop"]["model"]
    for name in ("head.fc.weight", "head.fc.bias"):
        torch.testing.assert_close(pictures[name], features[f"classifier.{name}"], rtol=1e-4, atol=1e-6)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "command",
    [
        "main_BCE.py --head csra",
        "main_CoNeS.py --clusters 2 --beta 0.5 --memory_per_class 8",
        pytest.param("main_BCE.py --head gcn --lr 1e-4", marks=SLOW),
        pytest.param("main_BCE.py --head q2l --hidden_dim 16 --nheads 2", marks=SLOW),
        pytest.param("main_BCE.py --head ctran --hidden_dim 16 --nheads 2", marks=SLOW),
        pytest.param("main_BCE.py --loss label_mask --head ctran --hidden_dim 16 --nheads 2", marks=SLOW),
        pytest.param("main_BCE.py --boostlu 5", marks=SLOW),
        pytest.param("main_BCE.py --saliency 0.5 --no-saliency_test", marks=SLOW),
        pytest.param("main_BCE.py --loss consistency --labels known --known_rate 0.45", marks=SLOW),
        pytest.param("main_BCE.py --loss curriculum --labels known --known_rate 0.45", marks=SLOW),
        pytest.param("main_llm.py --labels single", marks=SLOW),
        pytest.param("main_cls.py --labels dropped --drop_rate 0.45", marks=SLOW),
        pytest.param("main_cls.py --labels dropped --drop_rate 0.45 --method jocor", marks=SLOW),
        pytest.param("main_BCE.py --ema 0.9", marks=SLOW),
    ],
)
def test_without_augmentation_features_train_every_head_and_method_as_images_do(folder, tmp_path, command):
    # rates of 0.45, for which no file of settings has a section: those are for features alone
    script, *words = command.split()
    saved = torch.load(folder / "linear" / "best.pth", weights_only=True)["model"]
    torch.save({name: value for name, value in saved.items() if name.startswith("backbone.")}, tmp_path / "b.pth")
    words = [*THREE, *words, *SAID, *(() if "--lr" in words else ("--lr", "1e-3")), "--augment", "none"]
    for mode in ("linear", "linear_fixed_features"):
        run = ("--weights", tmp_path / "b.pth", "--train_mode", mode, "--output", tmp_path / mode)
        succeed(folder, script, *words, *run)
    images, features = (state(tmp_path / mode)["loop"] for mode in ("linear", "linear_fixed_features"))
    for name, value in images["model"].items():
        there = name.replace("f.", "f.classifier.", 1).replace("g.", "g.classifier.", 1)
        there = there if name[:2] in ("f.", "g.") else f"classifier.{name}"
        torch.testing.assert_close(features["model"][there], value, rtol=1e-3, atol=1e-5)
    scores = [result(tmp_path / mode)["test"]["mAP"] for mode in ("linear", "linear_fixed_features")]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def test_features_are_computed_once_for_many_runs(folder):
    arguments = (*THREE, "--use_feats", "--lr", "0.1")
    with mock.patch.object(features, "rows_in_order", side_effect=AssertionError("pictures were opened")):
        succeed(folder, "main_BCE.py", *arguments, "--output", "again")
        succeed(folder, "main_BCE.py", *arguments, "--split_seed", "5", "--output", "divided-otherwise")
        with pytest.raises(AssertionError, match="pictures were opened"):
            succeed(folder, "main_BCE.py", *arguments, "--img_size", "40", "--output", "other-size")
    assert "train_mode: linear_fixed_features" in (folder / "again" / "settings.yaml").read_text()


def test_resuming_on_features_of_other_weights_is_refused(folder):
    other = {name.removeprefix("backbone."): value for name, value in start().items() if name.startswith("backbone.")}
    torch.save(other, folder / "own.pth")
    arguments = (*THREE, "--use_feats", "--weights", "own.pth", "--output", "own")
    succeed(folder, "main_BCE.py", *arguments)
    (folder / "own" / "result.json").unlink()
    torch.save({name: value * 2 for name, value in other.items()}, folder / "own.pth")
    line = refusal(folder, "main_BCE.py", *arguments, "--resume")
    assert "--weights own.pth" in line


@pytest.mark.parametrize(
    "script, arguments, words",
    [
        ("main_BCE.py", ("--feature_views", "2"), ["--feature_views", "linear_fixed_features"]),
        ("main_BCE.py", ("--half_features", "--train_mode", "linear"), ["--half_features", "linear_fixed_features"]),
        ("main_BCE.py", ("--use_feats", "--feature_views", "0"), ["--feature_views 0", "at least 1"]),
        ("main_BCE.py", ("--train_mode", "linear_init"), ["--linear_epochs 25", "--epochs 3"]),
        ("main_BCE.py", ("--train_mode", "lineal"), ["lineal", "did you mean linear"]),
        ("main_BCE.py", ("--use_feats", "--train_mode", "end_to_end"), ["--use_feats", "end_to_end"]),
        ("main_BCE.py", ("--early_stop", "3", "--val_frac", "0"), ["--early_stop", "--val_frac"]),
        ("main_BCE.py", ("--val_set_variant", "observed", "--val_frac", "0"), ["--val_set_variant", "--val_frac"]),
        ("main_BCE.py", ("--loss", "anls"), ["anls", "did you mean an_ls"]),
        ("main_BCE.py", ("--loss", "an", "--relabel_every", "2"), ["unknown flag --relabel_every"]),
        ("main_CoNeS.py", ("--loss", "an"), ["unknown flag --loss"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(folder, script, arguments, words):
    line = refusal(folder, script, *THREE, *arguments)
    for word in words:
        assert word in line


def test_methods_with_feature_maps_train_linearly_on_pictures(folder):
    arguments = ("--train_mode", "linear", "--clusters", "2", "--epochs", "1", "--output", "cones")
    succeed(folder, "main_CoNeS.py", *RUN, *arguments)
    for name, value in state(folder / "cones")["loop"]["model"].items():
        assert torch.equal(value, start()[name]) == name.startswith("backbone."), name


APL = ("--loss", "em_apl", "--labels", "single", "--apl_warmup", "1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "memory", "none"), [(MODES["curriculum"], "pseudo", -1), (APL, "soft", 0)], ids=["curriculum", "em_apl"]
)
def test_two_processes_share_features_and_training_scores(folder, words, memory, none):
    """On fixed features no BatchNorm tells processes apart, so two learn what one does."""
    arguments = (*THREE, *words, *MODES["linear_fixed_features"], "--device", "cpu")
    runs = f"one-{memory}", f"two-{memory}"
    launch(folder, "main_BCE.py", *arguments, "--output", runs[1])
    succeed(folder, "main_BCE.py", *arguments, "--output", runs[0])
    one, two = (state(folder / name)["loop"] for name in runs)
    added, others = (each["criterion"][memory] for each in (one, two))
    torch.testing.assert_close(added, others, rtol=1e-4, atol=0)
    assert (added != none).any(), "no label was added"
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-4, atol=1e-6)
    assert result(folder / runs[0])["selected_epoch"] == result(folder / runs[1])["selected_epoch"]


# Early stopping.


def scripted(scores):
    """A stand-in for scoring: the given validation mAPs one after the other, whatever the network."""
    left = list(scores)

    def measure(model, loader, truth, runtime, *, label, after_batch=lambda: None):
        figures = evaluated(truth)
        told = figures._replace(mAP=left.pop(0)) if label == "validation" and left else figures
        return EvalResult(told, {}, None)

    return measure


def evaluated(truth):
    return evaluate_scores(np.zeros((len(truth), truth.num_classes), np.float32), truth.dense())


STOPPING = (*RUN, "--epochs", "6", "--early_stop", "3", "--output")


@pytest.mark.parametrize(
    "scores, trained, best",
    [
        ([0.50, 0.60, 0.58, 0.56, 0.99, 0.99], 4, 2),
        ([0.50, 0.48, 0.51, 0.49, 0.52, 0.50], 6, 5),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 6, 1),
        ([0.50, 0.10], 2, 1),
    ],
)
def test_a_run_stops_when_its_score_has_fallen_far_enough(folder, scores, trained, best):
    output = f"stop-{trained}-{best}"
    with mock.patch.object(run_module, "measure", scripted(scores)):
        said = succeed(folder, "main_BCE.py", *STOPPING, output)
    held = result(folder / output)
    assert (held["epochs"], held["epochs_trained"], held["selected_epoch"]) == (6, trained, best)
    assert len(list(csv.DictReader((folder / output / "metrics.csv").open()))) == trained
    assert ("stopped early" in said) == (trained < 6)
    again = succeed(folder, "main_BCE.py", *STOPPING, output, "--resume")
    assert "is finished" in again
    assert (f"after {trained} of 6 epochs" in again) == (trained < 6)


def test_first_stops_a_run_that_is_no_better_than_before(folder):
    words = (*RUN, "--epochs", "6", "--early_stop", "first", "--output", "stop-first")
    with mock.patch.object(run_module, "measure", scripted([0.50, 0.60, 0.60, 0.99])):
        said = succeed(folder, "main_BCE.py", *words)
    held = result(folder / "stop-first")
    assert (held["epochs_trained"], held["selected_epoch"]) == (3, 2)
    assert "stopped early: validation mAP 0.00 points below that of epoch 2" in said
    assert "is finished" in succeed(folder, "main_BCE.py", *words, "--resume")


def test_a_run_killed_between_its_early_end_and_its_result_only_scores(folder):
    with (
        mock.patch.object(run_module, "measure", scripted([0.5, 0.1])),
        mock.patch.object(Run, "finish", side_effect=KeyboardInterrupt),
    ):
        assert run(folder, "main_BCE.py", *STOPPING, "killed").returncode == 130
    with mock.patch.object(Loop, "_train_epoch", side_effect=AssertionError("trained on")):
        succeed(folder, "main_BCE.py", *STOPPING, "killed", "--resume")
    held = result(folder / "killed")
    assert (held["epochs_trained"], held["selected_epoch"]) == (2, 1)
    assert held["test"] != held["last"], "the selected epoch is not the last one"


# Labels that train and validate.


def test_training_on_clean_labels_is_training_on_full_ones(folder):
    base = (*RUN, "--epochs", "1", "--output")
    succeed(folder, "main_BCE.py", *base, "clean", "--labels", "single", "--train_set_variant", "clean")
    succeed(folder, "main_BCE.py", *base, "full", "--labels", "full")
    same(without_speed(folder / "clean"), without_speed(folder / "full"))
    assert result(folder / "clean")["labels"] == "full"


def test_validation_on_observed_labels_changes_validation_alone(folder):
    base = (*RUN, "--epochs", "1", "--labels", "single", "--output")
    succeed(folder, "main_BCE.py", *base, "against-truth")
    succeed(folder, "main_BCE.py", *base, "against-observed", "--val_set_variant", "observed")
    true, seen = result(folder / "against-truth"), result(folder / "against-observed")
    assert seen["validation"] != true["validation"]
    assert seen["test"] == true["test"]
    same(state(folder / "against-truth")["loop"]["model"], state(folder / "against-observed")["loop"]["model"])


# The choice of a method.


@pytest.mark.slow
@pytest.mark.parametrize("method", ["an", "wan"])
def test_a_chosen_method_leaves_a_run_that_other_commands_read(folder, method):
    succeed(folder, "main_BCE.py", *RUN, "--epochs", "1", "--loss", method, "--labels", "single", "--output", method)
    assert result(folder / method)["method"] == method
    assert f"loss: {method} " in (folder / method / "settings.yaml").read_text()
    succeed(folder, "main_BCE.py", f"{method}/settings.yaml", "--output", f"{method}-again")
    same(state(folder / method)["loop"]["model"], state(folder / f"{method}-again")["loop"]["model"])
    succeed(folder, "evaluate.py", "--load_from", f"{method}/best.pth", "--config", f"{method}/settings.yaml")
    said = succeed(folder, "compare.py", method, "linear", "--output", f"{method}-compared", "--pictures", "2")
    assert method in said
    line = refusal(folder, "main_BCE.py", *RUN, "--epochs", "1", "--output", method, "--resume")
    assert f"started with --loss {method}, now it is bce" in line


def test_a_method_is_not_chosen_by_a_condition(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(setting_table, "CONFIGS", tmp_path)
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "voc07.yaml").write_text("when: [{labels: single, set: {loss: wan}}]")
    line = refusal(folder, "main_BCE.py", *RUN, "--labels", "single")
    assert "loss: wan" in line
    assert "--loss" in line


# Scores of the training set, and hooks.


def test_training_scores_are_those_of_the_present_weights(folder):
    """Before epochs that relabel, they are the logits of the epoch before; rows in order, in the view of evaluation."""
    seen, method = {}, CRITERIA["curriculum"].criterion
    original, held = method.on_epoch_start, {}

    class Watched(Run):
        def _after_epoch(self, epoch, row):
            held[epoch] = self._logits()
            super()._after_epoch(epoch, row)

        def _logits(self):
            self.network.eval()
            rows = []
            with torch.no_grad():
                loader = self.loaders.scoring("train")
                for raw in loader:
                    rows.append(self.network(loader.to_batch(raw, torch.device("cpu")).images).logits)
            return torch.cat(rows)

    def watch(self, epoch, train_scores=None):
        if train_scores is not None:
            seen[epoch] = train_scores.clone()
        original(self, epoch, train_scores)

    with mock.patch.object(method, "on_epoch_start", watch), mock.patch.object(run_module, "Run", Watched):
        succeed(folder, "main_BCE.py", *THREE, *MODES["curriculum"], "--output", "watched")
    assert seen, "no epoch relabels"
    for epoch in seen:
        torch.testing.assert_close(seen[epoch], held[epoch - 1])
        assert seen[epoch].dtype == torch.float32
    same(without_speed(folder / "watched"), without_speed(folder / "curriculum"))


def test_scores_that_are_not_finite_end_the_run(folder):
    with mock.patch.object(run_module, "score", return_value=np.full((3, 20), np.nan, np.float32)):
        done = run(folder, "main_BCE.py", *THREE, *MODES["curriculum"], "--output", "nan")
    assert done.returncode == 1
    assert "scoring the training set" in done.stderr


def test_figures_of_a_hook_are_columns_of_the_log(folder):
    with mock.patch.object(Recorder, "epoch_end", side_effect=lambda epoch: {"own_figure": 0.25 * epoch}):
        succeed(folder, "main_BCE.py", *RUN, "--epochs", "2", "--output", "hooked")
    rows = list(csv.DictReader((folder / "hooked" / "metrics.csv").open()))
    assert [float(row["own_figure"]) for row in rows] == [0.25, 0.5]
