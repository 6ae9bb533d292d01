"""Very many images: the same labels as any other way, in files that a kill at any moment does not change."""

import csv
import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.prediction import shards as room
from engine.prediction.command import predict_command
from engine.prediction.predictor import Predictor
from engine.prediction.shard_folder import ShardFolder
from engine.prediction.shards import ShardConfig, file_sha256, pace
from tests.engine.checkpoints import checkpoint, damaged, pixels
from utils.checks import UserError

COUNT = 11


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A checkpoint, 11 images of which two cannot be read, and a list of them."""
    folder = tmp_path_factory.mktemp("scene")
    checkpoint(folder / "best.pth", augment="none", size=24)
    (folder / "in").mkdir()
    for number in range(COUNT):
        pixels(number, 30, 26).save(folder / "in" / f"{number:02}.png")
    damaged(folder / "in" / "04.png")
    (folder / "in" / "07.png").write_bytes(b"")
    (folder / "list.txt").write_text("".join(f"{folder}/in/{number:02}.png\n" for number in range(COUNT)))
    return folder


def predict(scene, out, *words, images=("in",)):
    fixed = ("--load_from", scene / "best.pth", "--shards", out, "--device", "cpu", "--top", "2", "--batch_size", "2")
    return predict_command([str(word) for word in (*(scene / each for each in images), *fixed, *words)])


SMALL = ("--shard_size", "3", "--num_workers", "0")


@pytest.fixture(scope="module")
def whole(scene):
    """The files of a call that nobody disturbed."""
    assert predict(scene, scene / "whole", *SMALL) == 1
    return content(scene / "whole")


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows(folder, pattern):
    found = []
    for path in sorted(folder.glob(pattern)):
        header, *more = csv.reader(path.open())
        found += more
    return header, found


def test_shards_have_the_labels_of_any_other_way_and_list_what_cannot_be_read(scene, whole):
    folder = scene / "whole"
    assert sorted(whole) == [
        "images.txt",
        *(f"predictions-0000{number}.csv" for number in range(4)),
        "shards.json",
        *("unreadable-00001.csv", "unreadable-00002.csv"),
    ]
    paths, heard = [str(scene / "in" / f"{number:02}.png") for number in range(COUNT)], []
    expected = [
        [one.name, str(rank), label.name, f"{label.score:.6f}"]
        for one in Predictor.load(scene / "best.pth", device="cpu").predict(
            paths, batch_size=1, unreadable=heard.append
        )
        for rank, label in enumerate(one.labels(2), 1)
    ]
    header, found = rows(folder, "predictions-*.csv")
    assert header == ["path", "rank", "label", "score"]
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    for row, wanted in zip(found, expected, strict=True):
        assert float(row[3]) == pytest.approx(float(wanted[3]), abs=3e-6)
    assert rows(folder, "unreadable-*.csv") == (["path", "reason"], [list(each) for each in heard])
    per_file = [len({row[0] for row in rows(folder, f"predictions-0000{number}.csv")[1]}) for number in range(4)]
    assert per_file == [3, 2, 2, 2]


def test_a_list_makes_the_same_files(scene, whole, tmp_path):
    words = (*SMALL, "--image_list", scene / "list.txt")
    assert predict(scene, tmp_path / "out", *words, images=()) == 1
    assert content(tmp_path / "out") == whole


@pytest.mark.slow
def test_loader_processes_make_the_same_files(scene, whole, tmp_path):
    assert predict(scene, tmp_path / "out", *SMALL, "--num_workers", "2") == 1
    assert content(tmp_path / "out") == whole


WRITES = 8
"""Files of a call: the list, the recipe, four shards, before two of them lists of images that cannot be read."""


@pytest.mark.parametrize(
    "when", [pytest.param(n, marks=[] if n in (1, 4, 7) else pytest.mark.slow) for n in range(WRITES)]
)
def test_a_kill_before_or_behind_any_file_changes_nothing(scene, whole, tmp_path, monkeypatch, when):
    replace, renamed = Path.replace, []

    def killed(path, target):
        renamed.append(target)
        if len(renamed) == when + 1:
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        predict(scene, tmp_path / "out", *SMALL, "--resume")
    monkeypatch.setattr(Path, "replace", replace)
    assert predict(scene, tmp_path / "out", *SMALL, "--resume") == 1
    assert content(tmp_path / "out") == whole


def test_what_is_done_is_not_predicted_again(scene, whole, tmp_path, monkeypatch, capsys):
    predict(scene, tmp_path / "out", *SMALL)
    for number in (0, 3):
        (tmp_path / "out" / f"predictions-0000{number}.csv").unlink()
    capsys.readouterr()
    read, wanted = [], room.read_batches
    monkeypatch.setattr(room, "read_batches", lambda plan, todo, *more: read.append(todo) or wanted(plan, todo, *more))
    assert predict(scene, tmp_path / "out", *SMALL, "--resume") == 1
    assert content(tmp_path / "out") == whole
    assert predict(scene, tmp_path / "out", *SMALL, "--resume") == 1
    assert read == [{0, 3}]
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == f"going on in {tmp_path}/out: 6 of 11 images are done"
    assert [line.split(" (")[0] for line in lines[1:3]] == [
        f"written: {tmp_path}/out/predictions-0000{number}.csv" for number in (0, 3)
    ]
    assert lines[2].endswith("0:00:00 left)")
    assert lines[3:] == [
        f"9 of 11 images predicted in {tmp_path}/out",
        f"going on in {tmp_path}/out: 11 of 11 images are done",
        f"9 of 11 images predicted in {tmp_path}/out",
    ]
    assert err == 2 * f"2 of 11 images could not be read; they are listed in {tmp_path}/out/unreadable-*.csv\n"


def test_without_a_bad_image_all_is_well(scene, tmp_path):
    assert predict(scene, tmp_path / "out", "--threshold", "0.999", images=("in/00.png", "in/01.png")) == 0
    assert (tmp_path / "out" / "predictions-00000.csv").read_text() == "path,rank,label,score\n"
    assert sorted(content(tmp_path / "out")) == ["images.txt", "predictions-00000.csv", "shards.json"]


def test_parquet_has_the_same_rows(scene, whole, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert predict(scene, tmp_path / "out", *SMALL, "--shard_format", "parquet") == 1
    tables = [parquet.read_table(path).to_pylist() for path in sorted((tmp_path / "out").glob("*.parquet"))]
    found = [[row["path"], str(row["rank"]), row["label"], f"{row['score']:.6f}"] for rows in tables for row in rows]
    assert found == rows(scene / "whole", "predictions-*.csv")[1]


def test_what_was_begun_otherwise_is_refused_in_a_line(scene, whole, tmp_path):
    checkpoint(tmp_path / "other.pth", augment="none", size=24, model="scenenet", classes=tuple("abcde"))
    for words, expected in (
        (("--load_from", tmp_path / "other.pth"), "another checkpoint than --load_from"),
        (("--batch_size", "3"), "--batch_size 2, now 3"),
        (("--top", "3"), "--top 2, now 3"),
        (("--threshold", "0.1"), "no --threshold, now 0.1"),
        (("--shard_size", "4"), "--shard_size 3, now 4"),
        (("--shard_format", "parquet"), "--shard_format csv, now parquet"),
    ):
        with pytest.raises(UserError, match=f"was begun with {expected}; give what it was begun with"):
            predict(scene, scene / "whole", *SMALL, *words, "--resume")
    with pytest.raises(UserError, match=r"other images than those named now \(11, now 1\)"):
        predict(scene, scene / "whole", *SMALL, "--resume", images=("in/00.png",))
    (tmp_path / "names").write_text("a\nb\nc\nd\ne\n")
    with pytest.raises(UserError, match="other names of classes"):
        predict(scene, scene / "whole", *SMALL, "--resume", "--classes", tmp_path / "names")
    assert content(scene / "whole") == whole


@pytest.mark.parametrize(
    ("words", "images", "expected"),
    [
        (("--json", "a.json"), ("in",), "--json: takes memory or a file for each image; leave it out beside --shards"),
        (("--heatmaps", "maps"), ("in",), "--heatmaps: takes memory or a file for each image"),
        (("--image_list", "list.txt"), ("in",), "--image_list list.txt: lists all images; leave .*/in out"),
        (("--image_list", "gone.txt"), (), r"--image_list gone\.txt: cannot be read \(No such file"),
        (("--image_list", "empty.txt"), (), r"--image_list empty\.txt: lists no image; write one path in each line"),
        (("--image_list", "out/list.txt"), (), "--image_list out/list.txt: lies in --shards out; name another folder"),
        (("--export", "onnx", "--output", "m.onnx"), (), "--export onnx: predicts nothing; leave --shards out"),
        ((), (), "name an image, or a folder of images"),
        ((), ("best.pth", "gone"), "gone: no such file or folder"),
        (("--load_from", "list.txt"), ("in",), "list.txt"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(scene, tmp_path, monkeypatch, words, images, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n\r\n")
    (tmp_path / "list.txt").write_text("a.png\n")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=expected):
        predict(scene, "out", *words, images=images)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["image_list", "resume", "num_workers"])
def test_what_is_for_shards_alone_is_refused_without_them(name):
    values = {"image_list": Path("a"), "resume": True, "num_workers": 0}
    with pytest.raises(UserError, match=f"^--{name}: is for --shards"):
        ShardConfig(**{name: values[name]})
    ShardConfig(**{name: values[name]}, shards=Path("out"))


def test_lines_of_a_list_are_paths_whatever_ends_them(scene, tmp_path):
    lines = (scene / "list.txt").read_bytes().splitlines()[:2]
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + lines[0] + b"\r\n\n" + lines[1])
    assert predict(scene, tmp_path / "out", "--image_list", tmp_path / "list.txt", images=()) == 0
    assert (tmp_path / "out" / "images.txt").read_bytes().splitlines() == lines


@pytest.mark.parametrize(
    ("images", "seconds", "left", "words"),
    [
        (10, 2.0, 0, "5 images/s, 0:00:00 left"),
        (1000, 0.7, 1_000_000, "1.43e+03 images/s, 0:11:40 left"),
        (1, 4.0, 3599, "0.25 images/s, 3:59:56 left"),
        (1, 0.0, 1, "1e+09 images/s, 0:00:00 left"),
    ],
)
def test_the_pace_is_told_with_the_time_that_is_left(images, seconds, left, words):
    assert pace(images, seconds, left) == words


def test_the_hash_of_a_file_is_that_of_all_its_bytes(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(bytes(range(256)) * 3)
    for block in (1, 100, 768, 1 << 20):
        monkeypatch.setattr(room, "_BLOCK", block)
        assert file_sha256(tmp_path / "a") == hashlib.sha256(bytes(range(256)) * 3).hexdigest()


def test_unreadable_names_of_several_lines_count_once(tmp_path, capsys):
    folder = ShardFolder(tmp_path, "csv")
    (tmp_path / "unreadable-00000.csv").write_bytes(b'path,reason\n"a\n\xff.png",is empty\n')
    assert room._told(folder, 3) == 1
    assert capsys.readouterr().out == f"2 of 3 images predicted in {tmp_path}\n"


@pytest.mark.parametrize(("gpu", "given", "expected"), [(False, None, 0), (True, None, 5), (False, 3, 3)])
def test_a_gpu_has_loader_processes_unless_said_otherwise(monkeypatch, tmp_path, gpu, given, expected):
    asked = []
    monkeypatch.setattr("data.loading.loader._cores", lambda: 5)
    monkeypatch.setattr(room, "read_batches", lambda plan, todo, view, workers: asked.append(workers) or iter(()))
    predictor = SimpleNamespace(view=SimpleNamespace(img_size=24), on_gpu=gpu)
    job = room.ShardJob(predictor=predictor, images=[], labels=list, batch_size=2, recipe={})
    plan = room.ShardPlan(tmp_path / "images.txt", 1, 3, 2)
    config = ShardConfig(shards=tmp_path, num_workers=given)
    room._write_missing(job, ShardFolder(tmp_path, "csv"), plan, 3, config)
    assert asked == [expected]
