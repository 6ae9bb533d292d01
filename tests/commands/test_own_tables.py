"""People's tables through the commands: what was decided is kept for `--resume`, and stands in an inspection."""

import json

import pytest
import yaml
from PIL import Image

from tests.commands.scene import SMALL, cut_off, refusal, succeed

TRAIN = ("main_BCE.py", "--dataset", "table", "--table", "t.csv", "--path_images", "im", *SMALL, "--epochs", "2")
TRAIN = (*TRAIN, "--warmup_epoch", "0", "--num_workers", "0", "--output", "run")
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


def test_a_run_keeps_what_it_found_and_goes_on_by_it(folder):
    cut_off(folder, *TRAIN, saves=1)  # an epoch
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


# --- Several tables

HUES = "image_name,tags\n" + "".join(f"train_{n},{('red', 'red blue', 'blue')[n % 3]}\n" for n in range(8))
KINDS = "file;boat;person\n" + "".join(f"train_{n}.jpg;{n % 2};{1 - n // 6}\n" for n in range(4, 12))
SEVERAL = ("--dataset", "table", "--table", "hues.csv", "kinds.csv")
MORE = ("--path_images", "im", "--repeated", "union")


@pytest.fixture
def several(folder):
    """Two tables of which each has four images that the other has not, and a settings file."""
    (folder / "hues.csv").write_text(HUES)
    (folder / "kinds.csv").write_text(KINDS.replace("-1", "0"))
    rest = ("epochs: 2", "warmup_epoch: 0", "num_workers: 0")
    (folder / "own.yaml").write_text("\n".join(("path_images: im", "repeated: union", *rest)) + "\n")
    return folder


def test_a_run_on_several_tables_keeps_their_decisions_and_goes_on_by_them(several):
    train = ("main_BCE.py", *SEVERAL, "own.yaml", *SMALL, "--output", "run")

    cut_off(several, *train, saves=1)  # an epoch
    text = (several / "run" / "settings.yaml").read_text()
    kept = yaml.load(text, Loader=yaml.BaseLoader)
    assert kept["table"] == ["hues.csv", "kinds.csv"]
    assert "# found in hues.csv and kinds.csv" in text
    assert json.loads(kept["table_columns"]) == {
        "hues.csv": {"image_column": "image_name", "label_column": "tags", "label_separator": " "},
        "kinds.csv": {"image_column": "file", "class_columns": "boat,person"},
    }
    assert kept["image_column"] == kept["label_column"] == ""
    # What comes into a table later is no class, whatever it looks like.
    lines = (several / "kinds.csv").read_text().splitlines()
    (several / "kinds.csv").write_text("\n".join([f"{lines[0]};late", *(f"{line};1" for line in lines[1:])]) + "\n")
    assert "was started with --table_columns {" in refusal(several, *train, "--resume", "--table_columns", "{}")
    line = refusal(several, *train[:4], "hues.csv", *train[6:], "--resume")
    assert "was started with --table hues.csv kinds.csv, now it is hues.csv; give the same" in line
    assert "resuming at epoch 2" in succeed(several, *train, "--resume")
    assert (several / "run" / "result.json").exists()


def test_a_run_is_scored_on_its_tables_and_on_others(several):
    succeed(several, "main_BCE.py", *SEVERAL, "own.yaml", *SMALL, "--output", "run", "--epochs", "1")
    said = succeed(several, "evaluate.py", "--load_from", "run/best.pth", "--table", "hues.csv", "kinds.csv")
    assert "hues.csv and kinds.csv name no test set" in said
    (several / "rest.csv").write_text("image,tags\ntrain_0,red\ntrain_1,blue;boat\n")
    (several / "more.csv").write_text("image,person\ntrain_2,1\ntrain_3,0\n")
    (several / "hues.csv").write_text("".join(line for n, line in enumerate(HUES.splitlines(True)) if not 1 <= n <= 4))
    said = succeed(several, "evaluate.py", "--load_from", "run/best.pth", "--test_table", "rest.csv", "more.csv")
    assert "4 images" in said


def test_what_a_run_was_told_of_its_columns_does_not_hinder_the_scoring_of_other_tables(several):
    columns = json.dumps({"hues.csv": {"label_column": "tags"}, "kinds.csv": {"class_columns": "boat,person"}})
    words = (*SEVERAL, "own.yaml", *SMALL, "--output", "run", "--epochs", "1", "--table_columns", columns)
    succeed(several, "main_BCE.py", *words)
    rows = "".join(f"train_{n},{n % 2},{n // 2 % 2},{n % 3 // 2},{1 - n % 2}\n" for n in range(12))
    (several / "all.csv").write_text(f"image,red,blue,boat,person\n{rows}")
    said = succeed(several, "evaluate.py", "--load_from", "run/best.pth", "--table", "all.csv")
    assert "run/best.pth: --table_columns of the run is not used for hues.csv" in said
    assert "all.csv names no test set" in said


def test_an_inspection_shows_the_table_of_each_column_and_how_far_tables_agree(several):
    said = succeed(several, "inspect_data.py", *SEVERAL, *MORE, "--output", "out")
    report = json.loads((several / "out" / "report.json").read_text())
    assert [(one["table"], one["title"], one["role"]) for one in report["columns"]] == [
        ("hues.csv", "image_name", "image"),
        ("hues.csv", "tags", "labels"),
        ("kinds.csv", "file", "image"),
        ("kinds.csv", "boat", "class"),
        ("kinds.csv", "person", "class"),
    ]
    assert [one["name"] for one in report["classes"]] == ["blue", "red", "boat", "person"]
    assert "kinds.csv  boat        class" in said
    assert "kinds.csv: 4 images have another ending in a table before (train_4.jpg: train_4)" in said
    assert "hues.csv: lacks 2 of 4 classes (boat, person), unknown for its 8 images" in said
    assert sum(report["splits"][part]["images"] for part in ("train", "test")) == 12
    assert "in another table too" in refusal(several, "inspect_data.py", *SEVERAL, "--path_images", "im")


def test_labels_are_generated_for_several_tables(several):
    said = succeed(several, "generate_labels.py", *SEVERAL, *MORE, "--labels", "single")
    assert "2 tables: 12 images and 4 classes; 4 images are in several" in said
