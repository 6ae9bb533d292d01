"""Figures per group of images and intervals by groups, as a user gets them from a table with a column of groups."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.commands.scene import SMALL, succeed

RUN = ("--dataset", "table", "--path_images", "in", "--group_column", "patient")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tables of 12 training and 18 test images, three of a patient, and a run on them."""
    folder, rng = tmp_path_factory.mktemp("groups"), np.random.default_rng(0)
    (folder / "in").mkdir()
    for name, rows in (("train", range(12)), ("test", range(12, 30))):
        lines = ["image,patient,cat,dog"]
        for row in rows:
            pixels = rng.integers(0, 256, (36, 36, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "in" / f"{row}.png")
            lines.append(f"{row}.png,p{row // 3},{row % 2},{int(row % 5 < 2)}")
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    words = ("--table", "train.csv", "--test_table", "test.csv", "--epochs", "1", "--warmup_epoch", "0")
    succeed(folder, "main_BCE.py", *RUN, *words, *SMALL, "--labels", "given", "--output", "run")
    return folder


def test_groups_are_drawn_and_judged(folder):
    words = ("evaluate.py", "--load_from", "run/best.pth", "--json", "a.json")
    out = succeed(folder, *words, "--per_class", "--bootstrap", "300")
    found = json.loads((folder / "a.json").read_text())
    sure, per_group = found["uncertainty"], found["per_group"]
    assert (sure["drawn"], sure["units"], sure["draws"]) == ("groups", 6, 300)
    low, high = sure["mAP"]
    assert low < found["test"]["mAP"] < high
    assert f"mAP: 95 % interval {100 * low:.2f} to {100 * high:.2f} (300 bootstrap draws of 6 groups)" in out
    assert per_group["groups"] == 6
    assert f"per group (6 groups, highest score of their images): mAP {100 * per_group['test']['mAP']:.2f}" in out
    low, high = sure["average_precision"]["dog"]
    assert re.search(rf"  dog +6 .* {100 * low:.1f}-{100 * high:.1f}\n", out)
    assert "interval of AP" in out
    assert "interval" not in succeed(folder, *words, "--bootstrap", "0")
    assert json.loads((folder / "a.json").read_text())["uncertainty"] is None
