"""Methods of two networks as a user runs them: what is reported of f, of g and of both, and what other commands make of
it."""

import contextlib
import csv
import importlib
import io
import json
import re
import shlex

import pytest
import torch
import yaml

import main_cls
from losses import methods_of
from tests.commands.scene import ROOT, SMALL, refusal, result, same, state, succeed, tiny_voc
from tests.commands.test_processes import launch

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


@pytest.mark.slow
def test_runs_of_two_networks_are_compared_and_analysed(folder):
    succeed(folder, "main_BCE.py", *RUN, "--loss", "an", "--warmup_epoch", "0", "--output", "an")
    rows = succeed(folder, "compare.py", "an", "cls", "--output", "compared").splitlines()
    assert [row.split()[0] for row in rows[1:5]] == ["an", "cls", "g", "ensemble"]
    mean_ap = result(folder / "cls")["extra"]["ensemble"]["mAP"]
    assert f"{100 * mean_ap:.2f}" in rows[4]
    said = succeed(folder, "analyse.py", "modification", "cls")
    assert "of the labels modified in epoch 2 are truly present" in said
    assert "found in epoch 2" in succeed(folder, "analyse.py", "found", "cls")


@pytest.mark.parametrize("method", [method for method in methods_of("main_cls.py") if method != "cls"])
def test_every_method_trains(folder, method):
    succeed(folder, "main_cls.py", *RUN, "--method", method, "--output", method)
    assert result(folder / method)["method"] == method


def test_labels_left_is_a_spelling_of_dropped_labels(folder):
    arguments = ("--method", "jocor", "--labels", "dropped", "--drop_rate", "0.5", "--output", "spelled")
    succeed(folder, "main_cls.py", *(word for word in RUN if word not in ("--labels_left", "50")), *arguments)
    assert result(folder / "spelled")["label_hash"] == result(folder / "cls")["label_hash"]


def test_heads_of_both_networks_learn_on_the_features_of_one_backbone(folder):
    succeed(folder, "main_cls.py", *RUN, "--train_mode", "linear_fixed_features", "--output", "fixed")
    model = state(folder / "fixed")["loop"]["model"]
    backbones = [{name: value for name, value in model.items() if name.startswith(f"{one}.")} for one in ("f", "g")]
    heads = 0
    for name, value in backbones[0].items():
        same = torch.equal(value, backbones[1][f"g{name[1:]}"])
        assert same != (".head." in name), name
        heads += ".head." in name
    assert heads == 2
    succeed(folder, "evaluate.py", "--load_from", "fixed/best.pth", "--json", "fixed.json")
    scored = json.loads((folder / "fixed.json").read_text())
    assert scored["test"] == pytest.approx(result(folder / "fixed")["test"], abs=1e-4)


@pytest.mark.parametrize("mode", ["linear", "linear_init"])
def test_frozen_backbones_train_too(folder, mode):
    succeed(folder, "main_cls.py", *RUN, "--train_mode", mode, "--linear_epochs", "1", "--output", mode)


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


def test_a_finished_run_is_summed_up_as_three(folder):
    lines = succeed(folder, "main_cls.py", *RUN, *RATES, "--record", "all", "--output", "cls", "--resume").splitlines()
    held = result(folder / "cls")
    shown = {"network f": held["test"], "network g": held["extra"]["g"], "ensemble": held["extra"]["ensemble"]}
    for (name, figures), line in zip(shown.items(), lines[1:4], strict=True):
        assert name in line
        assert f"mAP {100 * figures['mAP']:.2f}" in line


def test_a_run_goes_on_with_its_own_method_only(folder):
    line = refusal(folder, "main_cls.py", *RUN, "--method", "jocor", "--output", "cls", "--resume")
    assert "started with --method cls, now it is jocor" in line


def test_a_ranking_is_that_of_f(folder):
    said = succeed(folder, "evaluate.py", "--load_from", "cls/best.pth", "--top_k", "--json", "ranked.json")
    ranked = json.loads((folder / "ranked.json").read_text())["top_k"]
    weights = torch.load(folder / "cls" / "best.pth", weights_only=True)
    alone = {name.removeprefix("f."): value for name, value in weights["model"].items() if name.startswith("f.")}
    torch.save({**weights, "model": alone, "peers": False}, folder / "f.pth")
    succeed(folder, "evaluate.py", "--load_from", "f.pth", "--json", "f.json")
    assert json.loads((folder / "f.json").read_text())["top_k"] == ranked
    assert "rec    prec     top" in said


