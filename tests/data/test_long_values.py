"""What a message quotes of a value without end: its beginning, as long as is said here."""

import re

import numpy as np
import pytest

from data.datasets.coco import load_coco
from data.datasets.formatted import load_formatted
from data.datasets.long_tail_pickles import check_ids
from data.datasets.table.labelled import check_id
from data.datasets.voc import load_voc
from data.files.csv_blocks import read_blocks
from data.files.text_files import read_csv, relative_path
from data.files.xml_files import parse_xml
from data.labels.class_rates import read_class_rates, read_confusion
from tests.data.damage import cub, formatted, label_files, longtail, nuswide, openimages, table
from tests.data.damage.nuswide import load, nuswide_tree
from tests.data.trees import annotations, class_lists, coco_json, coco_tree, source, voc_tree, voc_xml
from utils.checks import UserError

LONG = "x" * 300
SEVENS = "7" * 300
HEXADECIMAL = "7" * 64


def calling(function, *arguments):
    return lambda folder: lambda: function(*arguments)


def reading(function, content, *arguments):
    """The call of a reader of one file."""

    def make(folder):
        path = folder / "held.txt"
        path.write_text(content)
        return lambda: list(function(path, *arguments))

    return make


def nus(*rows, header=nuswide.HEADER):
    return lambda folder: lambda: load(nuswide_tree(folder, nuswide.table(*rows, header=header)))


def listed(name="nw-lt", **lists):
    return lambda folder: lambda: longtail.load(longtail.longtail_tree(folder, name, lists=lists), name)


def coco(**values):
    """Training images of COCO whose first has these values."""

    def make(folder):
        document = coco_json([(1, "a.jpg")], [(1, 7, 0)], [7])
        document["images"][0].update(values)
        coco_tree(folder, 2017, document, coco_json([(2, "b.jpg")], [(2, 7, 0)], [7]))
        return lambda: load_coco(source(folder, folder / "cache"), 2017)

    return make


def voc(spoil):
    """VOC whose folder was changed."""

    def make(folder):
        root = voc_tree(folder, 2007, [("1", "train", [("cat", 0)]), ("2", "val", []), ("3", "test", [])])
        spoil(root)
        return lambda: load_voc(source(folder, folder / "cache"), 2007)

    return make


def xml(**one):
    content = voc_xml([("cat", one.get("difficult", 0), (one.get("left", 1), 1, 5, 5))])
    return voc(lambda root: (root / "Annotations" / "1.xml").write_text(content))


def value_of_a_class_list(root):
    class_lists(root, ["aeroplane"], lambda image: [1])
    (root / "ImageSets" / "Main" / "aeroplane_train.txt").write_text(f"1 {LONG}")
    (root / "Annotations").rename(root / "hidden")


def arrays(beside="", **changes):
    def make(folder):
        formatted.formatted_tree(folder, **changes)
        if beside:
            (folder / "classes.txt").write_text(beside)
        return lambda: load_formatted(source(folder, folder / "cache"), formatted.LAYOUT)

    return make


def own(content, **more):
    return table.file(content, **more)


