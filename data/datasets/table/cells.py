"""Class names in the cells of a column: lists taken apart, and the separator between names found from all cells.

Nothing here reads files: cells come as texts, each distinct one once.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from utils.checks import UserError

STRONG = (";", "|", ",")
"""Separate names wherever they stand; the first of them that occurs in a column does."""
WEAK = (" ", "/", "#", "+")
"""Separate names where what stands between them recurs in different company; names may hold them too."""

_SHARE = 0.25  # of the parts must recur in different company for a separator to be taken without asking
_HARDLY_ANY = 0.1  # below this share they are one name that happens to hold another
_SHOWN = 3  # names in a message
_OPEN, _CLOSE = ("[", "(", "{"), ("]", ")", "}")
_QUOTED = re.compile(r"'[^'\\]*'|\"[^\"\\]*\"")
_ARRAY_OF_TEXTS = re.compile(rf"\[\s*(?:{_QUOTED.pattern})(?:\s+(?:{_QUOTED.pattern}))*\s*\]")
_ARRAY_OF_NUMBERS = re.compile(r"\[\s*-?\d+(?:\s+-?\d+)+\s*\]", re.ASCII)
_LEAST_MARKS = 3  # of two, `1 0` may as well be the names of two classes
_BLANK = re.compile(r"\s")
_WORDS = {" ": "blanks", ";": "';'", "|": "'|'", ",": "','"}


class Reading(NamedTuple):
    """How the cells of a column are taken apart."""

    separator: str | None
    """Between two names of a cell; None where no cell has several, or all are lists."""
    lists: bool
    """Whether cells are printed lists, JSON lists or choices."""
    notes: tuple[str, ...] = ()

    def names(self, cell: str) -> list[str]:
        """The class names of a cell, as they stand there."""
        if self.lists:
            listed = names_of_list(cell)
            if listed is not None:
                return listed
        return split_names(cell, self.separator)

    def __str__(self) -> str:
        """How names stand in a cell, in a sentence."""
        between = f"separated by {_WORDS.get(self.separator, repr(self.separator))}" if self.separator else ""
        return " or ".join(filter(None, ("in lists" if self.lists else "", between))) or "one in a cell"


def read_cells(texts: Sequence[str], column: str, requested: str | None, *, whole: bool = False) -> Reading:
    """Decide how the cells of a column of class names are taken apart.

    Args:
        texts: each distinct cell once.
        column: file and column, for messages.
        requested: the separator that was asked for; it is obeyed.
        whole: True if each cell names one class, so that no separator is looked for.

    Raises:
        UserError: two readings are equally likely; both are shown.
    """
    lists = any(names_of_list(text) is not None for text in texts)
    plain = [text for text in texts if text and not (lists and names_of_list(text) is not None)]
    if requested is not None or whole:
        return Reading(requested, lists)
    strong = next((one for one in STRONG if any(one in text for text in plain)), None)
    if strong is not None:
        return Reading(strong, lists)
    possible = (one for one in WEAK if any(one in text for text in plain))
    found = {one: company(plain, one) for one in possible if all(map(_has_parts(one), plain))}
    taken = [one for one, parts in found.items() if parts.separates]
    unclear = [one for one, parts in found.items() if parts.unclear]
    if len(taken) == 1 and not unclear:
        return Reading(taken[0], lists)
    if taken or unclear:
        raise UserError(_two_readings(column, plain, [*taken, *unclear]))
    holds = [_holds_another(parts, one) for one, parts in found.items() if parts.recurring]
    return Reading(None, lists, tuple(f"{column}: {note}" for note in holds))


def _has_parts(separator: str) -> Callable[[str], bool]:
    """A test whether something stands on both sides of each separator of a cell."""
    return lambda text: all(split_names(text, separator))


class Company(NamedTuple):
    """What stands between the separators of all cells."""

    parts: int
    """How many different ones."""
    recurring: tuple[str, ...]
    """Those that stand beside different ones in different cells, or alone in one and beside others in another."""
    varies: bool
    """Whether cells have different numbers of parts."""

    @property
    def separates(self) -> bool:
        """True if names are separated by it beyond doubt."""
        return self.varies and len(self.recurring) >= 2 and len(self.recurring) >= _SHARE * self.parts

    @property
    def unclear(self) -> bool:
        """True if it may well separate names."""
        return not self.separates and len(self.recurring) >= max(2, _HARDLY_ANY * self.parts)


def company(texts: Iterable[str], separator: str) -> Company:
    """See which parts of cells recur beside different others."""
    beside: dict[str, set[frozenset[str]]] = {}
    numbers = set()
    for text in texts:
        names = split_names(text, separator)
        parts = frozenset(names)
        numbers.add(len(parts))
        for part in names:  # in their order, as messages name the first
            beside.setdefault(part, set()).add(parts - {part})
    recurring = tuple(part for part, others in beside.items() if len(others) > 1)
    return Company(len(beside), recurring, len(numbers) > 1)


def split_names(cell: str, separator: str | None) -> list[str]:
    """The names of a cell; several blanks separate like one, and blanks around a separator belong to no name."""
    if not cell:
        return []
    if separator is None:
        return [cell]
    if separator.isspace():
        return cell.split()
    names = cell.split(separator)
    return names if _BLANK.search(cell) is None else [name.strip() for name in names]


def names_of_list(cell: str) -> list[str] | None:
    """The names of a printed list (`['a', 'b']`, `['a' 'b']`), JSON, `{"choices": [...]}`; None for other text."""
    if not (cell[:1] in _OPEN and cell.endswith(_CLOSE)):
        return [] if cell == "set()" else None
    array = _printed_array(cell)
    content = _literal(cell) if array is None else array
    if isinstance(content, Mapping):
        content = content.get("choices") if len(content) == 1 else [] if not content else None
    if isinstance(content, str):
        content = [content]
    if not isinstance(content, list | tuple | set):
        return None
    kinds = all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in content)
    return [str(one).strip() for one in content] if kinds else None


def is_other_content(cell: str) -> bool:
    """True for a list or an object that holds other things than names."""
    if not (cell[:1] in _OPEN and cell.endswith(_CLOSE)) or names_of_list(cell) is not None:
        return False
    return isinstance(_literal(cell), list | tuple | set | Mapping)


def are_marks(cells: Sequence[str]) -> bool:
    """True if each cell is three or more 1s and 0s, as many in all: a mark for each class instead of names."""
    numbers = set()
    for cell in filter(None, cells):
        marks = names_of_list(cell)
        marks = re.split(r"[\s,;|]+", cell) if marks is None else marks
        if not {*marks} <= {"0", "1", "0.0", "1.0"}:
            return False
        numbers.add(len(marks))
    return len(numbers) == 1 and numbers.pop() >= _LEAST_MARKS


def _printed_array(text: str) -> list[str] | None:
    """The parts of an array as NumPy prints it, texts in quotes or numbers with blanks between; None for others."""
    if _ARRAY_OF_TEXTS.fullmatch(text):
        return [one[1:-1] for one in _QUOTED.findall(text)]
    return text[1:-1].split() if _ARRAY_OF_NUMBERS.fullmatch(text) else None


def _literal(text: str) -> object:
    """What a text denotes in JSON or Python; None where it denotes nothing in either."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return _bare_words(text)


