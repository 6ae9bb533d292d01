"""`predict.py` as a user runs it: images in, labels out, in every form; and what it refuses."""

import contextlib
import csv
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from engine.prediction.predictor import Predictor
from tests.commands.scene import ROOT, SMALL, refusal, run, succeed, tiny_voc
from tests.engine.checkpoints import CLASSES, checkpoint, damaged, every_kind, pixels
from tests.engine.prediction.test_html import Read

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "predicting.md").read_text(), re.DOTALL)


@pytest.fixture
def folder(tmp_path):
    """`best.pth`, and images of every kind under `photos`, two of them in a folder below."""
    checkpoint(tmp_path / "best.pth", augment="resize-crop", normalize="imagenet")
    every_kind(tmp_path / "photos")
    below = tmp_path / "photos" / "below"
    below.mkdir()
    for name in ("turned.jpg", "grey.jpg"):
        (tmp_path / "photos" / name).rename(below / name)
    (tmp_path / "photos" / "notes.txt").write_text("not an image")
    return tmp_path


def predict(folder, *words):
    return succeed(folder, "predict.py", "--load_from", "best.pth", "--device", "cpu", *words)


def expected(folder, top=5):
    """Path -> the labels that the Python interface gives."""
    paths = sorted(str(one.relative_to(folder)) for one in (folder / "photos").rglob("*.*") if one.suffix != ".txt")
    with contextlib.chdir(folder):
        found = Predictor.load("best.pth", device="cpu").predict(paths, batch_size=1)
        return {one.name: one.labels(top) for one in found}


def test_a_trained_run_labels_images(tmp_path):
    devkit = tiny_voc(tmp_path)
    words = ["--dataset", "voc07", "--path_images", devkit, *SMALL, "--epochs", "1", "--warmup_epoch", "0"]
    succeed(tmp_path, "main_BCE.py", *words, "--output", "run")
    image = devkit / "VOC2007" / "JPEGImages" / "000002.jpg"
    out = succeed(tmp_path, "predict.py", image, "--load_from", "run/best.pth", "--top", "20")
    (line,) = out.splitlines()
    scores = dict(re.findall(r"(\w+) (\d\.\d{3})", line.removeprefix(f"{image}: ")))
    (found,) = Predictor.load(tmp_path / "run" / "best.pth", device="cpu").predict([image])
    assert len(scores) == 20
    for name, score in zip(found.classes, found.scores.tolist(), strict=True):
        assert float(scores[name]) == pytest.approx(score, abs=6e-4)


def test_labels_are_printed_and_written_alike(folder):
    out = predict(folder, "photos", "--json", "l.json", "--csv", "l.csv", "--top", "3", "--batch_size", "4")
    wanted = expected(folder, 3)
    content = json.loads((folder / "l.json").read_text())
    assert content["load_from"] == "best.pth"
    assert content["classes"] == list(CLASSES)
    assert content["unreadable"] == []
    assert sorted(one["path"] for one in content["pictures"]) == sorted(wanted)
    for one in content["pictures"]:
        assert [label["label"] for label in one["labels"]] == [label.name for label in wanted[one["path"]]]
        scores = [label.score for label in wanted[one["path"]]]
        assert [label["score"] for label in one["labels"]] == pytest.approx(scores, abs=1e-5)
    rows = list(csv.DictReader((folder / "l.csv").open(newline="")))
    assert [(row["path"], row["label"]) for row in rows] == [
        (one["path"], label["label"]) for one in content["pictures"] for label in one["labels"]
    ]
    assert [int(row["rank"]) for row in rows[:4]] == [1, 2, 3, 1]
    lines = [line for line in out.splitlines() if line.startswith("photos/")]
    assert [line.split(": ")[0] for line in lines] == [one["path"] for one in content["pictures"]]
    assert [one["path"] for one in content["pictures"]][-2:] == ["photos/below/grey.jpg", "photos/below/turned.jpg"]
    assert "skipped 1 files that are no images" in out


def test_threshold_leaves_labels_out(folder):
    wanted = expected(folder)
    best = np.array(sorted(label.score for labels in wanted.values() for label in labels)[-8:])  # of ten images
    widest = np.diff(best).argmax()
    score = best[widest : widest + 2].mean()  # no score is near it
    out = predict(folder, "photos", "--threshold", score, "--json", "l.json", "--html", "l.html", "--csv", "l.csv")
    found = {one["path"]: one["labels"] for one in json.loads((folder / "l.json").read_text())["pictures"]}
    assert {path: len(labels) for path, labels in found.items()} == {
        path: sum(label.score >= score for label in labels) for path, labels in wanted.items()
    }
    assert out.count(": no label\n") == sum(not labels for labels in found.values()) > 0
    assert len((folder / "l.csv").read_text().splitlines()) == 1 + sum(map(len, found.values()))
    assert len(Read((folder / "l.html").read_text()).tiles) == len(wanted)


