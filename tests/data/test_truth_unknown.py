"""Figures about labels whose truth is unknown are empty, never 0."""

import numpy as np
import pytest

from data.inspection import noise_stats
from tests.commands.scene import run, succeed
from tests.commands.test_changed_data import folder, write  # noqa: F401 - a fixture
from utils.types import LabelTable

LOOK = ("inspect_data.py", "--dataset", "table", "--table", "labels.csv", "--samples", "0", "--output", "look")
OWN = "  are all that is known of the truth: how many of them are wrong or missing is unknown"


def table(*codes):
    return LabelTable(np.array(codes, dtype=np.int8).reshape(-1, 1))


def test_only_entries_of_known_truth_are_judged():
    noise = noise_stats(table(1, 0, -1, 1, 0, -1, 1, -1), table(1, 1, 1, -1, -1, -1, 0, 0))
    found = {name: int(getattr(noise, name)[0]) for name in noise.__dataclass_fields__}
    assert found == {
        **{"labelled": 3, "judged": 2, "wrong": 1},
        **{"unlabelled": 1, "denied": 1, "unknown": 3, "hiding": 2},
    }


@pytest.mark.parametrize("gaps", [0.0, 0.4])
def test_of_peoples_own_labels_no_share_is_told(folder, gaps):  # noqa: F811
    rng = np.random.default_rng(2)
    codes = np.where(rng.random((18, 3)) < gaps, -1, rng.integers(0, 2, (18, 3)))
    write(folder, codes)
    printed = succeed(folder, *LOOK)
    assert OWN in printed
    for word in ("  wrong ", "  lost ", "  hidden "):
        assert word not in printed.split("the labels that training sees")[1].split("images with so many")[0]


def test_drawn_labels_are_compared_where_the_truth_is_known(folder):  # noqa: F811
    codes = np.random.default_rng(2).integers(-1, 2, (18, 3))
    write(folder, codes)
    printed = succeed(folder, *LOOK, "--labels", "dropped", "--drop_rate", "1")
    present, unknown = (codes[:12] == 1).sum(), (codes[:12] == -1).sum()
    assert f"  lost     100.0 %  {present} of {present} true labels" in printed
    assert f"  untold   the truth of {unknown} more entries is unknown" in printed
    assert "  wrong        -  0 of 0 labelled present" in printed.replace("wrong    -", "wrong        -")


def test_labels_of_a_file_are_compared_with_the_table(folder):  # noqa: F811
    words = ("--dataset", "table", "--table", "labels.csv", "--labels", "flip")
    run(folder, "generate_labels.py", *words, "--out", "seen.npy")
    assert OWN not in succeed(folder, *LOOK, "--labels", "flip", "--label_file", "seen.npy")
