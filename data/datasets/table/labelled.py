"""What people's own label files come down to, whatever their form: pictures, classes, codes and splits."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.files.cache import Cache, pack, unpack
from data.files.text_files import is_plain_text, read_lines
from utils.checks import UserError, require
from utils.types import Boxes, Codes, Index

TRAIN, VALIDATION, TEST, UNSAID = 0, 1, 2, -1
"""The part a picture belongs to."""

_LONGEST_NAME = 200  # characters; a longer class name means that separators were not found

_KEPT = ("ids", "classes", "notes", "codes", "parts", "flags", "row", "label", "corners")


class Labelled(NamedTuple):
    """What one file or folder says of its N pictures."""

    ids: tuple[str, ...]  # sorted; the path of the picture, or for VOC annotations the path without its ending
    classes: tuple[str, ...]
    codes: Codes  # (N, C)
    parts: NDArray[np.int8]  # (N,) TRAIN, VALIDATION, TEST; UNSAID for all where nothing says
    closed: bool  # whether these are all classes there can be, rather than those that were met
    boxes: Boxes | None = None
    notes: tuple[str, ...] = ()  # for the person watching


def in_order(found: Labelled) -> Labelled:
    """The same with its rows sorted by id."""
    order = np.array(sorted(range(len(found.ids)), key=found.ids.__getitem__), dtype=np.int64)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    boxes = found.boxes and found.boxes._replace(row=place[found.boxes.row])
    ids = tuple(found.ids[row] for row in order)
    return found._replace(ids=ids, codes=found.codes[order], parts=found.parts[order], boxes=boxes)


def with_classes(found: Labelled, classes: tuple[str, ...], absent: int) -> Labelled:
    """The same with the columns `classes`, those of `found` among them; the others hold the code `absent`."""
    place = np.array([classes.index(name) for name in found.classes], dtype=np.int64)
    codes = np.full((len(found.ids), len(classes)), absent, dtype=np.int8)
    codes[:, place] = found.codes
    boxes = found.boxes and found.boxes._replace(label=place[found.boxes.label])
    return found._replace(classes=classes, codes=codes, boxes=boxes)


def check_classes(found: Iterable[tuple[str, str]], separator: str) -> tuple[str, ...]:
    """The names of classes, each fit to be one and there once.

    Args:
        found: each name with the place where it stands, for messages: "labels.csv, line 3".
        separator: what stands between two names of a cell, hence in none.

    Raises:
        UserError: a name is empty or too long, holds the separator or a control character, or is there twice; names
            that differ in case alone, or in how an accent is encoded, count as one.
    """
    seen: dict[str, tuple[str, str]] = {}
    for name, where in found:
        fault = _name_fault(name, separator)
        if fault:
            raise UserError(f"{where}: class {name[:60]!r} {fault}")
        other = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), (name, where))
        if other != (name, where):
            raise UserError(
                f"{where}: class {name!r} is there as {other[0]!r} too ({other[1]}); write each class once, in one way"
            )
    return tuple(name for name, _ in seen.values())


def choose_classes(found: Mapping[str, str], fixed: tuple[str, ...] | None, separator: str) -> tuple[str, ...]:
    """The classes of labels that are written as names: `fixed`, or else the names that were met, sorted.

    Args:
        found: each name that was met, with the place where it was first.
        fixed: the names of `classes.txt`; None without that file.
        separator: as in `check_classes`.

    Raises:
        UserError: a name is unfit (`check_classes`) or not among `fixed`, or there is none.
    """
    if fixed is not None:
        for name, where in found.items():
            if name not in fixed:
                raise UserError(f"{where}: class {name[:60]!r} is not in classes.txt; correct one of the two")
        return fixed
    return tuple(sorted(check_classes(found.items(), separator)))


def read_class_file(table: Path, separator: str) -> tuple[str, ...] | None:
    """The names in `classes.txt` in the folder `table`, or beside the file; None where there is no such file.

    Raises: UserError when it is unreadable, empty, or holds an unfit name.
    """
    path = class_file(table)
    if not path.is_file():
        return None
    lines = read_lines(path, "it fixes the order of the classes")
    names = check_classes(((name, f"{path}, line {number}") for number, name in lines), separator)
    require(bool(names), f"{path}: names no class; write one a line, or remove the file")
    return names


def class_file(table: Path) -> Path:
    """Where `classes.txt` of a table is looked for."""
    return (table if table.is_dir() else table.parent) / "classes.txt"


def check_id(name: str, where: str, seen: dict[str, str]) -> None:
    """Note a picture's `name` in `seen`, with its place. Raises: UserError when it is unfit or there already."""
    if not is_plain_text(name):
        raise UserError(f"{where}: picture {name[:60]!r}: holds control characters; rename it")
    other = seen.setdefault(name, where)
    if other != where:
        raise UserError(
            f"{where}: picture {name[:200]!r} is there already ({other}); it may be there once, with all its labels"
        )


def remembered(cache: Cache, key: str, read: Callable[[], Labelled]) -> Labelled:
    """What `read` gives, from the cache where an entry of the fingerprint `key` is there."""
    kept = cache.load("table", key, _KEPT)
    if kept is not None:
        ids, classes, notes = (unpack(kept[name]) for name in ("ids", "classes", "notes"))
        closed, boxed = kept["flags"].tolist()
        boxes = Boxes(kept["row"], kept["label"], kept["corners"]) if boxed else None
        return Labelled(ids, classes, kept["codes"], kept["parts"], closed, boxes, notes)
    found = read()
    boxes = found.boxes or Boxes(*(np.empty(0, dtype=np.int64),) * 2, np.empty((0, 4), dtype=np.float32))
    texts = {"ids": pack(found.ids), "classes": pack(found.classes), "notes": pack(found.notes)}
    flags = np.array([found.closed, found.boxes is not None])
    arrays = {"codes": found.codes, "parts": found.parts, "flags": flags, **boxes._asdict()}
    cache.save("table", key, {**texts, **arrays})
    return found


def rows_of(parts: NDArray[np.int8], part: int) -> Index:
    """The rows of one part."""
    return np.flatnonzero(parts == part).astype(np.int64, copy=False)


def _name_fault(name: str, separator: str) -> str:
    """Why a text is no class name, as the end of a sentence; empty when it is one."""
    if not name.strip():
        return "has no name; give it one, or leave it out"
    if name != name.strip():
        return "has spaces around its name; remove them"
    if name.casefold() == "nan":
        return "is what stands for a missing value; leave the cell empty"
    if len(name) > _LONGEST_NAME:
        return f"has a name of {len(name)} characters; is --label_separator {separator!r} right?"
    if separator in name:
        return f"holds the separator {separator!r}; rename it or choose another --label_separator"
    return "" if is_plain_text(name) else "holds control characters or line breaks; correct the name"
