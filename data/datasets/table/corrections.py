"""Changes of single labels as changes of the cells and lines of a table, in its own form.

L lines, N images, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from data.datasets.table.cell_text import names_text
from data.datasets.table.cells import Reading, read_cells
from data.datasets.table.codes import MEANINGS, NameList, read_name_list
from data.datasets.table.columns import TableRead
from data.datasets.table.config import TableConfig, split_list
from data.datasets.table.seen import TICKS, UNCERTAIN, code_of, is_missing
from data.datasets.table.sheet import Sheet
from utils.checks import UserError, require
from utils.types import ABSENT, PRESENT, UNKNOWN, Codes

_USUAL = {PRESENT: "1", ABSENT: "0", UNKNOWN: ""}


class Change(NamedTuple):
    """A label that is to be another one."""

    image: str
    label: str
    new: int
    """PRESENT, ABSENT or UNKNOWN."""


class NewLine(NamedTuple):
    """A line that is added: a copy of another one but for some cells."""

    like: int
    """The row that is copied; the new one stands behind the last row of its image."""
    after: int
    cells: Mapping[str, str]


@dataclass
class Edits:
    """What becomes of a sheet; rows are those of the sheet."""

    cells: dict[tuple[int, str], str] = field(default_factory=dict)
    removed: set[int] = field(default_factory=set)
    added: list[NewLine] = field(default_factory=list)


def edits_of(read: TableRead, config: TableConfig, changes: Sequence[Change]) -> Edits:
    """The edits that make changes of labels.

    Args:
        read: the table as it is.
        config: how it is read.
        changes: of images and classes that the table has.

    Raises:
        UserError: the form of the table cannot say what a label is to be.
    """
    return _Editor(read, config).edits(changes)


class _Editor:
    """Makes edits, one change after another."""

    def __init__(self, read: TableRead, config: TableConfig) -> None:
        self.read, self.config, self.sheet = read, config, read.sheet
        self.listed = read_name_list(config.class_names, config.label_separator) if config.class_names else None
        self.empty = split_list(config.empty_names)
        self.names = read.roles.twin or read.roles.labels
        self.title_of = _titles(read, self.listed)
        self.pairs = read.values is not None or (
            read.images.repeated and config.repeated == "refuse" and read.lines.one_each
        )
        self.reading = read.lines.reading or self._reading_beside()
        self.lines_of: dict[int, list[int]] = {}
        for image, line in zip(read.images.image.tolist(), read.images.line.tolist(), strict=True):
            self.lines_of.setdefault(image, []).append(line)
        self.number_of = {name: number for number, name in enumerate(read.images.ids)}
        self.done = Edits()

    def _reading_beside(self) -> Reading:
        """How names are taken apart that stand beside the columns that are read; without any, nothing is."""
        if self.names is None:
            return Reading(None, lists=False)
        place = f"{self.sheet.path}: column {self.names!r}"
        return read_cells(self.sheet.column(self.names).texts, place, self.config.label_separator)

    def edits(self, changes: Sequence[Change]) -> Edits:
        """The edits of all changes; what is taken away first, as its lines can be used again."""
        for change in sorted(changes, key=lambda change: change.new == PRESENT):
            lines = sorted(self.lines_of[self.number_of[change.image]])
            if self.pairs:
                self._in_pairs(change, lines)
            else:
                self._in_cells(change, lines)
        return self.done

    def _in_cells(self, change: Change, lines: Sequence[int]) -> None:
        """Change the labels of lines that each have all labels of their image."""
        if self.names is not None:
            require(
                change.new != UNKNOWN,
                f"{self.sheet.path}: {change.label!r} of {change.image!r} cannot be unknown: class names in a cell say "
                "present or absent; a column per class can say it",
            )
            for line in lines:
                self._name(line, change.label, present=change.new == PRESENT)
        if change.label in self.title_of:
            title = self.title_of[change.label]
            for line in lines:
                self.done.cells[line, title] = _spelled(self.sheet, title, change.new, self.config, self.title_of)

    def _name(self, line: int, label: str, *, present: bool) -> None:
        """Add a class to the names of a line, or take it out."""
        assert self.names is not None
        cell, names = self._cell(line), self._named(line)
        kept = [one for one in names if self._class(one) != label]
        if present and len(kept) < len(names):
            return
        kept += [self._written(label)] if present else []
        texts = [text for text in self.sheet.column(self.names).texts if text and text not in self.empty]
        text = names_text(kept, cell if names else "", texts, self.reading) if kept else self._nothing()
        self.done.cells[line, self.names] = text

    def _cell(self, line: int) -> str:
        """The cell of names of a line, as it is now."""
        assert self.names is not None
        column = self.sheet.column(self.names)
        return self.done.cells.get((line, self.names), column.texts[int(column.at[line])])

    def _named(self, line: int) -> list[str]:
        """The names of classes in a line, as it is now."""
        return [one for one in self.reading.names(self._cell(line)) if one not in self.empty]

    def _nothing(self) -> str:
        """A cell that names no class, as others of the column do."""
        assert self.names is not None
        texts = self.sheet.column(self.names).texts
        usual = next((one for one in self.empty if one in texts), None)
        return usual if usual is not None else "[]" if self.reading.lists and "" not in texts else ""

    def _class(self, text: str) -> str:
        """The class that a name in a cell stands for."""
        return self.listed.name(text, str(self.sheet.path)) if self.listed else text

    def _written(self, label: str) -> str:
        """How the cells of the column name a class: by its id where they hold ids."""
        if self.listed is None or self.names is None:
            return label
        held = set(self.sheet.column(self.names).texts)
        ids = [one for one, name in self.listed.of_id.items() if name == label]
        by_name = any(name in held for name in self.listed.names)
        return label if by_name or not ids else ids[0]

    def _in_pairs(self, change: Change, lines: Sequence[int]) -> None:
        """Change the labels of an image that has a line for each class that it tells of."""
        assert self.names is not None
        label = self.read.lines.classes.index(change.label)
        mine = [line for line in lines if self.read.lines.codes[line, label] == PRESENT]
        value = self.read.roles.value
        if value is not None:
            text = _spelled(self.sheet, value, change.new, self.config, {})
            for line in mine:
                self.done.cells[line, value] = text
            if not mine:
                self._add(lines, {self.names: self._written(change.label), value: text})
            return
        require(
            change.new != UNKNOWN,
            f"{self.sheet.path}: {change.label!r} of {change.image!r} cannot be unknown: a line per image and class "
            "says present or, by being left out, absent",
        )
        if change.new == PRESENT and not mine:
            self._add(lines, {self.names: self._written(change.label)})
        elif change.new == ABSENT:
            self._remove(lines, mine)

    def _add(self, lines: Sequence[int], cells: Mapping[str, str]) -> None:
        """Add a line for an image, or fill the one that names no class."""
        assert self.names is not None
        free = [line for line in lines if line not in self.done.removed and not self._named(line)]
        if free:
            self.done.cells.update({(free[0], title): text for title, text in cells.items()})
        else:
            self.done.added.append(NewLine(lines[0], lines[-1], dict(cells)))

    def _remove(self, lines: Sequence[int], mine: Sequence[int]) -> None:
        """Remove lines of an image; one stays without a class if it would have none."""
        assert self.names is not None
        self.done.removed.update(mine)
        if mine and all(line in self.done.removed for line in lines):
            self.done.removed.discard(mine[0])
            self.done.cells[mine[0], self.names] = self._nothing()


def _titles(read: TableRead, listed: NameList | None) -> dict[str, str]:
    """The title of the column of each class."""
    path = str(read.sheet.path)
    return {(listed.name(title, path) if listed else title): title for title in read.roles.classes}


def _spelled(sheet: Sheet, title: str, code: int, config: TableConfig, others: Mapping[str, str]) -> str:
    """The text that says a code in a column: the most frequent one there, else in the columns of other classes.

    Raises: UserError if no text can say that the label is unknown.
    """
    counts: Counter[str] = Counter()
    for one in (title, *others.values()):
        column = sheet.column(one)
        ticked = any(text.lower() in TICKS for text in column.texts)
        for text, number in zip(column.texts, column.counts().tolist(), strict=True):
            if _meaning(text, config, ticked=ticked) == code:
                counts[text] += number
        if counts:
            return counts.most_common(1)[0][0]
    usual = _USUAL[code]
    if _meaning(usual, config, ticked=False) == code:
        return usual
    if code == UNKNOWN and config.uncertain == "unknown":
        return "-1"
    raise UserError(
        f"{sheet.path}: no text in column {title!r} says that a label is unknown (--blank {config.blank}, --uncertain "
        f"{config.uncertain}); leave these decisions out"
    )


def _meaning(text: str, config: TableConfig, *, ticked: bool) -> int | None:
    """The code of a cell as it is read; None for what is no code, or depends on a file of `--uncertain`."""
    if text.lower() in TICKS:
        return PRESENT
    if is_missing(text):
        return MEANINGS[config.blank or ("absent" if ticked else "unknown")]
    code = code_of(text)
    return MEANINGS.get(config.uncertain) if code == UNCERTAIN else code


def expected_codes(codes: Codes, ids: Sequence[str], classes: Sequence[str], changes: Sequence[Change]) -> Codes:
    """(N, C) codes of a table after the changes."""
    found = codes.copy()
    row_of, label_of = ({name: at for at, name in enumerate(names)} for names in (ids, classes))
    for change in changes:
        found[row_of[change.image], label_of[change.label]] = change.new
    return found
