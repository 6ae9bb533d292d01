import json

import numpy as np
import pytest

from data.datasets import coco
from data.datasets.coco import load_coco, read_instances
from tests import golden_files
from tests.data.trees import coco_json, coco_tree, picture, real_data, source
from utils.checks import UserError
from utils.types import ABSENT, PRESENT

TRAIN = coco_json(
    [(100, "a.jpg"), (9, "b.jpg"), (50, "empty.jpg")],
    [(100, 7, 0, [1, 2, 10, 20]), (9, 2, 0), (9, 13, 1, [0, 0, 5, 5]), (9, 13, 0, [1.5, 1, 2, 2])],
    [13, 2, 7],
)
VAL = coco_json([(3, "c.jpg")], [(3, 7, 0)], [13, 2, 7])


def load(path, tmp_path, year=2014, **more):
    return load_coco(source(path, tmp_path / "cache", **more), year)


@pytest.mark.parametrize("year", [2014, 2017])
@pytest.mark.parametrize("folder_format", ["images/train{}", "train{}"])
def test_rows_classes_codes_boxes_and_files(tmp_path, year, folder_format):
    coco_tree(tmp_path, year, TRAIN, VAL)
    folder = tmp_path / folder_format.format(year)
    picture(folder / "b.jpg")
    picture(folder.with_name(f"val{year}") / "c.jpg")
    train, test, *_ = load(tmp_path, tmp_path, year, need_images=True)
    assert train.ids == ("9", "100")  # by number, not by text
    assert test.ids == ("3",)
    assert train.classes == ("category 2", "category 7", "category 13")
    np.testing.assert_array_equal(train.truth.dense(), [[1, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(train.boxes.row, [0, 0, 1])
    np.testing.assert_array_equal(train.boxes.label, [2, 2, 1])
    np.testing.assert_array_equal(train.boxes.corners, [[0, 0, 5, 5], [1.5, 1, 3.5, 3], [1, 2, 11, 22]])
    assert train.images.name(0) == str(folder / "b.jpg")
    assert train.images.open(0).size == (40, 30)


def test_golden_coco_targets(tmp_path):
    golden = golden_files.load_json("data_layer_cones.json", "coco2014")
    train = coco_json(golden["images"], golden["annotations"], golden["category_ids"])
    other = max(one for one, _ in golden["images"]) + 1
    val = coco_json([(other, "other.jpg")], [(other, golden["category_ids"][0], 0)], golden["category_ids"])
    got = load(coco_tree(tmp_path, 2014, train, val), tmp_path).train
    expected = golden["expected"]
    assert len(got) == len(expected)
    assert got.truth.num_classes == len(golden["category_ids"])
    for row, one in enumerate(expected):
        assert got.images.name(row) == str(tmp_path / "images" / "train2014" / one["file_name"])
        assert np.flatnonzero(got.truth.rows(np.array([row]))[0] == PRESENT).tolist() == sorted(one["positives"])
    assert set(np.unique(got.truth.dense())) <= {PRESENT, ABSENT}


def without(section, number, key):
    document = json.loads(json.dumps(TRAIN))
    if number is None:
        del document[section]
    else:
        del document[section][number][key]
    return document


def changed(section, number, **values):
    document = json.loads(json.dumps(TRAIN))
    document[section][number].update(values)
    return document


@pytest.mark.parametrize(
    "document, words",
    [
        ([], ["list"]),
        (without("images", None, None), ["'images'"]),
        (without("annotations", None, None), ["'annotations'"]),
        (without("categories", None, None), ["'categories'"]),
        (without("images", 1, "id"), ["entry 1", "'images'", "'id'"]),
        (without("images", 0, "file_name"), ["entry 0", "'file_name'"]),
        (without("annotations", 2, "image_id"), ["entry 2", "'annotations'", "'image_id'"]),
        (without("annotations", 2, "category_id"), ["entry 2", "'category_id'"]),
        (without("categories", 0, "name"), ["'categories'", "'name'"]),
        (changed("annotations", 1, category_id=99), ["annotation 1", "category_id 99"]),
        (changed("annotations", 1, image_id=12345), ["annotation 1", "image_id 12345"]),
        (changed("annotations", 0, bbox=[1, 2, 3]), ["entry 0", "bbox"]),
        (changed("annotations", 0, bbox="12"), ["entry 0", "bbox"]),
        (changed("images", 0, id=9), ["id 9", "twice"]),
        (changed("images", 0, id="100"), ["'id'", "no int"]),
        (changed("images", 0, file_name="../../secret.jpg"), ["image 100", "leads out"]),
        (changed("images", 0, file_name="/etc/x.jpg"), ["image 100", "leads out"]),
        ({**TRAIN, "annotations": []}, ["no image has an annotation"]),
        ({**TRAIN, "images": [3]}, ["entry 0", "int"]),
    ],
)
def test_faults_are_named_in_one_line(tmp_path, document, words):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UserError) as caught:
        read_instances(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "box, fault",
    [
        ([1, 2, 0, 0], ""),
        ([-7, -8.5, 1, 2], ""),
        ([999_999_999, 0, 1, 999_999_999], ""),
        ([-999_999_999, 0, 1, 1], ""),
        ([1e9, 0, 1, 1], "that is not four numbers of pixels"),
        ([0, 0, 1, 1e9], "that is not four numbers of pixels"),
        ([0, -1e9, 1, 1], "that is not four numbers of pixels"),
        ([0, 0, float("nan"), 1], "that is not four numbers of pixels"),
        ([0, 0, "1", 1], "that is not four numbers of pixels"),
        ([1, 2, 3, 4, 5], "that is not four numbers"),
        ([1, 2, -0.5, 3], "with a negative width or height"),
        ([1, 2, 3, -0.5], "with a negative width or height"),
    ],
)
def test_boxes_may_be_empty_and_lie_outside_but_not_beyond_reason(tmp_path, box, fault):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(changed("annotations", 0, bbox=box)))
    if fault:
        with pytest.raises(UserError) as caught:
            read_instances(path)
        assert str(caught.value) == f"{path}: entry 0 of 'annotations' has a 'bbox' {fault}"
    else:
        x, y, width, height = box
        corners = np.array([[x, y, x + width, y + height]], dtype=np.float32)
        np.testing.assert_allclose(read_instances(path).boxes.corners[-1:], corners)


@pytest.mark.parametrize("content", [b"", b'{"images": [', b"\xff\xfe\xff", b"[" * 100_000])
def test_a_file_that_is_no_json_is_said_in_one_line(tmp_path, content):
    path = tmp_path / "instances.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"instances\.json: not (a json file|UTF-8 text)") as caught:
        read_instances(path)
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(UserError, match=r"instances\.json: cannot be read"):
        read_instances(path)


def test_splits_must_not_share_images_nor_differ_in_categories(tmp_path):
    val = coco_json([(100, "a.jpg"), (9, "b.jpg"), (3, "c.jpg")], [(100, 7, 0), (9, 7, 0), (3, 7, 0)], [13, 2, 7])
    coco_tree(tmp_path, 2014, TRAIN, val)
    with pytest.raises(UserError, match=r"image 9 is in train2014 and in val2014 \(2 such\); get both anew"):
        load(tmp_path, tmp_path)
    coco_tree(tmp_path, 2014, TRAIN, coco_json([(3, "c.jpg")], [(3, 7, 0)], [2, 7]))
    with pytest.raises(UserError, match="other categories"):
        load(tmp_path, tmp_path)


def test_missing_folders_are_explained(tmp_path):
    with pytest.raises(UserError) as caught:
        load(tmp_path / "nowhere", tmp_path)
    for word in ("instances_train2014.json", "val2014", "--dataset digits"):
        assert word in str(caught.value)
    coco_tree(tmp_path, 2014, TRAIN, VAL)
    load(tmp_path, tmp_path)
    with pytest.raises(UserError, match=r"images/train2014: no such folder"):
        load(tmp_path, tmp_path, need_images=True)


def test_other_years_are_not_known(tmp_path):
    with pytest.raises(UserError, match="COCO 2015: only 2014 and 2017 are known"):
        load(coco_tree(tmp_path, 2015, TRAIN, VAL), tmp_path, 2015)


def test_nothing_is_printed(tmp_path, capsys):
    load(coco_tree(tmp_path, 2014, TRAIN, VAL), tmp_path)
    assert capsys.readouterr() == ("", "")


def test_the_second_start_parses_nothing_until_the_file_changes(tmp_path, monkeypatch):
    coco_tree(tmp_path, 2014, TRAIN, VAL)
    first = load(tmp_path, tmp_path)
    parsed = []
    monkeypatch.setattr(coco, "read_instances", lambda path: parsed.append(path.name) or read_instances(path))
    second = load(tmp_path, tmp_path)
    assert parsed == []
    for one, two in zip(first[:2], second[:2], strict=True):
        assert (one.ids, one.classes) == (two.ids, two.classes)
        assert [one.images.name(row) for row in range(len(one))] == [two.images.name(row) for row in range(len(two))]
        assert one.truth.hash() == two.truth.hash()
        np.testing.assert_array_equal(one.boxes.corners, two.boxes.corners)
    other = coco_json([(4, "another name.jpg")], [(4, 2, 0)], [13, 2, 7])
    (tmp_path / "annotations" / "instances_val2014.json").write_text(json.dumps(other))
    assert load(tmp_path, tmp_path).test.ids == ("4",)
    assert parsed == ["instances_val2014.json"]


def test_real_coco_loads_and_opens(tmp_path):
    train, test, *_ = load(real_data("coco_mini"), tmp_path, need_images=True)
    assert (len(train), len(test)) == (86, 40)  # two of 88 have no annotation
    assert train.truth.num_classes == 80
    assert train.truth.counts()[train.classes.index("person")] == 43
    for part in (train, test):
        part.images.check()
        assert part.ids == tuple(sorted(part.ids, key=int))
        assert all(part.images.open(row).mode == "RGB" for row in range(0, len(part), 7))
