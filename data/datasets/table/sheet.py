"""Tables of texts, from `.csv`, `.tsv`, `.parquet`, `.xlsx` and JSON-lines files. N rows.

A column keeps each distinct text once and for each row its number: a million cells of 1 and 0 are two texts, and what
is decided about a column looks at those.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.files.text_files import filled_rows, without_nul
from utils.checks import UserError, require
from utils.types import Index

SUFFIXES = (".csv", ".tsv", ".parquet", ".xlsx", ".jsonl", ".ndjson")

_PURPOSE = "it has the labels of your images"
_BLOCK = 1 << 16  # rows at a time
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""What a file begins with that says its encoding; longer marks before those that they begin with."""


def is_sheet(path: Path) -> bool:
    """Whether a path is a file of one of `SUFFIXES`."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


class Column(NamedTuple):
    """The cells of a column."""

    title: str
    texts: tuple[str, ...]
    """Each distinct text once, without blanks around it, in the order of its first row."""
    at: NDArray[np.int32]
    """(N,) which of `texts` stands in each row."""

    def counts(self) -> Index:
        """How many rows hold each text."""
        return np.bincount(self.at, minlength=len(self.texts)).astype(np.int64)

    def cells(self) -> list[str]:
        """The text of each row."""
        return [self.texts[one] for one in self.at.tolist()]

    def row_of(self, text: int) -> int:
        """The first row that holds a text."""
        return int(np.argmax(self.at == text))

    def first_rows(self) -> list[int]:
        """The first row that holds each text, of all texts at once."""
        rows: list[int] = np.unique(self.at, return_index=True)[1].tolist()
        return rows


class Sheet(NamedTuple):
    """A table whose cells are texts."""

    path: Path
    columns: tuple[Column, ...]
    untitled: frozenset[str]
    """Titles of columns that have none in the file: `column 3`."""
    numbers: Index
    """(N,) line or row number of each row in the file."""
    unit: str
    """line | row"""
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """N."""
        return len(self.numbers)

    @property
    def titles(self) -> tuple[str, ...]:
        """Of all columns, in order."""
        return tuple(column.title for column in self.columns)

    def column(self, title: str) -> Column:
        """The column of a title that is there."""
        return next(column for column in self.columns if column.title == title)

    def where(self, row: int) -> str:
        """File and line of one row, for messages."""
        return f"{self.path}, {self.unit} {self.numbers[row]}"


def read_sheet(path: Path, encoding: str | None = None) -> Sheet:
    """Read a file with one of `SUFFIXES`.

    Args:
        path: the file.
        encoding: of a text file without a byte order mark; None for UTF-8.

    Raises:
        UserError: the file is missing, damaged or has no row, has two columns of one title or a row of another
            length, or a package that it needs is not installed.
    """
    suffix = path.suffix.lower()
    readers = {".parquet": _parquet, ".xlsx": _workbook}
    if suffix in readers:
        return readers[suffix](path)
    text, notes = read_encoded(path, encoding)
    sheet = _json_lines(path, text) if suffix in (".jsonl", ".ndjson") else _csv(path, text)
    return sheet._replace(notes=(*notes, *sheet.notes))


def read_encoded(path: Path, encoding: str | None) -> tuple[str, tuple[str, ...]]:
    """The text of a file, and a line about its encoding where that is not UTF-8. Raises: UserError naming the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {_PURPOSE}") from error
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    name = marked or encoding or "utf-8"
    try:
        text = data.decode(name)
    except LookupError as error:
        raise UserError(
            f"--encoding {encoding}: Python knows no encoding of that name; try cp1252 or gb18030"
        ) from error
    except (UnicodeError, ValueError) as error:
        where = f"byte {error.start}" if isinstance(error, UnicodeDecodeError) else _first_line(error)
        known = "UTF-8" if name in ("utf-8", "utf-8-sig") else name
        raise UserError(
            f"{path}: not {known} text ({where}); save it as UTF-8, or name its encoding with --encoding; {_PURPOSE}"
        ) from error
    without_nul(path, text)
    usual = name in ("utf-8", "utf-8-sig")
    return text, () if usual else (f"{path}: read as {name}{'' if marked else ' (--encoding)'}",)


def _csv(path: Path, text: str) -> Sheet:
    """The rows of a text separated by commas, semicolons or tabs, as in its first line; `.tsv` always by tabs."""
    lines = csv.reader(
        io.StringIO(text, newline=""), delimiter=_delimiter(path, text), strict=True, skipinitialspace=True
    )
    rows = filled_rows(path, lines)
    number, header = next(rows, (0, []))
    require(number > 0, f"{path}: is empty; {_PURPOSE}")
    return _collected(path, header, _of_equal_length(path, rows, len(header)), "line")


def _of_equal_length(path: Path, rows: Iterable[tuple[int, list[str]]], width: int) -> Iterator[tuple[int, list[str]]]:
    for number, fields in rows:
        if len(fields) != width:
            raise UserError(f"{path}, line {number}: {len(fields)} fields, the header has {width} columns")
        yield number, fields


