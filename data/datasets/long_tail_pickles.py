"""The pickles that lie beside published long-tailed lists: never a source of labels, only held against the lists.

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

_ROUNDING = 1e-6  # shares of rows that differ by more are other shares
_REMEDY = "get lists and pickles from one source, or delete this file"


def check_pickles(folder: Path, annotations: Annotations, groups: Mapping[str, Index]) -> None:
    """Hold the pickles and the id list of a folder, those that are there, against what the lists say.

    Args:
        folder: may hold `class_freq.pkl`, `class_split.pkl` and `img_id.txt` or `img_id.pkl`; the last is plain text
            too, and may have another order than the training list.
        annotations: the training set.
        groups: its classes of the head, the middle and the tail.

    Raises:
        UserError: a file is damaged or asks to run code, or says something else than the lists; naming the file and
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
    """(N,) the row of each image of an id list, in that list's order.

    Raises:
        UserError: it is unreadable, or does not list each training image once.
    """
    row_of = {one: row for row, one in enumerate(annotations.ids)}
    line_of: dict[int, int] = {}
    for line, text in read_lines(path, "it lists the training images"):
        row = row_of.get(text)
        if row is None:
            raise UserError(f"{path}, line {line}: image {text[:80]!r} is not in the training list; {_REMEDY}")
        if row in line_of:
            raise UserError(f"{path}, line {line}: image {text[:80]!r} is also in line {line_of[row]}; {_REMEDY}")
        line_of[row] = line
    absent = next((one for row, one in enumerate(annotations.ids) if row not in line_of), None)
    if absent is not None:
        raise UserError(f"{path}: image {absent[:80]} of the training list is not in it; {_REMEDY}")
    return np.fromiter(line_of, dtype=np.int64, count=len(line_of))


def check_frequencies(path: Path, annotations: Annotations, order: Index | None) -> None:
    """Hold `class_freq.pkl` against the training labels.

    Args:
        path: the pickle, a dictionary of gt_labels (N rows of C), class_freq (C), neg_class_freq (C) and
            condition_prob (C, C).
        annotations: the training set.
        order: (N,) the rows in the order of gt_labels, which are only compared where it is known.

    Raises:
        UserError: the file is damaged or says something else.
    """
    held = _dictionary(path, ("gt_labels", "class_freq", "neg_class_freq", "condition_prob"))
    expected = class_frequencies(annotations.truth)
    for key, values in expected._asdict().items():
        found = _numbers(path, key, held[key], values.shape)
        wrong = np.argwhere(~(np.abs(found.astype(np.float64) - values) <= _ROUNDING))  # so written, NaN is wrong too
        if len(wrong):
            place = tuple(wrong[0].tolist())
            names = " and ".join(repr(annotations.classes[k]) for k in place)
            raise UserError(f"{path}: {key} of {names} is {found[place]}, the list says {values[place]}; {_REMEDY}")
    rows = _rows(path, held["gt_labels"], (len(annotations), len(annotations.classes)))
    if order is not None:
        wrong = np.argwhere(rows != (annotations.truth.rows(order) == PRESENT))
        if len(wrong):
            line, label = wrong[0].tolist()
            raise UserError(
                f"{path}: gt_labels of image {annotations.ids[order[line]]} (row {line}) and class"
                f" {annotations.classes[label]!r} is {rows[line, label]}, not what the list says; {_REMEDY}"
            )


def check_groups(path: Path, classes: tuple[str, ...], groups: Mapping[str, Index]) -> None:
    """Hold `class_split.pkl` against the groups of classes. Raises: UserError when it is damaged or differs."""
    held = _dictionary(path, tuple(groups))
    for name, expected in groups.items():
        found = _class_numbers(path, name, held[name], len(classes))
        label = min(found ^ set(expected.tolist()), default=None)
        if label is not None:
            verb = "is" if label in found else "is not"
            raise UserError(
                f"{path}: class {label} ({classes[label]!r}) {verb} in {name!r}, unlike by the list; {_REMEDY}"
            )


def _dictionary(path: Path, keys: tuple[str, ...]) -> dict[Any, Any]:
    held = load_pickle(path)
    require(isinstance(held, dict), f"{path}: holds a {type(held).__name__}, not a dictionary; {_REMEDY}")
    missing = next((key for key in keys if key not in held), None)
    require(missing is None, f"{path}: has no {missing!r}; {_REMEDY}")
    return dict(held)


def _numbers(path: Path, key: str, values: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """`values`, which must be an array of numbers; nothing else of an untrusted file is turned into one."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        raise UserError(f"{path}: {key!r} holds a {_kind(values)}, not an array of numbers; {_REMEDY}")
    if values.shape != shape:
        raise UserError(f"{path}: {key!r} has the shape {values.shape}, by the list it is {shape}; {_REMEDY}")
    return values


def _rows(path: Path, values: Any, shape: tuple[int, int]) -> NDArray[Any]:
    """(N, C) of a list of N arrays (C,)."""
    if not isinstance(values, list | np.ndarray):
        raise UserError(f"{path}: 'gt_labels' holds a {_kind(values)}, not a list of rows; {_REMEDY}")
    if len(values) != shape[0]:
        raise UserError(f"{path}: 'gt_labels' has {len(values)} rows, the list has {shape[0]}; {_REMEDY}")
    return np.stack([_numbers(path, f"gt_labels[{row}]", one, shape[1:]) for row, one in enumerate(values)])


def _class_numbers(path: Path, name: str, values: Any, num_classes: int) -> set[int]:
    if not isinstance(values, set | frozenset | list | tuple | np.ndarray):
        raise UserError(f"{path}: {name!r} holds a {_kind(values)}, not a set of classes; {_REMEDY}")
    for one in values:
        if not isinstance(one, int | np.integer):
            raise UserError(f"{path}: {name!r} holds a {_kind(one)}, not a class number; {_REMEDY}")
        if not 0 <= one < num_classes:
            raise UserError(f"{path}: {name!r} holds a class outside 0 .. {num_classes - 1}; {_REMEDY}")
    return {int(one) for one in values}


def _kind(value: Any) -> str:
    """What a value is, without its content: that of a hostile file may be endless."""
    return f"{value.dtype} array" if isinstance(value, np.ndarray) else type(value).__name__
