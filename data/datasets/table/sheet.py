"""Tables of texts, from `.csv`, `.tsv`, `.parquet`, `.xlsx` and JSON-lines files. N rows.

A column keeps each distinct text once and for each row its number: a million cells of 1 and 0 are two texts, and what
is decided about a column looks at those.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.datasets.table.delimited import Block, delimited, in_blocks
from data.files.text_files import without_nul
from utils.checks import UserError, require
from utils.types import Index

SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".xlsx", ".jsonl", ".ndjson")

_PURPOSE = "it has the labels of your images"
_HEAD = 1 << 10  # bytes
_LIST_OF_OBJECTS = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*\{")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""What a file begins with that says its encoding; longer marks before those that they begin with."""
_BEHIND = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""The encoding of what stands behind each mark."""


_PANDAS = re.compile(r"Unnamed: \d+(_level_\d+)?")
"""What pandas calls a column without a title."""


def is_sheet(path: Path) -> bool:
    """Whether a path is a file of one of `SUFFIXES`, or a `.json` that lists the rows of a table."""
    suffix = path.suffix.lower()
    return path.is_file() and (suffix in SUFFIXES or (suffix == ".json" and _begins_a_list(path)))


def _begins_a_list(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _LIST_OF_OBJECTS.match(file.read(_HEAD)) is not None
    except OSError:
        return False


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
        rows = np.empty(len(self.texts), dtype=np.int64)
        rows[self.at[::-1]] = np.arange(len(self.at) - 1, -1, -1)  # the first is written last
        return rows.tolist()


class Sheet(NamedTuple):
    """A table whose cells are texts."""

    path: Path
    columns: tuple[Column, ...]
    untitled: frozenset[str]
    """Titles of columns that have none in the file: `column 3`."""
    numbers: Index
    """(N,) line or row number of each row in the file."""
    unit: str
    """line | row | entry"""
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
    """Read a file of which `is_sheet` is true.

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
    texts = {".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json_list}
    sheet = texts.get(suffix, _csv)(path, text)
    return sheet._replace(notes=(*notes, *sheet.notes))


def read_titles(path: Path, encoding: str | None = None) -> tuple[str, ...]:
    """The titles of a table, of a delimited text without reading its rows. Raises: UserError as `read_sheet` does."""
    if path.suffix.lower() not in (".csv", ".tsv", ".txt"):
        return read_sheet(path, encoding).titles
    return tuple(_titles(path, delimited(path, read_encoded(path, encoding)[0]).header)[0])


class Encoding(NamedTuple):
    """How the text of a file is encoded."""

    mark: bytes
    """What stands before the text."""
    name: str


def encoding_of(data: bytes, encoding: str | None) -> Encoding:
    """The byte order mark at the beginning of a file, and the encoding of what follows: by the mark, else as asked for.

    Args:
        data: the file.
        encoding: of a text without a mark; None for UTF-8.
    """
    mark, _ = next(((mark, name) for mark, name in _MARKS if data.startswith(mark)), (b"", ""))
    return Encoding(mark, _BEHIND[mark] if mark else encoding or "utf-8")


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
    """The rows of a delimited text. Raises: UserError as `delimited` does, or without any row."""
    header, blocks = delimited(path, text)
    require(bool(header), f"{path}: is empty; {_PURPOSE}")
    return _collected(path, header, blocks, "line")


def _collected(path: Path, header: Sequence[str], blocks: Iterable[Block], unit: str) -> Sheet:
    """The columns of rows of one length, a block of rows at a time."""
    known: list[dict[str, int]] = [{} for _ in header]
    parts: list[list[NDArray[np.int32]]] = [[] for _ in header]
    numbers: list[Index] = []
    for block in blocks:
        numbers.append(block.numbers)
        for number_of, part, cells in zip(known, parts, zip(*block.rows, strict=True), strict=True):
            part.append(_numbered(number_of, cells))
    titles, untitled = _titles(path, header)
    lines = np.concatenate(numbers) if numbers else np.empty(0, dtype=np.int64)
    require(len(lines) > 0, f"{path}: has no row below its header; write one per image")
    columns = tuple(
        _stripped(title, tuple(number_of), np.concatenate(part))
        for title, number_of, part in zip(titles, known, parts, strict=True)
    )
    return Sheet(path, columns, untitled, lines, unit)


def _numbered(number_of: dict[str, int], cells: Sequence[str]) -> NDArray[np.int32]:
    """The numbers of texts; those that are new are added to `number_of` in their order."""
    new = [cell for cell in dict.fromkeys(cells) if cell not in number_of]
    number_of.update(zip(new, range(len(number_of), len(number_of) + len(new)), strict=True))
    return np.fromiter(map(number_of.__getitem__, cells), np.int32, len(cells))


def _stripped(title: str, texts: Sequence[str], at: NDArray[np.int32]) -> Column:
    """A column without the blanks around its texts, which may make some of them one."""
    bare = tuple(map(str.strip, texts))
    if bare == texts:
        return Column(title, bare, at)
    number_of: dict[str, int] = {}
    new = np.array([number_of.setdefault(text, len(number_of)) for text in bare], dtype=np.int32)
    return Column(title, tuple(number_of), new[at])


def _titles(path: Path, header: Sequence[str]) -> tuple[list[str], frozenset[str]]:
    """The titles of all columns; one without a title is called by its position. Raises: UserError for a title twice."""
    titles = [name.strip() for name in header]
    twice = next((name for name in titles if name and titles.count(name) > 1), None)
    require(twice is None, f"{path}: column {twice!r} is there {titles.count(str(twice))} times; use each name once")
    named = [name or f"column {number}" for number, name in enumerate(titles, 1)]
    untitled = {name for name, title in zip(named, titles, strict=True) if not title or _PANDAS.fullmatch(title)}
    clash = next((name for name in untitled if named.count(name) > 1), None)
    require(clash is None, f"{path}: {clash!r} is a title, and a column there has none; give each a title")
    return named, frozenset(untitled)


def _json_lines(path: Path, text: str) -> Sheet:
    """The objects of a text with a JSON object per line."""
    rows: list[tuple[int, dict[str, object]]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not a JSON object ({_first_line(error)}); correct it") from error
        require(isinstance(content, dict), f"{path}, line {number}: not a JSON object; write one per line")
        rows.append((number, content))
    return _of_objects(path, rows, "line")


def _json_list(path: Path, text: str) -> Sheet:
    """The objects of a JSON list."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a json file ({_first_line(error)}); get it anew") from error
    for number, row in enumerate(content, 1):
        require(isinstance(row, dict), f"{path}, entry {number}: not a JSON object; write one per image")
    return _of_objects(path, list(enumerate(content, 1)), "entry")


def _of_objects(path: Path, rows: Sequence[tuple[int, dict[str, object]]], unit: str) -> Sheet:
    """The rows of numbered objects: keys are columns, what one lacks is an empty cell."""
    require(bool(rows), f"{path}: is empty; {_PURPOSE}")
    titles = dict.fromkeys(chain.from_iterable(row for _, row in rows))
    table = ((number, [_text(row.get(title)) for title in titles]) for number, row in rows)
    return _collected(path, tuple(titles), in_blocks(table), unit)


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
    sheet = _collected(
        path, [_text(cell) for cell in [*header, *[None] * (width - len(header))]], in_blocks(texts), "row"
    )
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
