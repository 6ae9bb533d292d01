"""CUB-200-2011 with its 312 binary attributes of birds as labels (Wah et al., 2011).

The recipe is that of the single-positive papers (Cole et al., CVPR 2021, published code, preproc/format_cub.py): the
official split; an attribute is present where the annotator marked it, with any certainty. Classes are ordered by
attribute number, rows by file name; recipes draw in the order of `images.txt`.
"""

from __future__ import annotations

import io
import re
import warnings
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from data.datasets.formatted import FormattedLayout, is_formatted, load_formatted
from data.datasets.source import DatasetSource
from data.datasets.unpacked import not_found, relocated
from data.files.cache import fingerprint
from data.files.text_files import read_lines, read_text, relative_path
from data.images.files import FileImages
from utils.checks import UserError, require
from utils.types import ABSENT, PRESENT, Annotations, Codes, Index, LabelTable, Splits

ATTRIBUTES = 312

READER = "cub 1"
"""Part of the cache's fingerprint; another number whenever the same files would be read differently."""

_NAME = "CUB_200_2011"
_NUMBER = re.compile(r"[0-9]{1,9}")


class CubImages(NamedTuple):
    """The N images of `images.txt` in its order: their numbers, and their file names below `images/`."""

    numbers: Index
    names: tuple[str, ...]


def load_cub(source: DatasetSource) -> Splits:
    """Read the official training (5,994) and test images (5,794).

    Args:
        source: `path_images` is `CUB_200_2011` or the folder that holds it, or a folder of formatted arrays.

    Raises:
        UserError: a folder, file or entry is missing or malformed.
    """
    if is_formatted(source.path_images):
        return load_formatted(source, _layout(source.path_images))
    source = relocated(source, f"{_NAME}/images.txt", "images.txt")
    root = find_root(source.path_images)
    folder = root / "images"
    require(not source.need_images or folder.is_dir(), f"{folder}: no such folder; CUB keeps its images there")
    classes = read_classes(_attributes_file(root))
    listed = read_images(root / "images.txt")
    train = read_split(root / "train_test_split.txt", listed.numbers)
    codes = _read_codes(source, root / "images.txt", root / "attributes" / "image_attribute_labels.txt", listed)
    rows = np.array(sorted(range(len(train)), key=lambda row: _id(listed.names[row])), dtype=np.int64)
    return Splits(
        _annotations(source, folder, classes, listed, codes, rows[train[rows]]),
        _annotations(source, folder, classes, listed, codes, rows[~train[rows]]),
    )


def find_root(path: Path) -> Path:
    """Find `images.txt` in `path` or `path/CUB_200_2011`. Raises: UserError showing the expected tree."""
    for folder in (path, path / _NAME):
        if (folder / "images.txt").is_file():
            return folder
    raise not_found(
        path,
        f"{path}: no CUB-200-2011 here; give --path_images the folder {_NAME} or the one that holds it:\n"
        f"  attributes.txt                 (or {_NAME}/attributes/attributes.txt)\n"
        f"  {_NAME}/\n"
        f"    images.txt  train_test_split.txt\n"
        f"    attributes/image_attribute_labels.txt\n"
        f"    images/001.Black_footed_Albatross/*.jpg ...\n"
        f"(--dataset digits runs without any download)",
    )


def read_classes(path: Path) -> tuple[str, ...]:
    """Read the 312 names of `attributes.txt`, in the order of their numbers.

    Raises: UserError when the file is missing, a line is not a number and a name, or one is missing or occurs twice.
    """
    names: dict[int, str] = {}
    for line, text in read_lines(path, "it names the 312 attributes"):
        number, name = _pair(text, f"{path}, line {line}")
        require(1 <= number <= ATTRIBUTES, f"{path}, line {line}: attribute {number}; there are 1 to {ATTRIBUTES}")
        require(name.isprintable(), f"{path}, line {line}: {name[:60]!r} is no name")
        require(
            number not in names and name not in names.values(),
            f"{path}, line {line}: attribute {number} {name[:60]!r} is listed twice",
        )
        names[number] = name
    missing = next((number for number in range(1, ATTRIBUTES + 1) if number not in names), None)
    require(missing is None, f"{path}: names {len(names)} of {ATTRIBUTES} attributes; {missing} is missing")
    return tuple(names[number] for number in range(1, ATTRIBUTES + 1))


def read_images(path: Path) -> CubImages:
    """Read `images.txt`. Raises: UserError naming the line that is malformed or repeats another."""
    numbers: dict[int, str] = {}
    ids: set[str] = set()
    for line, text in read_lines(path, "it lists the images"):
        number, name = _pair(text, f"{path}, line {line}")
        name = relative_path(name, f"{path}, line {line}")
        require(
            number not in numbers and _id(name) not in ids,
            f"{path}, line {line}: image {number} {name[:80]!r} is listed twice; list each image once",
        )
        numbers[number] = name
        ids.add(_id(name))
    require(bool(numbers), f"{path}: lists no image")
    return CubImages(np.array(list(numbers), dtype=np.int64), tuple(numbers.values()))


