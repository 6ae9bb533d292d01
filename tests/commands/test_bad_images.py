"""Images that cannot be read, left out of training, evaluation and inspection by `--bad_images skip`."""

import json

import pytest

from tests.commands.scene import SMALL, refusal, result, run, succeed, tiny_voc

ONE = (*SMALL, "--epochs", "1", "--warmup_epoch", "0")
VOC = ("--dataset", "voc07", "--path_images", "Dataset/VOCdevkit")
DROPPED = ("--labels", "dropped", "--labels_left", "50")
SKIP = ("--bad_images", "skip")


@pytest.fixture
def spoilt(tmp_path):
    """A VOC of 15 training and 7 test images, of which two and one are spoilt; returns their files."""
    images = tiny_voc(tmp_path) / "VOC2007" / "JPEGImages"
    files = [images / f"{row:06d}.jpg" for row in (0, 4, 2)]
    kept = [file.read_bytes() for file in files]
    files[0].write_bytes(kept[0][:300])
    files[1].write_bytes(b"<html>404</html>")
    files[2].write_bytes(b"")
    return files


def test_bad_images_end_a_run_in_one_line_that_names_the_way_on(tmp_path, spoilt):
    for more in ((), ("--missing_images", "skip")):
        line = refusal(tmp_path, "main_BCE.py", *VOC, *ONE, *more)
        assert f"{spoilt[0].name} (row 0) is damaged (" in line
        assert "1 more of 15" in line
        assert "leave them out with --bad_images skip" in line


def test_bad_images_are_left_out_counted_and_listed(tmp_path, spoilt):
    said = succeed(tmp_path, "main_BCE.py", *VOC, *ONE, *SKIP, "--output", "run")
    assert "left out 2 of 15 training rows: image cannot be read" in said
    assert f"{spoilt[1].name} (row 3) is a web page, not the image" in said
    assert "left out 1 of 7 test rows: image cannot be read" in said
    assert "13 train, 6 test" in said
    again = succeed(tmp_path, "evaluate.py", "--load_from", "run/best.pth", "--json", "scores.json")
    assert "left out 1 of 7 test rows" in again
    assert json.loads((tmp_path / "scores.json").read_text())["test"] == result(tmp_path / "run")["test"]
    assert spoilt[2].name in refusal(tmp_path, "evaluate.py", "--load_from", "run/best.pth", "--bad_images", "error")


def test_a_label_file_of_the_whole_set_serves_what_is_left(tmp_path, spoilt):
    succeed(tmp_path, "generate_labels.py", *VOC, *DROPPED)
    command = ("main_BCE.py", *VOC, *DROPPED, *ONE, *SKIP)
    succeed(tmp_path, *command, "--output", "run")
    facts = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert not facts["label_file_made_now"]
    succeed(tmp_path, *command, "--epochs", "2", "--output", "longer", "--val_frac", "0.2")


def test_missing_and_bad_images_are_left_out_together(tmp_path, spoilt):
    spoilt[0].unlink()
    line = refusal(tmp_path, "main_BCE.py", *VOC, *ONE, *SKIP)
    assert "does not exist" in line
    assert "--missing_images skip" in line
    said = succeed(tmp_path, "main_BCE.py", *VOC, *ONE, *SKIP, "--missing_images", "skip", "--output", "run")
    assert "left out 1 of 15 training rows: image missing" in said
    assert "left out 1 of 14 training rows: image cannot be read" in said


def test_a_run_goes_on_without_them_and_notices_another(tmp_path, spoilt):
    command = ("main_CoNeS.py", *VOC, "--partial_rate", "0.1", *SMALL, "--warmup_epoch", "0", *SKIP, "--output", "run")
    succeed(tmp_path, *command, "--epochs", "1")
    other = spoilt[0].with_name("000003.jpg")
    kept = other.read_bytes()
    other.write_bytes(b"")
    done = run(tmp_path, *command, "--epochs", "2", "--resume")
    assert done.returncode == 2
    other.write_bytes(kept)


def test_inspection_notes_what_will_be_left_out(tmp_path, spoilt):
    look = ("inspect_data.py", *VOC, "--output", "look", "--samples", "2")
    assert run(tmp_path, *look).returncode == 1
    said = succeed(tmp_path, *look, *SKIP)
    assert "2 of 15 training rows will be left out: image cannot be read" in said
    report = json.loads((tmp_path / "look" / "report.json").read_text())
    assert report["usable"]
    assert report["splits"]["test"]["pictures"]["broken"] == 1
    for row in range(0, 22):
        spoilt[0].with_name(f"{row:06d}.jpg").write_bytes(b"")
    done = run(tmp_path, *look, *SKIP)
    assert done.returncode == 1
    assert "15 of 15 training images are broken" in done.stdout
