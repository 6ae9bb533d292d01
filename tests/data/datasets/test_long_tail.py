"""The published long-tailed lists."""

import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from data.datasets.long_tail import LAYOUTS, load_longtail, read_classes, read_list
from data.datasets.long_tail_pickles import check_groups, check_ids, check_pickles
from data.datasets.source import DatasetSource
from data.files.cache import Cache
from tests import golden_files
from tests.data.damage.longtail import IDS, TEST, TRAIN, frequencies, groups, load, longtail_tree
from tests.data.trees import picture
from utils.checks import UserError
from utils.long_tail import class_groups
from utils.types import ABSENT, PRESENT

NAMES = list(LAYOUTS)


def real_lists():
    """The folder of the published lists; skips the calling test where it is absent."""
    folder = Path(os.environ.get("LONGTAIL_DATA", Path(__file__).parents[4] / "shared" / "data" / "longtail"))
    if not folder.is_dir():
        pytest.skip(f"no long-tailed lists: {folder}")
    return folder


def load_real(name, tmp_path):
    lists = real_lists()
    if not any((lists / LAYOUTS[name].lists).glob("*_lt_train.txt")):
        pytest.skip(f"no lists of {name} in {lists}")
    return load_longtail(DatasetSource(tmp_path / "images", lists, 0, Cache(tmp_path / "cache"), False), name)


# Published lists


