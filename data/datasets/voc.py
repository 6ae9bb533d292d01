"""PASCAL VOC 2007 and 2012, classification (Everingham et al., IJCV 2010; development kits VOCdevkit).

Classes are in the official, alphabetical order. A class of which an image has only objects marked difficult is
UNKNOWN, in training and test alike. Rows are ordered by image id.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np

from data.datasets.source import DatasetSource
from data.datasets.unpacked import Unpacked, not_found
from data.datasets.voc_files import annotation_paths, image_paths, missing_ids
from data.files.cache import fingerprint
from data.files.text_files import read_lines
from data.files.xml_files import XmlError, parse_xml
from data.images.files import FileImages
from utils.checks import UserError, require
from utils.console import say
from utils.types import ABSENT, PRESENT, UNKNOWN, Annotations, Boxes, Codes, LabelTable, Splits

# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on

READER = "voc 1"
"""Part of the cache's fingerprint; another number whenever the same files would be read differently."""

_LISTS = "ImageSets/Main"
_PURPOSE = "it belongs to the dataset's lists"
_LIST_VALUES = {"1": PRESENT, "0": UNKNOWN, "-1": ABSENT}
_NOT_READ = -2  # entries that no class list has set yet


Corners = tuple[float, float, float, float]


class NamedObject(NamedTuple):
    """One object of an annotation file, with its class name."""

    name: str
    difficult: bool
    corners: Corners | None


class VocObject(NamedTuple):
    """One object of an annotation file, with its class index."""

    label: int
    difficult: bool
    corners: Corners | None


def load_voc(source: DatasetSource, year: int) -> Splits:
    """Read VOC 2007 (train + val, tested on test) or 2012 (train, tested on val); 2007 also as 2012 is.

    Labels are from `Annotations/<id>.xml`, or from `ImageSets/Main/<class>_<split>.txt` if that folder is missing;
    only the former have boxes.

    Args:
        source: `path_images` is VOCdevkit, its parent, or the folder `VOC<year>` itself; `train_val` is for 2007.
        year: 2007 or 2012.

    Raises:
        UserError: a folder, file or entry is missing or malformed, or an image is listed twice.
    """
    train_val = source.train_val or year == 2012
    roots = find_roots(source.path_images, year, train_val=train_val)
    train_lists, test_lists = (["train"], ["val"]) if train_val else (_train_lists(roots), ["test"])
    train, test = (read_ids([_list_of(roots, name) for name in names]) for names in (train_lists, test_lists))
    for root in dict.fromkeys([*train.values(), *test.values()]):
        folder = root / "JPEGImages"
        require(not source.need_images or folder.is_dir(), f"{folder}: no such folder; VOC keeps its images there")
    shared = train.keys() & test.keys()
    if shared:
        raise UserError(
            f"{roots[0] / _LISTS}: image {min(shared)} is for training and for test ({len(shared)} such); correct the "
            "lists"
        )
    # Published label files of 2007 have the rows of train and val together.
    listed = sorted({*train, *test} if year == 2007 and train_val else train)
    annotations = replace(_annotations(source, train_lists, train), listed=tuple(listed))
    return Splits(annotations, _annotations(source, test_lists, test))


def find_roots(path: Path, year: int, *, train_val: bool) -> list[Path]:
    """The folder `VOC<year>` in or at `path`, or those of the archives that were unpacked around it.

    VOC 2007 comes as an archive for training and one for the test, each with a folder `VOC2007`. They are joined,
    unless `train_val` needs the lists of the first alone.

    Raises: UserError showing the expected tree.
    """
    try:
        root = find_root(path, year)
        if _is_whole(root, train_val=train_val):
            return [root]
    except UserError:
        if Path(os.path.realpath(path)).name == f"VOC{2012 if year == 2007 else 2007}":
            raise
        root = None
    unpacked = Unpacked(path, lambda folder: _is_of_year(path, folder, year))
    found = [folder for folder in unpacked.folders if (folder / _LISTS).is_dir()]
    if not found:
        return [find_root(path, year)]
    for folder in found:
        if folder != root:
            say(f"VOC{year}: found at {folder}")
    return found


def _is_whole(root: Path, *, train_val: bool) -> bool:
    """Whether a folder has the lists of training and test."""
    names = {file.stem for file in (root / _LISTS).glob("*.txt")}
    return {"train", "val"} <= names if train_val else "test" in names and bool({"trainval", "train"} & names)


def _is_of_year(given: Path, folder: Path, year: int) -> bool:
    """Whether the path of a folder, from the one given on, names no other year last."""
    named = re.findall(r"20(?:07|12)", os.path.relpath(folder, given.parent))
    return not named or named[-1] == str(year)


def _list_of(roots: Sequence[Path], name: str) -> Path:
    """The list of a name; that of the first folder, if none has it. Raises: UserError for two that differ."""
    found = [root / _LISTS / f"{name}.txt" for root in roots if (root / _LISTS / f"{name}.txt").is_file()]
    other = next((path for path in found if path.read_bytes() != found[0].read_bytes()), None)
    require(
        other is None,
        f"{other}: differs from {found[:1] and found[0]}; give --path_images the folder of the one that is meant",
    )
    return found[0] if found else roots[0] / _LISTS / f"{name}.txt"