def read_split(path: Path, numbers: Index) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Read `train_test_split.txt` (1 training, 0 test) as (N,), True for the training images among `numbers`.

    Raises: UserError when the file is missing or malformed, or does not list each image once.
    """
    values: dict[int, str] = {}
    known = set(numbers.tolist())
    for line, text in read_lines(path, "it says which images are for training"):
        number, value = _pair(text, f"{path}, line {line}")
        require(number in known, f"{path}, line {line}: images.txt has no image {number}")
        require(number not in values, f"{path}, line {line}: image {number} is listed twice")
        require(value in ("0", "1"), f"{path}, line {line}: {value[:20]!r} must be 1 (training) or 0 (test)")
        values[number] = value
    missing = [number for number in numbers.tolist() if number not in values]
    if missing:
        raise UserError(f"{path}: does not list image {missing[0]}; {len(missing)} such")
    train = np.array([values[number] == "1" for number in numbers.tolist()])
    require(bool(train.any()) and not train.all(), f"{path}: must have images for training and for test")
    return train


def read_codes(path: Path, numbers: Index) -> Codes:
    """Read `image_attribute_labels.txt` as (N, 312) codes of the images `numbers`.

    A line has image, attribute, present (1 or 0), certainty and seconds. Fields after the third are not read, because
    some published lines have too many.

    Raises: UserError when the file is missing or malformed, or does not have each pair once.
    """
    text = read_text(path, "it says which attributes each image has")
    image, attribute, value = _first_three_fields(path, text)
    order = np.argsort(numbers)
    row = order[np.searchsorted(numbers, image, sorter=order).clip(max=len(numbers) - 1)]
    _refuse_line(path, numbers[row] != image, "images.txt has no such image")
    _refuse_line(path, (attribute < 1) | (attribute > ATTRIBUTES), f"attributes are 1 to {ATTRIBUTES}")
    _refuse_line(path, (value != 0) & (value != 1), "the third field must be 1 (present) or 0")
    cell = row * ATTRIBUTES + attribute - 1
    times = np.bincount(cell, minlength=len(numbers) * ATTRIBUTES)
    if times.max() > 1:
        first = np.unique(cell, return_index=True)[1]
        _refuse_line(path, ~np.isin(np.arange(len(cell)), first), "this image and attribute are there already")
    missing = np.flatnonzero(times == 0)
    if len(missing):
        index, column = divmod(int(missing[0]), ATTRIBUTES)
        raise UserError(
            f"{path}: does not list image {numbers[index]}, attribute {column + 1}; {len(missing)} such pairs"
        )
    codes = np.full(len(times), ABSENT, dtype=np.int8)
    codes[cell[value == 1]] = PRESENT
    return codes.reshape(len(numbers), ATTRIBUTES)


def _first_three_fields(path: Path, text: str) -> tuple[Index, Index, Index]:
    """Return the first three numbers of each line that is not blank, as three columns."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy warns where it is lenient: about an empty file, about 1.0 for 1
            table = np.loadtxt(io.StringIO(text), dtype=np.int64, comments=None, usecols=(0, 1, 2), ndmin=2)
    except (ValueError, Warning) as error:
        for line, fields in read_lines(path, "it says which attributes each image has"):
            if not all(map(_NUMBER.fullmatch, (fields.split() + [""] * 3)[:3])):
                raise UserError(
                    f"{path}, line {line}: {fields[:60]!r} must begin with image, attribute and 1 or 0"
                ) from error
        raise UserError(f"{path}: is empty or no list of numbers; get it anew") from error
    return table[:, 0], table[:, 1], table[:, 2]


def _refuse_line(path: Path, bad: np.ndarray[tuple[int], np.dtype[np.bool_]], reason: str) -> None:
    """Raise UserError naming the first line for which `bad` is True; `bad` has an entry per line that is not blank."""
    if bad.any():
        line, text = next(islice(read_lines(path, reason), int(bad.argmax()), None))
        raise UserError(f"{path}, line {line}: {text[:60]!r}: {reason}; get this file anew")


def _pair(text: str, where: str) -> tuple[int, str]:
    """Split a line into a number and the text after it. Raises: UserError for any other line."""
    number, *rest = text.split(maxsplit=1)
    if not (_NUMBER.fullmatch(number) and rest):
        raise UserError(f"{where}: {text[:60]!r} must be a number, a space and a text")
    return int(number), rest[0]


def _id(name: str) -> str:
    """Return the id of an image: its file name below `images/` without the extension."""
    return str(PurePosixPath(name).with_suffix(""))


def _attributes_file(root: Path) -> Path:
    """Path of `attributes.txt`: next to `CUB_200_2011` in the archive, in `attributes/` in many copies."""
    files = [folder / "attributes.txt" for folder in (root / "attributes", root, root.parent)]
    return next((file for file in files if file.is_file()), files[-1])


def _layout(path: Path) -> FormattedLayout:
    """Layout of the formatted arrays; the class names are those of `attributes.txt` if the file exists."""
    files = [path / "attributes.txt", path / _NAME / "attributes" / "attributes.txt", path / _NAME / "attributes.txt"]
    names = next((file for file in files if file.is_file()), None)
    classes = None if names is None else read_classes(names)
    return FormattedLayout("cub", (f"{_NAME}/images", "images", "."), _id, classes, ATTRIBUTES)


def _annotations(
    source: DatasetSource, folder: Path, classes: tuple[str, ...], listed: CubImages, codes: Codes, rows: Index
) -> Annotations:
    """Annotations of the images at `rows` of `images.txt`."""
    names = [listed.names[row] for row in rows]
    images = FileImages([f"{folder}/{name}" for name in names], source.cache)
    truth = LabelTable(codes[rows])
    return Annotations(images, tuple(map(_id, names)), classes, truth, places=listed.numbers[rows])


def _read_codes(source: DatasetSource, images: Path, labels: Path, listed: CubImages) -> Codes:
    """Read (N, 312) codes in the order of `images.txt`, from the cache if neither file has changed."""
    key = fingerprint(READER, [images, labels])
    cached = source.cache.load("cub", key, ["codes"])
    if cached is not None:
        return cached["codes"].astype(np.int8)
    codes = read_codes(labels, listed.numbers)
    source.cache.save("cub", key, {"codes": codes})
    return codes
