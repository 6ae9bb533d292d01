"""The folder of shards: begun, gone on with, refused."""

import json

import pytest

from engine.prediction import shard_folder as room
from engine.prediction.image_list import mark_of
from engine.prediction.predictor import Unreadable
from engine.prediction.shard_folder import ShardFolder
from utils.checks import RunError, UserError

RECIPE = {"checkpoint": "ab", "classes": ["cat", "dog"], "decoder": "pillow", "top": 5, "threshold": 0.5}
IMAGES = ["a.png", "b.png", "c.png"]


def begun(path, recipe=RECIPE, images=IMAGES):
    ShardFolder(path, "csv").open(recipe, images, resume=False)
    folder = ShardFolder(path, "csv")
    (path / ".lock").unlink()
    return folder


def names(path):
    return sorted(each.name for each in path.iterdir())


def test_a_folder_is_begun_with_its_images_and_its_recipe(tmp_path):
    path = tmp_path / "new" / "out"
    folder = ShardFolder(path, "parquet")
    mark = folder.open(RECIPE, IMAGES, resume=False)
    assert mark == mark_of(IMAGES)
    assert names(path) == [".lock", "images.txt", "shards.json"]
    assert (path / "images.txt").read_text() == "a.png\nb.png\nc.png\n"
    text = (path / "shards.json").read_text()
    assert json.loads(text) == {**RECIPE, "images": {"images": 3, "sha256": mark.sha256}}
    assert text.endswith("}\n")
    assert folder.file(12) == path / "predictions-00012.parquet"
    folder.close()
    assert names(path) == ["images.txt", "shards.json"]


@pytest.mark.parametrize("resume", [True, False])
def test_nothing_and_what_is_left_of_a_list_are_begun_in(tmp_path, resume):
    for leftover in ("images.txt", ".images.txt.12.tmp", ".DS_Store"):
        (tmp_path / leftover).write_text("x")
    ShardFolder(tmp_path, "csv").open(RECIPE, IMAGES, resume=resume)
    assert names(tmp_path) == [".DS_Store", ".lock", "images.txt", "shards.json"]
    assert (tmp_path / "images.txt").read_text() == "a.png\nb.png\nc.png\n"


def test_a_finished_shard_stays_and_the_others_are_to_do(tmp_path):
    folder = begun(tmp_path)
    folder.open(RECIPE, IMAGES, resume=True)
    bad = [Unreadable("b\n.png", "is empty, odd")]
    folder.write(1, b"content", bad)
    assert folder.unfinished(3) == [0, 2]
    assert (tmp_path / "predictions-00001.csv").read_bytes() == b"content"
    assert (tmp_path / "unreadable-00001.csv").read_text() == 'path,reason\n"b\n.png","is empty, odd"\n'
    assert folder.unreadable_files() == [tmp_path / "unreadable-00001.csv"]
    folder.write(1, b"other", [])
    assert (tmp_path / "predictions-00001.csv").read_bytes() == b"other"
    assert folder.unreadable_files() == []


def test_images_that_cannot_be_read_are_listed_before_their_shard_is_there(tmp_path, monkeypatch):
    folder = begun(tmp_path)

    def refused(path, write):
        raise RunError(f"{path}: cannot be written")

    monkeypatch.setattr(room, "write_atomically", refused)
    with pytest.raises(RunError):
        folder.write(0, b"content", [Unreadable("a", "is empty")])
    assert names(tmp_path) == ["images.txt", "shards.json", "unreadable-00000.csv"]


def test_half_written_files_are_removed(tmp_path):
    folder = begun(tmp_path)
    for name in (".predictions-00001.csv.7.tmp", ".unreadable-00001.csv.7.tmp", ".shards.json.7.tmp", ".lock.7.tmp"):
        (tmp_path / name).write_text("half")
    folder.open(RECIPE, IMAGES, resume=True)
    assert names(tmp_path) == [".lock", "images.txt", "shards.json"]


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("a.png\nx.png\n")])
def test_a_list_that_was_lost_or_changed_is_written_again(tmp_path, damage):
    folder = begun(tmp_path)
    damage(tmp_path / "images.txt")
    folder.open(RECIPE, IMAGES, resume=True)
    assert (tmp_path / "images.txt").read_text() == "a.png\nb.png\nc.png\n"


