"""Methods of two networks as a user runs them: what is reported of f, of g and of both, and what other commands make of
it."""

import contextlib
import csv
import io
import json

import pytest
import yaml

import main_cls
from losses import CO_TRAINING
from tests.commands.scene import ROOT, SMALL, result, run, succeed, tiny_voc

RUN = ("--dataset", "voc07", *SMALL, "--epochs", "2", "--labels_left", "50", "--val_frac", "0.2", "--seed", "1")
RATES = ("--tau_h", "0.2", "--tau_l", "0.2", "--ramp_epochs", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cls")
    tiny_voc(folder)
    succeed(folder, "main_cls.py", *RUN, *RATES, "--record", "all", "--output", "cls")
    return folder


def test_both_networks_and_their_ensemble_are_reported(folder):
    held = result(folder / "cls")
    assert (held["method"], held["labels"], held["rate"]) == ("cls", "dropped", 0.5)
    g, mean = held["extra"]["g"], held["extra"]["mean"]
    assert set(g) == set(held["extra"]["ensemble"]) == set(held["test"])
    assert g != held["test"]
    for name, value in held["test"].items():
        assert mean[name] == pytest.approx((value + g[name]) / 2)
    rows = list(csv.DictReader((folder / "cls" / "metrics.csv").open()))
    assert {"validation_mAP", "validation_g_mAP", "test_ensemble_mAP"} <= rows[0].keys()
    best = rows[held["selected_epoch"] - 1]
    assert float(best["validation_mAP"]) == max(float(row["validation_mAP"]) for row in rows)  # that of f selects
    assert held["test"]["mAP"] == pytest.approx(float(best["test_mAP"]))
    assert g["mAP"] == pytest.approx(float(best["test_g_mAP"]))


def test_labels_are_removed_once_the_rates_have_risen(folder):
    rows = list(csv.DictReader((folder / "cls" / "metrics.csv").open()))
    assert float(rows[-1]["removed_high"]) > 0
    assert float(rows[-1]["removed_low"]) > 0


def test_a_checkpoint_of_two_networks_is_scored_as_three(folder):
    said = succeed(folder, "evaluate.py", "--load_from", "cls/best.pth", "--json", "scores.json")
    scores, held = json.loads((folder / "scores.json").read_text()), result(folder / "cls")
    assert scores["test"] == pytest.approx(held["test"])
    for name in ("g", "ensemble", "mean"):
        assert scores["extra"][name] == pytest.approx(held["extra"][name])
        assert name in said


def test_runs_of_two_networks_are_compared_and_analysed(folder):
    succeed(folder, "main_BCE.py", *RUN, "--loss", "an", "--warmup_epoch", "0", "--output", "an")
    assert "cls" in succeed(folder, "compare.py", "an", "cls", "--output", "compared")
    said = succeed(folder, "analyse.py", "modification", "cls")
    assert "of the labels modified in epoch 2 are truly present" in said
    assert "found in epoch 2" in succeed(folder, "analyse.py", "found", "cls")


@pytest.mark.parametrize("method", [method for method in CO_TRAINING if method != "cls"])
def test_every_method_trains(folder, method):
    succeed(folder, "main_cls.py", *RUN, "--method", method, "--output", method)
    assert result(folder / method)["method"] == method


def test_labels_left_is_a_spelling_of_dropped_labels(folder):
    arguments = ("--method", "jocor", "--labels", "dropped", "--drop_rate", "0.5", "--output", "spelled")
    succeed(folder, "main_cls.py", *(word for word in RUN if word not in ("--labels_left", "50")), *arguments)
    assert result(folder / "spelled")["label_hash"] == result(folder / "cls")["label_hash"]


def test_features_computed_once_are_refused(folder):
    done = run(folder, "main_cls.py", *RUN, "--train_mode", "linear_fixed_features", "--output", "fixed")
    assert done.returncode == 2
    assert "two networks" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("mode", ["linear", "linear_init"])
def test_frozen_backbones_train_too(folder, mode):
    succeed(folder, "main_cls.py", *RUN, "--train_mode", mode, "--linear_epochs", "1", "--output", mode)


def test_the_rivals_protocol_is_that_of_the_script():
    held = yaml.safe_load((ROOT / "configs" / "protocols" / "cls.yaml").read_text())
    assert held.keys() == main_cls.DEFAULTS.keys() - {"dataset", "labels", "drop_rate"}
    assert {name: str(value) for name, value in held.items() if name not in ("lr", "w_d", "warmup_epoch")} == {
        name: str(main_cls.DEFAULTS[name]) for name in held if name not in ("lr", "w_d", "warmup_epoch")
    }
    assert all(float(held[name]) == main_cls.DEFAULTS[name] for name in ("lr", "w_d", "warmup_epoch"))


@pytest.mark.parametrize("dataset, tau_l", [("voc07", 0.02), ("coco", 0.06), ("nuswide", 0.06)])
@pytest.mark.parametrize("left", ["75", "50", "25", "single"])
def test_the_papers_rates_follow_the_labels_left(dataset, tau_l, left):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        main_cls.main(["--dataset", dataset, "--labels_left", left, "--print_config"])
    held = yaml.safe_load(said.getvalue())
    rates = {
        "voc07": (0.002, 0.003, 0.005, 0.005),
        "coco": (0.005, 0.01, 0.012, 0.012),
        "nuswide": (0.006, 0.012, 0.02, 0.02),
    }
    assert held["tau_h"] == rates[dataset][["75", "50", "25", "single"].index(left)]
    assert (held["tau_l"], held["augment"], held["batch_size"]) == (tau_l, "resize-crop", 120)
