"""Content of a user's own label files in any format: images, classes, codes and splits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.files.accents import composed
from data.files.cache import Cache, pack, unpack
from data.files.text_files import is_plain_text, read_lines
from utils.checks import UserError, require
from utils.types import Boxes, Codes, Index, SoftTargets

TRAIN, VALIDATION, TEST, NO_SPLIT = 0, 1, 2, -1
"""Split of an image; NO_SPLIT if the files name none."""

USUAL_SEPARATOR = ";"
"""Between two class names in files that we write; no class name holds it."""

_LONGEST_NAME = 200  # characters; a longer class name means that the separator is another character

_CACHED = ("ids", "classes", "notes", "codes", "parts", "flags", "row", "label", "corners")


class OwnLabels(NamedTuple):
    """Labels of N images, from one file or folder."""

    ids: tuple[str, ...]  # sorted; the path of the image, for VOC annotations without its suffix
    classes: tuple[str, ...]
    codes: Codes  # (N, C)
    splits: NDArray[np.int8]  # (N,) TRAIN, VALIDATION, TEST; all NO_SPLIT if the files name no splits
    closed: bool  # True if the files list all classes, False if these are the names that occur in labels
    boxes: Boxes | None = None
    notes: tuple[str, ...] = ()  # lines to print for the user
    found: Mapping[str, str] = MappingProxyType({})  # settings that a table's columns decided, by name
    groups: Index | None = None  # (N,) what each image belongs to; None if the files do not say
    soft: SoftTargets | None = None  # (N, C) in [0, 1], -1 unknown; None if labels are hard


def sorted_by_id(labels: OwnLabels) -> OwnLabels:
    """Return the labels with rows sorted by id."""
    order = np.array(sorted(range(len(labels.ids)), key=labels.ids.__getitem__), dtype=np.int64)
    new_row = np.empty_like(order)
    new_row[order] = np.arange(len(order))
    boxes = labels.boxes and labels.boxes._replace(row=new_row[labels.boxes.row])
    ids = tuple(labels.ids[row] for row in order)
    codes, splits = labels.codes[order], labels.splits[order]
    groups = None if labels.groups is None else labels.groups[order]
    soft = None if labels.soft is None else labels.soft[order]
    return labels._replace(ids=ids, codes=codes, splits=splits, boxes=boxes, groups=groups, soft=soft)


def with_classes(labels: OwnLabels, classes: tuple[str, ...], absent: int) -> OwnLabels:
    """Return the labels with the columns `classes`, a superset of their own; new columns get the code `absent`."""
    column = np.array([classes.index(name) for name in labels.classes], dtype=np.int64)
    codes = np.full((len(labels.ids), len(classes)), absent, dtype=np.int8)
    codes[:, column] = labels.codes
    soft = labels.soft
    if soft is not None:
        soft = codes.astype(np.float32)
        soft[:, column] = labels.soft
    boxes = labels.boxes and labels.boxes._replace(label=column[labels.boxes.label])
    return labels._replace(classes=classes, codes=codes, boxes=boxes, soft=soft)


def check_classes(names: Iterable[tuple[str, str]], separator: str | None) -> tuple[str, ...]:
    """Return the class names, checked to be valid and distinct.

    Args:
        names: each name with the file and line where it was found, for messages: "labels.csv, line 3".
        separator: what stands between two names of a cell, if that was said; no name may contain it.

    Raises:
        UserError: a name is empty or too long, has the separator or a control character, or occurs twice; names
            that differ only in case, or in how an accent is encoded, are the same.
    """
    seen: dict[str, tuple[str, str]] = {}
    for name, where in names:
        fault = _name_fault(name, separator)
        if fault:
            raise UserError(f"{where}: class {name[:60]!r} {fault}")
        other = seen.setdefault(composed(name).casefold(), (name, where))
        if other != (name, where):
            raise UserError(
                f"{where}: class {name!r} is there as {other[0]!r} too ({other[1]}); write each class once, in one way"
            )
    return tuple(name for name, _ in seen.values())


def choose_classes(used: Mapping[str, str], fixed: tuple[str, ...] | None, separator: str | None) -> tuple[str, ...]:
    """Return the classes of labels that are written as names: `fixed`, or else the names in use, sorted.

    Args:
        used: each name that occurs, with the file and line of its first occurrence.
        fixed: the names of `classes.txt`; None without that file.
        separator: as in `check_classes`.

    Raises:
        UserError: a name is invalid (`check_classes`) or not in `fixed`.
    """
    if fixed is not None:
        otherwise = {composed(name) for name in fixed}
        for name, where in used.items():
            if name not in fixed:
                how = " with its accents encoded like this" if composed(name) in otherwise else ""
                raise UserError(f"{where}: class {name[:60]!r} is not in classes.txt{how}; correct one of the two")
        return fixed
    return tuple(sorted(check_classes(used.items(), separator)))


def read_class_file(table: Path, separator: str | None) -> tuple[str, ...] | None:
    """Read `classes.txt` in the folder `table`, or beside the file `table`; None if it does not exist.

    Raises: UserError when it is unreadable, empty, or has an invalid name.
    """
    path = class_file(table)
    if not path.is_file():
        return None
    lines = read_lines(path, "it fixes the order of the classes")
    names = check_classes(((name, f"{path}, line {number}") for number, name in lines), separator)
    require(bool(names), f"{path}: names no class; write one per line, or remove the file")
    return names


def class_file(table: Path) -> Path:
    """Path of `classes.txt` for a table."""
    return (table if table.is_dir() else table.parent) / "classes.txt"


def check_id(name: str, where: str, seen: dict[str, str]) -> None:
    """Add an image name, with its file and line, to `seen`. Raises: UserError when it is invalid or there already."""
    if not is_plain_text(name):
        raise UserError(f"{where}: image {name[:60]!r}: holds control characters; rename it")
    other = seen.setdefault(name, where)
    if other != where:
        raise UserError(f"{where}: image {name[:200]!r} is there already ({other}); write it once, with all its labels")


def cached_labels(cache: Cache, key: str, read: Callable[[], OwnLabels]) -> OwnLabels:
    """Return the result of `read`, from the cache if it has an entry with the fingerprint `key`."""
    cached = cache.load("table", key, _CACHED)
    if cached is not None:
        ids, classes, notes = (unpack(cached[name]) for name in ("ids", "classes", "notes"))
        closed, boxed = cached["flags"].tolist()
        boxes = Boxes(cached["row"], cached["label"], cached["corners"]) if boxed else None
        return OwnLabels(ids, classes, cached["codes"], cached["parts"], closed, boxes, notes)
    labels = read()
    boxes = labels.boxes or Boxes(*(np.empty(0, dtype=np.int64),) * 2, np.empty((0, 4), dtype=np.float32))
    texts = {"ids": pack(labels.ids), "classes": pack(labels.classes), "notes": pack(labels.notes)}
    flags = np.array([labels.closed, labels.boxes is not None])
    arrays = {"codes": labels.codes, "parts": labels.splits, "flags": flags, **boxes._asdict()}
    cache.save("table", key, {**texts, **arrays})
    return labels


def rows_in_split(splits: NDArray[np.int8], split: int) -> Index:
    """Return the rows of one split."""
    return np.flatnonzero(splits == split).astype(np.int64)


def _name_fault(name: str, separator: str | None) -> str:
    """Return the fault of a class name as the end of a sentence; "" for a valid name."""
    if not name.strip():
        return "has no name; give it one, or leave it out"
    if name != name.strip():
        return "has spaces around its name; remove them"
    if name.casefold() == "nan":
        return "is the text of a missing value; leave the cell empty"
    if len(name) > _LONGEST_NAME:
        return f"has a name of {len(name)} characters; is --label_separator right?"
    if separator is not None and separator in name:
        return f"holds the separator {separator!r}; rename it or choose another --label_separator"
    return "" if is_plain_text(name) else "holds control characters or line breaks; correct the name"
