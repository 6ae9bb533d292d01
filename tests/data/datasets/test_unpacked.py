"""Published datasets as archives are unpacked: parts side by side, folders within folders of their name, links."""

import contextlib
import json
import shutil

import pytest

from data.datasets.coco import load_coco
from data.datasets.cub import load_cub
from data.datasets.nuswide import load_nuswide
from data.datasets.openimages import load_openimages
from data.datasets.unpacked import LEVELS, Unpacked
from data.datasets.visual_genome import load_visual_genome
from data.datasets.voc import load_voc
from data.datasets.wider import load_wider
from tests.data.damage.nuswide import nuswide_tree, table
from tests.data.datasets.test_cub import cub_tree
from tests.data.datasets.test_openimages import tree as openimages_tree
from tests.data.datasets.test_visual_genome import OBJECTS, PHRASES
from tests.data.datasets.test_wider import TEST, TRAINVAL, wider_json
from tests.data.trees import coco_json, coco_tree, picture, real_data, source, voc_tree
from utils.checks import UserError

TRAINVAL_07 = [("000001", "train", [("cat", 0)]), ("000002", "val", [("dog", 0)])]
TEST_07 = [("000003", "test", [("cat", 0), ("dog", 1)])]
YEAR_12 = [("2008_000001", "train", [("cow", 0)]), ("2008_000002", "val", [("bus", 0)])]


def archives_of_voc(folder):
    """The two archives of VOC 2007, each unpacked into a folder of its name, and that of 2012 beside them."""
    for name, images in (("VOCtrainval_06-Nov-2007", TRAINVAL_07), ("VOCtest_06-Nov-2007", TEST_07)):
        root = voc_tree(folder / name / "VOCdevkit", 2007, images, pictures=True)
        for empty in (root / "ImageSets" / "Main").glob("*.txt"):
            if not empty.read_text():
                empty.unlink()
    voc_tree(folder / "VOC2012_train_val", 2012, YEAR_12, pictures=True)
    (folder / "VOC2012_train_val" / "VOC2012").rename(folder / "VOC2012_train_val" / "VOC2012_train_val")


def same(one, other):
    for a, b in zip(one[:2], other[:2], strict=True):
        assert (a.ids, a.classes) == (b.ids, b.classes)
        assert a.truth.hash() == b.truth.hash()


def test_the_two_archives_of_voc_2007_side_by_side_are_joined(tmp_path, capsys):
    archives_of_voc(tmp_path / "down")
    voc_tree(tmp_path / "kit", 2007, [*TRAINVAL_07, *TEST_07], pictures=True)
    joined = load_voc(source(tmp_path / "down", tmp_path / "cache", need_images=True), 2007)
    same(joined, load_voc(source(tmp_path / "kit", tmp_path / "cache"), 2007))
    assert joined.train.ids == ("000001", "000002")
    assert joined.test.images.missing().tolist() == joined.train.images.missing().tolist() == []
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(": found at ")[0] for line in said] == ["VOC2007", "VOC2007"]
    assert {line.rpartition("/down/")[2].split("/")[0] for line in said} == {
        "VOCtrainval_06-Nov-2007",
        "VOCtest_06-Nov-2007",
    }


@pytest.mark.parametrize("given", ["VOCtrainval_06-Nov-2007", "VOCtest_06-Nov-2007"])
def test_one_of_the_archives_alone_names_the_list_that_is_missing(tmp_path, given):
    archives_of_voc(tmp_path)
    with pytest.raises(UserError, match=r"(test|train)\.txt: cannot be read"):
        load_voc(source(tmp_path / given, tmp_path / "cache"), 2007)


@pytest.mark.parametrize("given", [".", "VOC2012_train_val", "VOC2012_train_val/VOC2012_train_val"])
def test_voc_2012_in_a_folder_within_a_folder_of_its_name(tmp_path, given):
    archives_of_voc(tmp_path)
    found = load_voc(source(tmp_path / given, tmp_path / "cache", need_images=True), 2012)
    assert (found.train.ids, found.test.ids) == (("2008_000001",), ("2008_000002",))