def find_root(path: Path, year: int) -> Path:
    """Return the folder `VOC<year>` in or at `path`. Raises: UserError showing the expected tree."""
    require(year in (2007, 2012), f"VOC {year}: only 2007 and 2012 are known")
    name = f"VOC{year}"
    for folder in (path / name, path / "VOCdevkit" / name):
        if folder.is_dir():
            return folder
    own_name = Path(os.path.realpath(path)).name  # `Path.resolve` raises for a link to itself
    if re.fullmatch(r"VOC\d{4}", own_name):
        require(own_name == name or not path.is_dir(), f"{path}: this is {own_name}, the dataset asked for is {name}")
    if (path / "ImageSets").is_dir() or (path / "Annotations").is_dir():
        return path
    raise not_found(
        path,
        f"{path}: no {name} here; give --path_images the folder VOCdevkit, its parent or {name} itself:\n"
        f"  VOCdevkit/\n"
        f"    {name}/\n"
        f"      JPEGImages/<id>.jpg\n"
        f"      Annotations/<id>.xml\n"
        f"      ImageSets/Main/train.txt, val.txt{', test.txt' if year == 2007 else ''}\n"
        f"(--dataset digits runs without any download)",
    )


def read_ids(lists: Sequence[Path]) -> dict[str, Path]:
    """Read the image ids of several lists, sorted, each with the folder `VOC<year>` that its list is in.

    Raises: UserError for a missing list or an id listed twice.
    """
    first: dict[str, str] = {}  # id: list and line
    root_of: dict[str, Path] = {}
    for path in lists:
        for number, text in read_lines(path, _PURPOSE):
            if not re.fullmatch(r"[\w.-]+", text):
                raise UserError(f"{path}, line {number}: expected one image id, found {text[:60]!r}")
            if text in first:
                raise UserError(f"{path}, line {number}: image {text} is listed twice (also {first[text]})")
            first[text] = f"{path.name}, line {number}"
            root_of[text] = path.parents[2]
    require(bool(first), f"{lists[0]}: lists no image")
    return dict(sorted(root_of.items()))


def read_objects(path: Path) -> list[VocObject]:
    """Read the objects of one annotation file, without parts of objects. Corners are counted from 0.

    Raises:
        UserError: as `read_named_objects` does, and for a class other than the twenty.
    """
    objects = []
    for obj in read_named_objects(path):
        if obj.name not in VOC_CLASSES:
            raise UserError(f"{path}: {obj.name!r} is none of the 20 VOC classes")
        objects.append(VocObject(VOC_CLASSES.index(obj.name), obj.difficult, obj.corners))
    return objects


def read_named_objects(path: Path) -> list[NamedObject]:
    """Read the objects of one annotation file as `read_objects` does, of any class.

    Raises:
        UserError: the file is missing, is not well-formed, declares a document type (entities), or has an
            invalid value.
    """
    root = _annotation(path)
    return [_object(path, element) for element in root.iterfind("object")]


def codes_and_boxes(objects: Sequence[Sequence[VocObject]], num_classes: int = len(VOC_CLASSES)) -> tuple[Codes, Boxes]:
    """Return (N, C) codes and all boxes of the objects of N images; a class with difficult objects only is UNKNOWN."""
    codes = np.full((len(objects), num_classes), ABSENT, dtype=np.int8)
    boxed: list[tuple[int, int, Corners]] = []
    for row, image in enumerate(objects):
        for obj in image:
            if not obj.difficult:
                codes[row, obj.label] = PRESENT
            elif codes[row, obj.label] == ABSENT:
                codes[row, obj.label] = UNKNOWN
            if obj.corners is not None:
                boxed.append((row, obj.label, obj.corners))
    row_label = np.array([entry[:2] for entry in boxed], dtype=np.int64).reshape(-1, 2)
    corners = np.array([entry[2] for entry in boxed], dtype=np.float32).reshape(-1, 4)
    return codes, Boxes(row_label[:, 0], row_label[:, 1], corners)


def read_class_lists(lists: Path, names: Sequence[str], ids: Sequence[str]) -> Codes:
    """Read (N, 20) codes from `<class>_<split>.txt`: 1 present, 0 difficult only, -1 absent.

    Raises:
        UserError: a list is missing or malformed, or does not have exactly the images `ids`.
    """
    row_of = {image: row for row, image in enumerate(ids)}
    codes = np.full((len(ids), len(VOC_CLASSES)), _NOT_READ, dtype=np.int8)
    for label, class_name in enumerate(VOC_CLASSES):
        files = [lists / f"{class_name}_{name}.txt" for name in names]
        for path in files:
            for number, text in read_lines(path, _PURPOSE):
                image, *value = text.split()
                code = _LIST_VALUES.get(" ".join(value))
                row = row_of.get(image)
                if code is None or row is None or codes[row, label] != _NOT_READ:
                    fault = "no image of this split" if row is None else "1, 0 or -1 expected, once for each image"
                    raise UserError(f"{path}, line {number}: {text[:60]!r}: {fault}")
                codes[row, label] = code
        missing = np.flatnonzero(codes[:, label] == _NOT_READ)
        if len(missing):
            raise UserError(f"{files[0]}: does not list image {ids[missing[0]]}; {len(missing)} such")
    return codes