def _delimiter(path: Path, text: str) -> str:
    """The first comma, semicolon or tab of the first line that is not blank, outside quotes; a comma if none is."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    header = next((line for line in io.StringIO(text) if line.strip()), "")
    return next((one for one in re.sub(r'"[^"]*"', "", header) if one in ",;\t"), ",")


def _collected(path: Path, header: Sequence[str], rows: Iterable[tuple[int, list[str]]], unit: str) -> Sheet:
    """The columns of rows of one length, a block of rows at a time."""
    known: list[dict[str, int]] = [{} for _ in header]
    blocks: list[list[NDArray[np.int32]]] = [[] for _ in header]
    numbers: list[Index] = []
    rows = iter(rows)
    while block := list(islice(rows, _BLOCK)):
        numbers.append(np.fromiter((number for number, _ in block), np.int64, len(block)))
        for number_of, parts, cells in zip(
            known, blocks, zip(*(fields for _, fields in block), strict=True), strict=True
        ):
            parts.append(_numbered(number_of, cells))
    require(bool(numbers), f"{path}: has no row below its header; write one per image")
    titles, untitled = _titles(path, header)
    columns = tuple(
        _stripped(title, tuple(number_of), np.concatenate(parts))
        for title, number_of, parts in zip(titles, known, blocks, strict=True)
    )
    return Sheet(path, columns, untitled, np.concatenate(numbers), unit)


def _numbered(number_of: dict[str, int], cells: Sequence[str]) -> NDArray[np.int32]:
    """The numbers of texts; those that are new are added to `number_of` in their order."""
    for cell in dict.fromkeys(cells):
        number_of.setdefault(cell, len(number_of))
    return np.fromiter(map(number_of.__getitem__, cells), np.int32, len(cells))


def _stripped(title: str, texts: Sequence[str], at: NDArray[np.int32]) -> Column:
    """A column without the blanks around its texts, which may make some of them one."""
    number_of: dict[str, int] = {}
    new = np.array([number_of.setdefault(text.strip(), len(number_of)) for text in texts], dtype=np.int32)
    return Column(title, tuple(number_of), new[at] if len(new) else at)


def _titles(path: Path, header: Sequence[str]) -> tuple[list[str], frozenset[str]]:
    """The titles of all columns; one without a title is called by its position. Raises: UserError for a title twice."""
    titles = [name.strip() for name in header]
    twice = next((name for name in titles if name and titles.count(name) > 1), None)
    require(twice is None, f"{path}: column {twice!r} is there {titles.count(str(twice))} times; use each name once")
    named = [name or f"column {number}" for number, name in enumerate(titles, 1)]
    untitled = {name for name, title in zip(named, titles, strict=True) if not title}
    clash = next((name for name in untitled if named.count(name) > 1), None)
    require(clash is None, f"{path}: {clash!r} is a title, and a column there has none; give each a title")
    return named, frozenset(untitled)


def _json_lines(path: Path, text: str) -> Sheet:
    """The objects of a text with a JSON object per line; keys are columns, what one lacks is an empty cell."""
    rows: list[tuple[int, dict[str, str]]] = []
    titles: dict[str, None] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not a JSON object ({_first_line(error)}); correct it") from error
        require(isinstance(content, dict), f"{path}, line {number}: not a JSON object; write one per line")
        titles.update(dict.fromkeys(content))
        rows.append((number, {key: _text(value) for key, value in content.items()}))
    require(bool(rows), f"{path}: is empty; {_PURPOSE}")
    table = ((number, [cells.get(title, "") for title in titles]) for number, cells in rows)
    return _collected(path, tuple(titles), table, "line")


def _parquet(path: Path) -> Sheet:
    """The rows of a parquet file; null and NaN are empty cells. Raises: UserError as `read_sheet` does."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{path}: reading it needs pyarrow: pip install pyarrow, or save the table as .csv") from error
    try:
        table = parquet.ParquetFile(path).read()
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise UserError(f"{path}: not a readable parquet file ({_first_line(error)}); {_PURPOSE}") from error
    require(table.num_rows > 0, f"{path}: has no row below its columns; write one per image")
    titles, untitled = _titles(path, table.column_names)
    columns = tuple(
        _column(title, list(map(_text, column.to_pylist())))
        for title, column in zip(titles, table.columns, strict=True)
    )
    return Sheet(path, columns, untitled, np.arange(1, table.num_rows + 1), "row")


def _workbook(path: Path) -> Sheet:
    """The rows of the first sheet of an Excel workbook. Raises: UserError as `read_sheet` does."""
    try:
        import openpyxl
    except ImportError as error:
        raise UserError(
            f"{path}: reading it needs openpyxl: pip install openpyxl, or save the table as .csv"
        ) from error
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        first, *others = book.sheetnames
        rows = [list(row) for row in book[first].iter_rows(values_only=True)]
    except Exception as error:  # openpyxl raises nearly anything for a damaged file
        raise UserError(f"{path}: not a readable workbook ({_first_line(error)}); {_PURPOSE}") from error
    filled = [(number, row) for number, row in enumerate(rows, 1) if any(cell not in (None, "") for cell in row)]
    require(bool(filled), f"{path}: is empty; {_PURPOSE}")
    (_, header), *body = filled
    width = max(len(row) for _, row in filled)
    texts = ((number, [_text(cell) for cell in [*row, *[None] * (width - len(row))]]) for number, row in body)
    sheet = _collected(path, [_text(cell) for cell in [*header, *[None] * (width - len(header))]], texts, "row")
    note = f"{path}: only the first sheet, {first!r}, is read; not {', '.join(map(repr, others))}"
    return sheet._replace(notes=(note,)) if others else sheet


def _column(title: str, cells: Sequence[str]) -> Column:
    number_of: dict[str, int] = {}
    at = _numbered(number_of, cells)
    return Column(title, tuple(number_of), at)


def _text(value: object) -> str:
    """One cell as text: null and NaN are empty, lists and what else is nested are JSON."""
    if value is None or value != value:
        return ""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str) if value else ""
    return (value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)).strip()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
