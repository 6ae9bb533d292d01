"""Hierarchies of classes: files that say which class is a kind of which. C classes.

The usual file is that of OpenImages (Kuznetsova et al., IJCV 2020; `bbox_labels_600_hierarchy.json`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from data.files.accents import composed
from data.files.text_files import read_csv, read_json
from utils.checks import UserError, require

_PURPOSE = "it says which class is a kind of which"
_SHOWN = 3  # names in a message
_LONGEST = 40  # characters of a name in a message


class Pair(NamedTuple):
    """A name, and the name that it stands below."""

    name: str
    above: str | None
    is_part: bool = False
    """Given as a part: a wheel is no kind of car, and nothing follows from it."""


class Hierarchy(NamedTuple):
    """Which of the classes of a dataset are above which."""

    above: csr_array
    """(C, C) int32, 1 where the class of a column is above that of a row, whatever names lie between."""
    notes: tuple[str, ...] = ()


def read_hierarchy(path: Path, classes: Sequence[str], codes: Mapping[str, str]) -> Hierarchy:
    """Read a hierarchy: nested `.json` as of OpenImages, or a `.csv` headed `class,parent` with a line per pair.

    Args:
        path: the file; what it names that is no class still passes on what is above it.
        classes: C names.
        codes: other names of classes, such as `/m/01yrx`.

    Raises:
        UserError: the file is missing or damaged or has another form, names none of the classes, or has a name above
            itself.
    """
    pairs = read_pairs(path)
    names = sorted({name for pair in pairs for name in (pair.name, pair.above) if name is not None})
    meant = meant_classes(names, classes, codes)
    strange = [name for name in names if name not in meant]
    if not meant:
        raise UserError(
            f"{path}: none of its {len(names)} names ({_some(strange)}) is one of the classes ({_some(classes)}); "
            "write the names as the dataset does, or give --class_names a .csv of codes and names"
        )
    parents: dict[str, set[str]] = {}
    for pair in pairs:
        if pair.above is not None and not pair.is_part:
            parents.setdefault(meant.get(pair.name, pair.name), set()).add(meant.get(pair.above, pair.above))
    try:
        above = classes_above(parents, classes)
    except CycleError as error:
        circle = " < ".join(name[:_LONGEST] for name in error.args[1][:6])
        raise UserError(f"{path}: a class is below itself ({circle}); take one of these lines out") from error
    return Hierarchy(above, tuple(_notes(path, pairs, names, strange)))


def _notes(path: Path, pairs: Sequence[Pair], names: Sequence[str], strange: Sequence[str]) -> Iterator[str]:
    if strange:
        yield f"{path}: {len(strange)} of its {len(names)} names are no class here ({_some(strange)})"
    parts = sum(pair.is_part for pair in pairs)
    if parts:
        yield f"{path}: {parts} names are given as parts; nothing follows from a part"


def read_pairs(path: Path) -> list[Pair]:
    """Each name of a file with each of those directly above it. Raises: UserError for what is no hierarchy."""
    readers = {".json": _nested, ".csv": _listed}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"--hierarchy {path}: must be a .json as of OpenImages, or a .csv headed class,parent")
    pairs = list(reader(path))
    require(bool(pairs), f"{path}: names no class; {_PURPOSE}")
    return pairs


def _listed(path: Path) -> Iterator[Pair]:
    for line, fields in read_csv(path, ("class", "parent"), _PURPOSE):
        name, above = fields["class"], fields["parent"]
        require(bool(name and above), f"{path}, line {line}: needs a class and a parent; leave the line out")
        yield Pair(name, above)


def _nested(path: Path) -> Iterator[Pair]:
    waiting: list[tuple[Any, str | None, bool]] = [(read_json(path, _PURPOSE), None, False)]
    while waiting:
        node, above, is_part = waiting.pop()
        name = node.get("LabelName") if isinstance(node, dict) else None
        if not isinstance(name, str) or not name:
            place = "its outermost value" if above is None else f"an entry below {above[:_LONGEST]!r}"
            raise UserError(f"{path}: {place} is no object with a text 'LabelName'; is it a hierarchy of OpenImages?")
        yield Pair(name, above, is_part)
        for key in ("Subcategory", "Part"):
            below = node.get(key, [])
            require(isinstance(below, list), f"{path}: {key!r} of {name[:_LONGEST]!r} is no list")
            waiting += [(one, name, key == "Part") for one in below]


def meant_classes(names: Sequence[str], classes: Sequence[str], codes: Mapping[str, str]) -> dict[str, str]:
    """The class that each name of a hierarchy means, where it means one: of that name, of that code, or nearly so.

    Args:
        names: of the hierarchy.
        classes: C names.
        codes: other names of classes.
    """
    there = set(classes)
    exact = {code: name for code, name in codes.items() if name in there} | {name: name for name in classes}
    nearly = {composed(name).casefold(): name for name in reversed(classes)}
    found = {name: exact.get(name) or nearly.get(composed(name).casefold()) for name in names}
    return {name: label for name, label in found.items() if label is not None}


def classes_above(parents: Mapping[str, set[str]], classes: Sequence[str]) -> csr_array:
    """(C, C) int32, 1 where the class of a column is above that of a row.

    Args:
        parents: the names directly above each name, classes and others.
        classes: C names.

    Raises:
        graphlib.CycleError: a name is above itself.
    """
    label_of = {name: label for label, name in enumerate(classes)}
    above: dict[str, set[int]] = {}
    for name in TopologicalSorter(parents).static_order():
        held = parents.get(name, set())
        above[name] = {label_of[one] for one in held & label_of.keys()}.union(*(above[one] for one in held))
    pairs = [(label_of[name], label) for name in label_of.keys() & above.keys() for label in above[name]]
    row, column = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return csr_array((np.ones(len(row), dtype=np.int32), (row, column)), shape=(len(classes),) * 2)


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(name[:_LONGEST]) for name in names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
