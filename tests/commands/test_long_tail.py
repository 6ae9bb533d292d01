"""What surrounds a long-tailed method - sampler, head, frozen stages, schedule, figures - through the scripts."""

import csv
import json

import pytest
import torch
from PIL import Image

from models.build import Architecture, build_model
from tests.commands.scene import SMALL, cut_off, refusal, result, same, state, succeed, tiny_voc
from tests.commands.test_processes import launch
from tests.commands.test_resume import without_speed

LONG_TAIL = (
    *("--dataset", "voc07", *SMALL, "--epochs", "3", "--partial_rate", "0.3", "--seed", "1"),
    *("--long_tail", "exponential", "--imbalance", "3", "--val_frac", "0.3"),
    *("--sampler", "class-aware", "--sampler_labels", "clean", "--sampler_reduce", "2"),
    *("--head", "pfc", "--neck_width", "16", "--frozen_stages", "1", "--norm_eval"),
    *("--augment", "photometric", "--normalize", "imagenet"),
    *("--scheduler", "plateau", "--patience", "0", "--warmup_iters", "2", "--warmup_ratio", "0.5"),
    *("--clip_grad", "35"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run in it, and what that run said."""
    folder = tmp_path_factory.mktemp("long-tail")
    tiny_voc(folder, rows=40)
    said = succeed(folder, "main_BCE.py", *LONG_TAIL, "--output", "run")
    (folder / "said.txt").write_text(said)
    return folder


def test_the_run_says_whose_labels_the_sampler_goes_by(folder):
    assert "sampler: class-aware by the CLEAN labels" in (folder / "said.txt").read_text()
    started = json.loads((folder / "run" / "log.jsonl").read_text().splitlines()[0])
    assert started["sampler"].startswith("class-aware by the CLEAN labels")
    said = succeed(folder, "main_BCE.py", *LONG_TAIL, "--sampler_labels", "observed", "--output", "observed")
    assert "sampler: class-aware by the observed labels" in said
    a, b = (state(folder / name)["loop"]["position"]["images"] for name in ("run", "observed"))
    assert a != b, "candidates make the most frequent class more frequent"


def test_groups_have_all_their_figures_in_the_result(folder):
    extra = result(folder / "run")["extra"]
    assert set(extra["groups"]) == {"head", "middle", "tail", "total"}
    for name in ("head", "middle", "tail"):
        assert extra["groups"][name]["mAP"] == extra[name]
    total, test = extra["groups"]["total"], result(folder / "run")["test"]
    assert total["mAP"] == pytest.approx(test["mAP_all"])
    assert total["micro_F1"] == pytest.approx(test["OF1"])
    assert 0 <= total["macro_F1"] <= 1
    assert 0 < total["accuracy"] <= 1


def test_groups_have_all_their_figures_in_every_epoch_and_for_the_last(folder):
    found = result(folder / "run")
    with (folder / "run" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    groups = found["extra"]["groups"]
    names = {f"{group}_{name}" for group in groups for name in groups[group] if groups[group][name] is not None}
    parts = {column.partition("_")[0] for column in rows[0] if column.endswith("_total_mAP")}
    assert parts
    for part in parts:
        assert all(0 <= float(row[f"{part}_{name}"]) <= 1 for row in rows for name in names)
        assert float(rows[-1][f"{part}_total_mAP"]) == pytest.approx(float(rows[-1][f"{part}_mAP_all"]))
    said = succeed(folder, "main_BCE.py", *LONG_TAIL, "--output", "run", "--resume")
    assert f"total: mAP {100 * groups['total']['mAP']:.2f}  micro_F1" in said
    assert found["extra"]["last"]["groups"]["total"]["mAP"] == pytest.approx(found["last"]["mAP_all"])


def test_the_long_tail_is_drawn_where_there_is_one(folder):
    assert Image.open(folder / "run" / "tail.png").size[0] > 500
    plain = ("--dataset", "voc07", *SMALL, "--epochs", "1", "--warmup_epoch", "0", "--output", "plain")
    assert "sampler" not in succeed(folder, "main_BCE.py", *plain)
    assert not (folder / "plain" / "tail.png").exists()
    assert "groups" not in result(folder / "plain")["extra"]


def test_the_frozen_stage_is_in_the_model_as_it_was_and_the_statistics_too(folder):
    start = build_model(Architecture.of(model="scenenet", weights="none"), 20, seed=1).state_dict()
    for name, value in state(folder / "run")["loop"]["model"].items():
        first = name.startswith(("backbone.conv1", "backbone.bn1", "backbone.layer1"))
        statistics = name.startswith("backbone.") and name.endswith(("running_mean", "running_var", "tracked"))
        if name.startswith("backbone."):
            assert torch.equal(value, start[name]) == (first or statistics), name


def test_evaluate_repeats_the_figures(folder):
    succeed(folder, "evaluate.py", "--load_from", "run/best.pth", "--json", "scores.json")
    assert json.loads((folder / "scores.json").read_text())["test"] == result(folder / "run")["test"]


@pytest.mark.slow
@pytest.mark.parametrize("stop", [2, 7, 11])
def test_a_run_that_is_cut_off_ends_in_the_same_weights(folder, stop):
    arguments = (*LONG_TAIL, "--save_minutes", "0", "--output", f"stop-{stop}")
    cut_off(folder, "main_BCE.py", *arguments, saves=stop)
    assert "resuming at epoch" in succeed(folder, "main_BCE.py", *arguments, "--resume")
    same(without_speed(folder / f"stop-{stop}"), without_speed(folder / "run"))
    assert result(folder / f"stop-{stop}")["test"] == result(folder / "run")["test"]


@pytest.mark.slow
def test_two_processes_train_and_draw_once(folder):
    said = launch(folder, "main_BCE.py", *LONG_TAIL, "--gpus", "2", "--device", "cpu", "--output", "two")
    assert said.count("sampler: ") == 1
    assert (folder / "two" / "tail.png").exists()
    one, two = (state(folder / name)["loop"]["position"] for name in ("run", "two"))
    assert one["images"] == two["images"]
    for name, value in state(folder / "two")["loop"]["model"].items():
        if name.startswith(("backbone.conv1", "backbone.layer1")):
            assert torch.equal(value, state(folder / "run")["loop"]["model"][name]), name


def test_a_centre_crop_is_scored_as_it_was_trained(folder):
    few = ("--dataset", "voc07", *SMALL, "--epochs", "1", "--warmup_epoch", "0")
    succeed(folder, "main_BCE.py", *few, "--augment", "resize-crop", "--output", "centre")
    succeed(folder, "evaluate.py", "--load_from", "centre/best.pth", "--json", "centre.json")
    scores = json.loads((folder / "centre.json").read_text())["test"]
    assert scores == result(folder / "centre")["test"]
    succeed(folder, "evaluate.py", "--load_from", "centre/best.pth", "--augment", "none", "--json", "whole.json")
    assert json.loads((folder / "whole.json").read_text())["test"] != scores


def test_a_plateau_needs_a_score_that_may_be_looked_at(folder):
    watch = ("--dataset", "voc07", *SMALL, "--epochs", "1", "--scheduler", "plateau", "--warmup_epoch", "0")
    line = refusal(folder, "main_BCE.py", *watch, "--output", "none")
    assert "--scheduler plateau" in line
    assert "--val_frac" in line
    succeed(folder, "main_BCE.py", *watch, "--selection", "test", "--output", "watched")
    assert state(folder / "watched")["loop"]["position"]["plateau"]["best"] > 0


def test_published_flags_are_read(folder):
    few = (*SMALL, "--epochs", "3", "--warmup_epoch", "0", "--device", "cpu")
    printed = (
        "--dataset",
        "voc07",
        "--data_dir",
        folder / "Dataset" / "VOCdevkit",
        "--test_epochs",
        "2",
        "--gpus",
        "1",
    )
    succeed(folder, "main_BCE.py", *printed, *few, "--output", "printed")
    rows = state(folder / "printed")["loop"]["position"]["history"]
    assert ["test_mAP" in row for row in rows] == [False, False, True]
    line = refusal(folder, "main_BCE.py", *few, "--dataset", "voc07", "--gpus", "3", "--output", "three")
    assert "--gpus 3" in line
    assert "torchrun" in line
