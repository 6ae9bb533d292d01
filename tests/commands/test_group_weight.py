"""Runs with the group regulariser: groups of a table reach it, it is resumed, and datasets without groups refuse it."""

import numpy as np
import pytest
import torch

from tests.commands.scene import refusal, result, state, succeed
from tests.commands.test_prior_scores import CLASSES, IDS, ROWS, RUN, SPLITS

WEIGHT = ("--group_column", "site", "--group_weight", "0.5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("groups")
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (ROWS, len(CLASSES)))
    truth[0], truth[-1] = 1, 1
    sites = ["abcd"[row // 3] if row < 10 else f"test {row}" for row in range(ROWS)]
    lines = [",".join((IDS[row], *map(str, truth[row]), SPLITS[row], sites[row])) for row in range(ROWS)]
    (folder / "t.csv").write_text("\n".join([f"image,{','.join(CLASSES)},split,site", *lines]))
    np.savez(folder / "f.npz", features=rng.standard_normal((ROWS, 5)).astype(np.float32), ids=IDS)
    return folder


def test_groups_of_a_table_have_means_that_are_saved(folder, tmp_path):
    succeed(folder, "main_BCE.py", *RUN, *WEIGHT, "--epochs", "2", "--output", tmp_path / "a")
    means = state(tmp_path / "a")["loop"]["criterion"]["group_means"]
    assert (means.shape, means.dtype) == ((4, 3), torch.float32)
    assert "mAP" in result(tmp_path / "a")["test"]
    words = (*RUN, *WEIGHT, "--group_control", "half", "--output", tmp_path / "b")
    succeed(folder, "main_BCE.py", *words)
    assert (state(tmp_path / "b")["loop"]["criterion"]["group_means"] == 0.5).all()


def test_it_is_refused_without_groups_and_by_methods_of_several_scores(folder):
    line = refusal(folder, "main_BCE.py", *RUN, "--group_weight", "0.5", "--output", "no")
    assert "--group_weight: learns from what images belong to" in line
    line = refusal(folder, "main_cls.py", *RUN, *WEIGHT, "--output", "no")
    assert "--group_weight 0.5: cls has several scores of an image in a step" in line
