"""OpenImages V3: image-level labels that people verified (Krasin et al., 2017; archives of 2017_11).

Of 5,000 classes an image has only the labels that an annotator was asked about: 1 verified present, 0 verified
absent, all others UNKNOWN. The splits are the dataset's own, as in Kim et al. (CVPR 2022). The truth of 3.4 million
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
from data.datasets.unpacked import Unpacked, not_found, relocated
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


class VerifiedLabels(NamedTuple):
    """Content of one `annotations-human.csv`, for N images and C classes."""

    ids: tuple[str, ...]
    codes: csr_array  # (N, C) int8, stored entries are known
    skipped: int  # labels of classes that are not in the list
    contradictory: int  # entries that are verified present and verified absent


def load_openimages(source: DatasetSource) -> Splits:
    """Read OpenImages V3 in the dataset's own splits.

    Args:
        source: `path_images` has the lists of classes, a folder per split with its `annotations-human.csv`, and the
            images, in `train/<id>.jpg` or `images/train/<id>.jpg`. The validation split may be missing.

    Returns:
        The splits, and the groups G1 .. G5 of classes; G1 has the fewest known training labels.

    Raises:
        UserError: a file or entry is missing or malformed, or an image is in two splits.
    """
    unpacked = Unpacked(source.path_images)
    root = find_root(relocated(source, "classes-trainable.txt", "2017_11/classes-trainable.txt").path_images)
    labels, classes = read_classes(root)
    names = [
        split for split in ("train", "validation", "test") if split != "validation" or _table(root, split).is_file()
    ]
    splits = {split: _annotations(source, unpacked, root, split, labels, classes) for split in names}
    for one, other in combinations(reversed(names), 2):  # builds the set of the smaller split; train is far larger
        shared = set(splits[one].ids).intersection(splits[other].ids)
        if shared:
            raise UserError(
                f"{root}: image {min(shared)} is in {other} and in {one} ({len(shared)} such); get both csv anew"
            )
    truth = splits["train"].truth
    groups = class_groups(truth.counts(PRESENT) + truth.counts(ABSENT))
    aliases = dict(zip(labels, classes, strict=True))
    return Splits(splits["train"], splits["test"], groups, splits.get("validation"), aliases=aliases)


def find_root(path: Path) -> Path:
    """Find the list of classes in `path` or `path/2017_11`. Raises: UserError showing the expected tree."""
    for folder in (path, path / "2017_11"):
        if (folder / "classes-trainable.txt").is_file():
            return folder
    raise not_found(
        path,
        f"{path}: no OpenImages V3 here; give --path_images the folder that looks like this:\n"
        f"  classes-trainable.txt, class-descriptions.csv\n"
        f"  train/annotations-human.csv, test/annotations-human.csv (validation/annotations-human.csv)\n"
        f"  train/<id>.jpg   (or images/train/<id>.jpg)\n"
        f"  test/<id>.jpg    (or images/test/<id>.jpg)\n"
        f"(--dataset digits runs without any download)",
    )


def read_classes(root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read labels (such as /m/01g317) and names of the classes, in the order of `classes-trainable.txt`.

    Two classes of the same name get their labels appended; the label is the name of a class without a description.

    Raises:
        UserError: a list is missing or malformed, lists a class twice, or does not describe all classes.
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
    """Read the name of each label from a CSV file of two columns without a header; white space in a name becomes " ".

    Raises:
        UserError: the file is missing or malformed, or gives a label two names.
    """
    text = read_text(path, "it has the names of the classes")
    names: dict[str, str] = {}
    require("\0" not in text, f"{path}: holds NUL bytes; get it anew")
    rows = csv.reader(text.splitlines(keepends=True), strict=True)
    try:
        for row in rows:
            require(len(row) in (0, 2), f"{path}, line {rows.line_num}: {len(row)} fields, must be a label and a name")
            if row:
                label, name = (" ".join(field.split()) for field in row)
                same = names.setdefault(label, name) == name
                require(same, f"{path}, line {rows.line_num}: {label} is {name!r} here and {names[label]!r} above")
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: not a table of text ({error}); correct this line") from error
    return names


def read_verified(path: Path, labels: Sequence[str]) -> VerifiedLabels:
    """Read one `annotations-human.csv`, a block of lines at a time.

    Repeated entries count once; contradictory entries become PRESENT. Images whose labels are all of other classes
    stay, with no known label.

    Args:
        path: the file, with a header that names ImageID, LabelName and Confidence.
        labels: the classes, C of them.

    Raises:
        UserError: the file is missing or malformed, has a Confidence other than 1 and 0, or none of the classes.
    """
    order = np.argsort(np.array(labels, dtype=np.bytes_))
    sorted_labels = np.array(labels, dtype=np.bytes_)[order]
    ids: list[Texts] = []
    entries: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]] = []
    rows = seen = 0
    for block in read_blocks(path, _COLUMNS, "it has the labels of the images"):
        unique, image = np.unique(_image_ids(block), return_inverse=True)
        label = _labels(block, sorted_labels.itemsize + 1)  # a byte longer than any class, so that no cut label matches
        position = np.minimum(np.searchsorted(sorted_labels, label), len(labels) - 1)
        known = sorted_labels[position] == label
        row_column = (image[known] + seen).astype(np.int32), order[position[known]].astype(np.int32)
        entries.append((*row_column, _present(block)[known]))
        ids.append(unique)
        seen, rows = seen + len(unique), rows + len(label)
    row, column, present = (np.concatenate(arrays) for arrays in zip(*entries, strict=True))
    require(len(row) > 0, f"{path}: none of its {rows} labels is of a class in classes-trainable.txt; get both anew")
    unique, number = np.unique(np.concatenate(ids), return_inverse=True)  # an id may occur in several blocks
    codes, contradictory = combine(number.astype(np.int32)[row], column, present, (len(unique), len(labels)))
    return VerifiedLabels(tuple(unique.astype(np.str_).tolist()), codes, rows - len(row), contradictory)


def combine(row: Index, column: Index, present: NDArray[np.bool_], shape: tuple[int, int]) -> tuple[csr_array, int]:
    """Return M verifications as (N, C) int8 CSR, PRESENT where any is, and the number of contradictory entries."""
    positive, negative = (_once(row[chosen], column[chosen], shape) for chosen in (present, ~present))
    merged = positive * np.int8(2) + negative  # 1 absent, 2 present, 3 both
    contradictory = int((merged.data == 3).sum())
    return csr_array(((merged.data >= 2).astype(np.int8), merged.indices, merged.indptr), shape=shape), contradictory


def _once(row: Index, column: Index, shape: tuple[int, int]) -> csr_array:
    """Return an (N, C) int8 CSR array of ones at the given entries, which may be repeated."""
    entries = csr_array((np.ones(len(row), dtype=np.int8), (row, column)), shape=shape)
    entries.sum_duplicates()  # older scipy leaves this to the caller
    entries.data = np.ones_like(entries.data)  # whatever the sum is in int8
    return entries


def class_groups(known: Index) -> dict[str, Index]:
    """Divide the classes into `GROUPS` equal groups, G1 with the fewest known training labels; ties by class.

    Kim et al. (CVPR 2022), Table 3. If the classes do not divide evenly, the first groups have one more.

    Args:
        known: (C,) number of training images for which the class is known.
    """
    groups = np.array_split(np.argsort(known, kind="stable").astype(np.int64), GROUPS)
    return {f"G{number}": group for number, group in enumerate(groups, 1)}


def _no_label(path: Path, number: int, text: str) -> str:
    return f"{path}, line {number}: expected one label such as /m/01g317, found {text[:60]!r}"


def _table(root: Path, split: str) -> Path:
    return root / split / "annotations-human.csv"


def _image_ids(block: CsvBlock) -> Texts:
    """Image ids (M,), checked because they become file names."""
    expected = f"an image id has 1 to {_LONGEST_ID} letters, digits, - and _"
    length = block.lengths(_IMAGE)
    block.require((length > 0) & (length <= _LONGEST_ID), _IMAGE, expected)
    width = int(length.max(initial=1))
    allowed = _ID_BYTES[block.chars(_IMAGE, width)] | (np.arange(width) >= length[:, None])
    block.require(np.asarray(allowed.all(axis=1)), _IMAGE, expected)
    return block.texts(_IMAGE, width)


def _labels(block: CsvBlock, width: int) -> Texts:
    """Labels (M,), cut after `width` bytes."""
    chars, inside = block.chars(_LABEL, width), np.arange(width) < block.lengths(_LABEL)[:, None]
    plain = (chars > ord(" ")) & (chars < 127)
    block.require(inside[:, 0] & (plain | ~inside).all(axis=1), _LABEL, "expected a label such as /m/01g317")
    return block.texts(_LABEL, width)


def _present(block: CsvBlock) -> NDArray[np.bool_]:
    """True (M,) if the label is verified present, False if verified absent."""
    value = block.texts(_CONFIDENCE, 4)
    present, absent = np.isin(value, [b"1", b"1.0"]), np.isin(value, [b"0", b"0.0"])
    block.require(present | absent, _CONFIDENCE, "Confidence must be 1 or 0, as for human-verified labels")
    return present


def _read(source: DatasetSource, path: Path, labels: Sequence[str], lists: Path) -> VerifiedLabels:
    """Read one table, from the cache if neither it nor the list of classes has changed."""
    key = fingerprint(READER, [path, lists])
    cached = source.cache.load("openimages", key, ["ids", "data", "indices", "indptr", "counts"])
    if cached is not None:
        ids = unpack(cached["ids"])
        codes = csr_array((cached["data"], cached["indices"], cached["indptr"]), shape=(len(ids), len(labels)))
        return VerifiedLabels(ids, codes, *cached["counts"].tolist())
    content = read_verified(path, labels)
    csr, counts = content.codes, np.array([content.skipped, content.contradictory])
    arrays = {"data": csr.data, "indices": csr.indices, "indptr": csr.indptr, "counts": counts}
    source.cache.save("openimages", key, {"ids": pack(content.ids), **arrays})
    return content


def _annotations(
    source: DatasetSource,
    unpacked: Unpacked,
    root: Path,
    split: str,
    labels: Sequence[str],
    classes: tuple[str, ...],
) -> Annotations:
    path = _table(root, split)
    content = _read(source, path, labels, root / "classes-trainable.txt")
    if content.skipped:
        say(f"{path}: left out {content.skipped} labels of classes that are not in classes-trainable.txt")
    if content.contradictory:
        say(f"{path}: {content.contradictory} entries are verified present and verified absent; they count as present")
    folder = unpacked.images(root, split, needed=source.need_images) or root / split
    images = FileImages([f"{folder}/{image}.jpg" for image in content.ids], source.cache)
    return Annotations(images, content.ids, classes, LabelTable(content.codes, default=UNKNOWN))