@pytest.mark.parametrize("method", methods_of("main_cls.py"))
def test_half_precision_trains_both_networks(folder, method):
    words = (*RUN, *(RATES if method == "cls" else ()), "--method", method, "--lr", "1e-3")
    succeed(folder, "main_cls.py", *words, "--precision", "bf16", "--output", f"bf16-{method}")
    rows = list(csv.DictReader((folder / f"bf16-{method}" / "metrics.csv").open()))
    assert all(torch.isfinite(torch.tensor(float(row["loss"]))) for row in rows)
    weights = state(folder / f"bf16-{method}")["loop"]["model"]
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float32}


@pytest.mark.slow
def test_a_sweep_over_rates_and_over_ablations(folder):
    words = ("main_cls.py", *RUN, "--tau_l", "0.2", "--ramp_epochs", "1")
    succeed(folder, "analyse.py", "sweep", "--setting", "tau_h", "--values", "0,0.2", "--output", "s", "--", *words)
    same(state(folder / "s" / "tau_h-0.2")["loop"]["model"], state(folder / "cls")["loop"]["model"])
    ablations = ("--setting", "ablation", "--values", "CLS-H,CLC", "--metric", "OF1")
    succeed(folder, "analyse.py", "sweep", *ablations, "--output", "a", "--", *words, "--tau_h", "0.2")
    same(state(folder / "a" / "ablation-CLS-H")["loop"]["model"], state(folder / "s" / "tau_h-0")["loop"]["model"])
    said = succeed(folder, "compare.py", "a/ablation-CLS-H", "a/ablation-CLC")
    assert "cls (ablation-CLS-H)" in said
    assert "cls (ablation-CLC)" in said


@pytest.mark.slow
def test_two_processes_agree_that_there_is_no_step_where_the_networks_agree(folder):
    words = [*RUN[:-2], "--seed", "1", "--method", "decoupling", "--epochs", "6", "--lr", "1e-2", "--device", "cpu"]
    launch(folder, "main_cls.py", *words, "--output", "agreed")
    rows = list(csv.DictReader((folder / "agreed" / "metrics.csv").open()))
    disagreeing = [float(row["disagreeing"]) for row in rows]
    assert disagreeing[0] > 0
    assert disagreeing[-1] == 0
    assert float(rows[-1]["loss"]) == 0


def documented(page):
    """The commands on a page, as words; of a sweep the command that it trains with, once for each value."""
    text = (ROOT / "docs" / "methods" / page).read_text()
    for line in re.findall(r"^    python (.*)$", text, re.MULTILINE):
        words = shlex.split(line)
        if words[:2] == ["analyse.py", "sweep"]:
            own, command = words[: words.index("--")], words[words.index("--") + 1 :]
            setting, values = (own[own.index(flag) + 1] for flag in ("--setting", "--values"))
            yield from ([*command, f"--{setting}={value}"] for value in values.split(","))
        else:
            yield words


@pytest.mark.parametrize("page", ["cls.md", "co_teaching.md"])
def test_commands_on_the_pages_of_two_networks_are_understood(page):
    commands = [words for words in documented(page) if words[0].startswith("main_")]
    assert len(commands) >= 3
    for script, *words in commands:
        main = importlib.import_module(script.removesuffix(".py")).main
        with contextlib.chdir(ROOT), contextlib.redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as stopped:
            main([*words, "--print_config"])
        assert not stopped.value.code, (script, words)


def test_rivals_in_the_table_are_understood():
    page = (ROOT / "docs" / "methods" / "cls.md").read_text()
    rivals = re.findall(r"`(main_\w+)\.py (configs/protocols/cls\.yaml [^`]*)`", page.replace("\n", " "))
    assert len(rivals) >= 4
    for script, words in rivals:
        said = io.StringIO()
        main = importlib.import_module(script).main
        with contextlib.chdir(ROOT), contextlib.redirect_stdout(said), pytest.raises(SystemExit):
            main([*words.split(), "--dataset", "coco", "--labels_left", "25", "--print_config"])
        held = yaml.safe_load(said.getvalue())
        assert (held["batch_size"], float(held["lr"]), held["head_lr_mult"]) == (120, 4e-5, 1)
