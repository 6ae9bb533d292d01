"""Codes of the lines of a table: from a column per class, from names in cells, from a line per image and class.

L lines, C classes. An entry that a table marks as uncertain has a code of its own until `settled` has said what it
means; nothing outside of this room sees it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from data.datasets.dense import require_room
from data.datasets.table.cells import Reading, are_marks, is_other_content, read_cells
from data.datasets.table.delimited import delimiter_of
from data.datasets.table.labelled import USUAL_SEPARATOR, check_classes, choose_classes
from data.datasets.table.seen import TICKS, UNCERTAIN, code_of, is_missing
from data.datasets.table.sheet import Sheet
from data.datasets.table.soft import CellValues, SoftPolicy, cell_values, refuse_value
from data.files.text_files import read_csv
from utils.checks import UserError, require
from utils.types import ABSENT, PRESENT, UNKNOWN, Codes, Index

_WHOLE = re.compile(r"\d+\.0")
MEANINGS = {"unknown": UNKNOWN, "present": PRESENT, "absent": ABSENT}
_SHOWN = 3
_NAMES, _POLICY = "it names the classes", "it says what uncertain entries are"
_FIRST_LINES = 1000  # decide for nearly every class that it sums up no others


class LineLabels(NamedTuple):
    """Labels of the lines of a table."""

    classes: tuple[str, ...]
    cells: Codes | csr_array
    """(L, C) codes of a column per class, `UNCERTAIN` included; of a column of names what it names, sparse."""
    closed: bool
    """Whether the table says which classes there are."""
    one_each: bool
    """Whether each line names at most one class, as in a line per image and class."""
    reading: Reading | None
    """How cells of names are taken apart; None for a column per class."""
    notes: tuple[str, ...] = ()
    soft: NDArray[np.float32] | None = None
    """(L, C) values between 0 and 1 of a column per class, NaN where the code says all; None where there are none."""
    none: NDArray[np.bool_] | None = None
    """(L,) True for a line that names nothing but what stands for none of the classes; None where there are none."""

    @property
    def codes(self) -> Codes:
        """(L, C), `UNCERTAIN` included, made anew of a column of names: ABSENT for what a cell does not name."""
        if not isinstance(self.cells, csr_array):
            return self.cells
        codes = np.full(self.cells.shape, ABSENT, dtype=np.int8)
        codes[np.repeat(np.arange(len(codes)), np.diff(self.cells.indptr)), self.cells.indices] = PRESENT
        return codes

    @property
    def label(self) -> Index:
        """(L,) the class that each line names, -1 for one that names none; only where `one_each`."""
        assert isinstance(self.cells, csr_array)
        assert self.one_each
        named = np.full(self.cells.shape[0], -1, dtype=np.int64)
        named[np.diff(self.cells.indptr) > 0] = self.cells.indices
        return named

    def counted(self, code: int) -> Index:
        """(C,) how many lines have UNKNOWN, or `UNCERTAIN`, which names never are."""
        if isinstance(self.cells, csr_array):
            return np.zeros(self.cells.shape[1], dtype=np.int64)
        return np.asarray((self.cells == code).sum(axis=0), dtype=np.int64)


class NameList(NamedTuple):
    """Names of classes from a file: ids and names, in order."""

    path: Path
    names: tuple[str, ...]
    of_id: Mapping[str, str]
    title: str = ""
    """Of the ids."""

    def name(self, text: str, where: str) -> str:
        """The name of an id, or the name itself. Raises: UserError for what the file has not."""
        one = (
            text if text in self.of_id or not _WHOLE.fullmatch(text) else text[:-2]
        )  # programs write 7.0 beside blanks
        if one in self.of_id:
            return self.of_id[one]
        hint = " (its first line is taken for titles: write id,name above it)" if text == self.title else ""
        require(text in self.names, f"{where}: class {text[:60]!r} is not in {self.path}{hint}; correct one of the two")
        return text


def read_name_list(path: Path, separator: str | None) -> NameList:
    """Read a `.csv` with a title line, and an id and a name in each line.

    Raises: UserError when it cannot be read, has fewer than two columns, or an id or name twice.
    """
    of_id: dict[str, str] = {}
    names: list[tuple[str, str]] = []
    title = ""
    for line, fields in read_csv(path, (), _NAMES, delimiter_of(path, _NAMES)):
        one, *rest = fields.values()
        title = next(iter(fields))
        require(bool(rest), f"{path}, line {line}: has one column; an id and a name are needed")
        require(one not in of_id, f"{path}, line {line}: id {one!r} is there already")
        of_id[one] = rest[0]
        names.append((rest[0], f"{path}, line {line}"))
    require(bool(names), f"{path}: names no class; write an id and a name per line below the titles")
    return NameList(path, check_classes(names, separator or USUAL_SEPARATOR), of_id, title)


def class_columns(
    sheet: Sheet,
    titles: Sequence[str],
    blank: str | None,
    separator: str | None,
    listed: NameList | None,
    policy: SoftPolicy | None = None,
) -> LineLabels:
    """Codes of a column per class.

    Args:
        sheet: the table.
        titles: of the columns.
        blank: `unknown` or `absent`; None for absent where the only mark is a tick, else unknown.
        separator: no name may hold it.
        listed: names of the classes from a file.
        policy: what values between 0 and 1 are; None to refuse them.

    Raises:
        UserError: an invalid class name, or a cell other than 1, 0, -1, a tick, blank and what `policy` allows.
    """
    where = [f"{sheet.path}, column {sheet.titles.index(title) + 1}" for title in titles]
    names = [listed.name(title, at) if listed else title for title, at in zip(titles, where, strict=True)]
    classes = check_classes(zip(names, where, strict=True), separator or USUAL_SEPARATOR)
    require_room(sheet.path, sheet.rows, len(titles), "lines")
    codes = np.empty((sheet.rows, len(titles)), dtype=np.int8)
    soft: NDArray[np.float32] | None = None
    for label, title in enumerate(titles):
        values, at = _class_cells(sheet, title, blank, policy), sheet.column(title).at
        codes[:, label] = np.array(values.codes, dtype=np.int8)[at]
        if values.has_soft:
            soft = np.full(codes.shape, np.nan, dtype=np.float32) if soft is None else soft
            soft[:, label] = np.array(values.soft, dtype=np.float32)[at]
    summary = _summaries(classes, codes)
    notes = [
        f"{sheet.path}: class {name!r} is present exactly where any other is; --ignore_columns if it sums them up"
        for name in summary
    ]
    return LineLabels(classes, codes, closed=True, one_each=False, reading=None, notes=tuple(notes), soft=soft)


def _class_cells(sheet: Sheet, title: str, blank: str | None, policy: SoftPolicy | None) -> CellValues:
    """The cells of one class. Raises: UserError as `class_columns` does."""
    column = sheet.column(title)
    ticked = any(text.lower() in TICKS for text in column.texts)
    empty = MEANINGS[blank or ("absent" if ticked else "unknown")]
    known = [
        empty if is_missing(text) else PRESENT if text.lower() in TICKS else code_of(text) for text in column.texts
    ]
    found = cell_values(column.texts, known, None if ticked else policy)
    wrong = [
        text
        for text, code in enumerate(found.codes)
        if code is None or (ticked and not is_missing(column.texts[text]) and code == ABSENT)
    ]
    if wrong:
        text = column.texts[wrong[0]]
        where = sheet.where(column.row_of(wrong[0]))
        refuse_value(text, where, title, policy)
        raise UserError(
            f"{where}: column {title!r} holds {text[:40]!r}, must be 1, "
            "0, -1 or empty; leave out columns that are no classes (--ignore_columns), or name the column of class "
            "names with --label_column"
        )
    return found


def name_column(
    sheet: Sheet,
    title: str,
    separator: str | None,
    fixed: tuple[str, ...] | None,
    listed: NameList | None,
    empty: frozenset[str],
    *,
    whole: bool = False,
) -> LineLabels:
    """Codes of a column of class names: named classes are PRESENT, the others ABSENT.

    Args:
        sheet: the table.
        title: of the column.
        separator: what was asked for; None to find it.
        fixed: the names of `classes.txt`.
        listed: names of the classes from a file with ids.
        empty: names that stand for none of the classes.
        whole: True if each cell names one class.

    Raises:
        UserError: an invalid name, a name twice in a cell, or one that is in neither list; or two readings are
            equally likely.
    """
    column = sheet.column(title)
    if separator is None:
        _require_names(sheet, title)
    reading = read_cells(column.texts, f"{sheet.path}: column {title!r}", separator, whole=whole)
    members, used, dropped, nothing = _members(sheet, title, reading, listed, empty)
    fixed = listed.names if listed else fixed
    classes = choose_classes(used, fixed, reading.separator)
    require(bool(classes), f"{sheet.path}: column {title!r} names no class in any row")
    rows = int(column.counts()[dropped].sum()) if dropped else 0
    notes = [*reading.notes, *_name_notes(sheet, title, reading, classes, fixed)]
    if rows:
        notes.append(f"{sheet.path}: {rows} lines name {', '.join(sorted(empty))} beside a class; the class holds")
    one_each = all(len(names) <= 1 for names in members)
    none = np.isin(column.at, nothing) if nothing else None
    cells = csr_array(_present(members, classes)[column.at])
    return LineLabels(classes, cells, fixed is not None, one_each, reading, tuple(notes), none=none)


def without_empty(path: Path, labels: LineLabels, empty: frozenset[str]) -> LineLabels:
    """Labels without the classes that stand for none: in a line that has one, what is unknown of the others is absent.

    Raises: UserError if no class is left.
    """
    gone = np.array([name in empty for name in labels.classes])
    if not gone.any():
        return labels
    require(not gone.all(), f"{path}: --empty_names: names all classes; leave out those that are some")
    none = (labels.codes[:, gone] == PRESENT).any(axis=1)
    codes = labels.codes[:, ~gone]
    beside = int((none & (codes == PRESENT).any(axis=1)).sum())
    codes[none[:, None] & (codes == UNKNOWN)] = ABSENT
    names = ", ".join(sorted(empty.intersection(labels.classes)))
    note = (
        f"{path}: {int(none.sum())} lines are {names}: a blank is absent; in {beside} a class is present, which holds"
    )
    classes = tuple(name for name, one in zip(labels.classes, gone, strict=True) if not one)
    soft = None if labels.soft is None else labels.soft[:, ~gone]
    return labels._replace(classes=classes, cells=codes, soft=soft, notes=(*labels.notes, note))


def _require_names(sheet: Sheet, title: str) -> None:
    """Raise UserError for cells that hold anything else than names: lists of other things, or a mark for each class."""
    column = sheet.column(title)
    wrong = next((text for text, cell in enumerate(column.texts) if is_other_content(cell)), None)
    if wrong is not None:
        raise UserError(
            f"{sheet.where(column.row_of(wrong))}: {column.texts[wrong][:80]!r} in column {title!r} holds other things "
            "than names; write a list of names, or name another column with --label_column"
        )
    require(
        not are_marks(column.texts),
        f"{sheet.path}: column {title!r} holds a 1 or 0 for each class in one cell ({column.texts[0][:40]!r}); write a "
        "column for each class, or the names of those that are present",
    )


def _present(members: Sequence[Sequence[str]], classes: Sequence[str]) -> csr_array:
    """(T, C) the classes that cells name."""
    label_of = {name: label for label, name in enumerate(classes)}
    ends = np.cumsum([0, *map(len, members)])
    named = np.fromiter(map(label_of.__getitem__, chain.from_iterable(members)), np.int64, ends[-1])
    return csr_array((np.full(len(named), PRESENT, dtype=np.int8), named, ends), shape=(len(members), len(classes)))


class Members(NamedTuple):
    """What cells name."""

    names: list[list[str]]
    """The classes of each cell."""
    used: dict[str, str]
    """Each name with its first line."""
    dropped: list[int]
    """Cells with a name for none of the classes beside one of a class."""
    nothing: list[int]
    """Cells with nothing but names for none of the classes."""


def _members(sheet: Sheet, title: str, reading: Reading, listed: NameList | None, empty: frozenset[str]) -> Members:
    """What the distinct cells of a column name.

    Raises: UserError for an empty name, or a name twice in a cell.
    """
    column = sheet.column(title)
    members: list[list[str]] = []
    used: dict[str, str] = {}
    dropped: list[int] = []
    nothing: list[int] = []
    for text, (cell, row) in enumerate(zip(column.texts, column.first_rows(), strict=True)):
        names = reading.names(cell)
        if names:
            if "" in names or len(set(names)) < len(names):
                fault = "has an empty name" if "" in names else "names a class twice"
                raise UserError(f"{sheet.where(row)}: {cell[:80]!r} in column {title!r} {fault}; correct it")
            if empty and not empty.isdisjoint(names):
                kept = [name for name in names if name not in empty]
                (dropped if kept else nothing).append(text)
                names = kept
            if listed:
                where = sheet.where(row)
                names = [listed.name(name, where) for name in names]
            used.update((name, sheet.where(row)) for name in names if name not in used)
        members.append(names)
    return Members(members, used, dropped, nothing)


def _name_notes(
    sheet: Sheet, title: str, reading: Reading, classes: Sequence[str], fixed: Sequence[str] | None
) -> list[str]:
    """Lines about names that look as if they were several, or had lost a bracket or quote."""
    place = f"{sheet.path}: column {title!r}"
    notes = []
    joined = [name for name in classes if any(one in name for one in ";|,") and fixed is None]
    if joined:
        notes.append(f"{sheet.path}: {joined[0]!r} counts as one class; is --label_separator right?")
    left = [name for name in classes if name[:1] in "[]{}\"'" or name[-1:] in "[]{}\"'"]
    if left:
        notes.append(f"{place}: names with a bracket or quote at an end: {_some(left)}; --label_separator?")
    likely = [name for name in classes if name.casefold() in _LIKELY_EMPTY]
    if likely and fixed is None:
        notes.append(f"{place}: {likely[0]!r} is a class; --empty_names {likely[0]!r} if it means none of them")
    return notes


_LIKELY_EMPTY = frozenset(
    ("no finding", "none", "nothing", "empty", "no", "normal", "healthy", "n/a", "na", "no label")
)


def uncertain_policy(setting: str, classes: Sequence[str], known: Sequence[str] = ()) -> Index:
    """(C,) what an uncertain entry of each class is.

    Args:
        setting: unknown, present, absent, or a `.csv` headed class,uncertain; what it does not name is unknown.
        classes: C names.
        known: others that the file may name: classes of other tables.

    Raises: UserError for another word, or a file that names what is no class or has another word.
    """
    if setting in MEANINGS:
        return np.full(len(classes), MEANINGS[setting], dtype=np.int64)
    path = Path(setting)
    require(path.is_file(), f"--uncertain {setting}: must be unknown, present, absent or a file headed class,uncertain")
    found = np.full(len(classes), UNKNOWN, dtype=np.int64)
    lines = read_csv(path, ("class", "uncertain"), _POLICY, delimiter_of(path, _POLICY))
    for line, fields in lines:
        name, word = fields["class"], fields["uncertain"]
        require(name in classes or name in known, f"{path}, line {line}: {name[:60]!r} is no class of the table")
        require(word in MEANINGS, f"{path}, line {line}: {word[:40]!r} must be one of {', '.join(MEANINGS)}")
        if name in classes:
            found[classes.index(name)] = MEANINGS[word]
    return found


def settled(codes: Codes, policy: Index) -> Codes:
    """(L, C) codes in which uncertain entries are what the policy (C,) says."""
    uncertain = codes == UNCERTAIN
    return np.where(uncertain, policy.astype(np.int8), codes) if uncertain.any() else codes


def _summaries(classes: Sequence[str], codes: Codes) -> list[str]:
    """Classes that are present exactly where any other is, of three or more."""
    if len(classes) < 3:
        return []
    number = np.count_nonzero(codes == PRESENT, axis=1)
    return [name for label, name in enumerate(classes) if _sums_up(codes[:, label] == PRESENT, number)]


def _sums_up(present: NDArray[np.bool_], number: Index) -> bool:
    """Whether a class (L,) is present exactly where any other is, of lines with a number (L,) of classes each."""
    for lines in (slice(_FIRST_LINES), slice(None)):
        if not ((number[lines] > present[lines]) == present[lines]).all():
            return False
    return bool(present.any())


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
