"""A run on invented recordings of L48: recordings are groups, and training and evaluation tell both figures."""

import json

import pytest

from tests.commands.scene import SMALL, result, state, succeed
from tests.data.datasets.test_l48 import RECORDINGS, l48_tree
from tests.data.trees import picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = l48_tree(tmp_path_factory.mktemp("l48"))
    for one, (*_, windows) in RECORDINGS.items():
        for order in range(len(windows)):
            picture(folder / "images" / str(one) / f"{order}.jpg", (75, 24), colour=(20 * one, 60 * order, 9))
    return folder


def test_groups_train_and_both_figures_are_told(folder):
    run = ("--dataset", "l48", "--path_images", ".", "--cache_dir", "c", *SMALL)
    words = ("--loss", "an", "--l48_labels", "geo", "--group_weight", "0.5", "--epochs", "1", "--no-figures")
    said = succeed(folder, "main_BCE.py", *run, *words, "--output", "run")
    assert "--l48_labels geo --l48_rows labelled: 5 clips of 2 recordings train, 0 are left out" in said
    assert "test on images without an unknown label: mAP" in said
    assert state(folder / "run")["loop"]["criterion"]["group_means"].shape == (2, 4)
    full = result(folder / "run")["full_rows"]
    assert full["test"] == {"mAP": 0.25}  # of one clip, whose one present species of four is ranked alone
    said = succeed(folder, "evaluate.py", "--load_from", "run/best.pth", "--cache_dir", "c", "--json", "e.json")
    assert "on images without an unknown label: mAP 25.00" in said
    assert json.loads((folder / "e.json").read_text())["full_rows"] == full["test"]
