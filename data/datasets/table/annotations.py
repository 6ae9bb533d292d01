"""A user's own labels in two formats of object detection: a COCO-style `.json`, and a folder of VOC annotations.

A class is present if an object of it is annotated. The formats are those of Lin et al. (ECCV 2014) and of the VOC
development kit (Everingham et al., IJCV 2010), here with classes of any name and number.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.datasets.coco import read_instances
from data.datasets.table.labelled import (
    NO_SPLIT,
    TEST,
    TRAIN,
    VALIDATION,
    OwnLabels,
    check_classes,
    check_id,
    choose_classes,
    sorted_by_id,
)
from data.datasets.voc import NamedObject, VocObject, codes_and_boxes, read_named_objects
from data.files.text_files import read_lines, relative_path
from utils.checks import UserError, require

_SPLIT_LISTS = {"train": TRAIN, "trainval": TRAIN, "val": VALIDATION, "test": TEST}
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_MAX_COORDINATE = 1e9  # pixels; anything beyond is damage


def read_coco_style(path: Path, separator: str) -> OwnLabels:
    """Read an instances file with categories of any name: images by file name, classes by category id.

    Images without an annotation are left out: the file does not tell if they were annotated at all.

    Raises:
        UserError: as `coco.read_instances` does, for two categories or images of the same name, and for a file name
            that leads out of the image folder.
    """
    content = read_instances(path)
    classes = check_classes(((name, f"{path}, category {k}") for k, name in enumerate(content.classes, 1)), separator)
    seen: dict[str, str] = {}
    for image, name in zip(content.ids, content.files, strict=True):
        where = f"{path}, image {image}"
        check_id(relative_path(name, where), where, seen)
    left_out = content.left_out
    notes = (f"{path}: left out {left_out} images without an annotation",) if left_out else ()
    splits = np.full(len(seen), NO_SPLIT, dtype=np.int8)
    labels = OwnLabels(tuple(seen), classes, content.codes, splits, closed=True, boxes=content.boxes, notes=notes)
    return sorted_by_id(labels)


def read_voc_style(folder: Path, fixed: tuple[str, ...] | None, separator: str) -> OwnLabels:
    """Read `annotation_files(folder)`: images by name without suffix, and the classes that occur (or `fixed`).

    A class of which an image has only objects marked difficult is UNKNOWN, as in VOC. Lists in `ImageSets/Main`
    (`split_lists`) define the splits, if there are any; images in no list are left out.

    Raises:
        UserError: there is no annotation, one is damaged, a class name is invalid, or a list does not match.
    """
    files = {path.stem: path for path in annotation_files(folder)}
    split_of = split_lists(folder, files)
    ids = sorted(split_of or files)
    objects = [read_named_objects(files[image]) for image in ids]
    used: dict[str, str] = {}  # name: file of its first occurrence
    for image, annotated in zip(ids, objects, strict=True):
        for obj in annotated:
            used.setdefault(obj.name, str(files[image]))
            _check_box(files[image], obj)
    classes = choose_classes(used, fixed, separator)
    require(bool(classes), f"{folder}: none of its {len(files)} annotations has an object")
    label_of = {name: label for label, name in enumerate(classes)}
    labelled = [[VocObject(label_of[obj.name], obj.difficult, obj.corners) for obj in image] for image in objects]
    codes, boxes = codes_and_boxes(labelled, len(classes))
    splits = np.array([split_of.get(image, NO_SPLIT) for image in ids], dtype=np.int8)
    left_out = len(files) - len(ids)
    notes = (f"{folder}: left out {left_out} annotations that are in no list in ImageSets/Main",) if left_out else ()
    return OwnLabels(tuple(ids), classes, codes, splits, closed=fixed is not None, boxes=boxes, notes=notes)


def annotation_files(folder: Path) -> list[Path]:
    """Return the annotations `*.xml` in `folder/Annotations`, or in `folder` itself, sorted.

    Raises: UserError showing the expected tree if there is none, or naming one in a subfolder.
    """
    holder = folder / "Annotations" if (folder / "Annotations").is_dir() else folder
    files = sorted(holder.glob("*.xml"))
    below = next(holder.glob("*/*.xml"), None)
    if below is not None:
        raise UserError(
            f"{below}: is in a subfolder of {holder}; put all annotations into one folder, or give --table and "
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
    """Return the lists in `folder/ImageSets/Main` that define the splits; `trainval` if there is no `train`.

    Raises: UserError if only one of training and test has a list.
    """
    lists = folder / "ImageSets" / "Main"
    names = [name for name in _SPLIT_LISTS if (lists / f"{name}.txt").is_file()]
    if "train" in names and "trainval" in names:
        names.remove("trainval")
    if names and not ({"train", "trainval"} & set(names) and {"val", "test"} & set(names)):
        raise UserError(
            f"{lists / names[0]}.txt: stands alone; lists for training (train.txt) and for the test (test.txt or "
            f"val.txt) are needed, or none"
        )
    return [lists / f"{name}.txt" for name in names]


def split_lists(folder: Path, known: dict[str, Path]) -> dict[str, int]:
    """Return the split of each image that the lists of `list_files` name; empty without lists.

    Raises: UserError for a name that is not in `known`, or that is listed twice.
    """
    split_of: dict[str, int] = {}
    seen: dict[str, str] = {}
    for path in list_files(folder):
        for number, name in read_lines(path, "it names the images of a split"):
            where = f"{path}, line {number}"
            require(name in known, f"{where}: {name[:60]!r}: there is no annotation {name[:60]}.xml")
            check_id(name, where, seen)
            split_of[name] = _SPLIT_LISTS[path.stem]
    return split_of


def image_files(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the image of each name in a folder, with any suffix; `<name>.jpg` for one that does not exist."""
    existing = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    suffixes = [*_SUFFIXES, *(suffix.upper() for suffix in _SUFFIXES)]
    chosen = (next((suffix for suffix in suffixes if name + suffix in existing), ".jpg") for name in names)
    return [f"{folder}/{name}{suffix}" for name, suffix in zip(names, chosen, strict=True)]


def _check_box(path: Path, obj: NamedObject) -> None:
    """Check that the corners of a box are in order. Raises: UserError naming the file."""
    if obj.corners is None:
        return
    x1, y1, x2, y2 = obj.corners
    if not (x1 <= x2 and y1 <= y2 and max(map(abs, obj.corners)) < _MAX_COORDINATE):
        raise UserError(f"{path}: the box of a {obj.name[:60]!r} has its corners in the wrong order, or far outside")
