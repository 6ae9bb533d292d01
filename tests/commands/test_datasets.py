"""Datasets of every kind of storage and layout, through the scripts."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.commands.scene import SMALL, refusal, result, run, succeed
from tests.data.datasets.test_long_tail import real_lists
from tests.data.datasets.test_openimages import tree as openimages_tree
from tests.data.trees import real_data

ONE = (*SMALL, "--epochs", "1", "--warmup_epoch", "0")
LABELS = tuple(f"/m/0{k}" for k in range(10))


def noise(path, rng):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (36, 44, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def openimages(tmp_path):
    """40 + 12 images with a third of ten labels known; two images of each split are missing."""
    rng = np.random.default_rng(0)
    rows = {
        split: [
            (f"{split}{image:03}", label, int(rng.random() < 0.4))
            for image in range(count)
            for label in LABELS
            if rng.random() < 0.3
        ]
        for split, count in (("train", 40), ("test", 12))
    }
    root = openimages_tree(tmp_path / "oi", rows["train"], rows["test"], LABELS)
    for split, labels in rows.items():
        for image in sorted({row[0] for row in labels})[2:]:
            noise(root / split / f"{image}.jpg", rng)
    return root


def test_openimages_trains_scores_and_reports_groups(tmp_path, openimages):
    command = ("--dataset", "openimages", "--path_images", "oi", *ONE, "--model", "scenenet")
    said = succeed(tmp_path, "main_BCE.py", *command, "--output", "run")
    assert "left out 2 of" in said
    finished = result(tmp_path / "run")
    assert finished["labels"] == "given"
    assert {"G1", "G2", "G3", "G4", "G5"} <= finished["extra"].keys()
    again = succeed(tmp_path, "evaluate.py", "--load_from", "run/best.pth", "--json", "scores.json")
    assert "G5" in again
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["test"] == finished["test"]
    assert {name: finished["extra"][name] for name in scores["extra"]} == scores["extra"]
    assert scores["top_k"] is None
    assert "leave --top_k out" in refusal(tmp_path, "evaluate.py", "--load_from", "run/best.pth", "--top_k")


def test_openimages_with_labels_drawn_keeps_them_sparse_in_a_file(tmp_path, openimages):
    labels = ("--dataset", "openimages", "--path_images", "oi", "--labels", "known", "--known_rate", "0.5")
    assert ".npz" in succeed(tmp_path, "generate_labels.py", *labels)
    command = (*labels, *ONE, "--model", "scenenet")
    succeed(tmp_path, "main_CoNeS.py", *command, "--output", "run")
    facts = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert facts["label_file"].endswith(".npz")
    assert not facts["label_file_made_now"]


def test_class_priors_of_openimages_are_estimated_and_used(tmp_path, openimages):
    labels = ("--dataset", "openimages", "--path_images", "oi", "--labels", "rps", "--rps_unknown", "0.2")
    command = ("main_BCE.py", *labels, *ONE, "--model", "scenenet", "--prior_threshold", "0.45")
    succeed(tmp_path, *command[:-2], "--loss", "iu", "--output", "known")
    succeed(tmp_path, *command, "--loss", "csl", "--prior_file", "known/class_priors.csv", "--output", "run")
    one, other = (result(tmp_path / name)["class_priors"] for name in ("known", "run"))
    assert (one["origin"], other["origin"]) == ("ignore_model", "given")
    assert one["values"] == other["values"]


def test_missing_images_are_an_error_unless_they_are_to_be_skipped(tmp_path, openimages):
    command = ("--dataset", "openimages", "--path_images", "oi", *ONE, "--model", "scenenet")
    assert "train000.jpg" in refusal(tmp_path, "main_BCE.py", *command, "--missing_images", "error")


def test_nuswide_runs_the_published_command_of_main_real(tmp_path):
    rng = np.random.default_rng(1)
    lines = ["filepath,label,split_name"]
    for row in range(15):
        noise(tmp_path / "nus" / "images" / f"{row}.jpg", rng)
        names = rng.choice(["sky", "sun", "person", "map"], rng.integers(0, 3), replace=False).tolist()
        lines.append(f'images/{row}.jpg,"{names}",{"val" if row % 3 == 2 else "train"}')
    (tmp_path / "nus" / "nus_wid_data.csv").write_text("\n".join(lines) + "\n")
    printed = ("--dataset", "nuswide", "--num_cls", "81", "--path_images", "nus", "--r_ws", "3")
    succeed(tmp_path, "main_real.py", *printed, *ONE, "--output", "run")
    finished = result(tmp_path / "run")
    assert (finished["method"], finished["labels"], finished["test"]["mAP"] > 0) == ("cones", "given", True)


def test_the_real_long_tailed_lists_train_on_the_photographs_that_are_here(tmp_path):
    lists, images = real_lists(), real_data("voc_mini/VOCdevkit")
    command = ("--dataset", "voc-lt", "--path_lists", lists, "--path_images", images, "--missing_images", "skip")
    said = succeed(tmp_path, "main_BCE.py", *command, *ONE, "--labels", "dropped", "--output", "run")
    assert "of 1142 training rows" in said
    assert {"head", "middle", "tail"} <= result(tmp_path / "run")["extra"].keys()


def test_a_synonym_gives_the_same_settings(tmp_path):
    printed = ("--dataset", "nus-wide", "--print_config")
    assert "dataset: nw-lt" in run(tmp_path, "main_BCE.py", *printed).stdout


@pytest.mark.parametrize("dataset", ["vg", "cub", "wider", "nw-lt", "openimages", "nuswide", "coco-lt", "pascal"])
def test_a_wrong_folder_shows_what_is_expected(tmp_path, dataset):
    done = run(tmp_path, "main_BCE.py", "--dataset", dataset, "--path_images", "nowhere", *ONE)
    assert done.returncode == 2
    assert "nowhere" in done.stderr or "appendix" in done.stderr
    assert "Traceback" not in done.stderr
