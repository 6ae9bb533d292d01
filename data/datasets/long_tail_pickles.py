"""The pickles beside published long-tailed lists: never a source of labels, only compared with the lists.

`class_freq.pkl`, `class_split.pkl` and a list of image ids come from wutong16/DistributionBalancedLoss, appendix.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.files.text_files import read_lines
from utils.checks import UserError, require
from utils.long_tail import class_frequencies
from utils.safe_files import load_pickle
from utils.types import PRESENT, Annotations, Index

_TOLERANCE = 1e-6  # frequencies that differ by more are different
_REMEDY = "get lists and pickles from one source, or delete this file"


def check_pickles(folder: Path, annotations: Annotations, groups: Mapping[str, Index]) -> None:
    """Compare the pickles and the id list of a folder, those that exist, with the lists.

    Args:
        folder: may have `class_freq.pkl`, `class_split.pkl` and `img_id.txt` or `img_id.pkl`; the last is plain text
            too, and may have another order than the training list.
        annotations: the training set.
        groups: classes of head, middle and tail.

    Raises:
        UserError: a file is damaged, asks to run code, or differs from the lists; the message names the file and
            the first difference.
    """
    order: Index | None = None
    for path in (folder / "img_id.txt", folder / "img_id.pkl"):
        if path.is_file():
            order = check_ids(path, annotations)
    if (folder / "class_freq.pkl").is_file():
        check_frequencies(folder / "class_freq.pkl", annotations, order)
    if (folder / "class_split.pkl").is_file():
        check_groups(folder / "class_split.pkl", annotations.classes, groups)


def check_ids(path: Path, annotations: Annotations) -> Index:
    """Return the row (N,) of each image of an id list, in the order of the list.

    Raises:
        UserError: it is unreadable, or does not list each training image once.
    """
    row_of = {image: row for row, image in enumerate(annotations.ids)}
    line_of: dict[int, int] = {}
    for line, text in read_lines(path, "it lists the training images"):
        row = row_of.get(text)
        if row is None:
            raise UserError(f"{path}, line {line}: image {text[:80]!r} is not in the training list; {_REMEDY}")
        if row in line_of:
            raise UserError(f"{path}, line {line}: image {text[:80]!r} is also in line {line_of[row]}; {_REMEDY}")
        line_of[row] = line
    missing = next((image for row, image in enumerate(annotations.ids) if row not in line_of), None)
    if missing is not None:
        raise UserError(f"{path}: image {missing[:80]} of the training list is missing; {_REMEDY}")
    return np.fromiter(line_of, dtype=np.int64, count=len(line_of))


def check_frequencies(path: Path, annotations: Annotations, order: Index | None) -> None:
    """Compare `class_freq.pkl` with the training labels.

    Args:
        path: the pickle, a dictionary of gt_labels (N rows of C), class_freq (C), neg_class_freq (C) and
            condition_prob (C, C).
        annotations: the training set.
        order: (N,) rows in the order of gt_labels; None: unknown, gt_labels are not compared.

    Raises:
        UserError: the file is damaged or differs.
    """
    content = _dictionary(path, ("gt_labels", "class_freq", "neg_class_freq", "condition_prob"))
    expected = class_frequencies(annotations.truth)
    for key, values in expected._asdict().items():
        actual = _numbers(path, key, content[key], values.shape)
        wrong = np.argwhere(~(np.abs(actual.astype(np.float64) - values) <= _TOLERANCE))  # true for NaN too
        if len(wrong):
            cell = tuple(wrong[0].tolist())
            names = " and ".join(repr(annotations.classes[k]) for k in cell)
            raise UserError(f"{path}: {key} of {names} is {actual[cell]}, by the list {values[cell]}; {_REMEDY}")
    rows = _rows(path, content["gt_labels"], (len(annotations), len(annotations.classes)))
    if order is not None:
        wrong = np.argwhere(rows != (annotations.truth.rows(order) == PRESENT))
        if len(wrong):
            line, label = wrong[0].tolist()
            raise UserError(
                f"{path}: gt_labels of image {annotations.ids[order[line]]} (row {line}) and class"
                f" {annotations.classes[label]!r} is {rows[line, label]}, unlike in the list; {_REMEDY}"
            )


def check_groups(path: Path, classes: tuple[str, ...], groups: Mapping[str, Index]) -> None:
    """Compare `class_split.pkl` with the groups of classes. Raises: UserError when it is damaged or differs."""
    content = _dictionary(path, tuple(groups))
    for name, expected in groups.items():
        actual = _class_numbers(path, name, content[name], len(classes))
        label = min(actual ^ set(expected.tolist()), default=None)
        if label is not None:
            verb = "is" if label in actual else "is not"
            raise UserError(
                f"{path}: class {label} ({classes[label]!r}) {verb} in {name!r}, unlike in the list; {_REMEDY}"
            )


def _dictionary(path: Path, keys: tuple[str, ...]) -> dict[Any, Any]:
    content = load_pickle(path)
    require(isinstance(content, dict), f"{path}: holds a {type(content).__name__}, not a dictionary; {_REMEDY}")
    missing = next((key for key in keys if key not in content), None)
    require(missing is None, f"{path}: has no {missing!r}; {_REMEDY}")
    return dict(content)


def _numbers(path: Path, key: str, values: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return `values`, which must be an array of numbers; no other type of an untrusted file is converted."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        raise UserError(f"{path}: {key!r} holds a {_kind(values)}, not an array of numbers; {_REMEDY}")
    if values.shape != shape:
        raise UserError(f"{path}: {key!r} has the shape {values.shape}, by the list it is {shape}; {_REMEDY}")
    return values


def _rows(path: Path, values: Any, shape: tuple[int, int]) -> NDArray[Any]:
    """Stack a list of N arrays (C,) into (N, C)."""
    if not isinstance(values, list | np.ndarray):
        raise UserError(f"{path}: 'gt_labels' holds a {_kind(values)}, not a list of rows; {_REMEDY}")
    if len(values) != shape[0]:
        raise UserError(f"{path}: 'gt_labels' has {len(values)} rows, the list has {shape[0]}; {_REMEDY}")
    return np.stack([_numbers(path, f"gt_labels[{row}]", one, shape[1:]) for row, one in enumerate(values)])


def _class_numbers(path: Path, name: str, values: Any, num_classes: int) -> set[int]:
    if not isinstance(values, set | frozenset | list | tuple | np.ndarray):
        raise UserError(f"{path}: {name!r} holds a {_kind(values)}, not a set of classes; {_REMEDY}")
    for label in values:
        if not isinstance(label, int | np.integer):
            raise UserError(f"{path}: {name!r} holds a {_kind(label)}, not a class number; {_REMEDY}")
        if not 0 <= label < num_classes:
            raise UserError(f"{path}: {name!r} holds a class outside 0 .. {num_classes - 1}; {_REMEDY}")
    return {int(label) for label in values}


def _kind(value: Any) -> str:
    """Type of a value for messages, without its content, which in a hostile file may be huge."""
    return f"{value.dtype} array" if isinstance(value, np.ndarray) else type(value).__name__