def test_the_page_has_every_image(folder):
    predict(folder, "photos", "--html", "l.html", "--top", "2")
    read = Read((folder / "l.html").read_text())
    wanted = expected(folder, 2)
    assert {one["name"]: [name for name, _ in one["labels"]] for one in read.tiles} == {
        path: [label.name for label in labels] for path, labels in wanted.items()
    }
    assert all(one["image"]["src"].startswith("data:image/jpeg;base64,") for one in read.tiles)


@pytest.mark.parametrize("head", ["linear", "ctran"])
def test_heat_maps_are_drawn_for_the_best_labels(folder, head):
    checkpoint(folder / "best.pth", head=head)
    predict(folder, "photos", "--heatmaps", "maps/new", "--heatmap_top", "2")
    found = sorted(str(one.relative_to(folder / "maps" / "new")) for one in (folder / "maps" / "new").rglob("*.jpg"))
    wanted = expected(folder)
    assert len(found) == 2 * len(wanted)
    name = re.compile(r"below/turned-1-([a-z]+)-(0\.\d{3})\.jpg")
    (match,) = filter(None, map(name.fullmatch, found))
    best = wanted["photos/below/turned.jpg"][0]
    assert match.group(1) == best.name
    assert float(match.group(2)) == pytest.approx(best.score, abs=6e-4)
    drawn = np.asarray(Image.open(folder / "maps" / "new" / match.group()).convert("RGB")).astype(int)
    assert np.ptp(drawn, axis=2).max() > 60  # somewhere it is hot


def test_damaged_images_are_named_and_the_others_predicted(folder):
    damaged(folder / "photos" / "cut.jpg")
    (folder / "photos" / "empty.png").write_bytes(b"")
    done = run(folder, "predict.py", "photos", "--load_from", "best.pth", "--json", "l.json", "--html", "l.html")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert [line.split(": ")[0] for line in lines[:2]] == ["photos/cut.jpg", "photos/empty.png"]
    assert lines[2:] == ["2 of 12 images could not be read"]
    content = json.loads((folder / "l.json").read_text())
    assert [one["path"] for one in content["unreadable"]] == ["photos/cut.jpg", "photos/empty.png"]
    assert len(content["pictures"]) == 10
    read = Read((folder / "l.html").read_text())
    assert len(read.tiles) == 10
    assert "2 could not be read" in read.text


def test_any_name_goes_through(folder):
    odd = [b"new\nline.jpg", b"\xff\xfe.jpg", b'comma, "quote".jpg', "ü <b>.jpg".encode()]
    names = [one.decode("utf-8", "surrogateescape") for one in odd]
    (folder / "odd").mkdir()
    for name in names:
        pixels(1).save(folder / "odd" / name)
    out = predict(folder, "odd", "--json", "l.json", "--csv", "l.csv", "--html", "l.html", "--heatmaps", "maps")
    assert len([line for line in out.splitlines() if line.startswith("odd/")]) == 4
    content = json.loads((folder / "l.json").read_text())
    assert sorted(one["path"] for one in content["pictures"]) == sorted(f"odd/{name}" for name in names)
    text = (folder / "l.csv").read_bytes().decode("utf-8", "surrogateescape")
    assert {row["path"] for row in csv.DictReader(io.StringIO(text, newline=""))} == {f"odd/{name}" for name in names}
    assert len(Read((folder / "l.html").read_text()).tiles) == 4
    assert len(list((folder / "maps").iterdir())) == 12


def test_class_names_come_from_a_file(folder):
    (folder / "names.txt").write_text("\ufeffeins\nzwei\ndrei\nvier\nfünf\n\n")
    predict(folder, "photos", "--classes", "names.txt", "--json", "l.json")
    assert json.loads((folder / "l.json").read_text())["classes"] == ["eins", "zwei", "drei", "vier", "fünf"]


def test_flags_and_paths_stand_in_any_order(folder):
    words = ["--load_from", "best.pth", "--top=1", "photos/one.bmp", "--device", "cpu", "photos/alpha.png"]
    out = succeed(folder, "predict.py", *words)
    assert [line.split(": ")[0] for line in out.splitlines()] == ["photos/one.bmp", "photos/alpha.png"]


def test_earlier_files_are_replaced(folder):
    (folder / "l.json").write_text("old")
    predict(folder, "photos/one.bmp", "--json", "l.json")
    assert len(json.loads((folder / "l.json").read_text())["pictures"]) == 1


