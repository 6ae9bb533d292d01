import json
from pathlib import Path

import numpy as np
import pytest

from data.datasets.coco import load_coco
from data.datasets.source import DatasetSource
from data.datasets.table import annotations as own
from data.datasets.table.reader import load_table
from data.datasets.voc import VOC_CLASSES, load_voc
from data.files.cache import Cache
from tests.data.datasets.table.sheets import table_config
from tests.data.trees import coco_json, picture, real_data, source, voc_xml
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN


def of(table, tmp_path, *, path_images=Path(), need_images=False, **more):
    return DatasetSource(path_images, Path(), 0, Cache(tmp_path / "cache"), need_images, table_config(table, **more))


def instances(path, images, annotations, names):
    document = coco_json(images, annotations, list(names))
    for category in document["categories"]:
        category["name"] = names[category["id"]]
    path.write_text(json.dumps(document))
    return path


def whole(splits):
    """Ids, codes and boxes of both splits together, by id."""
    rows = {}
    for part in (splits.train, splits.test):
        for row, one in enumerate(part.ids):
            boxed = part.boxes.row == row
            kept = sorted(map(tuple, np.c_[part.boxes.label[boxed], part.boxes.corners[boxed]].tolist()))
            rows[one] = part.truth.rows(np.array([row]))[0].tolist(), kept
    return rows


def test_a_json_of_any_categories(tmp_path, capsys):
    path = instances(
        tmp_path / "boats.json",
        [(1, "z.jpg"), (2, "deep/a.png"), (3, "bare.jpg")],
        [(1, 9, 0, [1, 2, 3, 4]), (2, 5, 0, [0, 0, 2, 2]), (2, 9, 1)],
        {9: "sailing boat", 5: "buoy"},
    )
    splits = load_table(of(path, tmp_path, test_frac=0.5))
    assert splits.train.classes == ("buoy", "sailing boat")
    assert whole(splits) == {
        "z.jpg": ([ABSENT, PRESENT], [(1, 1, 2, 4, 6)]),
        "deep/a.png": ([PRESENT, PRESENT], [(0, 0, 0, 2, 2)]),
    }
    name = {part.ids[0]: part.images.name(0) for part in splits[:2]}
    assert name["deep/a.png"] == str(tmp_path / "deep" / "a.png")
    assert "left out 1 images without an annotation" in capsys.readouterr().out


def test_two_jsons_may_number_images_and_categories_alike(tmp_path):
    train = instances(tmp_path / "train.json", [(1, "a.jpg")], [(1, 1, 0)], {1: "cat", 2: "dog"})
    test = instances(tmp_path / "val.json", [(1, "b.jpg")], [(1, 1, 0, [1, 1, 1, 1])], {1: "dog", 2: "cat"})
    splits = load_table(of(train, tmp_path, test_table=test))
    assert splits.train.classes == splits.test.classes == ("cat", "dog")
    assert (splits.train.ids, splits.test.ids) == (("a.jpg",), ("b.jpg",))
    np.testing.assert_array_equal(splits.test.truth.dense(), [[ABSENT, PRESENT]])
    assert splits.test.boxes.label.tolist() == [1]  # the boxes follow the classes
    instances(test, [(1, "b.jpg")], [(1, 1, 0)], {1: "dog"})
    with pytest.raises(UserError, match=r"val\.json: class 'cat' is in only one of"):
        load_table(of(train, tmp_path, test_table=test))


def test_real_coco_as_someones_own_json(tmp_path):
    root = real_data("coco_mini")
    table, test_table = (root / "annotations" / f"instances_{split}2014.json" for split in ("train", "val"))
    own_splits = load_table(of(table, tmp_path, test_table=test_table, path_images=root / "images"))
    published = load_coco(source(root, tmp_path / "cache"), 2014)
    for one, two in ((own_splits.train, published.train), (own_splits.test, published.test)):
        assert one.classes == two.classes
        place = {Path(two.images.name(row)).name: row for row in range(len(two))}
        order = np.array([place[name] for name in one.ids])
        assert sorted(order) == list(range(len(two)))
        assert one.truth.hash() == two.truth.take(order).hash()
        np.testing.assert_array_equal(
            one.boxes.label, two.take(order).boxes.label[np.argsort(two.take(order).boxes.row, kind="stable")]
        )