ADVICE = "; give what it was begun with, or name another folder"


@pytest.mark.parametrize(
    ("changed", "images", "words"),
    [
        ({"checkpoint": "cd"}, IMAGES, "another checkpoint than --load_from"),
        ({"classes": ["cat", "owl"]}, IMAGES, "other names of classes"),
        ({"top": 3}, IMAGES, "--top 5, now 3"),
        ({"new": None}, IMAGES[:2], "other images than those named now (3, now 2)"),
        ({}, IMAGES[::-1], "other images than those named now (3, now 3)"),
    ],
)
def test_what_would_predict_otherwise_is_refused_in_a_line(tmp_path, changed, images, words):
    folder = begun(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError) as error:
        folder.open({**RECIPE, **changed}, images, resume=True)
    assert str(error.value) == f"--resume: {tmp_path} was begun with {words}{ADVICE}"
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_images_are_not_looked_for_where_something_else_differs(tmp_path):
    folder = begun(tmp_path)
    with pytest.raises(UserError, match="--top"):
        folder.open({**RECIPE, "top": 1}, (1 // 0 for _ in "a"), resume=True)


@pytest.mark.parametrize("content", ["{", "[1]", "[" * 100_000, ""])
def test_a_damaged_recipe_is_named(tmp_path, content):
    folder = begun(tmp_path)
    (tmp_path / "shards.json").write_text(content)
    with pytest.raises(UserError, match=r"shards\.json: damaged; remove the folder, or name another folder$"):
        folder.open(RECIPE, IMAGES, resume=True)


def test_an_odd_recipe_differs(tmp_path):
    folder = begun(tmp_path)
    (tmp_path / "shards.json").write_text(json.dumps({**RECIPE, "images": 4}))
    with pytest.raises(UserError, match=r"other images than those named now \(None, now 3\)"):
        folder.open(RECIPE, IMAGES, resume=True)


def test_folders_of_others_are_refused_and_left_as_they_are(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    for name in ("b.txt", "a.txt", ".hidden"):
        (tmp_path / "full" / name).write_text("x")
    begun(tmp_path / "begun")
    for path, words in (
        ("file", "file: is a file"),
        ("full", "full: has other files (a.txt); name another folder"),
        ("begun", "begun: has predictions; go on with them by --resume, or name another folder"),
    ):
        with pytest.raises(UserError) as error:
            ShardFolder(tmp_path / path, "csv").open(RECIPE, IMAGES, resume=False)
        assert str(error.value) == f"--shards {tmp_path}/{words}"
    assert names(tmp_path / "full") == [".hidden", "a.txt", "b.txt"]


def test_a_folder_in_use_is_refused_by_its_flag(tmp_path):
    folder = ShardFolder(tmp_path / "out", "csv")
    folder.open(RECIPE, IMAGES, resume=False)
    with pytest.raises(UserError, match=r"^--shards .*out is in use by another run \(process \d+"):
        ShardFolder(tmp_path / "out", "csv").open(RECIPE, IMAGES, resume=True)
    assert (tmp_path / "out" / ".lock").exists()
    (tmp_path / "out" / ".lock").write_text("of another")
    with pytest.raises(RunError, match="taken by another run"):
        folder.write(0, b"", [])


def test_a_folder_made_for_nothing_goes_again(tmp_path):
    def none():
        raise UserError("no images")
        yield

    with pytest.raises(UserError, match="no images"):
        ShardFolder(tmp_path / "new", "csv").open(RECIPE, none(), resume=True)
    (tmp_path / "old").mkdir()
    with pytest.raises(UserError, match="no images"):
        ShardFolder(tmp_path / "old", "csv").open(RECIPE, none(), resume=True)
    assert names(tmp_path) == ["old"]
    assert names(tmp_path / "old") == []
