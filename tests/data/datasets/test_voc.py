import tarfile
from dataclasses import replace

import numpy as np
import pytest

from data.datasets import voc
from data.datasets.voc import VOC_CLASSES, find_root, load_voc, read_objects
from tests import golden_files
from tests.data.trees import class_lists, real_data, source, voc_tree, voc_xml
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN

CAT, DOG, PERSON = (VOC_CLASSES.index(name) for name in ("cat", "dog", "person"))

IMAGES = [
    ("000020", "train", [("cat", 0, (11, 21, 31, 41)), ("dog", 1), ("dog", 1)]),
    ("000003", "val", [("dog", 1, (1, 1, 5.5, 6)), ("dog", 0), ("person", 0)]),
    ("000007", "test", [("person", 1)]),
    ("000001", "test", []),
]


def load(path, tmp_path, year=2007, **more):
    return load_voc(source(path, tmp_path / "cache", **more), year)


def same_labels(one, two):
    assert one.ids == two.ids
    assert one.classes == two.classes
    np.testing.assert_array_equal(one.truth.dense(), two.truth.dense())


def test_rows_classes_codes_and_boxes(tmp_path):
    root = voc_tree(tmp_path, 2007, IMAGES, pictures=True)
    train, test, *_ = load(tmp_path, tmp_path, need_images=True)
    assert train.ids == ("000003", "000020")
    assert test.ids == ("000001", "000007")
    assert train.classes == VOC_CLASSES == tuple(sorted(VOC_CLASSES))
    expected = np.full((2, 20), ABSENT)
    expected[0, [DOG, PERSON]] = PRESENT
    expected[1, CAT] = PRESENT
    expected[1, DOG] = UNKNOWN
    np.testing.assert_array_equal(train.truth.dense(), expected)
    assert test.truth.counts(UNKNOWN)[PERSON] == 1
    assert test.truth.counts().sum() == 0
    np.testing.assert_array_equal(train.boxes.row, [0, 1])
    np.testing.assert_array_equal(train.boxes.label, [DOG, CAT])
    np.testing.assert_array_equal(train.boxes.corners, [[0, 0, 4.5, 5], [10, 20, 30, 40]])
    assert train.images.name(1) == str(root / "JPEGImages" / "000020.jpg")
    assert train.images.open(1).mode == "RGB"


def test_golden_voc_targets(tmp_path):
    golden = golden_files.load_json("data_layer_cones.json", "voc07")
    assert tuple(golden["classes"]) == VOC_CLASSES
    images = [(one["id"], one["split"], one["objects"]) for one in golden["images"]]
    voc_tree(tmp_path, 2007, images)
    train, test, *_ = load(tmp_path, tmp_path)
    expected = golden["expected"]
    assert list(train.ids) == [one["id"] for one in expected["trainval"]]
    assert list(test.ids) == [one["id"] for one in expected["test"]]
    np.testing.assert_array_equal(train.truth.dense() == PRESENT, [one["target"] for one in expected["trainval"]])
    ternary = np.array([one["target"] for one in expected["test"]])  # -1 absent, 0 difficult only, 1 present
    np.testing.assert_array_equal(
        test.truth.dense(), np.select([ternary == 1, ternary == 0], [PRESENT, UNKNOWN], ABSENT)
    )


@pytest.mark.parametrize("place", [".", "VOC2007", "..", "../other/.."])
def test_the_folder_may_be_named_at_three_levels(tmp_path, place):
    kit = tmp_path / "VOCdevkit"
    (tmp_path / "other").mkdir()
    voc_tree(kit, 2007, IMAGES)
    assert find_root(kit / place, 2007).resolve() == (kit / "VOC2007").resolve()


def test_2012_trains_on_train_and_tests_on_val(tmp_path):
    voc_tree(tmp_path, 2012, [("2008_2", "train", [("cat", 0)]), ("2008_1", "val", [("dog", 0)])])
    train, test, *_ = load(tmp_path, tmp_path, year=2012)
    assert (train.ids, test.ids) == (("2008_2",), ("2008_1",))
    assert train.listed == ("2008_2",)


def test_2007_without_its_test_kit_trains_on_train_and_tests_on_val(tmp_path, capsys):
    def split(name, images):
        return load_voc(replace(source(voc_tree(tmp_path / name, 2007, images).parent, tmp_path), train_val=True), 2007)

    whole = split("whole", IMAGES)
    assert [part.ids for part in whole[:2]] == [("000020",), ("000003",)]
    assert whole.train.listed == ("000003", "000020")  # published label files have both
    without = [image for image in IMAGES if image[1] != "test"]
    alone = split("alone", without)
    for one, other in zip(whole[:2], alone[:2], strict=True):
        same_labels(one, other)
    with pytest.raises(UserError, match=r"test\.txt"):
        load(tmp_path / "alone", tmp_path)
    assert capsys.readouterr().out == ""


