"""Files of a prediction, letter by letter; names of classes from a file; which files may be written."""

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from data.loading.eval_view import EvalView
from engine.prediction import command
from engine.prediction.command import PredictConfig, PredictionResults, as_csv, as_json, read_class_names
from engine.prediction.html import Page, Tile, contact_sheet
from engine.prediction.predictor import Label, Unreadable
from engine.prediction.sources import ImageFile
from utils.checks import UserError

SOURCES = [ImageFile(Path(f"a/{n}.png"), Path(str(n))) for n in range(3)]
RESULTS = PredictionResults(
    [
        (SOURCES[0], [Label("dog, big", 0.98765432, 1), Label("cat", 0.5, 0)]),
        (SOURCES[1], []),
        (SOURCES[2], [Label('an "owl"', 1e-7, 2)]),
    ],
    [],
    [Unreadable("b.png", "is empty")],
)


def test_json_has_every_image_with_scores_of_six_decimals():
    text = as_json(RESULTS, Path("best.pth"), ("cat", "dog, big"))
    assert text.endswith("}\n")
    assert text.startswith('{\n "load_from": "best.pth",\n')
    assert json.loads(text) == {
        "load_from": "best.pth",
        "classes": ["cat", "dog, big"],
        "pictures": [
            {"path": "a/0.png", "labels": [{"label": "dog, big", "score": 0.987654}, {"label": "cat", "score": 0.5}]},
            {"path": "a/1.png", "labels": []},
            {"path": "a/2.png", "labels": [{"label": 'an "owl"', "score": 0.0}]},
        ],
        "unreadable": [{"path": "b.png", "reason": "is empty"}],
    }


def test_csv_has_a_row_for_every_label():
    assert as_csv(RESULTS).splitlines() == [
        "path,rank,label,score",
        'a/0.png,1,"dog, big",0.987654',
        "a/0.png,2,cat,0.500000",
        'a/2.png,1,"an ""owl""",0.000000',
    ]


def names(tmp_path, content):
    (tmp_path / "names.txt").write_bytes(content)
    return read_class_names(tmp_path / "names.txt")


def test_names_of_classes_stand_one_in_a_line(tmp_path):
    assert read_class_names(None) == []
    assert names(tmp_path, b"\xef\xbb\xbf cat \r\ndog\n\n \n") == ["cat", "dog"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has no names; give one per line"),
        (b"\n \n", "has no names"),
        (b"a\n\nb\n", ", line 2: is empty"),
        (b"\na\n", ", line 1: is empty"),
        (b"a\nb\n a\n", ", line 3: a again, as in line 1"),
        (b"\xff", "cannot be read (no UTF-8 text)"),
    ],
)
def test_a_file_of_names_that_cannot_be_is_refused_by_line(tmp_path, content, words):
    with pytest.raises(UserError) as error:
        names(tmp_path, content)
    assert words in str(error.value)
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)"):
        read_class_names(tmp_path)


def checked(tmp_path, images=(), **files):
    every = {name: tmp_path / path for name, path in files.items()}
    command._check_files(PredictConfig(load_from=tmp_path / "best.pth", **every), [tmp_path / path for path in images])


def test_files_that_are_read_or_written_twice_or_nowhere_are_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    checked(tmp_path, ["a.png"], json="a.json", csv="folder/a.csv", html="a.html")
    for words, images, files in (
        ("--json .*: there is no folder .*gone; make it first", (), {"json": "gone/a.json"}),
        ("--csv .*: is a folder; name a file", (), {"csv": "folder"}),
        ("--html .*: is read by this command", ["a.png"], {"html": "a.png"}),
        ("--json .*: is read by this command", (), {"json": "folder/../best.pth"}),
        ("--csv .*: is read by this command", (), {"csv": "names.txt", "classes": "names.txt"}),
        ("--csv .*: is what --json writes", (), {"json": "a.txt", "csv": "folder/../a.txt"}),
    ):
        with pytest.raises(UserError, match=words):
            checked(tmp_path, images, **files)


@pytest.mark.parametrize(("folder", "fits"), [("in/maps", False), ("in", False), ("maps", True), ("input", True)])
def test_heat_maps_are_not_written_among_the_images(tmp_path, folder, fits):
    (tmp_path / "in").mkdir()
    paths = [tmp_path / "one.png", tmp_path / "in"]
    if fits:
        command._check_heatmaps(tmp_path / folder, paths)
    else:
        with pytest.raises(UserError, match="where the next call would take the heat maps for images"):
            command._check_heatmaps(tmp_path / folder, paths)


VIEW = EvalView(32, "crop", "unit", "pillow")


def test_a_tile_has_a_small_jpeg_and_none_where_the_file_has_gone(tmp_path):
    Image.new("RGB", (480, 120)).save(tmp_path / "a.png")
    tile = command._tile(ImageFile(tmp_path / "a.png", Path("a")), [Label("cat", 0.5, 0)], VIEW)
    assert (tile.size, tile.name, tile.description) == ((240, 60), str(tmp_path / "a.png"), f"{tile.name}: cat 0.50")
    small = io.BytesIO()
    Image.new("RGB", (240, 60)).save(small, "JPEG", quality=80)
    assert base64.b64decode(tile.thumbnail) == small.getvalue()
    gone = command._tile(ImageFile(tmp_path / "gone.png", Path("a")), [], VIEW)
    assert (gone.thumbnail, gone.size, gone.description) == ("", (1, 1), f"{tmp_path / 'gone.png'}: no label")


def test_the_statements_of_the_template_leave_no_lines_behind():
    tiles = [Tile("a.png", "/9j/", (4, 4), [Label("cat", 0.5, 0)]), Tile("b.png", "", (1, 1), [])]
    lines = contact_sheet(Page("best.pth", tiles, [Unreadable("c.png", "is empty")])).split("\n")
    assert [line for line in lines if line.strip() == "" and line] == []
    assert lines[-1] == ""
    assert sum(line == "" for line in lines) == contact_sheet(Page("best.pth", [], [])).split("\n").count("")