def read_filename(path: Path) -> str:
    """Return the name of its image that an annotation file has; "" if it has none. Raises: UserError."""
    return (_annotation(path).findtext("filename") or "").strip()


def _annotation(path: Path) -> Element:
    """Return the outermost element of an annotation file. Raises: UserError."""
    try:
        root = parse_xml(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); every listed image needs its xml file "
            f"(--missing_images skip leaves out images without)"
        ) from error
    except XmlError as error:
        raise UserError(f"{path}: not a VOC annotation ({error})") from error
    require(root.tag == "annotation", f"{path}: not a VOC annotation (outermost element is <{root.tag}>)")
    return root


def _train_lists(roots: Sequence[Path]) -> list[str]:
    """Names of the lists whose union is the training set of VOC 2007."""
    separate = ["train", "val"]
    there = {file.stem for root in roots for file in (root / _LISTS).glob("*.txt")}
    return ["trainval"] if "trainval" in there and not there.issuperset(separate) else separate


def _annotations(source: DatasetSource, names: Sequence[str], listed: dict[str, Path]) -> Annotations:
    """Read the images of some lists; `listed` has the folder of each."""
    roots = list(dict.fromkeys(listed.values()))
    if any((root / "Annotations").is_dir() for root in roots):
        listed = _with_annotation(listed) if source.skip_missing else listed
        files = _by_root(listed, lambda root, ids: annotation_paths(root / "Annotations", ids))
        codes, boxes = _read_xml(source, list(map(Path, files)))
    else:
        lists = [_list_of(roots, name) for name in names]
        codes, boxes = read_class_lists(lists[0].parent, names, list(listed)), None
    images = _by_root(listed, lambda root, ids: image_paths(root / "JPEGImages", ids))
    return Annotations(FileImages(images, source.cache), tuple(listed), VOC_CLASSES, LabelTable(codes), boxes)


def _by_root(listed: Mapping[str, Path], paths: Callable[[Path, Sequence[str]], Sequence[str | Path]]) -> list[str]:
    """What `paths` gives for the images of each folder, in the order of all images."""
    found: dict[str, str] = {}
    for root in set(listed.values()):
        ids = [image for image, of in listed.items() if of == root]
        found.update(zip(ids, map(str, paths(root, ids)), strict=True))
    return [found[image] for image in listed]


def _with_annotation(listed: dict[str, Path]) -> dict[str, Path]:
    """Return the ids that have an annotation, and print how many have none. Raises: UserError if none has one."""
    missing: set[str] = set()
    for root in set(listed.values()):
        missing |= set(missing_ids(root / "Annotations", [image for image, of in listed.items() if of == root]))
    if missing:
        first = f"{listed[min(missing)]}/Annotations/{min(missing)}.xml"
        gone = f"{first}: does not exist, nor does any other of the {len(listed)} annotations"
        require(len(missing) < len(listed), gone)
        say(f"left out {len(missing)} of {len(listed)} listed rows: annotation missing ({first}, ...)")
    return {image: root for image, root in listed.items() if image not in missing}


def _read_xml(source: DatasetSource, files: list[Path]) -> tuple[Codes, Boxes | None]:
    """Read codes and boxes of the images of `files`, from the cache if none of the files has changed."""
    key = fingerprint(READER, files)
    cached = source.cache.load("voc", key, ["codes", "row", "label", "corners"])
    if cached is not None:
        return cached["codes"], Boxes(cached["row"], cached["label"], cached["corners"])
    codes, boxes = codes_and_boxes([read_objects(file) for file in files])
    source.cache.save("voc", key, {"codes": codes, **boxes._asdict()})
    return codes, boxes


def _object(path: Path, element: Element) -> NamedObject:
    name = (element.findtext("name") or "").strip()
    difficult = (element.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise UserError(f"{path}: <difficult> of a {name} is {difficult[:20]!r}, must be 0 or 1")
    box = element.find("bndbox")
    return NamedObject(name, difficult == "1", None if box is None else _corners(path, box))


def _corners(path: Path, box: Element) -> Corners:
    x1, y1, x2, y2 = (_coordinate(path, box, side) for side in ("xmin", "ymin", "xmax", "ymax"))
    return x1, y1, x2, y2


def _coordinate(path: Path, box: Element, side: str) -> float:
    """Return one side of a box counted from 0; the file counts from 1."""
    text = (box.findtext(side) or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{path}: <{side}> of a box is {text[:20]!r}, must be a number")
    return value - 1