@pytest.mark.parametrize(
    "name, ids, files",
    [
        (
            "voc-lt",
            ("2008_01", "2008_09"),
            ["VOCdevkit/VOC2012/JPEGImages/2008_01.jpg", "VOCdevkit/VOC2012/JPEGImages/2008_09.jpg"],
        ),
        ("coco-lt", ("9", "100"), ["train2017/000000000009.jpg", "train2017/000000000100.jpg"]),  # by number
        ("nw-lt", ("images/a_2", "images/b_1"), ["images/a_2.jpg", "images/b_1.jpg"]),
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n", " \r\n"])
def test_rows_by_id_with_their_places_in_the_list(tmp_path, name, ids, files, ending):
    lists = {"lt_train": "".join(line + ending for line in TRAIN[name]), "lt_test": TEST[name][0] + ending}
    splits = load(longtail_tree(tmp_path, name, lists=lists), name)
    assert splits.train.ids == ids
    assert [splits.train.images.name(row) for row in range(2)] == [f"{tmp_path}/images/{file}" for file in files]
    np.testing.assert_array_equal(splits.train.truth.dense(), [[0, 1, 0], [1, 0, 1]])
    np.testing.assert_array_equal(splits.train.places, [1, 0])
    np.testing.assert_array_equal(splits.train.recipe_order(), [1, 0])  # the list again
    assert len(splits.test) == 1
    assert splits.train.classes == splits.test.classes == ("cat", "traffic light", "dog")
    assert {group: members.tolist() for group, members in splits.groups.items()} == {
        "head": [],
        "middle": [],
        "tail": [0, 1, 2],
    }


def test_an_image_without_a_label_and_one_with_a_label_twice_stay(tmp_path):
    lists = {"lt_test": "val2017/000000000007.jpg\nval2017/000000000003.jpg 2 2\n"}
    test = load(longtail_tree(tmp_path, "coco-lt", lists=lists), "coco-lt").test
    assert test.ids == ("3", "7")
    np.testing.assert_array_equal(test.truth.dense(), [[0, 0, 1], [0, 0, 0]])


def test_names_of_coco_2014_have_the_same_numbers(tmp_path):
    lists = {"lt_train": "images/train2014/COCO_train2014_000000000009.jpg 0\n"}
    assert load(longtail_tree(tmp_path, "coco-lt", lists=lists), "coco-lt").train.ids == ("9",)


@pytest.mark.parametrize(
    "name, made, given, expected",
    [
        ("voc-lt", "VOCdevkit/{}", ".", "VOCdevkit/{}"),
        ("voc-lt", "VOCdevkit/{}", "VOCdevkit", "{}"),
        ("coco-lt", "{}", ".", "{}"),
        ("coco-lt", "images/{}", ".", "images/{}"),
        ("nw-lt", "{}", ".", "{}"),
    ],
)
def test_images_are_found_where_people_keep_them(tmp_path, name, made, given, expected):
    longtail_tree(tmp_path, name)
    listed = [line.split()[0].removeprefix("VOCdevkit/") for line in (*TRAIN[name], *TEST[name])]
    for path in listed:
        picture(tmp_path / "p" / made.format(path))
    root = tmp_path / "p" / given
    splits = load_longtail(DatasetSource(root, tmp_path / "appendix", 0, Cache(tmp_path / "cache"), True), name)
    found = [part.images.name(row) for part in splits[:2] for row in range(len(part))]
    assert sorted(found) == sorted(f"{root}/{expected.format(path)}" for path in listed)
    for part in splits[:2]:
        part.images.check()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lists", ["appendix/{}", "appendix", "images/{}", "images"])
def test_lists_are_found_beside_the_images_too(tmp_path, name, lists):
    longtail_tree(tmp_path / "made", name, checks=LAYOUTS[name].checks is not None)
    (tmp_path / "images").mkdir()
    target = tmp_path / lists.format(LAYOUTS[name].lists)
    target.parent.mkdir(exist_ok=True)
    made = tmp_path / "made" / "appendix" / LAYOUTS[name].lists
    if target.exists():
        target.rmdir()
    made.rename(target)
    assert len(load(tmp_path, name).train) == 2


def test_a_missing_folder_shows_the_tree(tmp_path):
    for name in NAMES:
        with pytest.raises(UserError) as caught:
            load(tmp_path, name)
        layout = LAYOUTS[name]
        for word in (layout.lists, f"{layout.prefix}_lt_train.txt", f"{layout.prefix}_labels.txt", "--path_lists"):
            assert word in str(caught.value)


def test_missing_images_matter_only_where_they_are_needed(tmp_path):
    longtail_tree(tmp_path, "voc-lt")
    load(tmp_path, "voc-lt")
    with pytest.raises(UserError, match=r"2008_09\.jpg: does not exist, nor its folder") as caught:
        load(tmp_path, "voc-lt", need_images=True)
    assert "VOCdevkit/VOC2012/JPEGImages" in str(caught.value)
    picture(tmp_path / "images" / TRAIN["voc-lt"][0].split()[0])
    with pytest.raises(UserError, match=r"VOC2007/JPEGImages/000007\.jpg"):
        load(tmp_path, "voc-lt", need_images=True)
    (tmp_path / "images" / "VOCdevkit" / "VOC2007" / "JPEGImages").mkdir(parents=True)
    load(tmp_path, "voc-lt", need_images=True)  # single images are looked for later


def test_classes_stand_in_the_order_of_their_numbers(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text("dog 2\n\ncat 0\r\n traffic  light\t 1 \r\n")
    assert read_classes(file) == ("cat", "traffic light", "dog")


# What lies beside the lists


@pytest.mark.parametrize("key", ["class_freq", "neg_class_freq", "condition_prob"])
@pytest.mark.parametrize("change, passes", [(0.9e-6, True), (-0.9e-6, True), (1.1e-6, False), (-1.1e-6, False)])
def test_frequencies_may_differ_by_rounding_only(tmp_path, key, change, passes):
    held = frequencies("voc-lt")
    values = held[key].astype(np.float64)
    values.flat[-1] += change
    path = longtail_tree(tmp_path, "voc-lt", checks=True) / "appendix" / "VOCdevkit" / "longtail2012"
    (path / "class_freq.pkl").write_bytes(pickle.dumps(held | {key: values}, 2))
    if passes:
        assert load(tmp_path, "voc-lt").train.ids == ("2008_01", "2008_09")
    else:
        with pytest.raises(UserError, match=rf"class_freq\.pkl: {key} of .*'dog' is .*, by the list 1"):
            load(tmp_path, "voc-lt")


@pytest.mark.parametrize("tail, words", [({0, 1}, "class 2 ('dog') is not in"), ({0, 1, 2}, "")])
def test_the_class_that_a_group_lacks_or_has_beyond_the_list_is_named(tmp_path, tail, words):
    expected = {"tail": np.array([0, 1, 2])}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"tail": tail}, 2))
    if words:
        with pytest.raises(UserError, match=re.escape(words)):
            check_groups(tmp_path / "a.pkl", ("cat", "cow", "dog"), expected)
    check_groups(tmp_path / "a.pkl", ("cat", "cow", "dog"), {"tail": np.array(sorted(tail))})
    with pytest.raises(UserError, match=r"class 0 \('cat'\) is in 'tail', unlike in the list"):
        check_groups(tmp_path / "a.pkl", ("cat", "cow", "dog"), {"tail": np.array(sorted(tail))[1:]})


@pytest.mark.parametrize("name", list(IDS))
def test_true_pickles_pass(tmp_path, name):
    assert load(longtail_tree(tmp_path, name, checks=True), name).train.ids == tuple(
        sorted(IDS[name], key=lambda one: one.zfill(9))
    )


