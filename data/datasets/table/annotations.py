"""People's own labels in two forms of object detection: a COCO-style `.json`, and a folder of VOC annotations.

A class is present where an object of it is. The formats are those of Lin et al. (ECCV 2014) and of the VOC development
kit (Everingham et al., IJCV 2010), here with classes of any name and number.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.datasets.coco import read_instances
from data.datasets.table.labelled import (
    TEST,
    TRAIN,
    UNSAID,
    VALIDATION,
    Labelled,
    check_classes,
    check_id,
    choose_classes,
    in_order,
)
from data.datasets.voc import NamedObject, VocObject, codes_and_boxes, read_named_objects
from data.files.text_files import read_lines, relative_path
from utils.checks import UserError, require

_LISTS = {"train": TRAIN, "trainval": TRAIN, "val": VALIDATION, "test": TEST}
_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_LONGEST_SIDE = 1e9  # pixels; beyond it a number of a box is damage


def read_coco_style(path: Path, separator: str) -> Labelled:
    """Pictures by file name and classes by category id, from an instances file with categories of any name.

    Pictures without an annotation are left out: the file cannot say whether anyone looked at them.

    Raises:
        UserError: as `coco.read_instances` does, for two categories or pictures of one name, and for a file name that
            leads out of the pictures' folder.
    """
    part = read_instances(path)
    classes = check_classes(((name, f"{path}, category {k}") for k, name in enumerate(part.classes, 1)), separator)
    seen: dict[str, str] = {}
    for image, name in zip(part.ids, part.files, strict=True):
        where = f"{path}, image {image}"
        check_id(relative_path(name, where), where, seen)
    notes = (f"{path}: left out {part.left_out} pictures without an annotation",) if part.left_out else ()
    parts = np.full(len(seen), UNSAID, dtype=np.int8)
    return in_order(Labelled(tuple(seen), classes, part.codes, parts, closed=True, boxes=part.boxes, notes=notes))


def read_voc_style(folder: Path, fixed: tuple[str, ...] | None, separator: str) -> Labelled:
    """Pictures by name without ending, and the classes that occur (or `fixed`), from `annotation_files(folder)`.

    A class of which a picture shows only objects marked difficult is UNKNOWN there, as in VOC. Where `ImageSets/Main`
    has lists (`split_lists`) they say which pictures are for what; those in none are left out.

    Raises:
        UserError: there is no annotation, one is damaged, a class name is unfit, or a list does not fit.
    """
    files = {path.stem: path for path in annotation_files(folder)}
    part_of = split_lists(folder, files)
    ids = sorted(part_of or files)
    objects = [read_named_objects(files[image]) for image in ids]
    found: dict[str, str] = {}
    for image, shown in zip(ids, objects, strict=True):
        for one in shown:
            found.setdefault(one.name, str(files[image]))
            _check_box(files[image], one)
    classes = choose_classes(found, fixed, separator)
    require(bool(classes), f"{folder}: none of its {len(files)} annotations has an object")
    place = {name: label for label, name in enumerate(classes)}
    labelled = [[VocObject(place[one.name], one.difficult, one.corners) for one in shown] for shown in objects]
    codes, boxes = codes_and_boxes(labelled, len(classes))
    parts = np.array([part_of.get(image, UNSAID) for image in ids], dtype=np.int8)
    left = len(files) - len(ids)
    notes = (f"{folder}: left out {left} annotations that no list in ImageSets/Main names",) if left else ()
    return Labelled(tuple(ids), classes, codes, parts, closed=fixed is not None, boxes=boxes, notes=notes)


def annotation_files(folder: Path) -> list[Path]:
    """The annotations `*.xml` in `folder/Annotations`, or in `folder` itself, sorted.

    Raises: UserError showing the expected tree where there is none, or naming one that lies in a folder below.
    """
    holder = folder / "Annotations" if (folder / "Annotations").is_dir() else folder
    files = sorted(holder.glob("*.xml"))
    below = next(holder.glob("*/*.xml"), None)
    if below is not None:
        raise UserError(
            f"{below}: lies in a folder below {holder}; put all annotations into that one, or give --table and "
            f"--test_table a folder each"
        )
    if not files:
        raise UserError(
            f"{holder}: no annotation *.xml here; give --table the folder that looks like this:\n"
            f"  Annotations/<name>.xml               (or the xml files directly)\n"
            f"  JPEGImages/<name>.jpg                (or elsewhere: --path_images)\n"
            f"  ImageSets/Main/train.txt, test.txt   (if the split is fixed)\n"
            f"  classes.txt                          (if the order of the classes is fixed)"
        )
    for path in files:
        check_id(path.stem, str(holder), {})
    return files


def list_files(folder: Path) -> list[Path]:
    """The lists of `folder/ImageSets/Main` that say which pictures are for what; `trainval` where there is no `train`.

    Raises: UserError where only one of training and test has a list.
    """
    lists = folder / "ImageSets" / "Main"
    there = [name for name in _LISTS if (lists / f"{name}.txt").is_file()]
    if "train" in there and "trainval" in there:
        there.remove("trainval")
    if there and not ({"train", "trainval"} & set(there) and {"val", "test"} & set(there)):
        raise UserError(
            f"{lists / there[0]}.txt: stands alone; lists for training (train.txt) and for the test (test.txt or "
            f"val.txt) are needed, or none"
        )
    return [lists / f"{name}.txt" for name in there]


def split_lists(folder: Path, known: dict[str, Path]) -> dict[str, int]:
    """The part of each picture that the lists of `list_files` name; empty where there are no lists.

    Raises: UserError for a name that is none of `known`, or that is listed twice.
    """
    part_of: dict[str, int] = {}
    seen: dict[str, str] = {}
    for path in list_files(folder):
        for number, name in read_lines(path, "it says which pictures are for what"):
            where = f"{path}, line {number}"
            require(name in known, f"{where}: {name[:60]!r}: there is no annotation {name[:60]}.xml")
            check_id(name, where, seen)
            part_of[name] = _LISTS[path.stem]
    return part_of


def picture_files(folder: Path, names: Sequence[str]) -> list[str]:
    """The picture of each name in a folder, whatever its ending; `<name>.jpg` for one that is not there."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    endings = [*_ENDINGS, *(ending.upper() for ending in _ENDINGS)]
    found = (next((ending for ending in endings if name + ending in there), ".jpg") for name in names)
    return [f"{folder}/{name}{ending}" for name, ending in zip(names, found, strict=True)]


def _check_box(path: Path, one: NamedObject) -> None:
    """Hold that the corners of a box are in order. Raises: UserError naming the file."""
    if one.corners is None:
        return
    x1, y1, x2, y2 = one.corners
    if not (x1 <= x2 and y1 <= y2 and max(map(abs, one.corners)) < _LONGEST_SIDE):
        raise UserError(f"{path}: the box of a {one.name[:60]!r} has its corners in the wrong order, or far outside")