@pytest.mark.parametrize(
    "words, said",
    [
        ([], ["name an image"]),
        (["nowhere.jpg"], ["nowhere.jpg", "no such file"]),
        (["photos/below", "--top", "0"], ["--top 0"]),
        (["photos", "--threshold", "1.5"], ["--threshold 1.5"]),
        (["photos", "--batch_size", "0"], ["--batch_size 0"]),
        (["photos", "--json", "none/l.json"], ["--json none/l.json", "there is no folder none"]),
        (["photos", "--csv", "photos"], ["--csv photos", "is a folder"]),
        (["photos", "--html", "photos/one.bmp"], ["--html photos/one.bmp", "would be lost"]),
        (["photos", "--json", "best.pth"], ["--json best.pth", "would be lost"]),
        (["photos", "--json", "x", "--csv", "./x"], ["--csv x", "what --json writes"]),
        (["photos", "--heatmaps", "photos/maps"], ["--heatmaps photos/maps", "lies in photos"]),
        (["photos", "--heatmaps", "best.pth"], ["--heatmaps best.pth", "cannot be made"]),
        (["photos", "--classes", "gone.txt"], ["--classes gone.txt", "cannot be read"]),
        (["photos", "--classes", "photos/notes.txt"], ["1 names", "5 classes"]),
        (["photos", "--export", "onnx", "--output", "m.onnx"], ["--export onnx", "leave photos out"]),
        (["--export", "onnx"], ["--export onnx", "--output"]),
        (["photos", "--output", "m"], ["--output m", "is for --export"]),
        (["--export", "pt2", "--output", "best.pth"], ["--output best.pth", "would be lost"]),
        (["--export", "tflite", "--output", "m"], ["tflite", "onnx, torchscript, pt2"]),
        (["photos", "--heatmap", "maps"], ["--heatmap", "--heatmaps"]),
    ],
)
def test_mistakes_are_refused_in_one_line(folder, words, said):
    before = sorted(folder.rglob("*"))
    line = refusal(folder, "predict.py", "--load_from", "best.pth", *words)
    for word in said:
        assert word in line
    assert sorted(set(folder.rglob("*")) - {folder / "cache"}) == before


@pytest.mark.parametrize(
    "text, said",
    [("", "has no names"), ("a\n\nb\nc\nd", "line 2: is empty"), ("a\nb\na\nc\nd", "line 3: a again, as in line 1")],
)
def test_a_file_of_class_names_must_be_sound(folder, text, said):
    (folder / "names.txt").write_text(text)
    assert said in refusal(folder, "predict.py", "photos", "--load_from", "best.pth", "--classes", "names.txt")


def test_a_link_to_itself_is_a_file_that_cannot_be_read(folder):
    (folder / "loop.pth").symlink_to("loop.pth")
    (folder / "photos" / "loop.png").symlink_to("loop.png")
    line = refusal(folder, "predict.py", "photos", "--load_from", "loop.pth", "--json", "labels.json")
    assert "loop.pth: cannot be read" in line
    done = run(folder, "predict.py", "photos", "--load_from", "best.pth", "--json", "labels.json")
    assert done.returncode == 1
    assert "loop.png" in done.stderr
    (folder / "loop.pth").unlink()
    (folder / "photos" / "loop.png").unlink()


def test_other_files_are_no_checkpoints(folder):
    assert "--load_from" in refusal(folder, "predict.py", "photos")
    assert "notes.txt" in refusal(folder, "predict.py", "photos", "--load_from", "photos/notes.txt")


def test_help_says_what_it_takes(folder):
    done = run(folder, "predict.py", "--help")
    assert done.returncode == 0
    assert "name images, and folders of images" in done.stdout
    assert "--heatmaps" in done.stdout


def test_what_the_page_says_about_python_works_as_it_stands(folder):
    (folder / "runs" / "my").mkdir(parents=True)
    (folder / "best.pth").rename(folder / "runs" / "my" / "best.pth")
    for name in ("a", "b"):
        pixels(5).save(folder / "photos" / f"{name}.jpg")
    loop = BLOCKS[0]
    assert sum(bool(line) for line in loop.splitlines()) == 5
    printed = executed(folder, loop)
    assert [line.split()[0] for line in printed.splitlines()] == 3 * ["photos/a.jpg"] + 3 * ["photos/b.jpg"]


@pytest.mark.slow
def test_what_the_page_says_about_exported_files_works_as_it_stands(folder):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    pixels(5).save(folder / "photos" / "a.jpg")
    for kind in ("onnx", "torchscript", "pt2"):
        out = predict(folder, "--export", kind, "--output", f"model.{kind}")
        assert "logits differ from torch's by" in out
    onnx, *names = BLOCKS[1:]
    printed = executed(folder, onnx)
    predict(folder, "photos/a.jpg", "--json", "l.json")
    (wanted,) = json.loads((folder / "l.json").read_text())["pictures"]
    found = {
        name: float(score) for name, score in re.findall(r"'(\w+)': [^0-9]*([\d.e-]+)", printed.replace("float32", ""))
    }
    assert found == pytest.approx({one["label"]: one["score"] for one in wanted["labels"]}, abs=1e-4)
    assert len(names) == 3
    for block in names:
        assert sum(bool(line) for line in block.splitlines()) <= 3
        assert executed(folder, block + "\nprint(names)") == f"{list(CLASSES)}\n"


def executed(folder, code):
    """What a block of the page prints, run from `folder`."""
    out = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out):
        exec(compile(code, "docs/predicting.md", "exec"), {})
    return out.getvalue()