def voc_folder(root, images, *, holder="Annotations", lists=None):
    """Annotations of `images` (name: objects), and lists (name: names)."""
    (root / holder).mkdir(parents=True, exist_ok=True)
    for name, objects in images.items():
        (root / holder / f"{name}.xml").write_text(voc_xml(objects))
    for name, names in (lists or {}).items():
        path = root / "ImageSets" / "Main" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{one}\n" for one in names))
    return root


BOATS = {
    "b (1)": [("yacht", 0, (1, 1, 10, 20)), ("buoy", 1)],
    "a": [("buoy", 0, (2, 3, 4, 5)), ("buoy", 1)],
    "c": [],
}


def test_a_folder_of_annotations_with_classes_of_its_own(tmp_path):
    root = voc_folder(tmp_path / "boats", BOATS, lists={"train": ["b (1)", "c"], "test": ["a"]})
    splits = load_table(of(root, tmp_path))
    assert splits.train.classes == splits.test.classes == ("buoy", "yacht")
    assert whole(splits) == {
        "a": ([PRESENT, ABSENT], [(0, 1, 2, 3, 4)]),
        "b (1)": ([UNKNOWN, PRESENT], [(1, 0, 0, 9, 19)]),
        "c": ([ABSENT, ABSENT], []),
    }


@pytest.mark.parametrize(
    "lists, sizes",
    [
        ({"train": ["c", "a"], "test": ["b (1)"]}, (2, None, 1)),
        ({"train": ["a", "c"], "val": ["b (1)"]}, (2, None, 1)),
        ({"trainval": ["a"], "test": ["b (1)", "c"]}, (1, None, 2)),
        ({"train": ["a"], "val": ["c"], "test": ["b (1)"], "trainval": ["a", "c"]}, (1, 1, 1)),
        ({"train": ["a"], "test": ["c"]}, (1, None, 1)),
        ({"default": ["a"]}, None),
    ],
)
def test_lists_define_the_splits(tmp_path, capsys, lists, sizes):
    splits = load_table(of(voc_folder(tmp_path / "boats", BOATS, lists=lists), tmp_path))
    parts = (splits.train, splits.validation, splits.test)
    if sizes is None:
        assert sum(map(len, parts[::2])) == len(BOATS)
    else:
        assert tuple(part and len(part) for part in parts) == sizes
        assert splits.train.ids == tuple(sorted(splits.train.ids))
    left = len(BOATS) - sum(len(part) for part in parts if part)
    assert (f"left out {left} annotations" in capsys.readouterr().out) == bool(left)


def test_a_class_file_fixes_the_classes_of_a_folder(tmp_path):
    root = voc_folder(tmp_path / "boats", BOATS)
    (root / "classes.txt").write_text("yacht\nferry\nbuoy\n")
    assert load_table(of(root, tmp_path)).train.classes == ("yacht", "ferry", "buoy")
    (root / "classes.txt").write_text("yacht\n")
    with pytest.raises(UserError, match=r"a\.xml: class 'buoy' is not in classes\.txt"):
        load_table(of(root, tmp_path))


@pytest.mark.parametrize("holder, pictures", [("Annotations", "JPEGImages"), ("Annotations", "."), (".", ".")])
def test_images_of_annotations_are_found_with_any_suffix(tmp_path, holder, pictures):
    root = voc_folder(tmp_path / "boats", BOATS, holder=holder)
    picture(root / pictures / "a.png")
    picture(root / pictures / "b (1).JPG")
    splits = load_table(of(root, tmp_path, need_images=True))
    name = {one: part.images.name(row) for part in splits[:2] for row, one in enumerate(part.ids)}
    assert {key: Path(path).relative_to(root).as_posix() for key, path in name.items()} == {
        "a": (Path(pictures) / "a.png").as_posix(),
        "b (1)": (Path(pictures) / "b (1).JPG").as_posix(),
        "c": (Path(pictures) / "c.jpg").as_posix(),
    }
    elsewhere = load_table(of(root, tmp_path, path_images=tmp_path / "elsewhere"))
    assert elsewhere.train.images.name(0).startswith(str(tmp_path / "elsewhere"))