def test_trainval_stands_in_for_train_and_val(tmp_path):
    lists = voc_tree(tmp_path, 2007, IMAGES) / "ImageSets" / "Main"
    wanted = load(tmp_path, tmp_path).train
    (lists / "trainval.txt").write_text((lists / "val.txt").read_text() + (lists / "train.txt").read_text())
    for name in ("train", "val"):
        (lists / f"{name}.txt").unlink()
    same_labels(load(tmp_path, tmp_path).train, wanted)


def test_class_lists_give_the_labels_where_there_is_no_xml(tmp_path):
    root = voc_tree(tmp_path, 2007, IMAGES)
    wanted = load(tmp_path, tmp_path)
    rows = {one: row for part in wanted[:2] for one, row in zip(part.ids, part.truth.dense(), strict=True)}
    class_lists(root, VOC_CLASSES, rows.__getitem__)
    (root / "Annotations").rename(root / "hidden")
    got = load(tmp_path, tmp_path)
    for one, two in zip(got[:2], wanted[:2], strict=True):
        same_labels(one, two)
        assert one.boxes is None


def xml(root, text, image="000003"):
    (root / "Annotations" / f"{image}.xml").write_text(text)


def listed(root, split, text):
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text(text)


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda r: xml(r, voc_xml([("unicorn", 0)])), ["000003.xml", "unicorn"]),
        (lambda r: xml(r, voc_xml([("cat", 2)])), ["000003.xml", "difficult", "cat"]),
        (lambda r: xml(r, voc_xml([("cat", 0, (1, 2, "x", 4))])), ["000003.xml", "xmax", "'x'"]),
        (lambda r: xml(r, voc_xml([("cat", 0, (1, 2, "nan", 4))])), ["000003.xml", "xmax"]),
        (lambda r: xml(r, "<annotation><object>"), ["000003.xml", "not a VOC annotation"]),
        (lambda r: xml(r, "<html></html>"), ["000003.xml", "<html>"]),
        (lambda r: xml(r, ""), ["000003.xml"]),
        (lambda r: (r / "Annotations" / "000003.xml").write_bytes(b"\xff\xfe\x00<"), ["000003.xml"]),
        (lambda r: (r / "Annotations" / "000007.xml").unlink(), ["000007.xml", "No such file"]),
        (lambda r: listed(r, "val", "000003\n000003\n"), ["val.txt", "line 2", "000003", "twice"]),
        (lambda r: listed(r, "val", "000003\n000020\n"), ["line 2", "000020", "twice"]),
        (lambda r: listed(r, "val", "000003 -1\n"), ["val.txt", "line 1", "one image id"]),
        (lambda r: listed(r, "val", "../../etc\n"), ["val.txt", "line 1"]),
        (
            lambda r: listed(r, "test", "000020\n000007\n000003\n"),
            ["ImageSets/Main: image 000003 is for training and for test (2 such); correct the lists"],
        ),
        (lambda r: listed(r, "test", "\n"), ["test.txt", "no image"]),
        (lambda r: (r / "ImageSets" / "Main" / "val.txt").unlink(), ["val.txt", "No such file"]),
        (
            lambda r: (r / "ImageSets" / "Main" / "test.txt").write_bytes(b"\xff\x00\xfe"),
            ["test.txt", "not UTF-8 text"],
        ),
        (lambda r: (r / "Annotations").rename(r / "hidden"), ["aeroplane_train.txt"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, spoil, words):
    root = voc_tree(tmp_path, 2007, IMAGES)
    spoil(root)
    with pytest.raises(UserError) as caught:
        load(tmp_path, tmp_path)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "text, words",
    [
        ("000020 1\n000020 1\n", ["line 2"]),
        ("000020 7\n", ["line 1", "'000020 7'"]),
        ("000099 1\n", ["line 1", "no image of this split"]),
        ("", ["000020"]),
    ],
)
def test_class_lists_must_fit_the_split(tmp_path, text, words):
    root = voc_tree(tmp_path, 2007, IMAGES)
    class_lists(root, VOC_CLASSES, lambda _: [0] * 20)
    (root / "Annotations").rename(root / "hidden")
    (root / "ImageSets" / "Main" / "cow_train.txt").write_text(text)
    with pytest.raises(UserError) as caught:
        load(tmp_path, tmp_path)
    for word in [*words, "cow_train.txt"]:
        assert word in str(caught.value)


def test_entities_are_refused_before_they_grow(tmp_path):
    bomb = '<!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>'
    path = tmp_path / "x.xml"
    path.write_text(bomb)
    with pytest.raises(UserError, match="document type"):
        read_objects(path)
    path.write_bytes(bomb.encode("utf-16"))
    with pytest.raises(UserError, match="document type"):
        read_objects(path)


