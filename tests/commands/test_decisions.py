"""Thresholds and calibrations as a user chooses, keeps and uses them."""

import json
import re

import numpy as np
import pytest

from engine.core.checkpoint import read_model
from engine.prediction.predictor import Predictor
from tests.commands.scene import SMALL, refusal, succeed, tiny_voc
from tests.models.released.released_files import FILES, save
from utils.sealed_files import check_seal

CHOOSE = ("evaluate.py", "--load_from", "run/best.pth", "--choose_thresholds", "f1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with a validation split of 40 images."""
    folder = tmp_path_factory.mktemp("decisions")
    devkit = tiny_voc(folder, rows=150)
    words = ["--dataset", "voc07", "--path_images", devkit, *SMALL, "--epochs", "1", "--val_frac", "0.4"]
    succeed(folder, "main_BCE.py", *words, "--warmup_epoch", "0", "--output", "run")
    return folder


@pytest.fixture
def folder(trained):
    """The same, with the checkpoint as the run left it."""
    best = trained / "run" / "best.pth"
    before = best.read_bytes()
    yield trained
    best.write_bytes(before)


def decided(out):
    """The figures at the thresholds."""
    (line,) = re.findall(r"  at these: (.*)", out)
    return line


def test_what_is_chosen_is_said_and_kept_only_where_that_is_wanted(folder):
    before = (folder / "run" / "best.pth").read_bytes()
    out = succeed(folder, *CHOOSE, "--calibrate", "temperature")
    assert "  thresholds by f1, chosen on the validation split of voc07, 40 images\n" in out
    assert "  calibration by temperature, fitted on the validation split of voc07, 40 images\n" in out
    assert out.startswith("not kept: --in_place writes what was chosen into the checkpoint, --save_as FILE into a c")
    assert (folder / "run" / "best.pth").read_bytes() == before
    assert decided(succeed(folder, *CHOOSE, "--in_place")) == decided(out)
    check_seal(folder / "run" / "best.pth")
    saved = read_model(folder / "run" / "best.pth")
    assert saved.decisions.thresholds.rule == "f1"
    assert saved.decisions.calibration is None
    assert len(saved.trained_on) == 60  # what it was trained on is still known
    again = succeed(folder, "evaluate.py", "--load_from", "run/best.pth")
    assert decided(again) == decided(out)


def test_a_copy_holds_them_and_predictions_and_exports_go_by_them(folder):
    succeed(folder, *CHOOSE, "--calibrate", "isotonic", "--save_as", "x.safetensors", "--json", "x.json")
    result = json.loads((folder / "x.json").read_text())
    rows = result["per_class"]
    assert [row["class"] for row in rows] == list(read_model(folder / "x.safetensors").classes)
    assert result["thresholds"]["rule"] == "f1"
    assert result["calibration"]["method"] == "isotonic"
    image = folder / "Dataset" / "VOCdevkit" / "VOC2007" / "JPEGImages" / "000002.jpg"
    out = succeed(folder, "predict.py", image, "--load_from", "x.safetensors", "--top", "20")
    assert out.splitlines()[0] == "labels by the thresholds in x.safetensors (f1)"
    printed = dict(re.findall(r"([a-z]+) (\d\.\d{3})", out.splitlines()[1].split(": ")[1]))
    (found,) = Predictor.load(folder / "x.safetensors", device="cpu").predict([image])
    limits = {row["class"]: row["threshold"] for row in rows}
    logits = dict(zip(found.classes, found.logits.tolist(), strict=True))
    held = read_model(folder / "x.safetensors").decisions.thresholds.logits
    expected = [name for k, name in enumerate(found.classes) if logits[name] >= held[k]]
    assert set(printed) == set(expected)
    for name, score in zip(found.classes, found.scores.tolist(), strict=True):
        if name in printed:
            assert float(printed[name]) == pytest.approx(score, abs=6e-4)
            assert score >= limits[name] - 1e-6
    every = succeed(folder, "predict.py", image, "--load_from", "x.safetensors", "--top", "20", "--threshold", "0")
    assert len(re.findall(r" \d\.\d{3}", every)) == 20
    assert "thresholds" not in every


def test_thresholds_follow_the_order_of_the_classes(folder):
    succeed(folder, *CHOOSE, "--in_place", "--choose_on", "test")
    saved = read_model(folder / "run" / "best.pth")
    assert saved.decisions.thresholds.chosen_on.startswith("the test set of voc07, ")
    assert np.isfinite(saved.decisions.thresholds.logits).any()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--choose_thresholds", "f2"], "--choose_thresholds f2: must be f1, youden, precision=P or recall=R"),
        (["--in_place"], "--in_place: nothing is chosen; give --choose_thresholds or --calibrate, or leave it out"),
        (["--choose_on", "test"], "--choose_on test: nothing is chosen; give --choose_thresholds or --calibrate"),
        (["--calibrate", "platt"], "--calibrate"),
        (
            ["--choose_thresholds", "f1", "--val_frac", "0.6"],
            "--choose_on validation: run/best.pth was trained on 20 of these 60 images, where scores are too good",
        ),
        (
            ["--choose_thresholds", "f1", "--val_frac", "0"],
            "--choose_on validation: run/best.pth was trained without a validation split",
        ),
        (
            ["--choose_thresholds", "f1", "--ensemble", "run/best.pth"],
            "--ensemble run/best.pth: thresholds and calibrations belong to one checkpoint",
        ),
    ],
)
def test_what_cannot_be_chosen_is_refused_and_nothing_is_written(folder, words, said):
    before = (folder / "run" / "best.pth").read_bytes()
    assert said in refusal(folder, "evaluate.py", "--load_from", "run/best.pth", *words)
    assert (folder / "run" / "best.pth").read_bytes() == before


def test_figures_of_each_class_are_printed_and_drawn(folder):
    out = succeed(folder, "evaluate.py", "--load_from", "run/best.pth", "--per_class", "--draw", "figures")
    (heading,) = [line for line in out.splitlines() if line.startswith("  class ")]
    columns = "class positives known AP AUROC precision recall F1 threshold interval of AP"
    assert heading.split() == columns.split()
    assert re.search(r"^  cat +\d+ +\d+ +[\d.]+ +[\d.]+ +[\d.-]+ +[\d.]+ +[\d.]+ +0\.500 +[\d.-]+$", out, re.MULTILINE)
    assert re.search(r"^  bus +0 +\d+ +- +- +- +- +- +0\.500 +[\d.-]+$", out, re.MULTILINE)
    assert sorted(path.name for path in (folder / "figures").iterdir()) == ["per_class.png", "reliability.png"]


def test_a_checkpoint_from_elsewhere_is_not_changed(folder):
    made = FILES["csra"]()
    save(made.content, folder / "theirs.pth")
    before = (folder / "theirs.pth").read_bytes()
    devkit = folder / "Dataset" / "VOCdevkit"
    words = ["--load_from", "theirs.pth", "--dataset", "voc07", "--path_images", devkit, "--choose_thresholds", "f1"]
    line = refusal(folder, "evaluate.py", *words, "--in_place")
    assert line.startswith(
        "error: --in_place: theirs.pth is not a file of this project; keep what is chosen with --save"
    )
    assert (folder / "theirs.pth").read_bytes() == before
