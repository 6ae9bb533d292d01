"""A user's own labels in two formats of object detection: a COCO-style `.json`, and a folder of VOC annotations.

A class is present if an object of it is annotated. The formats are those of Lin et al. (ECCV 2014) and of the VOC
development kit (Everingham et al., IJCV 2010), here with classes of any name and number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from data.files.accents import alike_notes, by_composed, match_name, otherwise_note
from data.files.text_files import read_lines, relative_path
from utils.checks import UserError, require

_SPLIT_LISTS = {"train": TRAIN, "trainval": TRAIN, "val": VALIDATION, "test": TEST}
_NOT_THERE = "there is no annotation {}.xml; write it, or leave such rows out with --missing_images skip"
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


def read_voc_style(
    folder: Path, fixed: tuple[str, ...] | None, separator: str, *, skip_missing: bool = False
) -> OwnLabels:
    """Read `annotation_files(folder)`: images by name without suffix, and the classes that occur (or `fixed`).

    A class of which an image has only objects marked difficult is UNKNOWN, as in VOC. Lists in `ImageSets/Main`
    (`split_lists`) define the splits, if there are any; images in no list are left out, and with `skip_missing` those
    without an annotation, and counted.

    Raises:
        UserError: there is no annotation, one is damaged, a class name is invalid, or a list does not match.
    """
    files = by_name(annotation_files(folder))
    split_of, list_notes = split_lists(folder, files, skip_missing=skip_missing)
    ids = sorted(split_of or files)
    objects = [read_named_objects(files[image]) for image in ids]
    classes, labelled = _labelled(folder, [files[image] for image in ids], objects, fixed, separator)
    codes, boxes = codes_and_boxes(labelled, len(classes))
    splits = np.array([split_of.get(image, NO_SPLIT) for image in ids], dtype=np.int8)
    notes = [*_folder_notes(folder, files), *list_notes]
    if len(ids) < len(files):
        notes.append(f"{folder}: left out {len(files) - len(ids)} annotations that are in no list in ImageSets/Main")
    return OwnLabels(tuple(ids), classes, codes, splits, closed=fixed is not None, boxes=boxes, notes=tuple(notes))


def _labelled(
    folder: Path,
    files: Sequence[Path],
    objects: Sequence[Sequence[NamedObject]],
    fixed: tuple[str, ...] | None,
    separator: str,
) -> tuple[tuple[str, ...], list[list[VocObject]]]:
    """Return the classes, and the objects of each file by class. Raises: UserError for a name or box that is wrong."""
    used: dict[str, str] = {}  # name: file of its first occurrence
    for file, annotated in zip(files, objects, strict=True):
        for obj in annotated:
            used.setdefault(obj.name, str(file))
            _check_box(file, obj)
    classes = choose_classes(used, fixed, separator)
    require(bool(classes), f"{folder}: none of its {len(files)} annotations has an object")
    label_of = {name: label for label, name in enumerate(classes)}
    return classes, [[VocObject(label_of[obj.name], obj.difficult, obj.corners) for obj in image] for image in objects]


def by_name(files: Sequence[Path]) -> dict[str, Path]:
    """Return annotation files by name without suffix. Raises: UserError for two of one name, as `a.xml` and `a.XML`."""
    named: dict[str, Path] = {}
    for path in files:
        other = named.setdefault(path.stem, path)
        require(other == path, f"{path}: there is {other.name} too; keep one annotation for each image")
    return named


def annotation_files(folder: Path) -> list[Path]:
    """Return the annotations `*.xml`, in any case, in `folder/Annotations`, or in `folder` itself, sorted.

    Raises: UserError showing the expected tree if there is none, or naming one in a subfolder.
    """
    holder = _holder(folder)
    files = [path for path in sorted(holder.iterdir()) if _is_annotation(path)] if holder.is_dir() else []
    below = next((path for path in holder.glob("*/*.[xX][mM][lL]") if _is_annotation(path)), None)
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


def split_lists(folder: Path, known: Mapping[str, Path], *, skip_missing: bool) -> tuple[dict[str, int], list[str]]:
    """Return the split of each image that the lists of `list_files` name, none without lists, and lines to print.

    A name whose accents are encoded otherwise than in `known` counts as that of `known`.

    Raises:
        UserError: for a name that is not in `known`, unless those are to be left out, or that is listed twice.
    """
    split_of: dict[str, int] = {}
    seen: dict[str, str] = {}
    left_out, renamed, otherwise = [], [], by_composed(known)
    for path in list_files(folder):
        for number, name in read_lines(path, "it names the images of a split"):
            where = f"{path}, line {number}"
            found = match_name(name, known.keys(), otherwise, str(_holder(folder)))
            check_id(found or name, where, seen)
            if found is None:
                require(skip_missing, f"{where}: {name[:60]!r}: {_NOT_THERE.format(name[:60])}")
                left_out.append(name)
                continue
            renamed += [name] * (found != name)
            split_of[found] = _SPLIT_LISTS[path.stem]
    missing = f"{_holder(folder)}: has no annotation of any of the {len(left_out)} listed images"
    require(bool(split_of) or not left_out, missing)
    return split_of, _list_notes(folder, left_out, len(seen), renamed)


def _list_notes(folder: Path, left_out: Sequence[str], listed: int, renamed: Sequence[str]) -> list[str]:
    lists = folder / "ImageSets" / "Main"
    notes = [f"{lists}: {otherwise_note(renamed, 'annotations')}"] if renamed else []
    if left_out:
        notes.append(f"left out {len(left_out)} of {listed} listed rows: annotation missing ({left_out[0]}.xml, ...)")
    return notes


def _holder(folder: Path) -> Path:
    """Return the folder of the annotations."""
    return folder / "Annotations" if (folder / "Annotations").is_dir() else folder


def _is_annotation(path: Path) -> bool:
    """Tell whether a file is an annotation by its name; `._001.xml` is what a Mac keeps beside a file."""
    return path.suffix.lower() == ".xml" and not path.name.startswith("._")


def _folder_notes(folder: Path, files: Mapping[str, Path]) -> list[str]:
    """Return lines about annotations that differ only in their accents, and files that a Mac keeps beside them."""
    holder = _holder(folder)
    beside = sum(path.name.startswith("._") and path.suffix.lower() == ".xml" for path in holder.iterdir())
    notes = [f"{holder}: left out {beside} files ._*.xml, which are no annotations"] if beside else []
    return [*alike_notes(holder, list(files), "annotations"), *notes]


def _check_box(path: Path, obj: NamedObject) -> None:
    """Check that the corners of a box are in order. Raises: UserError naming the file."""
    if obj.corners is None:
        return
    x1, y1, x2, y2 = obj.corners
    if not (x1 <= x2 and y1 <= y2 and max(map(abs, obj.corners)) < _MAX_COORDINATE):
        raise UserError(f"{path}: the box of a {obj.name[:60]!r} has its corners in the wrong order, or far outside")