CASES = {
    "a path": (calling(relative_path, f"{LONG}/../..", "here"), [80]),
    "a header of a large table": (reading(read_blocks, f"{LONG}\n", ["a"], ""), [120]),
    "an encoding": (
        calling(parse_xml, f"<?xml version='1.0' encoding='{LONG}'?><a>\u00e9</a>".encode("latin-1")),
        [40],
    ),
    "a class of a file of rates": (reading(read_class_rates, f"class,rate\n{LONG},1", ["a"]), [80]),
    "a rate that is no number": (reading(read_class_rates, f"class,rate\na,{LONG}", ["a"]), [40]),
    "a rate": (reading(read_class_rates, f"class,rate\na,{SEVENS}", ["a"]), [40]),
    "a column of a confusion": (reading(read_confusion, f"x,a,{LONG}\na,0,0", ["a"]), [80]),
    "nuswide: an image twice": (nus(f"{LONG}.jpg,[],val", f"{LONG}.png,[],val"), [80]),
    "nuswide: a split": (nus(f"a.jpg,[],{LONG}"), [40]),
    "nuswide: a file with a bell": (nus(f"{LONG}\a,[],val"), [80]),
    "nuswide: labels": (nus(f"a.jpg,{LONG},val"), [60]),
    "nuswide: a class": (nus(f"a.jpg,['{LONG}'],val"), [60]),
    "nuswide: columns": (nus(header=f"path,{LONG}"), [200 - len("'path', '")]),
    "cub: an image without a number": (cub.line(cub.IMAGES, 2, LONG), [60]),
    "cub: an image twice": (cub.line(cub.IMAGES, 2, f"2 {LONG}\n3 {LONG}"), [80]),
    "cub: a split": (cub.line(cub.SPLIT, 2, f"2 {LONG}"), [20]),
    "cub: an attribute with a bell": (cub.line(cub.NAMED, 9, f"9 {LONG}\a"), [60]),
    "cub: an attribute twice": (cub.line(cub.NAMED, 9, f"9 {LONG}\n10 {LONG}"), [60]),
    "cub: a label of words": (cub.line(cub.LABELS, 700, LONG), [60]),
    "cub: another label": (cub.line(cub.LABELS, 700, f"3 76 2 1 {LONG}"), [51]),
    "coco: a file that leads out": (coco(file_name=f"{LONG}/../.."), [80]),
    "coco: an id of another type": (coco(id=LONG), [40]),
    "coco: a file with a bell": (coco(file_name=f"{LONG}\a"), [40]),
    "long tail: a class without a number": (listed(labels=LONG), [60]),
    "long tail: a class twice": (listed(labels=f"{LONG} 0\n{LONG} 1"), [60]),
    "long tail: an image without a number": (listed("coco-lt", lt_train=f"{LONG}.jpg 0"), [80]),
    "long tail: an image twice": (listed(lt_train=f"{LONG}.jpg 0\n{LONG}.png 1"), [80]),
    "long tail: a class": (listed(lt_train=f"a.jpg {LONG}"), [40]),
    "long tail: an image in both lists": (listed(lt_train=f"{LONG}.jpg 0", lt_test=f"{LONG}.jpg 1"), [80]),
    "ids: one of another list": (reading(check_ids, LONG, annotations([[1]])), [80]),
    "ids: one twice": (reading(check_ids, f"{LONG}\n{LONG}", annotations([[1]], [LONG])), [80]),
    "ids: one is missing": (reading(check_ids, "a", annotations([[1], [1]], ["a", LONG])), [80]),
    "openimages: a class": (openimages.case("", openimages.LABELS, f"{LONG},".encode()).make, [60]),
    "openimages: an image": (openimages.row("", f"{LONG},verification,/m/2,1".encode()).make, [60]),
    "table: a class": (own(f"image,labels\na.jpg,{LONG}\nb.jpg,dog\n"), [60]),
    "table: a class of no list": (own(f"image,labels\na.jpg,{LONG}\n", beside={"classes.txt": "dog"}), [60]),
    "table: an image with a bell": (own(f"image,labels\n{LONG}\a,dog\n"), [60]),
    "table: an image twice": (calling(check_id, LONG, "line 3", {LONG: "line 2"}), [200]),
    "table: a cell of a class": (own(f"image,cat\na.jpg,{LONG}\nb.jpg,1\n"), [40]),
    "table: a class twice in a cell": (own(f"image,labels\na.jpg,{LONG};{LONG}\n"), [80]),
    "table: a split": (own(f"image,labels,split\na.jpg,cat,{LONG}\n"), [40]),
    "table: columns": (own(f"image,{LONG}\na.jpg,1\n", label_column="none"), [40]),
    "table: a listed image": (
        table.folder_of({f"ImageSets/Main/{one}.txt": LONG for one in ("train", "test")}),
        [60, 60],
    ),
    "table: a class of a box": (table.folder_of({"Annotations/c.xml": table.xml(name=LONG, box="5115")}), [60]),
    "arrays: a name with a bell": (arrays(train_images=formatted.texts(f"{LONG}\a")), [80]),
    "arrays: a name of no image": (arrays(train_images=formatted.texts(f"{LONG}/.jpg")), [80]),
    "arrays: an image twice": (arrays(train_images=formatted.texts(f"a/{LONG}.jpg", f"b/{LONG}.jpg")), [80]),
    "arrays: an image in both": (
        arrays(train_images=formatted.texts(f"{LONG}.jpg"), val_images=np.array([f"{LONG}.jpg", "b.jpg"])),
        [80],
    ),
    "arrays: a class twice": (arrays(f"{LONG}\n{LONG}\n"), [60]),
    "voc: an image": (voc(lambda root: (root / "ImageSets" / "Main" / "val.txt").write_text(f"{LONG} 1")), [60]),
    "voc: a value of a class list": (voc(value_of_a_class_list), [60 - len("1 ")]),
    "voc: difficult": (xml(difficult=LONG), [20]),
    "voc: a side of a box": (xml(left=LONG), [20]),
    "labels: a format": (label_files.manifest("", format=LONG).make, [39]),  # and a quotation mark
    "labels: a regime": (label_files.manifest("", regime=LONG).make, [40]),
    "labels: parameters": (
        label_files.manifest("", parameters={str(k): LONG for k in range(9)}).make,
        [40, 40, 40, 40, 200 - 4 * len(f"0 {LONG[:40]}, ") - len("4 ")],
    ),
    "labels: other rows": (label_files.manifest("", row_hash=HEXADECIMAL).make, [8]),
    "labels: other labels": (label_files.manifest("", label_hash=HEXADECIMAL).make, [8]),
}


@pytest.mark.parametrize("make, lengths", CASES.values(), ids=CASES)
def test_of_a_value_without_end_a_message_has_the_beginning(tmp_path, make, lengths):
    call = make(tmp_path)
    with pytest.raises(UserError if make is not CASES["an encoding"][0] else ValueError) as caught:
        call()
    assert [len(run) for run in re.findall("x{8,}|7{8,}", str(caught.value))] == lengths


def test_twelve_columns_of_a_table_and_eight_of_nuswide_are_named(tmp_path):
    names = [f"c{k}" for k in range(14)]
    with pytest.raises(UserError, match=r"it has 'c0', .*'c11'$"):
        reading(read_csv, ",".join(names), ["a"], "")(tmp_path)()
    with pytest.raises(UserError) as caught:
        reading(read_csv, ",".join(name + LONG for name in names), ["a"], "")(tmp_path)()
    assert len(str(caught.value)) == 400
    with pytest.raises(UserError, match=r"there are 'path', .*'c6'$"):
        nus(header=",".join(["path", *names]))(tmp_path)()