def test_without_an_id_list_the_rows_of_a_pickle_are_not_compared(tmp_path):
    longtail_tree(tmp_path, "coco-lt", checks=True)
    folder = tmp_path / "appendix" / "coco" / "longtail2017"
    (folder / "img_id.txt").unlink()
    load(tmp_path, "coco-lt")
    (folder / "img_id.pkl").write_text("100\n9\n")  # now the rows are in the wrong order
    with pytest.raises(UserError, match="gt_labels of image 100"):
        load(tmp_path, "coco-lt")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_groups_are_read_from_every_kind_of_pickle(tmp_path, protocol):
    file = tmp_path / "class_split.pkl"
    file.write_bytes(pickle.dumps(groups(), protocol))
    check_groups(file, ("a", "b", "c"), class_groups(np.array([1, 2, 3])))
    with pytest.raises(UserError, match="class 1 \\('b'\\)"):
        check_groups(file, ("a", "b", "c"), class_groups(np.array([1, 20, 3])))


# The published lists themselves


@pytest.fixture(params=NAMES)
def golden_split(request, tmp_path):
    golden = golden_files.load_json("longtail_facts.json")
    facts = golden.get(request.param, golden.get("nus-wide" if request.param == "nw-lt" else ""))
    if facts is None or not facts.get("available", True):
        pytest.skip(f"no facts about {request.param} in longtail_facts.json")
    return facts, load_real(request.param, tmp_path)


def test_golden_facts_of_the_published_lists(golden_split):
    facts, splits = golden_split
    assert list(splits.train.classes) == facts["class_names"]
    assert len(splits.train.classes) == facts["num_classes"]
    for split, part in (("train", splits.train), ("test", splits.test)):
        truth = part.truth.dense()
        per_image = (truth == PRESENT).sum(axis=1)
        assert len(part) == len(set(part.ids)) == facts[f"num_{split}"]
        np.testing.assert_array_equal(part.truth.counts(), facts[f"{split}_counts"])
        assert per_image.sum() == facts[f"{split}_labels_total"]
        assert per_image.mean() == pytest.approx(facts[f"{split}_cardinality"], rel=1e-12)
        assert (per_image == 0).sum() == facts[f"{split}_images_without_label"]
        assert set(np.unique(truth)) <= {PRESENT, ABSENT}
        assert sorted(part.places.tolist()) == list(range(len(part)))
    assert (splits.train.truth.dense() == PRESENT).sum(axis=1).max() == facts["max_labels_per_train_image"]
    counts = splits.train.truth.counts()
    assert (counts.max(), counts.argmax()) == (facts["max_count"], facts["max_class"])
    assert counts.min() == facts["min_count"]
    assert np.flatnonzero(counts == counts.min()).tolist() == facts["min_classes"]
    assert counts.max() / counts.min() == pytest.approx(facts["imbalance_ratio"])


def test_golden_groups_of_the_published_lists(golden_split):
    facts, splits = golden_split
    assert list(splits.groups) == ["head", "middle", "tail"]
    for name, members in splits.groups.items():
        assert members.tolist() == facts[name]


def test_golden_id_list_and_pickles_beside_the_lists(golden_split):
    facts, splits = golden_split
    ids = real_lists() / facts["id_list"]["file"]
    if not ids.exists():
        pytest.skip(f"no id list {ids}")
    order = check_ids(ids, splits.train)
    agreeing = int((splits.train.places[order] == np.arange(len(order))).sum())
    assert len(order) == facts["id_list"]["num"]
    assert agreeing == facts["id_list"]["positions_agreeing"]
    assert (agreeing == len(order)) == facts["id_list"]["same_order_as_train_list"]
    assert all(facts["class_split_pkl"]["equals_rule"].values())
    check_pickles(ids.parent, splits.train, splits.groups)
    other = dict(splits.groups) | {"tail": splits.groups["tail"][1:], "middle": splits.groups["middle"]}
    with pytest.raises(UserError, match=r"class_split\.pkl"):
        check_pickles(ids.parent, splits.train, other)


def test_rows_in_list_order_are_the_list_itself(tmp_path):
    splits = load_real("coco-lt", tmp_path)
    path = real_lists() / "coco" / "coco_lt_train.txt"
    listed = read_list(path, 80, LAYOUTS["coco-lt"].image_id)
    assert tuple(splits.train.ids[row] for row in splits.train.recipe_order()) == listed.ids
    first = path.read_text().split("\n")[0].split()
    row = splits.train.ids.index(str(int(Path(first[0]).stem)))
    assert splits.train.places[row] == 0
    positive = np.flatnonzero(splits.train.truth.rows(np.array([row]))[0] == PRESENT)
    assert positive.tolist() == sorted(int(one) for one in first[1:])
    assert splits.train.ids == tuple(sorted(splits.train.ids, key=int))
