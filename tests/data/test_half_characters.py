"""Names of classes with half a character, which files in json and yaml can hold: one line, which can be printed."""

import json

import pytest

from data.build import DatasetConfig, load_splits
from tests.faults import kinds
from utils.checks import UserError
from utils.console import printable

HALF = "\ud83d"


def lines(folder, *labels):
    rows = [{"image": f"{n}.jpg", "labels": label} for n, label in enumerate(labels * 4)]
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"table": (folder / "t.jsonl",)}


def table(folder, *cells):
    rows = [f'{n}.jpg,"{cell.replace(chr(34), chr(34) * 2)}"\n' for n, cell in enumerate(cells * 4)]
    (folder / "t.csv").write_text("image,labels\n" + "".join(rows))
    return {"table": (folder / "t.csv",)}


def titles(folder):
    rows = [{"image": f"{n}.jpg", f"cat{HALF}": n % 2, "dog": 1} for n in range(8)]
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"table": (folder / "t.jsonl",)}


def detection(folder):
    kinds.own_json(folder)
    content = json.loads((folder / "t.json").read_text())
    content["categories"][0]["name"] = HALF
    (folder / "t.json").write_text(json.dumps(content))
    return {"table": (folder / "t.json",)}


def export(folder):
    for part in ("images", "labels"):
        (folder / "e" / part).mkdir(parents=True)
    for n in range(8):
        (folder / "e" / "images" / f"{n}.jpg").touch()
        (folder / "e" / "labels" / f"{n}.txt").write_text(f"{n % 2} .5 .5 .1 .1\n")
    (folder / "e" / "data.yaml").write_text('names: ["a\\uD83D", b]\n')
    return {"table": (folder / "e",)}


def hierarchy(folder):
    (folder / "h.json").write_text(json.dumps({"LabelName": HALF, "Subcategory": [{"LabelName": HALF}]}))
    return {**table(folder, "cat", "dog"), "hierarchy": folder / "h.json"}


FORMS = {
    "a text in a line": lambda folder: lines(folder, f"cat{HALF}", "dog"),
    "a list in a line": lambda folder: lines(folder, ["cat", f"{HALF}dog"], ["dog"]),
    "the other half": lambda folder: lines(folder, "\udc31", "dog"),
    "a list in a cell": lambda folder: table(folder, '["cat", "d\\ud83dg"]', '["cat"]'),
    "choices in a cell": lambda folder: table(folder, '{"choices": ["cat", "\\ud83d"]}', '["cat"]'),
    "a title": titles,
    "a category": detection,
    "the names of an export": export,
    "a hierarchy": hierarchy,
}


@pytest.mark.parametrize("form", FORMS)
def test_half_a_character_is_refused_in_a_line_that_can_be_printed(tmp_path, form):
    config = DatasetConfig(dataset="table", path_images=tmp_path, cache_dir=tmp_path / "c", **FORMS[form](tmp_path))
    with pytest.raises(UserError) as error:
        load_splits(config, 0, need_images=False)
    assert str(error.value).count("\n") == 0
    printable(str(error.value)).encode("utf-8")