def _bare_words(text: str) -> object:
    """The words of a list without quotes, `[a, b c]` or `{a,b}`; None if a quote or a bracket stands inside."""
    inside = re.fullmatch(r"\[([^\[\]{}()\"':]*)\]|\{([^\[\]{}()\"':]*)\}", text)
    return None if inside is None else [one for one in map(str.strip, (inside[1] or inside[2] or "").split(",")) if one]


def _two_readings(column: str, texts: Sequence[str], candidates: Sequence[str]) -> str:
    """The refusal that shows what each separator would make of the cells."""
    whole = len(set(texts))
    readings = [f"{whole} classes such as {_some(texts)}"]
    for one in candidates:
        names = {name for text in texts for name in split_names(text, one)}
        readings.append(f"with --label_separator {one!r} {len(names)} such as {_some(sorted(names))}")
    return (
        f"{column}: can be read in {len(readings)} ways: {', or '.join(readings)}; give --label_separator (';' for "
        "names that stay whole)"
    )


def _holds_another(parts: Company, separator: str) -> str:
    return (
        f"a name holds another ({_some(parts.recurring)}, with {_WORDS.get(separator, repr(separator))} beside it); is "
        f"--label_separator {separator!r} meant?"
    )


def _some(names: Iterable[str]) -> str:
    chosen = list(names)
    return ", ".join(repr(name[:40]) for name in chosen[:_SHOWN]) + (", ..." if len(chosen) > _SHOWN else "")
