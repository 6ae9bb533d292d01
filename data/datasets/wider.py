"""WIDER-Attribute: 14 attributes of people in photographs (Li et al., ECCV 2016). One row is one person, cropped.

CSRA (Zhu and Wu, ICCV 2021) trains on the train and val pictures together and is measured on the test pictures;
published code, utils/prepare/prepare_wider.py and pipeline/dataset.py. Rows are ordered by id: the picture's file
name and the person's number in it. An attribute that the annotators left open is UNKNOWN.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from data.datasets.source import DatasetSource
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
"""What the 14 columns are, for lists that do not name them."""

_ORIGINAL = {1: PRESENT, -1: ABSENT, 0: UNKNOWN}
_PREPARED = {1: PRESENT, 0: ABSENT, 99: UNKNOWN}
_FARTHEST = 1e6  # pixels; no picture is that large

Corners = tuple[float, float, float, float]


class Person(NamedTuple):
    """One row: file name inside the folder of pictures, corners x1 y1 x2 y2 in pixels from 0, a code per class."""

    file: str
    corners: Corners
    codes: tuple[int, ...]


def load_wider(source: DatasetSource) -> Splits:
    """The people of the trainval file for training, those of the test file as the test set.

    Reads the owners' files (1 present, -1 absent, 0 unspecified); where they are not there, the lists that CSRA
    prepares from them (1, 0, and 99 for unspecified).

    Args:
        source: `path_images` holds `Image/` and `Annotations/` (or `Anno/`); prepared lists lie there, in
            `data/wider/` below it, or under `path_lists`.

    Raises:
        UserError: a folder, file or entry is missing or malformed.
    """
    original = _find([source.path_images / name for name in ("Annotations", "Anno", ".")], "wider_attribute_{}.json")
    if original is not None:
        (train_classes, train), (test_classes, test) = (read_original(file) for file in original)
        require(
            train_classes == test_classes,
            f"{original[1]}: its attribute_id_map differs from that of {original[0].name}; get both files anew",
        )
        return _splits(source, train_classes, train, test)
    folders = [source.path_images, source.path_images / "data" / "wider", source.path_lists]
    prepared = _find(folders, "{}_wider.json")
    if prepared is None:
        raise UserError(_expected_tree(source.path_images))
    train, test = (read_prepared(file) for file in prepared)
    return _splits(source, WIDER_CLASSES, train, test)


def read_original(path: Path) -> tuple[tuple[str, ...], list[Person]]:
    """Class names and people of a `wider_attribute_*.json`. Raises: UserError naming what is wrong, and where."""
    held = read_json(path, "WIDER-Attribute keeps its annotations there")
    require(
        isinstance(held, dict) and isinstance(held.get("images"), list),
        f"{path}: has no list 'images'; is it a WIDER-Attribute annotation file?",
    )
    return _class_names(path, held.get("attribute_id_map")), list(_people_of_images(path, held["images"]))


def read_prepared(path: Path) -> list[Person]:
    """The people of a list that CSRA prepared. Raises: UserError naming what is wrong, and where."""
    held = read_json(path, "CSRA's preparation writes it")
    require(isinstance(held, list), f"{path}: not a list of people; write it anew with CSRA's prepare_wider.py")
    people = []
    for number, entry in enumerate(held):
        where = f"{path}, entry {number}"
        file = _below_image_folder(_text(entry, "img_path", where), where)
        people.append(Person(file, _corners(entry.get("bbox"), where), _codes(entry.get("target"), _PREPARED, where)))
    return people


def _find(folders: Sequence[Path], form: str) -> tuple[Path, Path] | None:
    """The files `form` of trainval and test in the first folder that has one of them."""
    for folder in folders:
        files = folder / form.format("trainval"), folder / form.format("test")
        if any(file.exists() for file in files):
            return files
    return None


def _expected_tree(path: Path) -> str:
    return (
        f"{path}: no WIDER-Attribute here; give --path_images the folder that looks like this:\n"
        f"  Annotations/wider_attribute_trainval.json, wider_attribute_test.json   (or Anno/)\n"
        f"  Image/train/, val/, test/\n"
        f"or that has CSRA's trainval_wider.json and test_wider.json beside Image/\n"
        f"(--dataset digits runs without any download)"
    )


def _people_of_images(path: Path, images: list[Any]) -> Iterator[Person]:
    """The people of the entries of 'images', in the order of the file."""
    seen: set[str] = set()
    for number, entry in enumerate(images):
        where = f"{path}, image {number}"
        file = relative_path(_text(entry, "file_name", where), where)
        require(file not in seen, f"{where}: {file} is listed twice; each picture may be there once")
        seen.add(file)
        targets = entry.get("targets")
        require(isinstance(targets, list), f"{where} ({file}): has no list 'targets'")
        for place, target in enumerate(targets):
            at = f"{where} ({file}), target {place}"
            require(isinstance(target, dict), f"{at}: is a {type(target).__name__}, not an object")
            yield Person(file, _corners(target.get("bbox"), at), _codes(target.get("attribute"), _ORIGINAL, at))


def _class_names(path: Path, names: Any) -> tuple[str, ...]:
    """The names of attributes "0" to "13" in that order."""
    keys = [str(number) for number in range(len(WIDER_CLASSES))]
    require(
        isinstance(names, dict) and set(names) == set(keys),
        f'{path}: \'attribute_id_map\' must name the attributes "0" to "{keys[-1]}", nothing else',
    )
    classes = tuple(names[key].strip() if isinstance(names[key], str) else "" for key in keys)
    for key, name in zip(keys, classes, strict=True):
        fault = (
            "is no name" if not (name and name.isprintable()) else "is there twice" if classes.count(name) > 1 else ""
        )
        require(not fault, f"{path}: attribute_id_map: {reprlib.repr(names[key])} of attribute {key} {fault}")
    return classes


def _text(entry: Any, key: str, where: str) -> str:
    """The text at `key` of an entry that must be an object."""
    require(isinstance(entry, dict), f"{where}: is a {type(entry).__name__}, not an object")
    value = entry.get(key)
    if not (isinstance(value, str) and value.isprintable()):
        raise UserError(f"{where}: {key!r} is {reprlib.repr(value)}, must be a file name")
    return value


def _below_image_folder(text: str, where: str) -> str:
    """What follows the folder `Image` in a path of the machine that prepared a list."""
    parts = PurePosixPath(text.replace("\\", "/")).parts
    below = parts[len(parts) - parts[::-1].index("Image") :] if "Image" in parts else parts
    return relative_path("/".join(below), where)


def _corners(box: Any, where: str) -> Corners:
    """x, y, width, height as corners. Raises: UserError for a box without a whole pixel right and below of (0, 0)."""
    if not (
        isinstance(box, list)
        and len(box) == 4
        and all(type(side) in (int, float) and abs(side) < _FARTHEST for side in box)  # false for NaN
    ):
        raise UserError(f"{where}: bbox {reprlib.repr(box)} must be four numbers of pixels: x, y, width, height")
    x, y, width, height = box
    corners = (float(x), float(y), float(x + width), float(y + height))
    x1, y1, x2, y2 = (max(round(side), 0) for side in corners)
    require(
        x1 < x2 and y1 < y2, f"{where}: bbox {reprlib.repr(box)} has no area inside the picture; correct or remove it"
    )
    return corners


def _codes(values: Any, meaning: dict[int, int], where: str) -> tuple[int, ...]:
    """The codes of one person's 14 values."""
    width = len(WIDER_CLASSES)
    if not (isinstance(values, list) and len(values) == width):
        raise UserError(f"{where}: must have a list of {width} attributes, has {reprlib.repr(values)}")
    for column, value in enumerate(values):
        if type(value) not in (int, float) or value not in meaning:
            choices = ", ".join(map(str, meaning))
            raise UserError(f"{where}: attribute {column} is {reprlib.repr(value)}, must be one of {choices}")
    return tuple(meaning[value] for value in values)


