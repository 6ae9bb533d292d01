"""CUB-200-2011 with its 312 binary attributes of birds as labels (Wah et al., 2011).

The recipe is that of the single-positive papers (Cole et al., CVPR 2021, published code, preproc/format_cub.py): the
owners' split, an attribute is present where the annotator said so, however certain. Classes are ordered by
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

from data.datasets.formatted import Form, is_formatted, load_formatted
from data.datasets.source import DatasetSource
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


class Listed(NamedTuple):
    """The N pictures of `images.txt` in its order: their numbers, and their names below `images/`."""

    numbers: Index
    names: tuple[str, ...]


def load_cub(source: DatasetSource) -> Splits:
    """The owners' training pictures (5,994) and test pictures (5,794).

    Args:
        source: `path_images` is `CUB_200_2011` or the folder that holds it, or a folder of formatted arrays.

    Raises:
        UserError: a folder, file or entry is missing or malformed.
    """
    if is_formatted(source.path_images):
        return load_formatted(source, _form(source.path_images))
    root = find_root(source.path_images)
    pictures = root / "images"
    require(not source.need_images or pictures.is_dir(), f"{pictures}: no such folder; CUB keeps its pictures there")
    classes = read_classes(_attributes_file(root))
    listed = read_images(root / "images.txt")
    train = read_split(root / "train_test_split.txt", listed.numbers)
    codes = _read_codes(source, root / "images.txt", root / "attributes" / "image_attribute_labels.txt", listed)
    rows = np.array(sorted(range(len(train)), key=lambda row: _id(listed.names[row])), dtype=np.int64)
    return Splits(
        _annotations(source, pictures, classes, listed, codes, rows[train[rows]]),
        _annotations(source, pictures, classes, listed, codes, rows[~train[rows]]),
    )


def find_root(path: Path) -> Path:
    """The folder with `images.txt`: `path` or `path/CUB_200_2011`. Raises: UserError showing the expected tree."""
    for folder in (path, path / _NAME):
        if (folder / "images.txt").is_file():
            return folder
    raise UserError(
        f"{path}: no CUB-200-2011 here; give --path_images the folder {_NAME} or the one that holds it:\n"
        f"  attributes.txt                 (or {_NAME}/attributes/attributes.txt)\n"
        f"  {_NAME}/\n"
        f"    images.txt  train_test_split.txt\n"
        f"    attributes/image_attribute_labels.txt\n"
        f"    images/001.Black_footed_Albatross/*.jpg ...\n"
        f"(--dataset digits runs without any download)"
    )


def read_classes(path: Path) -> tuple[str, ...]:
    """The 312 names of `attributes.txt`, in the order of their numbers.

    Raises: UserError when the file is missing, a line is not a number and a name, or one is missing or there twice.
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


def read_images(path: Path) -> Listed:
    """The pictures of `images.txt`. Raises: UserError naming the line that is malformed or repeats another."""
    numbers: dict[int, str] = {}
    ids: set[str] = set()
    for line, text in read_lines(path, "it lists the pictures"):
        number, name = _pair(text, f"{path}, line {line}")
        name = relative_path(name, f"{path}, line {line}")
        require(
            number not in numbers and _id(name) not in ids,
            f"{path}, line {line}: picture {number} {name[:80]!r} is listed twice; each may be there once",
        )
        numbers[number] = name
        ids.add(_id(name))
    require(bool(numbers), f"{path}: lists no picture")
    return Listed(np.array(list(numbers), dtype=np.int64), tuple(numbers.values()))


def read_split(path: Path, numbers: Index) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """(N,) which of the pictures `numbers` are for training, as `train_test_split.txt` says (1 training, 0 test).

    Raises: UserError when the file is missing or malformed, or does not say it once of each picture.
    """
    values: dict[int, str] = {}
    known = set(numbers.tolist())
    for line, text in read_lines(path, "it says which pictures are for training"):
        number, value = _pair(text, f"{path}, line {line}")
        require(number in known, f"{path}, line {line}: images.txt has no picture {number}")
        require(number not in values, f"{path}, line {line}: picture {number} is listed twice")
        require(value in ("0", "1"), f"{path}, line {line}: {value[:20]!r} must be 1 (training) or 0 (test)")
        values[number] = value
    missing = [number for number in numbers.tolist() if number not in values]
    if missing:
        raise UserError(f"{path}: says nothing of picture {missing[0]}; {len(missing)} such")
    train = np.array([values[number] == "1" for number in numbers.tolist()])
    require(bool(train.any()) and not train.all(), f"{path}: must have pictures for training and for test")
    return train


