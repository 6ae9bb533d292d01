"""Rows of a text of commas, semicolons, tabs or bars, a block at a time, as there may be millions.

L rows of a block.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.files.text_files import CsvReader, csv_fault, limit_fields, read_text
from utils.checks import UserError
from utils.types import Index

_BLOCK = 1 << 12  # rows at a time: what is made of them stays in the cache of the processor
_DELIMITERS = ",;\t"
_LINE = re.compile(r"[^\r\n]*[^\s][^\r\n]*")
_HINT = re.compile(r"\"?sep=(.)\"?\s*", re.IGNORECASE)
"""A first line by which some programs say what separates the fields."""


class Block(NamedTuple):
    """Some rows of a table."""

    numbers: Index
    """(L,) line or row number of each in the file."""
    rows: list[list[str]]


class Delimited(NamedTuple):
    """A text taken apart."""

    header: list[str]
    """Empty for a text without any."""
    blocks: Iterator[Block]


def delimited(path: Path, text: str) -> Delimited:
    """The rows of a text that hold anything but blanks.

    The delimiter is the first comma, semicolon or tab of the first line, outside quotes, else a bar, else a comma; that
    of a `.tsv` is a tab.

    Raises: UserError naming the line that is no CSV, or has another number of fields than the first.
    """
    hint, delimiter = _HINT.fullmatch(_first_line(text)), dialect_of(path, text)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    limit_fields()
    header = _next_row(path, lines)
    if hint:
        header = _next_row(path, lines)
    return Delimited(header, _blocks(path, lines, len(header)))


def dialect_of(path: Path, text: str) -> str:
    """What separates the fields of a text, as in `delimited`."""
    first = _first_line(text)
    hint = _HINT.fullmatch(first)
    return hint[1] if hint else "\t" if path.suffix.lower() == ".tsv" else _delimiter(first)


def delimiter_of(path: Path, purpose: str) -> str:
    """What separates the fields of a file, as in `delimited`. Raises: UserError as `read_text` does."""
    return _delimiter(_first_line(read_text(path, purpose)))


def in_blocks(rows: Iterable[tuple[int, list[str]]]) -> Iterator[Block]:
    """Numbered rows as blocks."""
    rows = iter(rows)
    while some := list(islice(rows, _BLOCK)):
        numbers, fields = zip(*some, strict=True)
        yield Block(np.array(numbers, dtype=np.int64), list(fields))


def _first_line(text: str) -> str:
    """The first line that is not blank."""
    found = _LINE.search(text)
    return found[0] if found else ""


def _delimiter(header: str) -> str:
    plain = re.sub(r'"[^"]*"', "", header)
    return next((one for one in plain if one in _DELIMITERS), "|" if "|" in plain else ",")


def _next_row(path: Path, lines: CsvReader) -> list[str]:
    """The next row that holds anything; empty at the end. Raises: UserError naming the line that is no CSV."""
    try:
        return next((fields for fields in lines if any(map(str.strip, fields))), [])
    except csv.Error as error:
        raise csv_fault(path, lines, error) from error


def _blocks(path: Path, lines: CsvReader, width: int) -> Iterator[Block]:
    """The other rows. Raises: UserError as `delimited` does."""
    while True:
        numbers: list[int] = []
        rows: list[list[str]] = []
        fault = _fill(path, lines, numbers, rows)
        if (block := _checked(path, numbers, rows, width)).rows:
            yield block
        if fault is not None:
            raise fault
        if len(rows) < _BLOCK:
            return


def _fill(path: Path, lines: CsvReader, numbers: list[int], rows: list[list[str]]) -> UserError | None:
    """Take the next rows; returns the error that comes after them."""
    try:
        for fields in islice(lines, _BLOCK):
            rows.append(fields)
            numbers.append(lines.line_num)
    except csv.Error as error:
        return csv_fault(path, lines, error)
    return None


def _checked(path: Path, numbers: list[int], rows: list[list[str]], width: int) -> Block:
    """Rows without those that are blank. Raises: UserError for one of another length."""
    if not all(map(_begins, rows)):
        filled = [at for at, fields in enumerate(rows) if any(map(str.strip, fields))]
        numbers, rows = [numbers[at] for at in filled], [rows[at] for at in filled]
    if {*map(len, rows)} - {width}:
        number, fields = next(pair for pair in zip(numbers, rows, strict=True) if len(pair[1]) != width)
        raise UserError(f"{path}, line {number}: {len(fields)} fields, the header has {width} columns")
    return Block(np.array(numbers, dtype=np.int64), rows)


def _begins(fields: list[str]) -> bool:
    """True for a row whose first field is filled."""
    return bool(fields) and bool(fields[0].strip())
