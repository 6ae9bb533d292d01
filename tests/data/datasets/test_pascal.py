import tarfile

import numpy as np
import pytest

from data.datasets.formatted import array_path, names_below, write_formatted
from data.datasets.pascal import load_pascal
from data.datasets.voc import VOC_CLASSES, load_voc
from data.labels.regime import Regime, observe
from data.subsets.splits import SplitConfig, split_rows
from tests.data.trees import class_lists, real_data, source, voc_tree
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN

IMAGES = [
    ("2008_01", "train", [("dog", 0, (1, 2, 10, 20)), ("cat", 1, (3, 4, 5, 6))]),
    ("2008_02", "train", [("cat", 1, (1, 1, 2, 2))]),
    ("2008_03", "train", [("person", 1), ("person", 0)]),
    ("2008_04", "val", [("tvmonitor", 0)]),
    ("2008_05", "val", []),
]


def load(path, tmp_path, **more):
    return load_pascal(source(path, tmp_path / "cache", **more))


def present(rows):
    return [[VOC_CLASSES[label] for label in np.flatnonzero(row == PRESENT)] for row in rows.truth.dense()]


@pytest.mark.parametrize("lists", [False, True])
def test_difficult_counts_as_absent_and_images_without_a_class_are_left_out(tmp_path, lists):
    root = voc_tree(tmp_path, 2012, IMAGES)
    if lists:
        voc = load_voc(source(tmp_path, tmp_path / "cache"), 2012)
        codes = {one: row for part in voc[:2] for one, row in zip(part.ids, part.truth.dense(), strict=True)}
        class_lists(root, VOC_CLASSES, codes.get)
        (root / "Annotations").rename(root / "unused")
    train, test, *_ = load(tmp_path, tmp_path)[:2]
    assert train.ids == ("2008_01", "2008_03")
    assert test.ids == ("2008_04",)
    assert present(train) == [["dog"], ["person"]]
    assert present(test) == [["tvmonitor"]]
    assert set(np.unique(train.truth.dense())) == {PRESENT, ABSENT}
    assert train.classes == VOC_CLASSES
    assert train.images.name(1) == f"{root}/JPEGImages/2008_03.jpg"


def test_boxes_are_kept_and_follow_their_rows(tmp_path):
    voc_tree(tmp_path, 2012, [("2007_00", "train", [("cat", 1, (1, 1, 2, 2))]), *IMAGES])
    boxes = load(tmp_path, tmp_path).train.boxes
    assert boxes.row.tolist() == [0, 0]
    assert [VOC_CLASSES[label] for label in boxes.label] == ["dog", "cat"]
    np.testing.assert_array_equal(boxes.corners, [[0, 1, 9, 19], [2, 3, 4, 5]])


def test_no_image_with_a_class_is_an_error(tmp_path):
    voc_tree(tmp_path, 2012, IMAGES[:3] + IMAGES[4:])
    with pytest.raises(UserError, match="no image of train or of val shows a class"):
        load(tmp_path, tmp_path)


def test_a_missing_folder_shows_the_tree_of_voc(tmp_path):
    with pytest.raises(UserError, match=r"no VOC2012 here[\s\S]*ImageSets/Main"):
        load(tmp_path, tmp_path)


def test_formatted_arrays_come_first_and_are_the_same_rows(tmp_path):
    voc_tree(tmp_path, 2012, IMAGES)
    direct = load(tmp_path, tmp_path)
    regime = Regime(labels="single", label_seed=1200)
    observed = [observe(part, regime) for part in direct[:2]]
    write_formatted(tmp_path / "arrays", direct, *observed, names_below(tmp_path))
    assert np.load(array_path(tmp_path / "arrays", "train", "images")).tolist() == ["2008_01.jpg", "2008_03.jpg"]
    for folder in ("VOCdevkit/VOC2012/JPEGImages", "VOC2012/JPEGImages", "JPEGImages", "."):
        again = load(tmp_path / "arrays", tmp_path)
        for one, other in zip(direct[:2], again[:2], strict=True):
            assert one.row_hash() == other.row_hash()
            assert one.truth.hash() == other.truth.hash()
        assert again.train.given.hash() == observed[0].hash()
        (tmp_path / "arrays" / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / "arrays" / "VOCdevkit" / "VOC2012" / "JPEGImages").rmdir()
    (tmp_path / "arrays" / "VOC2012" / "JPEGImages").rmdir()
    assert load(tmp_path / "arrays", tmp_path).train.images.name(0) == f"{tmp_path}/arrays/JPEGImages/2008_01.jpg"


def test_real_voc_is_the_same_from_its_folder_and_from_arrays_made_of_it(tmp_path):
    root = real_data("voc_mini")
    voc = load_voc(source(root, tmp_path / "cache"), 2012)
    direct = load(root, tmp_path, need_images=True)
    assert (voc.train.truth.dense() == UNKNOWN).any()
    assert not (direct.train.truth.dense() == UNKNOWN).any()
    np.testing.assert_array_equal(direct.train.truth.counts(), voc.train.truth.counts())
    observed = [observe(part, Regime(labels="single", label_seed=1200)) for part in direct[:2]]
    write_formatted(tmp_path / "arrays", direct, *observed, names_below(root))
    again = load(tmp_path / "arrays", tmp_path)
    for one, other, seen in zip(direct[:2], again[:2], observed, strict=True):
        assert one.row_hash() == other.row_hash()
        assert one.truth.hash() == other.truth.hash()
        assert observe(other, Regime(labels="single", label_seed=1200)).hash() == seen.hash()
    assert again.train.given.hash() == observed[0].hash()


def test_real_voc_2012_has_the_published_numbers_of_rows(tmp_path):
    archive = real_data("voc2012_annotations.tar.xz")
    with tarfile.open(archive) as tar:
        lists = [one for one in tar.getmembers() if "/ImageSets/Main/" in one.name]
        tar.extractall(tmp_path, lists, filter="data")  # without the xml files: from the lists of the classes
    train, test, *_ = load(tmp_path, tmp_path)[:2]
    assert (len(train), len(test)) == (5717, 5823)
    rows, held_out = split_rows(train, SplitConfig(val_frac=0.2, split_seed=1200), 0)
    assert (len(rows), len(held_out)) == (4574, 1143)
    assert (observe(train, Regime(labels="single", label_seed=1200)).counts() > 0).all()