@pytest.mark.parametrize("given", ["VOC2007/JPEGImages", "VOC2007", ".", "..", "../.."])
def test_voc_by_its_images_folder_itself_and_what_is_around_it(tmp_path, given):
    kit = tmp_path / "data" / "sets" / "VOCdevkit"
    voc_tree(kit, 2007, [*TRAINVAL_07, *TEST_07], pictures=True)
    assert load_voc(source(kit / given, tmp_path / "cache", need_images=True), 2007).test.ids == ("000003",)


@pytest.mark.parametrize("year, images", [(2007, [*TRAINVAL_07, *TEST_07]), (2012, YEAR_12)])
def test_where_voc_is_whole_nothing_else_is_looked_at(tmp_path, capsys, year, images):
    voc_tree(tmp_path, year, images)
    other = voc_tree(tmp_path / "other", year, images)
    (other / "ImageSets/Main/train.txt").write_text("of another kind\n")
    found = load_voc(source(tmp_path, tmp_path / "cache"), year)
    assert found.train.ids == tuple(one for one, split, _ in images if split in ("train", "val"[: 3 * (year == 2007)]))
    assert capsys.readouterr().out == ""


def test_links_to_the_same_folder_count_once_and_two_that_differ_are_refused(tmp_path):
    archives_of_voc(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "VOCtest_06-Nov-2007")
    assert load_voc(source(tmp_path, tmp_path / "cache"), 2007).test.ids == ("000003",)
    shutil.copytree(tmp_path / "VOCtest_06-Nov-2007", tmp_path / "copy")
    assert load_voc(source(tmp_path, tmp_path / "cache"), 2007).test.ids == ("000003",)
    (tmp_path / "copy/VOCdevkit/VOC2007/ImageSets/Main/test.txt").write_text("000009\n")
    with pytest.raises(UserError, match=r"(copy|VOCtest).*test\.txt: differs from .*(copy|VOCtest)"):
        load_voc(source(tmp_path, tmp_path / "cache"), 2007)


def test_genuine_voc_images_taken_apart_into_two_archives(tmp_path):
    real = real_data("voc_mini/VOCdevkit/VOC2007")
    for name, lists in (("VOCtrainval_06-Nov-2007", ("train", "val", "trainval")), ("VOCtest_06-Nov-2007", ("test",))):
        root = tmp_path / name / "VOCdevkit" / "VOC2007"
        (root / "ImageSets" / "Main").mkdir(parents=True)
        for one in ("Annotations", "JPEGImages"):
            (root / one).symlink_to(real / one)
        for one in lists:
            if (real / "ImageSets" / "Main" / f"{one}.txt").exists():
                (root / "ImageSets" / "Main" / f"{one}.txt").symlink_to(real / "ImageSets" / "Main" / f"{one}.txt")
    whole = load_voc(source(real, tmp_path / "cache", need_images=True), 2007)
    same(load_voc(source(tmp_path, tmp_path / "cache", need_images=True), 2007), whole)


