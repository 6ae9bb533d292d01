"""OpenImages V3: image-level labels that people verified (Krasin et al., 2017; archives of 2017_11).

Of 5,000 classes an image has only those labels that somebody was asked about: 1 verified present, 0 verified absent,
all others UNKNOWN. The splits are the dataset's own, as in Kim et al. (CVPR 2022). The truth of 3.4 million
images stays sparse from the file to the metrics. Classes are in the order of `classes-trainable.txt`, rows by image id.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from data.datasets.source import DatasetSource
from data.files.cache import fingerprint, pack, unpack
from data.files.csv_blocks import CsvBlock, Texts, read_blocks
from data.files.text_files import read_lines, read_text
from data.images.files import FileImages
from utils.checks import UserError, require
from utils.console import say
from utils.types import ABSENT, PRESENT, UNKNOWN, Annotations, Index, LabelTable, Splits

READER = "openimages 1"
"""Part of the cache's fingerprint; another number whenever the same files would be read differently."""

GROUPS = 5

_COLUMNS = ("ImageID", "LabelName", "Confidence")
_IMAGE, _LABEL, _CONFIDENCE = range(3)
_LONGEST_ID = 64  # bytes
_ID_BYTES = np.isin(np.arange(256), list(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-"))


class Verified(NamedTuple):
    """What one `annotations-human.csv` says of N images and C classes."""

    ids: tuple[str, ...]
    codes: csr_array  # (N, C) int8, what is stored is known
    skipped: int  # labels of classes that are not in the list
    contradictory: int  # entries that are verified present and verified absent


def load_openimages(source: DatasetSource) -> Splits:
    """OpenImages V3 in the dataset's own splits.

    Args:
        source: `path_images` holds the lists of classes, a folder a split with its `annotations-human.csv`, and the
            pictures, in `train/<id>.jpg` or `images/train/<id>.jpg`. The validation split may be left out.

    Returns:
        The splits, and the groups G1 .. G5 of classes, from those with the fewest known training labels on.

    Raises:
        UserError: a file or entry is missing or malformed, or an image is in two splits.
    """
    root = find_root(source.path_images)
    labels, classes = read_classes(root)
    names = [
        split for split in ("train", "validation", "test") if split != "validation" or _table(root, split).is_file()
    ]
    parts = {split: _annotations(source, root, split, labels, classes) for split in names}
    for one, other in combinations(reversed(names), 2):  # a set of the smaller one, for train is far larger
        both = sorted(set(parts[one].ids).intersection(parts[other].ids))
        if both:
            raise UserError(f"{root}: image {both[0]} is in {other} and in {one} ({len(both)} such); get both csv anew")
    truth = parts["train"].truth
    groups = class_groups(truth.counts(PRESENT) + truth.counts(ABSENT))
    return Splits(parts["train"], parts["test"], groups=groups, validation=parts.get("validation"))


def find_root(path: Path) -> Path:
    """The folder of the list of classes: `path` or `path/2017_11`. Raises: UserError showing the expected tree."""
    for folder in (path, path / "2017_11"):
        if (folder / "classes-trainable.txt").is_file():
            return folder
    raise UserError(
        f"{path}: no OpenImages V3 here; give --path_images the folder that looks like this:\n"
        f"  classes-trainable.txt, class-descriptions.csv\n"
        f"  train/annotations-human.csv, test/annotations-human.csv (validation/annotations-human.csv)\n"
        f"  train/<id>.jpg   (or images/train/<id>.jpg)\n"
        f"  test/<id>.jpg    (or images/test/<id>.jpg)\n"
        f"(--dataset digits runs without any download)"
    )


def read_classes(root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Labels (such as /m/01g317) and names of the classes, in the order of `classes-trainable.txt`.

    Two classes of one name get their labels behind it, and a class whose description is empty is called by its label.

    Raises:
        UserError: a list is missing or malformed, lists a class twice, or describes not all of them.
    """
    path = root / "classes-trainable.txt"
    lines: dict[str, int] = {}
    for number, text in read_lines(path, "it lists the classes"):
        require(text.isascii() and text.isprintable() and not set(text) & set(', "'), _no_label(path, number, text))
        require(text not in lines, f"{path}, line {number}: {text} is listed twice (also in line {lines.get(text)})")
        lines[text] = number
    require(bool(lines), f"{path}: lists no class")
    descriptions = root / "class-descriptions.csv"
    names = read_descriptions(descriptions)
    missing = [label for label in lines if label not in names]
    if missing:
        raise UserError(f"{descriptions}: does not describe {missing[0]} ({len(missing)} such); get both lists anew")
    plain = [names[label] or label for label in lines]
    times = Counter(plain)
    return tuple(lines), tuple(
        name if times[name] == 1 else f"{name} ({label})" for name, label in zip(plain, lines, strict=True)
    )


def read_descriptions(path: Path) -> dict[str, str]:
    """Name by label of a CSV file of two columns without a header; spaces and line breaks within a name count as one.

    Raises:
        UserError: the file is missing or malformed, or gives a label two names.
    """
    text = read_text(path, "it holds the names of the classes")
    names: dict[str, str] = {}
    require("\0" not in text, f"{path}: holds NUL bytes; get it anew")
    rows = csv.reader(text.splitlines(keepends=True), strict=True)
    try:
        for row in rows:
            require(len(row) in (0, 2), f"{path}, line {rows.line_num}: {len(row)} fields, must be a label and a name")
            if row:
                label, name = (" ".join(field.split()) for field in row)
                same = names.setdefault(label, name) == name
                require(same, f"{path}, line {rows.line_num}: {label} is {name!r}, and {names[label]!r} further up")
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: not a table of text ({error}); correct this line") from error
    return names


def read_verified(path: Path, labels: Sequence[str]) -> Verified:
    """One `annotations-human.csv`, a block of lines at a time.

    An entry that is there more than once is one entry; where people disagreed, PRESENT stands. Images whose labels are
    all of other classes stay, with nothing known.

    Args:
        path: the file, with a header that names ImageID, LabelName and Confidence.
        labels: the classes, C of them.

    Raises:
        UserError: the file is missing or malformed, holds a Confidence other than 1 and 0, or none of the classes.
    """
    order = np.argsort(np.array(labels, dtype=np.bytes_))
    in_order = np.array(labels, dtype=np.bytes_)[order]
    ids: list[Texts] = []
    entries: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]] = []
    rows = seen = 0
    for block in read_blocks(path, _COLUMNS, "it holds the labels of the images"):
        unique, image = np.unique(_image_ids(block), return_inverse=True)
        label = _labels(block, in_order.itemsize + 1)  # a byte more than any class has, so that no cut one fits
        place = np.minimum(np.searchsorted(in_order, label), len(labels) - 1)
        known = in_order[place] == label
        numbers = (image[known] + seen).astype(np.int32), order[place[known]].astype(np.int32)
        entries.append((*numbers, _present(block)[known]))
        ids.append(unique)
        seen, rows = seen + len(unique), rows + len(label)
    row, column, present = (np.concatenate(part) for part in zip(*entries, strict=True))
    require(len(row) > 0, f"{path}: none of its {rows} labels is of a class in classes-trainable.txt; get both anew")
    unique, number = np.unique(np.concatenate(ids), return_inverse=True)  # of blocks, so an id may be there repeatedly
    codes, contradictory = combine(number.astype(np.int32)[row], column, present, (len(unique), len(labels)))
    return Verified(tuple(unique.astype(np.str_).tolist()), codes, rows - len(row), contradictory)


def combine(row: Index, column: Index, present: NDArray[np.bool_], shape: tuple[int, int]) -> tuple[csr_array, int]:
    """(N, C) int8 CSR of M verifications, PRESENT where any says so, and the number of contradictory entries."""
    said = [  # as truth values, of which scipy makes one where there are several
        csr_array((np.ones(int(chosen.sum()), dtype=np.bool_), (row[chosen], column[chosen])), shape=shape)
        for chosen in (present, ~present)
    ]
    held = said[0].astype(np.int8) * np.int8(2) + said[1].astype(np.int8)  # 1 absent, 2 present, 3 both
    contradictory = int((held.data == 3).sum())
    return csr_array(((held.data >= 2).astype(np.int8), held.indices, held.indptr), shape=shape), contradictory


def class_groups(known: Index) -> dict[str, Index]:
    """Classes in `GROUPS` equal groups, G1 with the fewest known training labels; ties by class.

    Kim et al. (CVPR 2022), Table 3. Where the classes do not divide evenly, the first groups have one more.

    Args:
        known: (C,) training images of which the class is known.
    """
    parts = np.array_split(np.argsort(known, kind="stable").astype(np.int64), GROUPS)
    return {f"G{number}": part for number, part in enumerate(parts, 1)}


def _no_label(path: Path, number: int, text: str) -> str:
    return f"{path}, line {number}: expected one label such as /m/01g317, found {text[:60]!r}"


def _table(root: Path, split: str) -> Path:
    return root / split / "annotations-human.csv"


def _image_ids(block: CsvBlock) -> Texts:
    """(M,) the ids of the images, which become names of files."""
    expected = f"an image id has 1 to {_LONGEST_ID} letters, digits, - and _"
    length = block.lengths(_IMAGE)
    block.require((length > 0) & (length <= _LONGEST_ID), _IMAGE, expected)
    width = int(length.max(initial=1))
    allowed = _ID_BYTES[block.chars(_IMAGE, width)] | (np.arange(width) >= length[:, None])
    block.require(np.asarray(allowed.all(axis=1)), _IMAGE, expected)
    return block.texts(_IMAGE, width)


def _labels(block: CsvBlock, width: int) -> Texts:
    """(M,) the labels, cut after `width` bytes."""
    chars, inside = block.chars(_LABEL, width), np.arange(width) < block.lengths(_LABEL)[:, None]
    plain = (chars > ord(" ")) & (chars < 127)
    block.require(inside[:, 0] & (plain | ~inside).all(axis=1), _LABEL, "expected a label such as /m/01g317")
    return block.texts(_LABEL, width)


def _present(block: CsvBlock) -> NDArray[np.bool_]:
    """(M,) whether the label is verified present."""
    value = block.texts(_CONFIDENCE, 4)
    present, absent = np.isin(value, [b"1", b"1.0"]), np.isin(value, [b"0", b"0.0"])
    block.require(present | absent, _CONFIDENCE, "Confidence must be 1 or 0, as of labels that people verified")
    return present


def _read(source: DatasetSource, path: Path, labels: Sequence[str], lists: Path) -> Verified:
    """The content of one table, from the cache where neither it nor the list of classes has changed."""
    key = fingerprint(READER, [path, lists])
    kept = source.cache.load("openimages", key, ["ids", "data", "indices", "indptr", "counts"])
    if kept is not None:
        ids = unpack(kept["ids"])
        codes = csr_array((kept["data"], kept["indices"], kept["indptr"]), shape=(len(ids), len(labels)))
        return Verified(ids, codes, *kept["counts"].tolist())
    part = read_verified(path, labels)
    csr, counts = part.codes, np.array([part.skipped, part.contradictory])
    arrays = {"data": csr.data, "indices": csr.indices, "indptr": csr.indptr, "counts": counts}
    source.cache.save("openimages", key, {"ids": pack(part.ids), **arrays})
    return part


def _annotations(
    source: DatasetSource, root: Path, split: str, labels: Sequence[str], classes: tuple[str, ...]
) -> Annotations:
    path = _table(root, split)
    part = _read(source, path, labels, root / "classes-trainable.txt")
    if part.skipped:
        say(f"{path}: left out {part.skipped} labels of classes that are not in classes-trainable.txt")
    if part.contradictory:
        say(f"{path}: {part.contradictory} entries are verified present and verified absent; they count as present")
    folder = root / "images" / split if (root / "images" / split).is_dir() else root / split
    images = FileImages([f"{folder}/{image}.jpg" for image in part.ids], source.cache)
    return Annotations(images, part.ids, classes, LabelTable(part.codes, default=UNKNOWN))
