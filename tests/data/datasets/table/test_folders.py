import json

import numpy as np
import pytest

from data.datasets.source import DatasetSource
from data.datasets.table.config import TableConfig
from data.datasets.table.folders import is_yolo, read_folders, read_names, read_yolo
from data.datasets.table.reader import load_table
from data.files.cache import Cache
from tests.data.trees import picture
from utils.checks import UserError


def images(folder, *names):
    for name in names:
        picture(folder / name)
    return folder


def by_image(labels):
    return {
        image: [name for name, code in zip(labels.classes, row, strict=True) if code == 1]
        for image, row in zip(labels.ids, labels.codes.tolist(), strict=True)
    }


def own(path, tmp_path, **more):
    return DatasetSource(path, tmp_path, 0, Cache(tmp_path / "cache"), True, TableConfig(**more))


def test_all_folders_between_are_classes(tmp_path, capsys):
    images(
        tmp_path / "im", "cat/1.jpg", "cat/black/2.JPG", "dog/3.png", "4.jpg", "cat/.hidden/5.jpg", "dog/notes.txt.jpg"
    )
    found = read_folders(tmp_path / "im", None)
    assert by_image(found) == {
        "4.jpg": [],
        "cat/1.jpg": ["cat"],
        "cat/black/2.JPG": ["black", "cat"],
        "dog/3.png": ["dog"],
        "dog/notes.txt.jpg": ["dog"],
    }
    assert "1 images are in no folder of a class; they show none" in found.notes[1]


def test_a_name_of_a_folder_may_hold_several_classes(tmp_path):
    images(tmp_path, "cat_dog/1.jpg", "dog/2.jpg", "cat, bird/3.jpg")
    assert by_image(read_folders(tmp_path, "_"))["cat_dog/1.jpg"] == ["cat", "dog"]
    assert read_folders(tmp_path, None).classes == ("cat, bird", "cat_dog", "dog")
    assert len(read_folders(tmp_path, None).notes) == 1
    images(tmp_path, "a;b/4.jpg")
    assert "a;b" in read_folders(tmp_path, "_").classes
    with pytest.raises(UserError, match="folder a;b: class 'a;b' holds the separator ';'"):
        read_folders(tmp_path, None)


@pytest.mark.parametrize("tops", [("train", "test"), ("Training", "Testing"), ("train", "val")])
def test_folders_called_like_splits_at_the_top_are_splits(tmp_path, tops):
    images(tmp_path / "im", *(f"{top}/{name}/{n}.jpg" for top in tops for name in ("cat", "dog") for n in range(2)))
    splits = load_table(own(tmp_path / "im", tmp_path, labels_from="folders"))
    assert splits.train.classes == ("cat", "dog")
    assert {one.split("/")[0] for one in splits.train.ids} == {tops[0]}
    assert {one.split("/")[0] for one in splits.test.ids} == {tops[1]}
    assert not splits.held_out
    assert splits.train.images.missing().tolist() == []


def test_without_splits_some_are_held_out(tmp_path):
    images(tmp_path / "im", *(f"{name}/{n}.jpg" for name in ("cat", "dog") for n in range(10)))
    source = own(tmp_path / "im", tmp_path, labels_from="folders")
    splits = load_table(source)
    assert (len(splits.train), len(splits.test)) == (16, 4)
    assert splits.held_out


@pytest.mark.parametrize("names", [(), ("a.jpg", "b.jpg")])
def test_folders_that_name_no_class(tmp_path, names):
    images(tmp_path, *names)
    with pytest.raises(UserError, match="no image there or below" if not names else "in no folder whose name could be"):
        read_folders(tmp_path, None)


def test_two_places_of_labels_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"--labels_from folders: takes the labels from names of folders, not from"):
        TableConfig(labels_from="folders", table=(tmp_path / "t.csv",))


def yolo(folder, names="names: [cat, dog]\n"):
    images(folder, "images/train/1.jpg", "images/train/2.png", "images/val/3.jpg", "images/val/sub/4.jpg")
    lines = {
        "train/1": "0 .5 .5 .1 .1\n1 .2 .2 .1 .1\n0 .1 .1 .1 .1\n",
        "train/2": "",
        "val/sub/4": "1 0.1 0.2 0.3 0.4 0.5 0.6\n",
    }
    for name, text in lines.items():
        (folder / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "labels" / f"{name}.txt").write_text(text)
    (folder / "data.yaml").write_text(names)
    return folder


@pytest.mark.parametrize(
    "names", ["names: [cat, dog]\n", "names:\n  0: cat\n  1: dog\n", "nc: 2\nnames: {1: dog, 0: cat}\n"]
)
def test_an_export_of_yolo(tmp_path, names):
    found = read_yolo(yolo(tmp_path / "y", names))
    assert found.classes == ("cat", "dog")
    assert by_image(found) == {
        "images/train/1.jpg": ["cat", "dog"],
        "images/train/2.png": [],
        "images/val/3.jpg": [],
        "images/val/sub/4.jpg": ["dog"],
    }
    assert "1 of 4 images have no label file" in found.notes[0]
    splits = load_table(own(tmp_path / "y", tmp_path, table=(tmp_path / "y",)))
    assert (splits.train.ids, splits.test.ids) == (
        ("images/train/1.jpg", "images/train/2.png"),
        ("images/val/3.jpg", "images/val/sub/4.jpg"),
    )
    assert [part.images.missing().tolist() for part in splits[:2]] == [[], []]
    np.testing.assert_array_equal(splits.train.truth.dense(), [[1, 1], [0, 0]])