def test_two_folders_of_annotations(tmp_path):
    train = voc_folder(tmp_path / "train", {"a": [("cat", 0)]}, holder=".")
    test = voc_folder(tmp_path / "valid", {"b": [("dog", 0)]}, holder=".")
    splits = load_table(of(train, tmp_path, test_table=test))
    assert splits.train.classes == splits.test.classes == ("cat", "dog")
    assert splits.test.images.name(0) == str(test / "b.jpg")


def test_a_folder_without_annotations_shows_the_expected_tree(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        load_table(of(tmp_path / "empty", tmp_path))
    for word in ("empty: no annotation", "Annotations/<name>.xml", "ImageSets/Main/train.txt", "classes.txt"):
        assert word in str(caught.value)


def test_the_second_start_parses_nothing_until_a_file_changes(tmp_path, monkeypatch):
    root = voc_folder(tmp_path / "boats", BOATS, lists={"train": ["a", "b (1)"], "test": ["c"]})
    parsed = []
    real = own.read_named_objects
    monkeypatch.setattr(own, "read_named_objects", lambda path: parsed.append(path.stem) or real(path))
    first, second = load_table(of(root, tmp_path)), load_table(of(root, tmp_path))
    assert parsed == ["a", "b (1)", "c"]
    assert whole(first) == whole(second)
    voc_folder(root, {"c": [("ferry", 0)]})
    assert "ferry" in load_table(of(root, tmp_path)).test.classes
    voc_folder(root, {}, lists={"train": ["a"], "val": ["b (1)"]})
    assert load_table(of(root, tmp_path)).validation.ids == ("b (1)",)
    assert len(parsed) == 9


def test_real_voc_as_someones_own_folder(tmp_path):
    data = real_data("voc_mini")
    published = load_voc(source(data, tmp_path / "cache"), 2007)
    root = next(path for path in data.rglob("VOC2007") if path.is_dir())
    splits = load_table(of(root, tmp_path, need_images=True))
    assert sorted(splits.train.ids + (splits.validation.ids if splits.validation else ())) == list(published.train.ids)
    assert splits.test.ids == published.test.ids
    names = [VOC_CLASSES.index(name) for name in splits.test.classes]
    np.testing.assert_array_equal(splits.test.truth.dense(), published.test.truth.dense()[:, names])
    np.testing.assert_array_equal(splits.test.boxes.corners, published.test.boxes.corners)
    for part in (splits.train, splits.test):
        part.images.check()


@pytest.mark.parametrize(
    "box, wrong",
    [
        ((3, 4, 3, 4), False),
        ((4, 4, 3, 5), True),
        ((3, 5, 4, 4), True),
        ((-5, -6, 2, 2), False),
        ((1, 1, 1e9, 2), False),
        ((1, 1, 1e9 + 1, 2), True),
        ((1, 1, 2, 1e9 + 1), True),
        ((2 - 1e9, 1, 2, 2), False),
        ((1 - 1e9, 1, 2, 2), True),
    ],
)
def test_corners_of_boxes_of_annotations_are_in_order_and_not_far_outside(tmp_path, box, wrong):
    root = voc_folder(tmp_path / "boats", {"a": [("yacht", 0, box)], "b": [("yacht", 0)]})
    if wrong:
        with pytest.raises(UserError, match=r"a\.xml: the box of a 'yacht' has its corners in the wrong order"):
            own.read_voc_style(root, None, ";")
    else:
        corners = own.read_voc_style(root, None, ";").boxes.corners
        np.testing.assert_array_equal(corners, np.array([box], dtype=np.float32) - 1)


def test_annotations_are_listed_in_their_order(tmp_path):
    names = [f"{n * 7 % 16:x}" for n in range(16)]
    files = own.annotation_files(voc_folder(tmp_path, {name: [] for name in names}))
    assert [path.stem for path in files] == sorted(names)


def test_an_image_that_lists_name_in_two_ways_of_writing_is_there_twice(tmp_path):
    name, apart = "caf\u00e9", "cafe\u0301"
    root = voc_folder(tmp_path / "c", {name: [("cat", 0)], "b": []}, lists={"train": [name, apart], "test": ["b"]})
    with pytest.raises(UserError, match=r"train\.txt, line 2: image .* is there already \(.*line 1\)"):
        own.read_voc_style(root, None, ";")