def test_a_name_inside_a_part_is_no_object(tmp_path):
    path = tmp_path / "x.xml"
    part = "<part><name>dog</name><difficult>1</difficult></part>"
    path.write_text(f"<annotation><object>{part}<name> cat </name></object></annotation>")
    assert read_objects(path) == [(CAT, False, None)]


def test_a_missing_folder_shows_the_tree_and_the_way_without_data(tmp_path):
    with pytest.raises(UserError) as caught:
        find_root(tmp_path / "nowhere", 2007)
    for word in ("JPEGImages", "ImageSets/Main", "test.txt", "--dataset digits"):
        assert word in str(caught.value)


def test_a_link_to_itself_is_no_folder(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="loop: no such folder; no VOC2007 here"):
        find_root(tmp_path / "loop", 2007)


def test_the_folder_of_another_year_is_refused(tmp_path):
    root = voc_tree(tmp_path, 2012, [("a", "train", []), ("b", "val", [])])
    with pytest.raises(UserError, match="this is VOC2012"):
        find_root(root, 2007)


@pytest.mark.parametrize("kept", ["Annotations", "ImageSets"])
def test_a_folder_of_another_name_is_known_by_what_it_has(tmp_path, kept):
    (tmp_path / "mine" / kept).mkdir(parents=True)
    assert find_root(tmp_path / "mine", 2007) == tmp_path / "mine"
    with pytest.raises(UserError, match="no VOC2007 here"):
        find_root(tmp_path / "VOC2012", 2007)  # of another year, but not there
    with pytest.raises(UserError, match="VOC 2008: only 2007 and 2012 are known"):
        find_root(tmp_path / "mine", 2008)


def test_of_parts_of_which_one_lacks_its_annotations_a_missing_one_is_named(tmp_path):
    for part, splits in (("one", ["train", "test"]), ("other", ["val"])):
        images = [image for image in IMAGES if image[1] in splits]
        root = voc_tree(tmp_path / part, 2007, images)
        for split in {"train", "val", "test"} - set(splits):
            (root / "ImageSets" / "Main" / f"{split}.txt").unlink()
    (root / "Annotations").rename(root / "hidden")
    with pytest.raises(UserError, match=r"other/VOC2007/Annotations/000003\.xml: .*No such file"):
        load(tmp_path, tmp_path)


def test_images_matter_only_when_they_are_needed(tmp_path):
    voc_tree(tmp_path, 2007, IMAGES)
    load(tmp_path, tmp_path, need_images=False)
    with pytest.raises(UserError, match="JPEGImages"):
        load(tmp_path, tmp_path, need_images=True)


def test_the_second_start_parses_nothing_until_a_file_changes(tmp_path, monkeypatch):
    root = voc_tree(tmp_path, 2007, IMAGES)
    first = load(tmp_path, tmp_path)
    parsed = []
    monkeypatch.setattr(voc, "read_objects", lambda path: parsed.append(path.stem) or read_objects(path))
    second = load(tmp_path, tmp_path)
    assert parsed == []
    for one, two in zip(first[:2], second[:2], strict=True):
        same_labels(one, two)
        for old, new in zip(one.boxes, two.boxes, strict=True):
            np.testing.assert_array_equal(old, new)
            assert old.dtype == new.dtype
    xml(root, voc_xml([("cat", 0)]), "000007")
    assert load(tmp_path, tmp_path).test.truth.counts()[CAT] == 1
    assert parsed == ["000001", "000007"]
    for entry in (tmp_path / "cache").iterdir():
        entry.write_bytes(entry.read_bytes()[:100])
    same_labels(load(tmp_path, tmp_path).train, first.train)


def test_listed_images_without_an_annotation_are_left_out_where_missing_images_are(tmp_path, capsys):
    root = voc_tree(tmp_path, 2007, IMAGES)
    whole = load(tmp_path, tmp_path)
    gone = whole.train.ids[0]
    (root / "Annotations" / f"{gone}.xml").unlink()
    with pytest.raises(UserError, match=rf"{gone}\.xml: cannot be read .*--missing_images skip"):
        load(tmp_path, tmp_path)
    less = load_voc(replace(source(tmp_path, tmp_path / "cache"), skip_missing=True), 2007)
    assert less.train.ids == whole.train.ids[1:]
    same_labels(less.test, whole.test)
    text = f"left out 1 of {len(whole.train)} listed rows: annotation missing ({root}/Annotations/{gone}.xml, ...)"
    assert text in capsys.readouterr().out


