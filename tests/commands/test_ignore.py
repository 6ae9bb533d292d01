"""IGNORE as a user runs it: the published command lines, both networks, what is logged, resuming."""

import contextlib
import csv
import io

import pytest
import torch
import yaml

import main_ignore
from tests.commands.scene import SMALL, cut_off, refusal, result, same, state, succeed, tiny_voc
from tests.commands.test_processes import launch
from tests.commands.test_resume import without_speed

RUN = ("--dataset", "voc07", *SMALL, "--epochs", "3", "--val_frac", "0.2", "--seed", "1", "--lr", "1e-3")
EARLY = ("--reject_after", "1", "--gap_lambda", "0.5", "--avg_lambda", "0.5")
PUBLISHED = (
    *("--gpu_num", "0", "--bsize", "16", "--num_epochs", "25", "--backbone", "resnet50", "--ignore_weight", "1"),
    *("--reg_weight", "0.5", "--gap_lambda", "0.999", "--avg_lambda", "0.999"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ignore")
    tiny_voc(folder)
    succeed(folder, "main_ignore.py", *RUN, *EARLY, "--record", "modification", "--output", "run")
    return folder


def settings(*arguments):
    """What a command line resolves to."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        main_ignore.main([*arguments, "--print_config"])
    return yaml.safe_load(said.getvalue())


def test_the_published_command_of_the_resnet():
    held = settings("--dataset", "pascal", "--mode", "train_resnet", *PUBLISHED, "--spbc_weight", "0.1")
    assert (held["model"], held["head"], held["cam_map"]) == ("resnet50", "linear", "activation")
    assert (held["optimizer"], float(held["lr"]), held["head_lr_mult"], held["w_d"]) == ("adam", 1e-5, 10, 0)
    assert (held["scheduler"], held["warmup_epoch"], held["epochs"], held["batch_size"]) == ("constant", 0, 25, 16)
    assert (held["labels"], held["label_seed"], held["val_frac"], held["split_seed"]) == ("single", 1200, 0.2, 1200)
    assert (held["augment"], held["second_view"], held["img_size"]) == ("flip", "randaugment", 448)
    assert (held["variant"], held["cam_norm"], held["unannotated"]) == ("fixed", "spatial", "kept")


def test_the_published_command_of_query2label():
    held = settings("--dataset", "pascal", "--mode", "train_q2l", *PUBLISHED, "--spbc_weight", "0.5")
    assert (held["model"], held["head"], held["cam_map"]) == ("resnet50", "q2l", "attention")
    assert (held["optimizer"], float(held["lr"]), held["head_lr_mult"], held["w_d"]) == ("adamw", 1e-5, 1, 0.01)
    assert (held["scheduler"], held["pct_start"], held["warmup_epoch"]) == ("one_cycle", 0.2, 0)
    assert (held["norm_frozen"], held["frozen_stages"]) == (True, 1)


@pytest.mark.parametrize("dataset", ["pascal", "coco", "nuswide", "cub"])
def test_every_published_dataset_has_its_recipe(dataset):
    resnet, q2l = (settings("--dataset", dataset, *choice) for choice in ((), ("--head", "q2l")))
    assert (resnet["spbc_weight"], q2l["spbc_weight"]) == (0.1, 0.5)
    assert (resnet["cam_map"], q2l["cam_map"]) == ("activation", "attention")
    for held in (resnet, q2l):
        assert (held["labels"], held["label_seed"], held["val_frac"]) == ("single", 1200, 0.2)
        assert (held["augment"], held["normalize"], held["img_size"]) == ("flip", "imagenet", 448)


def test_the_digits_are_trained_as_every_method_trains_them():
    held = settings("--dataset", "digits")
    assert (held["labels"], held["head"], held["cam_map"], held["model"]) == (
        "single",
        "linear",
        "activation",
        "scenenet",
    )


def test_labels_are_rejected_once_the_warm_up_is_over_and_judged_by_the_truth(folder):
    rows = list(csv.DictReader((folder / "run" / "metrics.csv").open()))
    counts = [float(row["rejected"]) for row in rows]
    assert counts[0] == 0
    assert max(counts[1:]) > 0
    assert {"spbc", "ignored", "reg", "gap_threshold", "kept_area", "unknown_true"} <= rows[0].keys()
    last = rows[counts.index(max(counts))]
    assert 0 <= float(last["modified_true"]) <= 1
    assert 0 < float(last["kept_area"]) < 1
    assert all(float(row["gap_threshold"]) > 0 for row in rows)
    assert result(folder / "run")["method"] == "ignore"


def test_the_share_of_true_ones_among_rejected_labels_is_a_figure(folder):
    assert "truly present" in succeed(folder, "analyse.py", "modification", "run")


def test_query2label_trains(folder):
    arguments = ("--mode", "train_q2l", "--variant", "reference", "--output", "q2l")
    succeed(folder, "main_ignore.py", *RUN, *EARLY, *arguments)
    rows = list(csv.DictReader((folder / "q2l" / "metrics.csv").open()))
    assert 0 < float(rows[-1]["kept_area"]) < 1


def test_other_labels_are_refused_or_taken_with_several_positives(folder):
    dropped = (*RUN, "--epochs", "1", "--labels", "dropped", "--drop_rate", "0.1")
    assert "--several union" in refusal(folder, "main_ignore.py", *dropped, "--output", "dropped")
    succeed(folder, "main_ignore.py", *dropped, "--several", "union", "--output", "union")
    assert "--labels single" in refusal(folder, "main_ignore.py", *RUN, "--labels", "full", "--output", "full")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--mode", "train_vit"), "train_resnet or train_q2l"),
        (("--mode", "train_q2l", "--head", "linear"), "q2l"),
        (("--gpu_num", "2"), "CUDA_VISIBLE_DEVICES"),
        (("--cam_threshold", "1"), "0.8"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_one_line(folder, arguments, words):
    assert words in refusal(folder, "main_ignore.py", *RUN, *arguments, "--output", "refused")


def test_a_run_that_is_cut_off_ends_in_the_same_weights(folder):
    arguments = (*RUN, *EARLY, "--record", "modification", "--save_minutes", "0", "--output", "cut")
    assert cut_off(folder, "main_ignore.py", *arguments, saves=5) > 0  # in the middle of the second epoch
    succeed(folder, "main_ignore.py", *arguments, "--resume")
    assert state(folder / "cut")["loop"]["criterion"]["gap_threshold"] > 0
    same(without_speed(folder / "cut"), without_speed(folder / "run"))


@pytest.mark.slow
def test_two_processes_train_and_have_the_same_thresholds_as_one(folder):
    launch(folder, "main_ignore.py", *RUN, *EARLY, "--epochs", "1", "--lr", "1e-9", "--norm_eval", "--output", "two")
    succeed(folder, "main_ignore.py", *RUN, *EARLY, "--epochs", "1", "--lr", "1e-9", "--norm_eval", "--output", "one")
    two, one = (state(folder / name)["loop"]["criterion"] for name in ("two", "one"))
    for name in ("gap_threshold", "average_threshold"):
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-5)
