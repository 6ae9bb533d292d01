"""What makes the data of two runs the same: ids, classes and truth of the rows in use, and nothing else.

Every way in which a table, a set of images or a file of annotations changes between two commands, from small to sly.
"""

import contextlib
import csv
import io
import os
from pathlib import Path

import pytest

from data.build import DatasetConfig, build_data, load_splits
from data.labels.regime import Regime
from data.subsets.splits import TrainingSplitConfig
from tests.data.datasets.test_openimages import tree as openimages_tree
from tests.faults import kinds

ROWS = [
    {"image": f"{n}.png", "cat": str(n % 2), "dog": str(n // 2 % 2), "split": split}
    for n, split in enumerate(["train"] * 6 + ["val"] * 3 + ["test"] * 5)
]


def written(folder, rows, *, encoding="utf-8", newline="\n", delimiter=","):
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator=newline, delimiter=delimiter)
    table.writeheader()
    table.writerows(rows)
    (folder / "t.csv").write_bytes(text.getvalue().encode(encoding))


def hashes(folder, images="images", **more):
    """Hashes of the splits of the table in a folder."""
    with contextlib.chdir(folder):
        config = DatasetConfig(dataset="table", table=(Path("t.csv"),), path_images=folder / images, **more)
        return build_data(config, Regime(labels="given"), TrainingSplitConfig(), 0).hashes()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for row in ROWS:
        (tmp_path / "images" / row["image"]).touch()
    written(tmp_path, ROWS)
    return tmp_path


def with_row(number, **values):
    return [{**row, **values} if n == number else dict(row) for n, row in enumerate(ROWS)]


def exchanged(one, other):
    rows = [dict(row) for row in ROWS]
    for name in ("cat", "dog"):
        rows[one][name], rows[other][name] = rows[other][name], rows[one][name]
    return rows


def retitled(**names):
    return [{names.get(title, title): value for title, value in row.items()} for row in ROWS]


EVERY = {"train", "validation", "test"}
OTHER = {
    "a training label": (with_row(0, cat="1"), {"train"}),
    "a label of validation": (with_row(6, cat="1"), {"validation"}),
    "a test label": (with_row(13, dog="1"), {"test"}),
    "a test label that is unknown now": (with_row(13, dog="-1"), {"test"}),
    "a test label that is blank now": (with_row(13, dog=""), {"test"}),
    "two test images have exchanged their labels": (exchanged(10, 12), {"test"}),
    "a test and a training image have": (exchanged(0, 13), {"train", "test"}),
    "a test image less": (ROWS[:-1], {"test"}),
    "a training image less": (ROWS[1:], {"train"}),
    "a test image more": ([*ROWS, {"image": "14.png", "cat": "1", "dog": "0", "split": "test"}], {"test"}),
    "an image under another name": (with_row(13, image="14.png"), {"test"}),
    "an image that moved from test to training": (with_row(9, split="train"), {"train", "test"}),
    "an image that moved from validation to test": (with_row(6, split="test"), {"validation", "test"}),
    "a class of another name": (retitled(cat="kitten"), EVERY),
    "names of classes that were exchanged": (retitled(cat="dog", dog="cat"), EVERY),
    "classes in another order": (
        [{"image": r["image"], "dog": r["dog"], "cat": r["cat"], "split": r["split"]} for r in ROWS],
        EVERY,
    ),
    "a class more": ([{**row, "cow": "0"} for row in ROWS], EVERY),
    "a class less": ([{title: row[title] for title in ("image", "cat", "split")} for row in ROWS], EVERY),
}


@pytest.mark.parametrize("change", OTHER)
def test_other_data_have_other_hashes(folder, change):
    before = hashes(folder)
    rows, splits = OTHER[change]
    (folder / "images" / "14.png").touch()
    written(folder, rows)
    after = hashes(folder)
    assert {name for name in before if before[name] != after[name]} == splits


SAME = {
    "lines in another order": {"rows": ROWS[::-1]},
    "a column that is not read": {"rows": [{**row, "by": f"Ann {n}"} for n, row in enumerate(ROWS)]},
    "words for codes": {"rows": [{k: {"1": "True", "0": "False"}.get(v, v) for k, v in row.items()} for row in ROWS]},
    "splits in capitals": {"rows": [{**row, "split": row["split"].upper()} for row in ROWS]},
    "another encoding": {"encoding": "utf-16"},
    "a mark of the encoding": {"encoding": "utf-8-sig"},
    "other line ends": {"newline": "\r\n"},
    "semicolons": {"delimiter": ";"},
}


@pytest.mark.parametrize("change", SAME)
def test_the_same_data_have_the_same_hashes(folder, change):
    before = hashes(folder)
    how = dict(SAME[change])
    written(folder, how.pop("rows", ROWS), **how)
    assert hashes(folder) == before


def test_images_elsewhere_are_the_same_data(folder):
    before = hashes(folder)
    (folder / "images").rename(folder / "moved")
    assert hashes(folder, "moved") == before


@pytest.mark.parametrize(
    ("flags", "splits"),
    [
        ({"uncertain": "present"}, {"test"}),
        ({"uncertain": "absent"}, {"test"}),
        ({"blank": "absent"}, {"train"}),
        ({"ignore_columns": "dog"}, EVERY),
        ({"class_columns": "dog,cat"}, EVERY),
        ({"class_columns": "cat,dog"}, set()),
    ],
)
def test_what_a_flag_makes_of_the_table_counts(folder, flags, splits):
    rows = with_row(13, dog="-1")
    rows[0]["dog"] = ""
    written(folder, rows)
    before, after = hashes(folder), hashes(folder, **flags)
    assert {name for name in before if before[name] != after[name]} == splits


def test_each_set_of_missing_images_has_hashes_of_its_own(folder):
    found = {}
    for missing in ((), (0,), (1,), (0, 1), (6,), (7,), (12,), (13,), (12, 13), (0, 6, 13)):
        for number in missing:
            (folder / "images" / f"{number}.png").unlink()
        found[missing] = hashes(folder, missing_images="skip")
        for number in missing:
            (folder / "images" / f"{number}.png").touch()
    whole = found[()]
    for missing, held in found.items():
        splits = {"train" if number < 6 else "validation" if number < 9 else "test" for number in missing}
        assert {name for name in held if held[name] != whole[name]} == splits
    assert len({tuple(held.values()) for held in found.values()}) == len(found)
    assert hashes(folder, missing_images="skip") == whole


def openimages(folder):
    openimages_tree(folder)


REPLACED = {
    "VOC xml": (kinds.voc, "voc07", "VOC2007/Annotations/000000.xml", b"aeroplane", b"motorbike"),
    "VOC xml, difficult": (kinds.voc, "voc07", "VOC2007/Annotations/000005.xml", b"<difficult>1", b"<difficult>0"),
    "VOC lists of classes": (
        kinds.voc_class_lists,
        "voc07",
        "VOC2007/ImageSets/Main/bicycle_train.txt",
        b"-1\n",
        b" 1\n",
    ),
    "COCO": (kinds.coco, "coco", "annotations/instances_train2014.json", b'"category_id": 1', b'"category_id": 2'),
    "COCO, test": (kinds.coco, "coco", "annotations/instances_val2014.json", b'"category_id": 2', b'"category_id": 3'),
    "own json": (kinds.own_json, "table", "t.json", b'"category_id": 1', b'"category_id": 2'),
    "own xml": (kinds.own_folder, "table", "own/Annotations/0.xml", b"<difficult>1", b"<difficult>0"),
    "OpenImages": (openimages, "openimages", "test/annotations-human.csv", b",0\n", b",1\n"),
    "own table": (kinds.own, "table", "t.csv", b"red;green", b"green;red"),
}
"""What writes a dataset, its name, a file of it, and what stands there before and after."""


@pytest.mark.parametrize("kind", REPLACED)
def test_a_file_that_was_replaced_by_one_of_its_size_and_time_is_read_anew(tmp_path, kind):
    build, dataset, name, old, new = REPLACED[kind]
    root, cache = tmp_path / "data", tmp_path / "cache"
    root.mkdir()
    build(root)
    table = {"own json": "t.json", "own xml": "own", "own table": "t.csv"}.get(kind)

    def loaded():
        config = DatasetConfig(
            dataset=dataset, path_images=root, cache_dir=cache, table=(root / table,) if table else None
        )
        splits = load_splits(config, 0, need_images=False)
        return [part.content_hash() for part in (splits.train, splits.test)]

    before, file = loaded(), root / name
    assert loaded() == before
    status, content = file.stat(), file.read_bytes()
    assert old in content
    file.write_bytes(content.replace(old, new, 1))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size
    assert (loaded() == before) == (kind == "own table")  # the order of names in a cell is no difference
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert loaded() == before


def test_each_set_of_missing_annotations_has_hashes_of_its_own(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    kinds.voc(root)
    config = DatasetConfig(dataset="voc07", path_images=root, cache_dir=tmp_path / "c", missing_images="skip")
    found = {}
    for missing in ((), (0,), (3,), (0, 3), (1,), (2,), (5,), (2, 5), (0, 2)):
        files = [root / "VOC2007" / "Annotations" / f"{number:06d}.xml" for number in missing]
        contents = [file.read_bytes() for file in files]
        for file in files:
            file.unlink()
        splits = load_splits(config, 0, need_images=False)
        found[missing] = (splits.train.content_hash(), splits.test.content_hash())
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)
    for missing, (train, test) in found.items():
        assert (train != found[()][0]) == any(number % 3 < 2 for number in missing)
        assert (test != found[()][1]) == any(number % 3 == 2 for number in missing)
    assert len(set(found.values())) == len(found)
