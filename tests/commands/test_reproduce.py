"""A plan of real runs, as small as they can be, in processes of their own."""

import csv
import json

import pytest
import yaml

from tests.commands.scene import run_process as run

PLAN = {
    "title": "Tiny",
    "flags": "--dataset digits --ss_frac_train 0.02 --epochs 1 --partial_rate 0.4",
    "seeds": [1],
    "regimes": {"rate 0.4": ""},
    "rows": [
        {"name": "BCE", "command": "main_BCE.py"},
        {"name": "CoNeS", "command": "main_CoNeS.py"},
        {"name": "no file", "command": "main_BCE.py --weights nowhere.pth"},
    ],
}


@pytest.mark.slow
def test_a_tiny_plan_is_run_once_and_its_lines_are_enough_elsewhere(tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(PLAN))
    done = run(tmp_path, "reproduce.py", "tiny.yaml", "--jobs", "2", "--output", "out")
    assert done.returncode == 1, done.stderr
    assert "no file, rate 0.4, seed 1: failed: nowhere.pth" in done.stderr
    rows = list(csv.DictReader((tmp_path / "out" / "table.csv").open()))
    (folder,) = (tmp_path / "runs" / "tiny").glob("cones-*/")
    result = json.loads((folder / "result.json").read_text())
    assert [row["row"] for row in rows if row["figure"] == "mAP"] == ["BCE", "CoNeS", "no file"]
    (cones,) = [row for row in rows if (row["row"], row["figure"]) == ("CoNeS", "mAP")]
    assert float(cones["mean"]) == pytest.approx(100 * result["test"]["mAP"], abs=1e-3)
    again = run(tmp_path, "reproduce.py", "tiny.yaml", "--output", "out", "--work", "elsewhere", "--dry_run")
    assert "Tiny: 2 runs finished, 1 to run" in again.stdout
