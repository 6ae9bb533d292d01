"""Labels, test sets and rows that change between two commands are never combined without a word."""

import json
import re
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from engine.training.loop import Loop
from tests.commands.scene import SMALL, refusal, result, run, succeed
from utils.checks import Interrupted

ROWS = 18
RUN = ("main_BCE.py", "--dataset", "table", "--table", "labels.csv", *SMALL, "--epochs", "2")


@pytest.fixture
def folder(tmp_path):
    """A folder with images and their table: the last six rows are the test set."""
    rng = np.random.default_rng(0)
    for row in range(ROWS):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{row:02}.png")
    write(tmp_path, rng.integers(0, 2, (ROWS, 3)))
    return tmp_path


def write(folder, codes, classes="abc"):
    lines = [
        f"{row:02}.png,{','.join(map(str, codes[row]))},{'train' if row < ROWS - 6 else 'test'}" for row in range(ROWS)
    ]
    (folder / "labels.csv").write_text("\n".join([f"image,{','.join(classes)},split", *lines]) + "\n")


def flip(folder, *rows):
    """Correct the first label of some rows."""
    lines = (folder / "labels.csv").read_text().splitlines()
    for row in rows:
        name, first, *rest = lines[row + 1].split(",")
        lines[row + 1] = ",".join([name, str(1 - int(first)), *rest])
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def stop_in_the_second_epoch(folder, *words):
    save = Loop.save

    def halting(loop):
        save(loop)
        if loop.state.epoch == 2:
            raise Interrupted(15)

    with mock.patch.object(Loop, "save", halting):
        assert run(folder, *RUN, *words, "--output", "run").returncode == 128 + 15


@pytest.mark.parametrize(("row", "which"), [(0, "train"), (ROWS - 1, "test")])
def test_a_run_does_not_go_on_with_other_labels(folder, row, which):
    stop_in_the_second_epoch(folder)
    flip(folder, row)
    line = refusal(folder, *RUN, "--output", "run", "--resume")
    if which == "test":
        assert "the test set of run has other images or true labels now than when it began" in line
    else:
        assert "run was trained on other labels" in line
    flip(folder, row)
    succeed(folder, *RUN, "--output", "run", "--resume")


def test_a_run_does_not_go_on_when_another_image_is_missing(folder):
    (folder / "03.png").rename(folder / "kept-3")
    stop_in_the_second_epoch(folder, "--missing_images", "skip")
    (folder / "kept-3").rename(folder / "03.png")
    (folder / "05.png").rename(folder / "kept-5")
    words = (*RUN, "--missing_images", "skip", "--output", "run", "--resume")
    assert "the train set of run has other images or true labels" in refusal(folder, *words)
    (folder / "05.png").write_bytes((folder / "kept-5").read_bytes())
    (folder / "03.png").unlink()
    succeed(folder, *words)


def test_a_run_does_not_go_on_with_what_follows_from_another_hierarchy(folder):
    (folder / "h.csv").write_text("class,parent\na,b\n")
    stop_in_the_second_epoch(folder, "--hierarchy", "h.csv")
    (folder / "h.csv").write_text("class,parent\na,c\n")
    words = (*RUN, "--output", "run", "--resume")
    assert "run was trained on other labels" in refusal(folder, *words, "--hierarchy", "h.csv")
    assert "run was trained on other labels" in refusal(folder, *words)
    (folder / "moved.csv").write_text("class,parent\na,b\nc,c of all\n")  # other content, nothing else follows
    said = succeed(folder, *words, "--hierarchy", "moved.csv")
    assert "moved.csv: 1 of its 4 names are no class here ('c of all')" in said


def test_a_validation_split_with_other_labels_is_told(folder):
    words = ("--val_frac", "0.3", "--seed", "1")
    stop_in_the_second_epoch(folder, *words)
    flip(folder, *range(ROWS - 6))
    assert "labels" in refusal(folder, *RUN, *words, "--output", "run", "--resume")


def test_a_result_says_what_it_was_scored_on(folder):
    succeed(folder, *RUN, "--output", "one")
    flip(folder, ROWS - 1)
    succeed(folder, *RUN, "--output", "two")
    one, two = (result(folder / name)["data"] for name in ("one", "two"))
    assert one["train"] == two["train"]
    assert one["test"] != two["test"]
    start = json.loads((folder / "one" / "log.jsonl").read_text().splitlines()[0])
    assert start["data"] == one


LABELS = {
    "dropped": ("--labels", "dropped", "--drop_rate", "0.25"),
    "candidate": ("--labels", "candidate", "--partial_rate", "0.3"),
    "flip": ("--labels", "flip"),
    "single": ("--labels", "single"),
    "known": ("--labels", "known", "--known_rate", "0.5"),
    "native": ("--labels", "candidate", "--partial_rate", "0.3", "--label_rng", "native"),
}


def drawn(folder, *words):
    """Draw labels for the table and write them; returns what was said."""
    return run(folder, "generate_labels.py", "--dataset", "table", "--table", "labels.csv", *words)