def coco_parts(folder, numbers=(1, 2)):
    classes = [number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    train = coco_json([(1, "000000000001.jpg"), (2, "000000000002.jpg")], [(n, 1, 0) for n in numbers], classes)
    val = coco_json([(7, "000000000007.jpg")], [(7, 3, 0)], classes)
    coco_tree(folder, 2017, train, val)


@pytest.mark.parametrize("given", [".", "annotations_trainval2017/annotations", "train2017/train2017"])
def test_archives_of_coco_in_folders_of_their_names(tmp_path, given, capsys):
    coco_parts(tmp_path / "annotations_trainval2017")
    for split, numbers in (("train2017", (1, 2)), ("val2017", (7,))):
        for number in numbers:
            picture(tmp_path / split / split / f"{number:012d}.jpg")
    if given != ".":
        with pytest.raises(UserError):
            load_coco(source(tmp_path / given, tmp_path / "cache", need_images=True), 2017)
        return
    found = load_coco(source(tmp_path, tmp_path / "cache", need_images=True), 2017)
    assert (found.train.ids, found.test.ids) == (("1", "2"), ("7",))
    for part in found[:2]:
        assert part.images.missing().tolist() == []
    said = capsys.readouterr().out
    assert f"found at {tmp_path}/annotations_trainval2017/annotations/instances_train2017.json" in said
    assert f"images/train2017: found at {tmp_path}/train2017/train2017" in said


@pytest.mark.parametrize("given", ["..", "train2017", "images"])
def test_coco_by_the_folder_around_it_or_that_of_its_images(tmp_path, given):
    root = tmp_path / "coco17"
    coco_parts(root)
    below = "images/" if given == "images" else ""
    for split, numbers in (("train2017", (1, 2)), ("val2017", (7,))):
        for number in numbers:
            picture(root / f"{below}{split}" / f"{number:012d}.jpg")
    found = load_coco(source(root / given, tmp_path / "cache", need_images=True), 2017)
    assert [part.images.missing().tolist() for part in found[:2]] == [[], []]


def test_two_files_of_annotations_that_differ_are_refused(tmp_path):
    coco_parts(tmp_path / "a")
    coco_parts(tmp_path / "b")
    assert load_coco(source(tmp_path, tmp_path / "cache"), 2017).train.ids == ("1", "2")
    coco_parts(tmp_path / "b", numbers=(1,))
    with pytest.raises(UserError, match=r"b/annotations/instances_train2017\.json: differs from .*/a/annotations"):
        load_coco(source(tmp_path, tmp_path / "cache"), 2017)
    assert load_coco(source(tmp_path / "b", tmp_path / "cache"), 2017).train.ids == ("1",)


@pytest.mark.parametrize("given", [".", "down", "down/CUB_200_2011", "down/CUB_200_2011/images"])
def test_cub_from_above_itself_and_its_images(tmp_path, given):
    root = cub_tree(tmp_path / "down", attributes="CUB_200_2011/attributes/attributes.txt")
    picture(root / "images" / "001.Tern" / "Tern_0001_7.jpg")
    assert len(load_cub(source(tmp_path / given, tmp_path / "cache")).train) == 3


@pytest.mark.parametrize("given", [".", "x", "x/2017_11"])
def test_openimages_with_images_elsewhere(tmp_path, given):
    openimages_tree(tmp_path / "x" / "2017_11")
    picture(tmp_path / "x" / "train" / "train" / "0a.jpg")
    found = load_openimages(source(tmp_path / given, tmp_path / "cache", need_images=given != "x/2017_11"))
    assert found.train.ids == ("00", "0A", "0a", "0f")
    if given != "x/2017_11":
        assert 2 not in found.train.images.missing()


@pytest.mark.parametrize("given", [".", "wider"])
def test_wider_with_its_archives_side_by_side(tmp_path, given):
    for split, document in (("trainval", TRAINVAL), ("test", TEST)):
        folder = tmp_path / "wider" / "wider_attribute_annotation"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"wider_attribute_{split}.json").write_text(json.dumps(wider_json(document)))
    for name, _ in [*TRAINVAL, *TEST]:
        picture(tmp_path / "wider" / "wider_attribute_image" / "Image" / name)
    found = load_wider(source(tmp_path / given, tmp_path / "cache", need_images=True))
    assert found.test.images.missing().tolist() == []


@pytest.mark.parametrize("given", [".", "vg", "vg/images"])
def test_visual_genome_with_its_archives_side_by_side(tmp_path, given):
    for name, content in (("objects.json", OBJECTS), ("vg256.json", PHRASES)):
        (tmp_path / "vg" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "vg" / name).write_text(json.dumps(content))
    for number, folder in (
        (30, "images/VG_100K"),
        (4, "images2/VG_100K_2"),
        (100, "images/VG_100K"),
        (9, "images/VG_100K"),
        (7, "images/VG_100K"),
    ):
        picture(tmp_path / "vg" / folder / f"{number}.jpg")
    found = load_visual_genome(source(tmp_path / given, tmp_path / "cache", need_images=given != "vg/images"))
    ids = sorted(int(one) for part in found[:2] for one in part.ids)
    assert ids == [4, 7, 9, 30, 100]
    if given != "vg/images":
        assert [part.images.missing().tolist() for part in found[:2]] == [[], []]


@pytest.mark.parametrize("given", [".", "nus", "nus/images"])
def test_nuswide_from_above_itself_and_its_images(tmp_path, given):
    (tmp_path / "nus").mkdir()
    nuswide_tree(tmp_path / "nus", table())
    for number in (1, 2, 3):
        picture(tmp_path / "nus" / "images" / f"{number}.jpg")
    found = load_nuswide(source(tmp_path / given, tmp_path / "cache", need_images=True))
    assert [part.images.missing().tolist() for part in found[:2]] == [[], []]


