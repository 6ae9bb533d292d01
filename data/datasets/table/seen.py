"""What a table looks like: of each column, whether it holds codes, marks, a count of the rows, or other texts.

Only facts are collected here; what a column is for is decided from them in `decided`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, product
from typing import Literal, NamedTuple

from data.datasets.table.sheet import Column, Sheet
from data.datasets.table.soft import FirstBeside, first_beside, number_in, numbers_of, soft_value
from utils.types import ABSENT, PRESENT, UNKNOWN

UNCERTAIN = -2
"""Code of an entry that the table marks as uncertain (-1), until a policy says what that means."""

CODES = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), PRESENT),
    **dict.fromkeys(("0", "0.0", "false", "no"), ABSENT),
    **dict.fromkeys(("-1", "-1.0"), UNCERTAIN),
    "": UNKNOWN,
}
"""Cells of a column per class, in lower case."""
_OF_NUMBER: dict[float | None, int] = {1.0: PRESENT, 0.0: ABSENT, -1.0: UNCERTAIN}
_MISSING = frozenset(("", "na", "n/a", "null", "none", "<na>"))


def _in_any_case(words: Iterable[str]) -> frozenset[str]:
    """Words in all ways to write them in small and capital letters."""
    ways = (product(*({one, one.upper()} for one in word)) for word in words)
    return frozenset("".join(letters) for letters in chain.from_iterable(ways))


_CASES, _MISSING_CASES = _in_any_case(CODES.keys() - {""}), _in_any_case(_MISSING)
TICKS = frozenset((*"x\u2713\u2714\u2611\u2705\u00d7", "\u2714\ufe0f"))
"""Marks of what is present, in lower case; where nothing else stands in a column, blank means absent."""
_TICK_CASES = _in_any_case(TICKS)

Content = Literal["empty", "codes", "ticks", "count", "mixed", "other"]

_EXAMPLES = 3
_LONGEST_EXAMPLE = 40


class ColumnSeen(NamedTuple):
    """What a column looks like."""

    title: str
    content: Content
    """`codes`: only codes and blanks; `ticks`: only one mark and blanks; `count`: the numbers of the rows; `mixed`:
    codes beside other texts; `other`: no code at all."""
    filled: int
    """Rows that hold anything."""
    texts: tuple[str, ...]
    """Each distinct text once, blank included."""
    odd: str = ""
    """In a `mixed` column: the first text that is no code, with its line."""
    soft: str = ""
    """In a `mixed` column, or one of numbers: the first value between 0 and 1 that is no code, with its line."""
    beyond: str = ""
    """Beside such values: the first text that is neither one nor a code, with its line."""

    @property
    def is_soft(self) -> bool:
        """True if all cells are values from 0 to 1, codes or blank, and not all of them codes."""
        return bool(self.soft) and not self.beyond

    @property
    def recurs(self) -> bool:
        """True if some row repeats another."""
        return self.filled > sum(map(bool, self.texts))

    @property
    def examples(self) -> tuple[str, ...]:
        """The first texts, shortened."""
        return tuple(text[:_LONGEST_EXAMPLE] for text in self.texts if text)[:_EXAMPLES]


class TableSeen(NamedTuple):
    """What a table looks like."""

    path: str
    rows: int
    columns: tuple[ColumnSeen, ...]
    untitled: frozenset[str]

    @property
    def titles(self) -> tuple[str, ...]:
        """Of all columns, in order."""
        return tuple(column.title for column in self.columns)

    def column(self, title: str) -> ColumnSeen:
        """The column of a title that is there."""
        return next(column for column in self.columns if column.title == title)


def look(sheet: Sheet) -> TableSeen:
    """Look at all columns of a table."""
    columns = tuple(_column_seen(sheet, column) for column in sheet.columns)
    return TableSeen(str(sheet.path), sheet.rows, columns, sheet.untitled)


def code_of(text: str) -> int | None:
    """The code that a cell of a column per class holds, or a number that equals one; None where it is none."""
    code = CODES.get(text.lower())
    if code is not None:
        return code
    return UNKNOWN if is_missing(text) else _OF_NUMBER.get(number_in(text))


def is_missing(text: str) -> bool:
    """True for a blank cell, and the words that programs write for one; `nan` may be what a faulty sum has left."""
    return text.lower() in _MISSING


def _column_seen(sheet: Sheet, column: Column) -> ColumnSeen:
    filled = sheet.rows - (int(column.counts()[column.texts.index("")]) if "" in column.texts else 0)
    untitled = column.title in sheet.untitled
    counted = untitled and (_counts_rows(column.texts, sheet.rows) or _numbers_rows(column.texts, sheet.rows))
    content = "count" if counted else _content(column, sheet.rows)
    if content not in ("mixed", "other"):
        return ColumnSeen(column.title, content, filled, column.texts)
    numbers = _numbers(column.texts)
    if content == "other" and numbers is None:
        return ColumnSeen(column.title, content, filled, column.texts)
    first = _first_others(column.texts) if numbers is None else first_beside(numbers)
    soft, beyond = (_shown(sheet, column, text) for text in first)
    odd = next(text for text in column.texts if code_of(text) is None) if content == "mixed" else None
    return ColumnSeen(
        column.title, content, filled, column.texts, _shown(sheet, column, odd), soft, beyond if soft else ""
    )


def _numbers(texts: Sequence[str]) -> Sequence[str] | None:
    """The texts but for words of what is missing, if all are numbers; else None."""
    missing = _MISSING_CASES.intersection(texts)
    first = next((text for text in texts if text not in missing), "")
    if number_in(first) is None:
        return None
    return numbers_of([text for text in texts if text not in missing] if missing else texts)


def _first_others(texts: Sequence[str]) -> FirstBeside:
    """The first texts that are no codes: a value between 0 and 1, and anything else."""
    others = {text: soft_value(text) for text in texts if code_of(text) is None}
    soft = next((text for text, value in others.items() if value is not None), None)
    return FirstBeside(soft, next((text for text, value in others.items() if value is None), None))


def _shown(sheet: Sheet, column: Column, text: str | None) -> str:
    """A text of a column with its first line; "" for none."""
    if text is None:
        return ""
    return f"{text[:40]!r} in {sheet.unit} {sheet.numbers[column.row_of(column.texts.index(text))]}"


def _content(column: Column, rows: int) -> Content:
    filled = [text for text in column.texts if text]
    if not filled:
        return "empty"
    if _TICK_CASES.issuperset(filled) and len({text.lower() for text in filled}) == 1:
        return "ticks"
    known = len(_CASES.intersection(filled))
    if known == len(filled) or _are_codes(filled):
        return "codes"
    if _counts_rows(filled, rows):
        return "count"
    return "mixed" if known else "other"


def _are_codes(filled: Sequence[str]) -> bool:
    """True for codes in any way of writing, and words for what is missing beside them."""
    return all(code_of(text) is not None for text in filled) and not all(map(is_missing, filled))


def _counts_rows(filled: Sequence[str], rows: int) -> bool:
    """True for the numbers of the rows, from 0 or 1, in order."""
    if len(filled) != rows or filled[0] not in ("0", "1"):
        return False
    first = int(filled[0])
    return all(text == str(number) for number, text in enumerate(filled, first))


def _numbers_rows(filled: Sequence[str], rows: int) -> bool:
    """True for a whole number in each of three rows or more, none of them twice: a count of rows in another order."""
    return len(filled) == rows > 2 and all(map(str.isdigit, filled))
