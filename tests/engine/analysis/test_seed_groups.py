"""Runs of several seeds in `compare.py`."""

import numpy as np
import pytest

from engine.analysis.compare import compare_command
from engine.analysis.finished_runs import read_run
from engine.analysis.seed_groups import grouped, setting_notes
from tests.engine.run_folders import log_folder

pytestmark = pytest.mark.usefixtures("own_folder")
HISTORY = [{"epoch": 1, "loss": 1.0}]


def finished(folder, method, seed, value, *words, **more):
    test = {"mAP": value, "CF1": value / 2, "OF1": value / 4}
    result = {"dataset": "digits", "labels": "candidate", "rate": 0.4, "seed": seed, "test": test, **more}
    words = ["--dataset", "digits", "--seed", seed, *words]
    return log_folder(folder / f"{method}{seed}{len(words)}", method, HISTORY, words, **result)


def test_runs_that_differ_in_their_seed_alone_are_taken_together_and_paired(tmp_path, capsys):
    paths = [finished(tmp_path, "bce", seed, value) for seed, value in ((1, 0.5), (2, 0.6), (3, 0.7))]
    paths += [finished(tmp_path, "cones", seed, value) for seed, value in ((2, 0.65), (1, 0.57), (4, 0.9))]
    assert compare_command([str(path) for path in paths]) == 0
    *_, head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["means", "seeds", "mAP", "CF1", "OF1"]
    assert first.split() == ["bce", "3", "60.00", "±", "10.00", "30.00", "±", "5.00", "15.00", "±", "2.50"]
    deviation = np.std([65, 57, 90], ddof=1)
    assert f"70.67 ± {deviation:.2f}" in second
    # Gains 5 and 7: mean 6, deviation sqrt(2), t of one degree at 97.5 % is 12.7062.
    assert second.endswith("mAP +6.00 [-6.71, +18.71] over bce, 2 seeds")


def test_other_settings_are_another_group_that_is_called_by_them(tmp_path, capsys):
    paths = [finished(tmp_path, "bce", seed, 0.5) for seed in (1, 2)]
    paths.append(finished(tmp_path, "bce", 1, 0.6, "--lr", "0.3", "--device", "cpu"))
    assert [len(group) for group in grouped([read_run(path) for path in paths])] == [2, 1]
    compare_command([str(path) for path in paths])
    said = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in said[6:8]] == ["bce (lr 0.007)", "bce (lr 0.3)"]
    assert said[7].endswith("mAP +10.00 over bce (lr 0.007), 1 seeds")
    assert said[8:] == ["note: not the same settings: lr 0.007, 0.3"]


def test_settings_of_one_method_alone_are_no_difference_but_rules_of_selection_are(tmp_path):
    runs = [
        finished(tmp_path, "bce", 1, 0.5, selection="last"),
        finished(tmp_path, "cones", 1, 0.5, selection="validation"),
    ]
    notes = setting_notes([read_run(path) for path in runs])
    assert notes == ["note: epochs are not selected by the same rule: last, validation"]
    runs.append(finished(tmp_path, "cones", 2, 0.5, "--label_seed", "3", selection="last"))
    assert setting_notes([read_run(path) for path in runs])[0] == "note: not the same settings: label_seed none, 3"
