"""Soft labels of a table through the commands: refused, thresholded, or kept as targets of the loss."""

import numpy as np
import pytest
import yaml
from PIL import Image

from data.build import DatasetConfig, build_data
from data.labels.regime import Regime
from data.subsets.splits import SplitConfig, TrainingSplitConfig
from engine.inspection.command import inspect_dataset, read_dataset
from engine.inspection.report import report
from engine.inspection.text import as_text
from tests.commands.scene import SMALL, cut_off, refusal, result, same, state, succeed

ROWS = 15
DATA = ("--dataset", "table", "--table", "t.csv")
TRAIN = (*DATA, *SMALL, "--epochs", "2", "--warmup_epoch", "0", "--num_workers", "0")
KEEP = ("--soft_labels", "keep")
HASH = "learns from labels that are present or absent, and these are soft (--soft_labels keep)"


def values():
    """(ROWS, 3) values as they stand in a table: some fractions, some codes, a few blanks."""
    rng = np.random.default_rng(3)
    cells = np.round(rng.random((ROWS, 3)), 2).astype(str)
    cells[rng.random(cells.shape) < 0.4] = "1"
    cells[rng.random(cells.shape) < 0.3] = "0"
    cells[1::5, 1] = ""
    cells[0], cells[9], cells[10] = ("0.37", "1", "0.81"), ("0", "0.6", "0.2"), ("1", "0", "0.9")
    return cells


def write(folder, cells):
    split = ["train"] * 9 + ["val"] * 3 + ["test"] * 3
    lines = [f"{row:02}.png,{','.join(cells[row])},{split[row]}" for row in range(ROWS)]
    (folder / "t.csv").write_text("\n".join(["image,cat,dog,sky,split", *lines]) + "\n")


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for row in range(ROWS):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{row:02}.png")
    write(tmp_path, values())
    return tmp_path


def data(folder, **settings):
    config = DatasetConfig(dataset="table", table=(folder / "t.csv",), cache_dir=folder / "cache", **settings)
    return build_data(config, Regime(labels="given"), TrainingSplitConfig(), 0)


def test_by_default_the_first_value_and_its_line_are_shown(folder):
    line = refusal(folder, "main_BCE.py", *TRAIN)
    assert "3 columns hold values between 0 and 1: 'cat' ('0.37' in line 2), " in line
    assert "--soft_labels threshold=0.5 makes such values present or absent" in line
    assert "must be refuse, keep, or threshold=T" in refusal(folder, "main_BCE.py", *TRAIN, "--soft_labels", "half")


def test_a_threshold_gives_the_labels_and_hashes_of_a_table_written_so(folder):
    soft = data(folder, soft_labels="threshold=0.6")
    kept = data(folder, soft_labels="keep")
    cells = values()
    write(folder, [[one if one == "" else str(int(float(one) >= 0.6)) for one in row] for row in cells])
    plain = data(folder)
    assert soft.hashes() == plain.hashes()
    assert soft.labels.label_hash == plain.labels.label_hash
    assert soft.found == plain.found
    write(folder, [[one if one == "" else str(int(float(one) >= 0.5)) for one in row] for row in cells])
    half = data(folder)
    different = {name for name, value in half.hashes().items() if kept.hashes()[name] != value}
    assert different == {"train"}  # validation and test are scored on what is present or absent
    np.testing.assert_array_equal(kept.observed.dense(), half.observed.dense())
    unknown = (cells[:9] == "").tolist()
    assert (kept.observed.soft == -1).tolist() == unknown
    assert kept.observed.soft[0].tolist() == pytest.approx([0.37, 1, 0.81], abs=1e-6)


def test_a_run_on_kept_values_resumes_to_the_same_weights_and_not_on_other_values(folder):
    words = ("main_BCE.py", *TRAIN, *KEEP, "--loss", "asl", "--output")
    said = succeed(folder, *words, "whole")
    assert "are targets of the loss; metrics and statistics count them as present from 0.5 on" in said
    cut_off(folder, *words, "run", saves=1)  # an epoch
    kept = yaml.load((folder / "run" / "settings.yaml").read_text(), Loader=yaml.BaseLoader)
    assert (kept["soft_labels"], kept["class_columns"]) == ("keep", "cat,dog,sky")
    cells = values()
    cells[0, 0] = "0.38"  # absent as before, were it not soft
    write(folder, cells)
    assert "run was trained on other labels" in refusal(folder, *words, "run", "--resume")
    write(folder, values())
    succeed(folder, *words, "run", "--resume")
    same(state(folder / "run")["loop"]["model"], state(folder / "whole")["loop"]["model"])
    assert result(folder / "run")["test"] == result(folder / "whole")["test"]


def test_what_cannot_use_soft_labels_refuses_them_in_a_line(folder):
    assert f"cones: {HASH}" in refusal(folder, "main_CoNeS.py", *TRAIN, *KEEP, "--labels", "given")
    line = refusal(folder, "main_BCE.py", *TRAIN, *KEEP, "--labels", "candidate")
    assert "--labels candidate: is of labels that are present or absent" in line
    (folder / "kinds.csv").write_text("class,parent\ncat,dog\n")
    line = refusal(folder, "inspect_data.py", *DATA, *KEEP, "--hierarchy", "kinds.csv", "--output", "out")
    assert "--hierarchy kinds.csv: labels follow from labels that are present or absent" in line
    line = refusal(folder, "generate_labels.py", *DATA, *KEEP, "--labels", "full")
    assert "--soft_labels keep: files of labels hold labels that are present or absent" in line
    line = refusal(folder, "inspect_data.py", *DATA, *KEEP, "--labels", "dropped", "--output", "out")
    assert "--labels dropped: is of labels that are present or absent" in line


def test_an_inspection_counts_the_values_of_each_class(folder):
    config = DatasetConfig(dataset="table", table=(folder / "t.csv",), cache_dir=folder / "cache", soft_labels="keep")
    found = inspect_dataset(read_dataset(config, Regime(labels="given"), SplitConfig(), 0), check_images=False)
    content, cells = report(found, skip_missing=False), values()
    assert [row["soft"] for row in content["entries"]] == [sum("." in one for one in column) for column in cells.T]
    assert [row["blank"] for row in content["entries"]] == [sum(one == "" for one in column) for column in cells.T]
    assert [one["role"] for one in content["columns"]] == ["image", "class", "class", "class", "split"]
    said = as_text(content, 10)
    assert "between 0 and 1" in said
    assert "cat     class  its cells are values from 0 to 1" in said