def test_no_annotation_of_a_split_is_an_error_all_the_same(tmp_path):
    root = voc_tree(tmp_path, 2007, IMAGES)
    for path in (root / "Annotations").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="does not exist, nor does any other of the"):
        load_voc(replace(source(tmp_path, tmp_path / "cache"), skip_missing=True), 2007)


@pytest.mark.parametrize("suffix", [".JPG", ".Jpeg", ".jfif", ".PNG", ".jpe"])
def test_suffixes_may_be_in_any_case_and_of_any_image(tmp_path, suffix):
    root = voc_tree(tmp_path, 2007, IMAGES, pictures=True)
    whole = load(tmp_path, tmp_path)
    one = whole.train.ids[0]
    (root / "JPEGImages" / f"{one}.jpg").rename(root / "JPEGImages" / f"{one}{suffix}")
    (root / "Annotations" / f"{one}.xml").rename(root / "Annotations" / f"{one}.XML")
    again = load(tmp_path, tmp_path)
    same_labels(again.train, whole.train)
    assert again.train.images.name(0) == f"{root}/JPEGImages/{one}{suffix}"
    assert not len(again.train.images.missing())


def test_the_published_suffix_comes_first(tmp_path):
    root = voc_tree(tmp_path, 2007, IMAGES, pictures=True)
    one = load(tmp_path, tmp_path).train.ids[0]
    (root / "JPEGImages" / f"{one}.png").write_bytes(b"x")
    assert load(tmp_path, tmp_path).train.images.name(0) == f"{root}/JPEGImages/{one}.jpg"


def test_of_several_images_of_one_id_the_most_usual_suffix_counts(tmp_path):
    root = voc_tree(tmp_path, 2007, IMAGES)
    order = [".jpeg", ".JPEG", ".jfif", ".png", ".PNG", ".bmp"]
    found = {"000003": order, "000020": order[1:], "000001": order[2:], "000007": order[4:]}
    (root / "JPEGImages").mkdir()
    for one, suffixes in found.items():
        for suffix in suffixes:
            (root / "JPEGImages" / f"{one}{suffix}").write_bytes(b"x")
    parts = load(tmp_path, tmp_path)[:2]
    names = [part.images.name(row) for part in parts for row in range(2)]
    assert names == [f"{root}/JPEGImages/{one}{suffixes[0]}" for one, suffixes in found.items()]


@pytest.fixture(scope="session")
def voc2007(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voc2007")
    with tarfile.open(real_data("voc2007_annotations.tar.xz")) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="session")
def whole_2007(voc2007):
    return load_voc(source(voc2007, voc2007 / "cache"), 2007)


@pytest.mark.slow
def test_real_voc2007_has_the_published_counts(whole_2007):
    train, test, *_ = whole_2007
    assert (len(train), train.truth.num_classes, len(test)) == (5011, 20, 4952)
    assert train.truth.counts().sum() == 7306
    assert train.ids == tuple(sorted(train.ids))
    assert len(train.boxes.row) > 15_000


def test_real_voc2007_reads_from_the_cache(voc2007, whole_2007, monkeypatch):
    monkeypatch.setattr(voc, "read_objects", lambda path: pytest.fail(f"parsed {path}"))
    again = load_voc(source(voc2007, voc2007 / "cache"), 2007)
    same_labels(again.train, whole_2007.train)
    same_labels(again.test, whole_2007.test)


def test_real_class_lists_agree_with_the_xml_files(voc2007, whole_2007, tmp_path):
    (tmp_path / "VOC2007").mkdir()
    (tmp_path / "VOC2007" / "ImageSets").symlink_to(voc2007 / "VOC2007" / "ImageSets")
    for one, two in zip(load_voc(source(tmp_path, tmp_path / "cache"), 2007)[:2], whole_2007[:2], strict=True):
        same_labels(one, two)


def test_real_voc2012_class_lists(tmp_path):
    with tarfile.open(real_data("voc2012_annotations.tar.xz")) as archive:
        lists = [member for member in archive if "ImageSets" in member.name]
        archive.extractall(tmp_path, members=lists, filter="data")
    train, test, *_ = load_voc(source(tmp_path, tmp_path / "cache"), 2012)
    assert (len(train), len(test)) == (5717, 5823)
    assert ((train.truth.dense() == PRESENT).sum(axis=1) > 0).all()


@pytest.mark.parametrize("year, rows", [(2007, (147, 70)), (2012, (24, 24))])
def test_real_images_load_and_open(tmp_path, year, rows):
    splits = load_voc(source(real_data("voc_mini"), tmp_path / "cache", need_images=True), year)
    assert tuple(map(len, splits[:2])) == rows
    for part in splits[:2]:
        part.images.check()
        assert part.images.open(0).mode == "RGB"
        assert part.boxes.corners.min() >= 0