def read_codes(path: Path, numbers: Index) -> Codes:
    """(N, 312) codes of the pictures `numbers`, as `image_attribute_labels.txt` says.

    A line holds picture, attribute, present (1 or 0), certainty and seconds; what follows the third field is not
    read, for some published lines have fields too many.

    Raises: UserError when the file is missing or malformed, or does not hold each pair once.
    """
    text = read_text(path, "it says which attributes each picture has")
    image, attribute, value = _first_three_fields(path, text)
    order = np.argsort(numbers)
    row = order[np.searchsorted(numbers, image, sorter=order).clip(max=len(numbers) - 1)]
    _refuse_line(path, numbers[row] != image, "images.txt has no such picture")
    _refuse_line(path, (attribute < 1) | (attribute > ATTRIBUTES), f"attributes are 1 to {ATTRIBUTES}")
    _refuse_line(path, (value != 0) & (value != 1), "the third field must be 1 (present) or 0")
    cell = row * ATTRIBUTES + attribute - 1
    times = np.bincount(cell, minlength=len(numbers) * ATTRIBUTES)
    if times.max() > 1:
        first = np.unique(cell, return_index=True)[1]
        _refuse_line(path, ~np.isin(np.arange(len(cell)), first), "this picture and attribute are there already")
    missing = np.flatnonzero(times == 0)
    if len(missing):
        picture, column = divmod(int(missing[0]), ATTRIBUTES)
        raise UserError(
            f"{path}: says nothing of picture {numbers[picture]}, attribute {column + 1}; {len(missing)} such pairs"
        )
    codes = np.full(len(times), ABSENT, dtype=np.int8)
    codes[cell[value == 1]] = PRESENT
    return codes.reshape(len(numbers), ATTRIBUTES)


def _first_three_fields(path: Path, text: str) -> tuple[Index, Index, Index]:
    """The numbers at the start of each line that is not blank, three columns."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy warns where it is lenient: of an empty file, of 1.0 for 1
            table = np.loadtxt(io.StringIO(text), dtype=np.int64, comments=None, usecols=(0, 1, 2), ndmin=2)
    except (ValueError, Warning) as error:
        for line, fields in read_lines(path, "it says which attributes each picture has"):
            if not all(map(_NUMBER.fullmatch, (fields.split() + [""] * 3)[:3])):
                raise UserError(
                    f"{path}, line {line}: {fields[:60]!r} must begin with picture, attribute and 1 or 0"
                ) from error
        raise UserError(f"{path}: is empty or no list of numbers; get it anew") from error
    return table[:, 0], table[:, 1], table[:, 2]


def _refuse_line(path: Path, bad: np.ndarray[tuple[int], np.dtype[np.bool_]], reason: str) -> None:
    """Raise UserError naming the first line marked in `bad`, one mark for each line that is not blank."""
    if bad.any():
        line, text = next(islice(read_lines(path, reason), int(bad.argmax()), None))
        raise UserError(f"{path}, line {line}: {text[:60]!r}: {reason}; get this file anew")


def _pair(text: str, where: str) -> tuple[int, str]:
    """A number and what follows it. Raises: UserError where a line is anything else."""
    number, *rest = text.split(maxsplit=1)
    if not (_NUMBER.fullmatch(number) and rest):
        raise UserError(f"{where}: {text[:60]!r} must be a number, a space and what the number stands for")
    return int(number), rest[0]


def _id(name: str) -> str:
    """The id of a picture: its name below `images/` without the extension."""
    return str(PurePosixPath(name).with_suffix(""))


def _attributes_file(root: Path) -> Path:
    """`attributes.txt`, which the archive has next to `CUB_200_2011`, and many copies have among the attributes."""
    files = [folder / "attributes.txt" for folder in (root / "attributes", root, root.parent)]
    return next((file for file in files if file.is_file()), files[-1])


def _form(path: Path) -> Form:
    """What the formatted arrays look like; attributes have their names where `attributes.txt` is at hand."""
    files = [path / "attributes.txt", path / _NAME / "attributes" / "attributes.txt", path / _NAME / "attributes.txt"]
    names = next((file for file in files if file.is_file()), None)
    classes = None if names is None else read_classes(names)
    return Form("cub", (f"{_NAME}/images", "images", "."), _id, classes, ATTRIBUTES)


def _annotations(
    source: DatasetSource, pictures: Path, classes: tuple[str, ...], listed: Listed, codes: Codes, rows: Index
) -> Annotations:
    """The annotations of the pictures that stand at `rows` of `images.txt`."""
    names = [listed.names[row] for row in rows]
    images = FileImages([f"{pictures}/{name}" for name in names], source.cache)
    truth = LabelTable(codes[rows])
    return Annotations(images, tuple(map(_id, names)), classes, truth, places=listed.numbers[rows])


def _read_codes(source: DatasetSource, images: Path, labels: Path, listed: Listed) -> Codes:
    """(N, 312) codes in the order of `images.txt`, from the cache where neither file has changed."""
    key = fingerprint(READER, [images, labels])
    kept = source.cache.load("cub", key, ["codes"])
    if kept is not None:
        return kept["codes"].astype(np.int8)
    codes = read_codes(labels, listed.numbers)
    source.cache.save("cub", key, {"codes": codes})
    return codes