def test_an_export_of_yolo_with_folders_of_splits(tmp_path):
    for split, n in (("train", 1), ("train", 2), ("valid", 3)):
        images(tmp_path / "y", f"{split}/images/{n}.jpg")
        (tmp_path / "y" / split / "labels").mkdir(exist_ok=True)
        (tmp_path / f"y/{split}/labels/{n}.txt").write_text(f"{n % 2} .5 .5 .1 .1\n")
    (tmp_path / "y/data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnames: [cat, dog]\n")
    splits = load_table(own(tmp_path / "y", tmp_path, table=(tmp_path / "y",)))
    assert splits.train.ids == ("train/images/1.jpg", "train/images/2.jpg")
    assert splits.train.truth.dense().tolist() == [[0, 1], [1, 0]]
    assert (splits.test.ids, splits.test.truth.dense().tolist()) == (("valid/images/3.jpg",), [[0, 1]])


@pytest.mark.parametrize("other", [None, "obj_valid_data"])
def test_an_export_with_labels_beside_the_images(tmp_path, other):
    folders = ["obj_train_data", "obj_train_data", other or "obj_train_data"]
    for n, folder in enumerate(folders):
        images(tmp_path / "y", f"{folder}/{n}.jpg")
        (tmp_path / f"y/{folder}/{n}.txt").write_text(f"{n % 2} .5 .5 .1 .1\n")
    (tmp_path / "y/obj.names").write_text("cat\ndog\n")
    found = read_yolo(tmp_path / "y")
    assert found.codes.tolist() == [[1, 0], [0, 1], [1, 0]]
    assert found.splits.tolist() == ([0, 0, 1] if other else [-1, -1, -1])


def test_one_folder_called_like_a_split_is_no_split(tmp_path):
    images(tmp_path / "im", *(f"train/{name}/{n}.jpg" for name in ("cat", "dog") for n in range(5)))
    splits = load_table(own(tmp_path / "im", tmp_path, labels_from="folders"))
    assert splits.train.classes == ("cat", "dog")
    assert (len(splits.train), len(splits.test)) == (8, 2)


@pytest.mark.parametrize(
    "line", ["2 .5 .5 .1 .1", "cat .5 .5 .1 .1", "-1 .5 .5 .1 .1", "0.5 .5", "99999999999999999999 0", "²"]
)
def test_lines_that_begin_with_no_class(tmp_path, line):
    (yolo(tmp_path) / "labels/train/2.txt").write_text(f"0 .1 .1 .1 .1\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"train/2\.txt, line 2: .* begins with no class; there are 0 to 1"):
        read_yolo(tmp_path)


@pytest.mark.parametrize(
    "names, words",
    [
        ("nc: 2\n", "has no list `names`"),
        ("names: 3\n", "has no list `names`"),
        ("names: [cat, [dog]]\n", "must be names"),
        ("names: {0: cat, 2: dog}\n", "must be names by numbers from 0"),
        ("names: [cat, cat]\n", "class 1"),
        ("names: [\n", "not a readable YAML"),
        ("names: []\n", "must be names"),
        ("names: !!python/object/apply:os.system [ls]\n", "not a readable YAML"),
    ],
)
def test_names_that_do_not_work(tmp_path, names, words):
    with pytest.raises(UserError, match=words):
        read_names(yolo(tmp_path, names))


def test_names_in_lines_and_none_at_all(tmp_path):
    (yolo(tmp_path) / "data.yaml").unlink()
    with pytest.raises(UserError, match=r"no names of classes; add data\.yaml"):
        read_names(tmp_path)
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    assert read_names(tmp_path) == ("cat", "dog")


def test_labels_and_images_that_do_not_belong_together(tmp_path):
    folder = yolo(tmp_path)
    for path in (folder / "labels").rglob("*.txt"):
        path.rename(path.with_name("other.txt"))
    with pytest.raises(UserError, match="has no label file of any of the 4 images"):
        read_yolo(folder)


def test_json_lines_of_lists(tmp_path):
    rows = [
        {"file_name": f"{n}.jpg", "labels": ["cat"] * (n % 2) + ["dog"], "split": "train" if n < 4 else "test"}
        for n in range(6)
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    images(tmp_path, *(f"{n}.jpg" for n in range(6)))
    splits = load_table(own(tmp_path, tmp_path, table=(tmp_path / "metadata.jsonl",)))
    assert splits.train.classes == ("cat", "dog")
    assert splits.train.truth.dense().tolist() == [[0, 1], [1, 1], [0, 1], [1, 1]]


def test_names_of_files_with_control_characters_are_refused(tmp_path):
    images(tmp_path / "im", "cat/a\x1b.jpg")
    with pytest.raises(UserError, match="control characters"):
        read_folders(tmp_path / "im", None)
    images(yolo(tmp_path / "y"), "images/train/a\x1b.jpg")
    with pytest.raises(UserError, match="control characters"):
        read_yolo(tmp_path / "y")


def test_what_is_an_export_of_yolo(tmp_path):
    assert is_yolo(yolo(tmp_path / "y"))
    images(tmp_path / "im", "images/1.jpg")
    assert not is_yolo(tmp_path / "im")  # without labels
    (tmp_path / "im" / "obj.names").write_text("cat\n")
    assert is_yolo(tmp_path / "im")
    (tmp_path / "im" / "images" / "1.jpg").unlink()
    with pytest.raises(UserError, match="im: no image there or below"):
        read_yolo(tmp_path / "im")


def test_only_columns_lists_and_exports_say_which_classes_there_are(tmp_path):
    assert read_yolo(yolo(tmp_path / "y")).closed
    assert not read_folders(images(tmp_path / "im", "cat/1.jpg"), None).closed