@pytest.mark.parametrize(
    "load",
    [
        lambda s: load_voc(s, 2007),
        lambda s: load_coco(s, 2017),
        load_cub,
        load_openimages,
        load_wider,
        load_visual_genome,
        load_nuswide,
    ],
)
def test_a_folder_that_does_not_exist_is_named_so(tmp_path, load):
    with pytest.raises(UserError, match=r"gone: no such folder; no .* here"):
        load(source(tmp_path / "gone", tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no [A-Z]"):
        load(source(tmp_path / "empty", tmp_path / "cache"))


def test_folders_are_looked_at_once_in_order_and_not_too_deep(tmp_path):
    deep = tmp_path
    for level in range(LEVELS + 2):
        deep = deep / f"level{level + 1}"
        deep.mkdir()
        (deep / "part.txt").write_text(str(level))
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "level1")
    found = Unpacked(tmp_path)
    assert [folder.name for folder in found.folders] == [tmp_path.name, "level1", "level2", "level3"]
    assert len(found.every("part.txt")) == LEVELS
    with pytest.raises(UserError, match="differs from"):
        found.file("part.txt")
    assert found.file("other.txt") is None
    assert found.folder("nothing") is None
    (tmp_path / "part.txt").write_text("here")
    assert Unpacked(tmp_path).file("part.txt") == tmp_path / "part.txt"


@pytest.mark.parametrize(
    "filled, empty, needed, found",
    [
        ("images/val val more/images/val", "", True, "images/val"),
        ("val more/images/val", "", True, "val"),
        ("more/images/val val", "images/val", False, "images/val"),
        ("more/images/val val", "images/val", True, "more/images/val"),
        ("more/images/val more/val", "val", True, "more/images/val"),
        ("more/val", "val", True, "more/val"),
        ("more/val", "", False, "more/val"),
        ("more/test", "val", True, "val"),
        ("more/test", "test", True, None),
    ],
)
def test_images_are_where_they_are_expected_or_where_there_are_some(tmp_path, filled, empty, needed, found):
    for folder in filled.split():
        picture(tmp_path / folder / "1.jpg")
    for folder in empty.split():
        (tmp_path / folder).mkdir(parents=True)
    expected = None if found is None else tmp_path / found
    assert Unpacked(tmp_path).images(tmp_path, "val", needed=needed) == expected


@pytest.mark.parametrize("count, looked_at", [(1999, True), (2000, False)])
def test_a_folder_of_two_thousand_files_has_no_folders_that_count(tmp_path, monkeypatch, count, looked_at):
    class Entry:
        def __init__(self, name):
            self.name = name

        def is_dir(self):
            return self.name == "part"

    def scanned(folder):
        here = folder == tmp_path
        return contextlib.nullcontext([*(Entry(str(k)) for k in range(count)), Entry("part")] if here else [])

    monkeypatch.setattr("data.datasets.unpacked.os.scandir", scanned)
    assert Unpacked(tmp_path).folders == [tmp_path, tmp_path / "part"][: 1 + looked_at]


def test_where_a_part_was_found_is_said_once_and_only_where_it_is_not_expected(tmp_path, capsys):
    for name in ("x/part.txt", "other.txt", "y/images/1.jpg", "z/images/note.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = Unpacked(tmp_path)
    for _ in range(2):
        assert found.file("gone.txt", "part.txt") == tmp_path / "x" / "part.txt"
        assert found.file("other.txt") == tmp_path / "other.txt"
        assert found.folder("images") == tmp_path / "y" / "images"
    assert capsys.readouterr().out.splitlines() == [
        f"part.txt: found at {tmp_path / 'x' / 'part.txt'}",
        f"images: found at {tmp_path / 'y' / 'images'}",
    ]
    assert Unpacked(tmp_path / "y").folder("nothing", "images") == tmp_path / "y" / "images"
    assert capsys.readouterr().out == ""
    assert Unpacked(tmp_path / "z").folder("images") == tmp_path / "z" / "images"  # without images, but the only one