def _splits(source: DatasetSource, classes: tuple[str, ...], train: list[Person], test: list[Person]) -> Splits:
    pictures = source.path_images / "Image"
    require(not source.need_images or pictures.is_dir(), f"{pictures}: no such folder; WIDER keeps its pictures there")
    for people, name in ((train, "trainval"), (test, "test")):
        require(bool(people), f"{source.path_images}: the {name} file of WIDER-Attribute has no person; get it anew")
    return Splits(_annotations(source, pictures, classes, train), _annotations(source, pictures, classes, test))


def _annotations(source: DatasetSource, pictures: Path, classes: tuple[str, ...], people: list[Person]) -> Annotations:
    """One row a person, sorted by id, which is the file and the person's number in it."""
    so_far: Counter[str] = Counter()
    by_id: dict[str, Person] = {}
    for person in people:
        by_id[f"{person.file}#{so_far[person.file]:03d}"] = person
        so_far[person.file] += 1
    ids = tuple(sorted(by_id))
    rows = [by_id[one] for one in ids]
    files = FileImages([f"{pictures}/{row.file}" for row in rows], source.cache)
    truth = LabelTable(np.array([row.codes for row in rows], dtype=np.int8))
    return Annotations(CroppedImages(files, np.array([row.corners for row in rows])), ids, classes, truth)
