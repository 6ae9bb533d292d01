"""WIDER-Attribute: 14 attributes of people in photographs (Li et al., ECCV 2016). One row is one person, cropped.

CSRA (Zhu and Wu, ICCV 2021) trains on the train and val images together and is evaluated on the test images;
published code, utils/prepare/prepare_wider.py and pipeline/dataset.py. Rows are ordered by id: the file name
of the image and the number of the person in it. An attribute that the annotators left unspecified is UNKNOWN.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from data.datasets.source import DatasetSource
from data.datasets.unpacked import Unpacked, not_found
from data.datasets.voc import Corners
from data.files.text_files import read_json, relative_path
from data.images.cropped import CroppedImages
from data.images.files import FileImages
from utils.checks import UserError, require
from utils.types import ABSENT, PRESENT, UNKNOWN, Annotations, LabelTable, Splits

# fmt: off
WIDER_CLASSES = (
    "male", "longhair", "sunglass", "hat", "tshirt", "longsleeve", "formal",
    "shorts", "jeans", "longpants", "skirt", "facemask", "logo", "stripe",
)
# fmt: on
"""Names of the 14 columns, for lists without names."""

_ORIGINAL_CODES = {1: PRESENT, -1: ABSENT, 0: UNKNOWN}
_PREPARED_CODES = {1: PRESENT, 0: ABSENT, 99: UNKNOWN}
_MAX_COORDINATE = 1e6  # pixels; no image is that large


class Person(NamedTuple):
    """One row: file name in the image folder, corners x1 y1 x2 y2 in pixels from 0, a code per class."""

    file: str
    corners: Corners
    codes: tuple[int, ...]


def load_wider(source: DatasetSource) -> Splits:
    """Read the people of the trainval file for training, those of the test file as the test set.

    Labels are from the original files (1 present, -1 absent, 0 unspecified), or else from the lists that CSRA
    prepares from them (1, 0, and 99 for unspecified).

    Args:
        source: `path_images` has `Image/` and `Annotations/` (or `Anno/`); prepared lists are there, in
            `data/wider/` below it, or in `path_lists`.

    Raises:
        UserError: a folder, file or entry is missing or malformed.
    """
    unpacked = Unpacked(source.path_images)
    original = _find([source.path_images / name for name in ("Annotations", "Anno", ".")], "wider_attribute_{}.json")
    original = original or _unpacked(unpacked, "wider_attribute_{}.json")
    if original is not None:
        (train_classes, train), (test_classes, test) = (read_original(file) for file in original)
        require(
            train_classes == test_classes,
            f"{original[1]}: its attribute_id_map differs from that of {original[0].name}; get both files anew",
        )
        return _splits(source, unpacked, train_classes, train, test)
    folders = [source.path_images, source.path_images / "data" / "wider", source.path_lists]
    prepared = _find(folders, "{}_wider.json") or _unpacked(unpacked, "{}_wider.json")
    if prepared is None:
        raise not_found(source.path_images, _expected_tree(source.path_images))
    train, test = (read_prepared(file) for file in prepared)
    return _splits(source, unpacked, WIDER_CLASSES, train, test)


def read_original(path: Path) -> tuple[tuple[str, ...], list[Person]]:
    """Read class names and people of a `wider_attribute_*.json`. Raises: UserError naming the fault and its entry."""
    content = read_json(path, "WIDER-Attribute keeps its annotations there")
    require(
        isinstance(content, dict) and isinstance(content.get("images"), list),
        f"{path}: has no list 'images'; is it a WIDER-Attribute annotation file?",
    )
    return _class_names(path, content.get("attribute_id_map")), list(_people_of_images(path, content["images"]))


def read_prepared(path: Path) -> list[Person]:
    """Read the people of a list that CSRA prepared. Raises: UserError naming the fault and its entry."""
    content = read_json(path, "CSRA's preparation writes it")
    require(isinstance(content, list), f"{path}: not a list of people; write it anew with CSRA's prepare_wider.py")
    people = []
    for number, entry in enumerate(content):
        where = f"{path}, entry {number}"
        file = _below_image_folder(_text(entry, "img_path", where), where)
        codes = _codes(entry.get("target"), _PREPARED_CODES, where)
        people.append(Person(file, _corners(entry.get("bbox"), where), codes))
    return people


def _find(folders: Sequence[Path], pattern: str) -> tuple[Path, Path] | None:
    """Return the files `pattern` of trainval and test in the first folder that has one of them."""
    for folder in folders:
        files = folder / pattern.format("trainval"), folder / pattern.format("test")
        if any(file.exists() for file in files):
            return files
    return None


def _unpacked(unpacked: Unpacked, pattern: str) -> tuple[Path, Path] | None:
    """The files of trainval and test as an archive of them was unpacked; None if neither is there."""
    names = [pattern.format(split) for split in ("trainval", "test")]
    found = [unpacked.file(name) for name in names]
    there = next((file for file in found if file is not None), None)
    if there is None:
        return None
    one, other = (file or there.parent / name for file, name in zip(found, names, strict=True))
    return one, other


def _expected_tree(path: Path) -> str:
    return (
        f"{path}: no WIDER-Attribute here; give --path_images the folder that looks like this:\n"
        f"  Annotations/wider_attribute_trainval.json, wider_attribute_test.json   (or Anno/)\n"
        f"  Image/train/, val/, test/\n"
        f"or that has CSRA's trainval_wider.json and test_wider.json beside Image/\n"
        f"(--dataset digits runs without any download)"
    )


def _people_of_images(path: Path, images: list[Any]) -> Iterator[Person]:
    """Yield the people of the entries of 'images', in the order of the file."""
    seen: set[str] = set()
    for number, entry in enumerate(images):
        where = f"{path}, image {number}"
        file = relative_path(_text(entry, "file_name", where), where)
        require(file not in seen, f"{where}: {file} is listed twice; list each image once")
        seen.add(file)
        targets = entry.get("targets")
        require(isinstance(targets, list), f"{where} ({file}): has no list 'targets'")
        for index, target in enumerate(targets):
            at = f"{where} ({file}), target {index}"
            require(isinstance(target, dict), f"{at}: is a {type(target).__name__}, not an object")
            codes = _codes(target.get("attribute"), _ORIGINAL_CODES, at)
            yield Person(file, _corners(target.get("bbox"), at), codes)


def _class_names(path: Path, names: Any) -> tuple[str, ...]:
    """Return the names of attributes "0" to "13" in that order."""
    keys = [str(number) for number in range(len(WIDER_CLASSES))]
    require(
        isinstance(names, dict) and set(names) == set(keys),
        f'{path}: \'attribute_id_map\' must name the attributes "0" to "{keys[-1]}", nothing else',
    )
    classes = tuple(names[key].strip() if isinstance(names[key], str) else "" for key in keys)
    for key, name in zip(keys, classes, strict=True):
        fault = "is no name" if not (name and name.isprintable()) else "occurs twice" if classes.count(name) > 1 else ""
        require(not fault, f"{path}: attribute_id_map: {reprlib.repr(names[key])} of attribute {key} {fault}")
    return classes


def _text(entry: Any, key: str, where: str) -> str:
    """Return the text at `key` of an entry, which must be an object."""
    require(isinstance(entry, dict), f"{where}: is a {type(entry).__name__}, not an object")
    value = entry.get(key)
    if not (isinstance(value, str) and value.isprintable()):
        raise UserError(f"{where}: {key!r} is {reprlib.repr(value)}, must be a file name")
    return value


def _below_image_folder(text: str, where: str) -> str:
    """Return the part after the folder `Image` of a path from the machine that prepared a list."""
    parts = PurePosixPath(text.replace("\\", "/")).parts
    below = parts[len(parts) - parts[::-1].index("Image") :] if "Image" in parts else parts
    return relative_path("/".join(below), where)


def _corners(box: Any, where: str) -> Corners:
    """Convert x, y, width, height to corners. Raises: UserError for a box without a whole pixel in the image."""
    if not (
        isinstance(box, list)
        and len(box) == 4
        and all(type(side) in (int, float) and abs(side) < _MAX_COORDINATE for side in box)  # false for NaN
    ):
        raise UserError(f"{where}: bbox {reprlib.repr(box)} must be four numbers of pixels: x, y, width, height")
    x, y, width, height = box
    corners = (float(x), float(y), float(x + width), float(y + height))
    x1, y1, x2, y2 = (max(round(side), 0) for side in corners)
    require(
        x1 < x2 and y1 < y2, f"{where}: bbox {reprlib.repr(box)} has no area inside the image; correct or remove it"
    )
    return corners


def _codes(values: Any, meaning: dict[int, int], where: str) -> tuple[int, ...]:
    """Codes of the 14 values of one person."""
    width = len(WIDER_CLASSES)
    if not (isinstance(values, list) and len(values) == width):
        raise UserError(f"{where}: must have a list of {width} attributes, has {reprlib.repr(values)}")
    for column, value in enumerate(values):
        if type(value) not in (int, float) or value not in meaning:
            choices = ", ".join(map(str, meaning))
            raise UserError(f"{where}: attribute {column} is {reprlib.repr(value)}, must be one of {choices}")
    return tuple(meaning[value] for value in values)


def _splits(
    source: DatasetSource, unpacked: Unpacked, classes: tuple[str, ...], train: list[Person], test: list[Person]
) -> Splits:
    usual = source.path_images / "Image"
    folder = usual if usual.is_dir() else unpacked.folder("Image") or usual
    require(not source.need_images or folder.is_dir(), f"{folder}: no such folder; WIDER keeps its images there")
    for people, name in ((train, "trainval"), (test, "test")):
        require(bool(people), f"{source.path_images}: the {name} file of WIDER-Attribute has no person; get it anew")
    return Splits(_annotations(source, folder, classes, train), _annotations(source, folder, classes, test))


def _annotations(source: DatasetSource, folder: Path, classes: tuple[str, ...], people: list[Person]) -> Annotations:
    """Annotations with one row per person, sorted by id: the file name and the number of the person in it."""
    so_far: Counter[str] = Counter()
    by_id: dict[str, Person] = {}
    for person in people:
        by_id[f"{person.file}#{so_far[person.file]:03d}"] = person
        so_far[person.file] += 1
    ids = tuple(sorted(by_id))
    rows = [by_id[one] for one in ids]
    files = FileImages([f"{folder}/{row.file}" for row in rows], source.cache)
    truth = LabelTable(np.array([row.codes for row in rows], dtype=np.int8))
    return Annotations(CroppedImages(files, np.array([row.corners for row in rows])), ids, classes, truth)
