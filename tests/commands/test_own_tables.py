"""People's tables through the commands: what was decided is kept for `--resume`, and stands in an inspection."""

import json

import pytest
import yaml
from PIL import Image

from engine.training.loop import Loop
from tests.commands.scene import SMALL, refusal, run, succeed

TRAIN = ("main_BCE.py", "--dataset", "table", "--table", "t.csv", "--path_images", "im", *SMALL, "--epochs", "2")
TRAIN = (*TRAIN, "--warmup_epoch", "0", "--num_workers", "0", "--save_minutes", "0", "--output", "run")
ROWS = ("haze primary", "agriculture clear primary water", "clear primary", "cloudy", "clear road primary", "clear") * 2


@pytest.fixture
def folder(tmp_path):
    """Names without ending, tags joined by blanks."""
    lines = "".join(f"train_{n},{tags}\n" for n, tags in enumerate(ROWS))
    (tmp_path / "t.csv").write_text(f"image_name,tags\n{lines}")
    (tmp_path / "im").mkdir()
    for n in range(len(ROWS)):
        Image.new("RGB", (24, 20), (n * 20, 100, 200 - n)).save(tmp_path / "im" / f"train_{n}.jpg")
    return tmp_path


def test_a_run_keeps_what_it_found_and_goes_on_by_it(folder, monkeypatch):
    save = Loop.save

    def stop_after_the_first_epoch(loop, *arguments):
        save(loop, *arguments)
        if loop.state.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "save", stop_after_the_first_epoch)
    assert run(folder, *TRAIN).returncode == 130
    monkeypatch.setattr(Loop, "save", save)
    kept = yaml.load((folder / "run" / "settings.yaml").read_text(), Loader=yaml.BaseLoader)
    assert (kept["image_column"], kept["label_column"], kept["label_separator"]) == ("image_name", "tags", " ")
    assert kept["class_columns"] == ""
    assert "resuming at epoch 2" in succeed(folder, *TRAIN, "--resume")
    assert (folder / "run" / "result.json").exists()
    again = yaml.load((folder / "run" / "settings.yaml").read_text(), Loader=yaml.BaseLoader)
    assert again == {**kept, "resume": "True"}
    line = refusal(folder, *TRAIN[:-1], "run", "--resume", "--label_separator", ";")
    assert "--label_separator" in line


def test_an_inspection_shows_each_column_and_why(folder):
    lines = "".join(f"train_{n},{tags},p{n // 3}\n" for n, tags in enumerate(ROWS))
    (folder / "t.csv").write_text(f"image_name,tags,Patient\n{lines}")
    words = ("--dataset", "table", "--table", "t.csv", "--path_images", "im", "--output", "out")
    said = succeed(folder, "inspect_data.py", *words)
    report = json.loads((folder / "out" / "report.json").read_text())
    assert [(one["title"], one["role"]) for one in report["columns"]] == [
        ("image_name", "image"),
        ("tags", "labels"),
        ("Patient", "not read"),
    ]
    assert report["columns"][1]["examples"] == ["haze primary", "agriculture clear primary water", "clear primary"]
    assert "--group_column" in report["columns"][2]["why"]
    assert "image_name  image     its title" in said


def test_uncertain_and_blank_entries_and_annotators_stand_in_the_report(folder):
    rows = [("0", "1", ""), ("0", "1", "1"), ("1", "-1", "0"), ("1", "0", "0"), ("2", "0", "-1"), ("3", "1", "1")]
    lines = "".join(f"train_{n}.jpg,{cat},{dog}\n" for n, cat, dog in rows)
    (folder / "t.csv").write_text(f"image,cat,dog\n{lines}")
    words = ("--dataset", "table", "--table", "t.csv", "--path_images", "im", "--output", "out", "--test_frac", "0.5")
    said = succeed(folder, "inspect_data.py", *words, "--repeated", "majority", "--uncertain", "present")
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["entries"] == [
        {"class": "cat", "uncertain": 1, "blank": 0, "soft": 0, "agreement": 1.0},
        {"class": "dog", "uncertain": 1, "blank": 1, "soft": 0, "agreement": 1.0},
    ]
    counts = {one["name"]: sum(one[part]["present"] for part in ("train", "test")) for one in report["classes"]}
    assert counts == {"cat": 2, "dog": 3}
    assert "annotators agree" in said