def files(folder):
    return set((folder / "pre-processed-data").glob("*.npy"))


@pytest.mark.parametrize("regime", LABELS)
def test_labels_are_drawn_anew_when_the_truth_was_corrected(folder, regime):
    words = LABELS[regime]
    drawn(folder, *words)
    (before,) = files(folder)
    held = before.read_bytes()
    flip(folder, *range(12))
    done = run(folder, *RUN, *words, "--output", "run")
    assert f"note: pre-processed-data/{before.name}: drawn when the true labels were others" in done.stderr
    (after,) = files(folder) - {before}
    assert f"{after.name} is for what they are now" in done.stderr
    assert before.read_bytes() == held
    look = ("inspect_data.py", "--dataset", "table", "--table", "labels.csv", "--samples", "0", *words)
    done = run(folder, *look)
    assert (after.name in done.stdout, done.stderr) == (True, "")
    for file in (before, before.with_suffix(".json")):
        file.unlink()
    drawn(folder, *words)
    assert before.read_bytes() == after.read_bytes()  # what a first draw gives
    flip(folder, *range(12))
    assert before.name not in run(folder, *look).stdout
    assert files(folder) == {before, after}  # an inspection writes no labels


def test_labels_are_generated_beside_those_of_another_truth(folder):
    words = LABELS["dropped"]
    drawn(folder, *words)
    assert "exists already" in drawn(folder, *words).stderr
    flip(folder, *range(12))
    assert drawn(folder, *words).returncode == 0
    assert len(files(folder)) == 2


def test_a_file_of_before_there_were_hashes_is_taken_while_it_fits(folder):
    words = LABELS["dropped"]
    drawn(folder, *words)
    (manifest,) = (folder / "pre-processed-data").glob("*.json")
    held = json.loads(manifest.read_text())
    del held["truth_hash"]
    manifest.write_text(json.dumps(held))
    assert "note:" not in run(folder, *RUN, *words, "--output", "one").stderr
    flip(folder, *range(12))
    assert "drawn when the true labels were others" in run(folder, *RUN, *words, "--output", "two").stderr


def test_a_named_file_is_used_as_it_is_with_a_note(folder):
    words = LABELS["single"]
    drawn(folder, *words)
    (file,) = files(folder)
    named = (*RUN, *words, "--label_file", file)
    assert "note:" not in run(folder, *named, "--output", "one").stderr
    absent = np.load(file)[:, 0] == -1
    flip(folder, *np.flatnonzero(absent))
    assert "made when the true labels were others; it is used as it is" in run(folder, *named, "--output", "two").stderr


def without_splits(folder, name, rows):
    """Another table of the same images, which names no splits."""
    lines = (folder / "labels.csv").read_text().splitlines()
    kept = [lines[0], *(lines[row + 1] for row in rows)]
    (folder / name).write_text("\n".join(line.rpartition(",")[0] for line in kept) + "\n")


def scored(folder, *words):
    return succeed(folder, "evaluate.py", "--load_from", "run/best.pth", *words)


def test_an_evaluation_says_what_part_of_a_table_it_scores(folder):
    succeed(folder, *RUN, "--output", "run")
    assert "--test_frac" not in scored(folder)
    without_splits(folder, "other.csv", range(12, 18))
    printed = scored(folder, "--table", "other.csv")
    part = int(re.search(r"(\d+) images", printed)[1])
    assert f"other.csv names no test set: {part} of its 6 images were held out by --test_frac and scored" in printed
    assert part < 6
    printed = scored(folder, "--table", "labels.csv")
    assert "--test_frac" not in printed
    assert "6 images" in printed


@pytest.mark.parametrize(("rows", "seen"), [(range(12, 18), 0), (range(12), None)])
def test_an_evaluation_says_that_it_scores_training_images(folder, rows, seen):
    succeed(folder, *RUN, "--output", "run")
    without_splits(folder, "other.csv", rows)
    printed = scored(folder, "--table", "other.csv")
    part = int(re.search(r"(\d+) images", printed)[1])
    said = f"{part} of these {part} images have ids that the network was trained on: no figure of a test"
    assert (said in printed) == (seen is None)
    assert ("trained on" in printed) == (seen is None)


def test_images_of_a_run_that_are_scored_in_another_table_by_half(folder):
    succeed(folder, *RUN, "--output", "run")
    lines = (folder / "labels.csv").read_text().splitlines()
    (folder / "train.csv").write_text("\n".join([lines[0], *(line for line in lines[1:7])]) + "\n")
    tested = [lines[0], *lines[11:16]]
    for name, kept in (("train.csv", [lines[0], *lines[1:7]]), ("test.csv", tested)):
        (folder / name).write_text("\n".join(line.rpartition(",")[0] for line in kept) + "\n")
    printed = scored(folder, "--table", "train.csv", "--test_table", "test.csv")
    assert "2 of these 5 images have ids that the network was trained on" in printed  # rows 10 and 11
    assert "--test_frac" not in printed
