"""Each command as a user types it: what it leaves, and what it says."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.commands.scene import SMALL, refusal, result, run_process, state, succeed, tiny_voc
from tests.data.trees import real_data
from tests.engine.report.pages import Page

SCRIPTS = ("main_BCE.py", "main_CoNeS.py", "main_real.py")
TINY = ("--dataset", "voc07", *SMALL, "--epochs", "2", "--warmup_epoch", "1", "--seed", "1")
PHOTOGRAPHS = (
    *SMALL,
    "--model",
    "resnet18",
    "--img_size",
    "64",
    "--batch_size",
    "16",
    "--epochs",
    "1",
    "--warmup_epoch",
    "0",
)
FIGURES = {"mAP", "mAP_all", "CP", "CR", "CF1", "OP", "OR", "OF1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripts")
    tiny_voc(folder)
    for script in SCRIPTS:
        succeed(folder, script, *TINY, "--val_frac", "0.2", "--output", script[:-3], draw=script == "main_CoNeS.py")
    return folder


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_leaves_all_it_should(folder, script):
    path = folder / script[:-3]
    names = {
        "settings.yaml",
        "log.jsonl",
        "metrics.csv",
        "best.pth",
        "last",
        "curves.png",
        "cooccurrence.png",
        "examples.png",
        "report.html",
        "result.json",
    }
    assert {each.name for each in path.iterdir()} == names
    held = result(path)
    assert held["method"] == {"main_BCE.py": "bce"}.get(script, "cones")
    assert held["labels"] == {"main_real.py": "given"}.get(script, "candidate")
    assert held["rate"] == {"main_real.py": None}.get(script, 0.1)
    assert held["selection"] == "validation"
    assert (held["dataset"], held["seed"], held["epochs"]) == ("voc07", 1, 2)
    for part in ("test", "last", "validation"):
        assert set(held[part]) >= FIGURES
        assert all(0 <= value <= 1 for value in held[part].values())
    assert len(held["label_hash"]) == 64
    assert held["images_per_second"] > 0
    rows = list(csv.DictReader((path / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    events = [json.loads(line)["event"] for line in (path / "log.jsonl").read_text().splitlines()]
    assert events == ["start", "epoch", "epoch", "end"]
    for name in ("curves.png", "cooccurrence.png", "examples.png"):
        assert min(Image.open(path / name).size) > 200
    page = Page((path / "report.html").read_text())
    assert sum(tag == "img" for tag, _ in page.elements) == 3
    assert f"{100 * held['test']['mAP']:.2f}" in page.text


def test_the_reported_epoch_is_the_best_on_validation(folder):
    held = result(folder / "main_CoNeS")
    rows = list(csv.DictReader((folder / "main_CoNeS" / "metrics.csv").open()))
    scores = [float(row["validation_mAP"]) for row in rows]
    assert held["selected_epoch"] == 1 + int(np.argmax(scores))
    assert held["validation"]["mAP"] == pytest.approx(max(scores))


def test_settings_of_a_run_make_the_same_run(folder):
    succeed(folder, "main_CoNeS.py", folder / "main_CoNeS" / "settings.yaml", "--output", "again")
    first, second = state(folder / "main_CoNeS")["loop"], state(folder / "again")["loop"]
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name


def test_the_seed_matters(folder):
    succeed(folder, "main_BCE.py", *TINY[:-1], "2", "--val_frac", "0.2", "--output", "seed2")
    assert result(folder / "seed2")["test"] != result(folder / "main_BCE")["test"]


def test_without_validation_the_last_epoch_is_reported_and_the_test_set_only_logged(folder):
    said = succeed(folder, "main_BCE.py", *TINY, "--output", "last")
    held = result(folder / "last")
    assert (held["selection"], held["selected_epoch"], held["validation"]) == ("last", 2, None)
    assert held["test"] == held["last"]
    assert "test mAP" in said


def test_evaluate_repeats_the_figures_of_the_run(folder):
    for script in SCRIPTS:
        said = succeed(folder, "evaluate.py", "--load_from", f"{script[:-3]}/best.pth", "--json", f"{script}.json")
        held = json.loads((folder / f"{script}.json").read_text())
        for name, value in result(folder / script[:-3])["test"].items():
            assert held["test"][name] == pytest.approx(value, abs=1e-6), name
        assert "mAP" in said
        assert set(held["average_precision"]) >= {"cat", "dog", "aeroplane"}
        assert held["average_precision"]["aeroplane"] is None


def test_evaluate_tells_what_stands_at_the_top_of_each_picture(folder):
    command = ("evaluate.py", "--load_from", "main_BCE/best.pth", "--json", "top.json")
    plain = succeed(folder, *command)
    said = succeed(folder, *command, "--top_k")
    held = json.loads((folder / "top.json").read_text())["top_k"]
    table = [line.split() for line in said.splitlines() if line not in plain.splitlines()]
    assert table[0][:4] == ["k", "rec", "prec", "top"]
    for line, k in zip(table[1:], (1, 3, 5), strict=True):
        assert line == [str(k), *(f"{100 * held[f'{name}@{k}']:.2f}" for name in ("rec", "prec", "top"))]
    assert held["top@1"] <= held["top@3"] <= held["top@5"] > 0


@pytest.mark.slow
def test_evaluate_as_a_process(folder):
    done = run_process(folder, "evaluate.py", "--load_from", "main_BCE/best.pth")
    assert done.returncode == 0, done.stderr
    assert "mAP" in done.stdout


def test_compare_prints_a_table_and_draws(folder):
    said = succeed(folder, "compare.py", "main_BCE", "main_CoNeS", "--output", "both", "--pictures", "3")
    lines = said.splitlines()
    for method in ("bce", "cones"):
        (line,) = [line for line in lines if line.startswith(method)]
        figures = result(folder / ("main_BCE" if method == "bce" else "main_CoNeS"))["test"]
        assert [f"{100 * figures[name]:.2f}" for name in ("mAP", "CF1", "OF1")] == line.split()[-3:]
    for name in ("curves.png", "examples.png"):
        assert str(folder / "both" / name).endswith(name)
        assert f"written: both/{name}" in said
        assert (folder / "both" / name).exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--optimizer", "adam", "--scheduler", "cosine", "--lr", "1e-4"),
        ("--head", "csra", "--num_heads", "4", "--lam", "0.4"),
        ("--precision", "bf16"),
        ("--labels", "single"),
        ("--labels", "observed", "--num_pos", "1", "--num_neg", "3"),
        ("--labels", "dropped"),
        ("--labels", "full", "--selection", "test"),
        ("--variant", "reference"),
        ("--augment", "multiscale", "--normalize", "imagenet"),
        ("--head_lr_mult", "10", "--test_every", "0"),
    ],
    ids=" ".join,
)
def test_options_of_a_run(folder, arguments):
    name = "-".join(arguments).replace("--", "")
    succeed(folder, "main_CoNeS.py", *TINY, "--epochs", "1", "--clusters", "2", *arguments, "--output", name)
    assert np.isfinite(result(folder / name)["test"]["mAP"])


@pytest.mark.slow
@pytest.mark.parametrize("script", ["main_CoNeS.py", "main_BCE.py", "main_real.py"])
def test_digits_needs_no_download(tmp_path, script):
    done = run_process(tmp_path, script, "--dataset", "digits", "--epochs", "1", "--output", "run")
    assert done.returncode == 0, done.stderr
    held = result(tmp_path / "run")
    assert held["dataset"] == "digits"
    assert held["test"]["mAP"] > 0.15  # chance is about 0.09


@pytest.mark.parametrize(
    "script, arguments",
    [
        ("main_BCE.py", ("--dataset", "voc12", "--num_cls", "20", "--partial_rate", "0.2")),
        pytest.param(
            "main_CoNeS.py",
            ("--dataset", "voc07", "--num_cls", "20", "--partial_rate", "0.1", "--r_ws", "3"),
            marks=pytest.mark.slow,
        ),
        pytest.param("main_real.py", ("--dataset", "voc07", "--num_cls", "20", "--r_ws", "3"), marks=pytest.mark.slow),
    ],
)
def test_real_voc_photographs(tmp_path, script, arguments):
    devkit = real_data("voc_mini") / "VOCdevkit"
    succeed(tmp_path, script, *arguments, *PHOTOGRAPHS, "--path_images", devkit, "--output", "run")
    assert 0 < result(tmp_path / "run")["test"]["mAP"] < 1


@pytest.mark.slow
@pytest.mark.parametrize("script", ["main_CoNeS.py", "main_real.py"])
def test_real_coco_photographs(tmp_path, script):
    folder = real_data("coco_mini")
    arguments = ("--dataset", "coco", "--num_cls", "80", "--partial_rate", "0.05", "--r_ws", "2")
    said = succeed(tmp_path, script, *arguments, *PHOTOGRAPHS, "--path_images", folder, "--output", "run")
    assert "86 train, 40 test" in said  # two training pictures have no annotation
    assert result(tmp_path / "run")["extra"]["classes_without_positives"]


def test_another_training_seed_trains_another_network_on_the_same_data_and_both_make_an_ensemble(folder):
    arguments = (*TINY, "--val_frac", "0.2", "--train_seed", "7", "--output", "other")
    succeed(folder, "main_BCE.py", *arguments)
    one, other = result(folder / "main_BCE"), result(folder / "other")
    assert (one["label_hash"], one["seed"]) == (other["label_hash"], other["seed"])
    assert (one["train_seed"], other["train_seed"]) == (1, 7)
    assert one["test"] != other["test"]
    words = ("--load_from", "main_BCE/best.pth", "--ensemble", "other/best.pth", "--json", "both.json")
    assert "ensemble" in succeed(folder, "evaluate.py", *words)
    scores = json.loads((folder / "both.json").read_text())
    assert scores["test"] == pytest.approx(one["test"])
    assert scores["extra"]["g"] == pytest.approx(other["test"])
    assert scores["extra"]["ensemble"] not in (scores["test"], scores["extra"]["g"])


def test_an_ensemble_of_other_classes_is_refused(folder, tmp_path):
    saved = torch.load(folder / "main_BCE" / "best.pth", weights_only=True)
    torch.save({**saved, "classes": [f"other {name}" for name in saved["classes"]]}, tmp_path / "other.pth")
    line = refusal(folder, "evaluate.py", "--load_from", "main_BCE/best.pth", "--ensemble", tmp_path / "other.pth")
    assert "trained on other classes" in line
