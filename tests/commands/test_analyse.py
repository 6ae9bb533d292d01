"""The analyses as a user types them, on small runs that were trained with `--record`."""

import csv

import numpy as np
import pytest
from PIL import Image

from engine.training.recorder import LABELS_FILE
from tests.commands.scene import SMALL, refusal, result, run, run_process, succeed, tiny_voc

RUN = ("--dataset", "voc07", *SMALL, "--labels", "single", "--warmup_epoch", "0", "--seed", "1", "--lr", "1e-3")
LLM = ("--delta_rel", "5", "--val_frac", "0.2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with three finished runs."""
    folder = tmp_path_factory.mktemp("analyse")
    tiny_voc(folder)
    for scheme in ("LL-R", "LL-Cp"):
        words = (*RUN, *LLM, "--epochs", "3", "--record", "all", "--mod_scheme", scheme)
        succeed(folder, "main_llm.py", *words, "--output", scheme)
    succeed(folder, "main_BCE.py", *RUN, "--epochs", "1", "--output", "plain")
    return folder


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_memorisation_is_that_of_the_log_and_of_the_recorded_labels(folder):
    said = succeed(folder, "analyse.py", "memorisation", "LL-R").splitlines()
    rows = table(folder / "LL-R" / "memorisation.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert {rows[0][f"warmup_{name}"] for name in ("TP", "TN", "FN")} == {"1.0"}
    last = {name: float(rows[-1][f"warmup_{name}"]) for name in ("TP", "TN", "FN")}
    for name, share in last.items():
        assert f"{name} {100 * share:.1f} %" in said[0]
    with np.load(folder / "LL-R" / LABELS_FILE) as held:
        early = held["epoch_of_highest"] == 1
    assert min(last.values()) - 1e-9 <= early.mean() <= max(last.values()) + 1e-9
    assert said[1:] == [f"written: LL-R/memorisation.{ending}" for ending in ("png", "csv")]


def test_modification_of_two_runs(folder):
    said = succeed(folder, "analyse.py", "modification", "LL-R", "--output", "figures", "LL-Cp")
    assert "LL-R: " in said
    assert "LL-Cp: " in said
    assert "corrected up to epoch 3" in said
    rows = table(folder / "figures" / "modification.csv")
    assert [(row["run"], row["epoch"]) for row in rows] == [(name, e) for name in ("LL-R", "LL-Cp") for e in "123"]
    assert [row["modified_true"] == "" for row in rows] == [True, False, False] * 2


def test_modified_labels_are_those_that_were_recorded(folder):
    said = succeed(folder, "analyse.py", "modified", "LL-Cp", "--pictures", "50")
    with np.load(folder / "LL-Cp" / LABELS_FILE) as held:
        first = held["first_modified"]
    rows = table(folder / "LL-Cp" / "modified.csv")
    assert len(rows) == (first > 0).sum() > 0
    assert sorted(int(row["first_modified"]) for row in rows) == sorted(first[first > 0].tolist())
    assert min(first[first > 0]) == 2
    assert f"LL-Cp: {len(rows)} labels" in said
    assert min(Image.open(folder / "LL-Cp" / "modified.png").size) > 300


def test_pointing_without_boxes_is_refused(folder):
    assert "has no boxes" in refusal(folder, "analyse.py", "pointing", "plain")


def test_a_run_without_recording_is_told_the_flag(folder):
    for what, flag in (
        ("memorisation", "memorisation"),
        ("modification", "modification"),
        ("modified", "modification"),
    ):
        assert f"--record {flag}" in refusal(folder, "analyse.py", what, "plain")


@pytest.mark.slow
def test_a_sweep_equals_single_runs_and_goes_on(folder):
    words = (*RUN, "--val_frac", "0.2", "--epochs", "2")
    succeed(folder, "main_llm.py", *words, "--delta_rel", "5", "--output", "alone")
    command = ("sweep", "--setting", "delta_rel", "--values", "0,5", "--output", "s", "--", "main_llm.py", *words)
    said = succeed(folder, "analyse.py", *command)
    assert result(folder / "s" / "delta_rel-5")["test"] == result(folder / "alone")["test"]
    rows = table(folder / "s" / "sweep.csv")
    assert [row["delta_rel"] for row in rows] == ["0", "5"]
    for row in rows:
        held = result(folder / "s" / f"delta_rel-{row['delta_rel']}")
        assert float(row["test_mAP"]) == pytest.approx(held["test"]["mAP"], abs=1e-6)
        assert float(row["validation_mAP"]) == pytest.approx(held["validation"]["mAP"], abs=1e-6)
    assert said.splitlines()[-2:] == ["written: s/sweep.png", "written: s/sweep.csv"]
    stamps = {path: path.stat().st_mtime_ns for path in (folder / "s").glob("*/best.pth")}
    succeed(folder, "analyse.py", *command)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_a_mistake_in_the_last_value_is_told_before_the_first_run(folder):
    line = refusal(
        folder, "analyse.py", "sweep", "--setting", "delta_rel", "--values", "0,101", "--", "main_llm.py", *RUN
    )
    assert "delta_rel" in line
    line = refusal(folder, "analyse.py", "sweep", "--setting", "delta_re", "--values", "0", "--", "main_llm.py", *RUN)
    assert "did you mean --delta_rel" in line
    assert not (folder / "runs" / "sweep-delta_rel").exists()


def test_only_our_own_training_scripts_are_run(folder):
    (folder / "main_own.py").write_text("raise SystemExit('ran')\n")
    for script in ("main_own.py", "./main_own.py", "evaluate.py", str(folder / "main_own.py"), "os"):
        line = refusal(folder, "analyse.py", "sweep", "--setting", "lr", "--values", "1", "--", script)
        assert "not a training script of this project" in line
        assert "main_llm.py" in line


@pytest.mark.slow
def test_the_script_runs_as_a_process_of_its_own(folder):
    done = run_process(folder, "analyse.py", "sweep", "--setting", "lr", "--values", "1", "--", "main_own.py")
    assert done.returncode == 2
    assert "there are main_BCE.py" in done.stderr
    assert run_process(folder, "analyse.py", "--help").returncode == 0


def test_help_lists_what_there_is(folder):
    done = run(folder, "analyse.py", "--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("memorisation", "modification", "pointing", "modified", "sweep"))
    assert run(folder, "analyse.py", "pointing", "--help").returncode == 0


def test_a_file_that_cannot_be_replaced_is_named(folder):
    (folder / "locked" / "memorisation.csv").mkdir(parents=True)
    line = refusal(folder, "analyse.py", "memorisation", "LL-R", "--output", "locked", code=1)
    assert "locked/memorisation.csv: cannot be written" in line
