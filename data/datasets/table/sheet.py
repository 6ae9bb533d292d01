"""Files of rows and named columns as texts: `.csv`, `.tsv` and `.parquet`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data.files.text_files import read_csv, read_lines
from utils.checks import UserError, require

SUFFIXES = (".csv", ".tsv", ".parquet")

_PURPOSE = "it holds the labels of your pictures"


class Sheet(NamedTuple):
    """A table whose cells are texts."""

    path: Path
    header: tuple[str, ...]
    places: Sequence[int]  # (N,) the line or row of the file that each row stands in
    unit: str  # line | row
    column: Callable[[str], Sequence[str]]  # (N,) the cells of a column

    def where(self, row: int) -> str:
        """File and place of one row, for messages."""
        return f"{self.path}, {self.unit} {self.places[row]}"


def read_sheet(path: Path) -> Sheet:
    """The table in a file of one of `SUFFIXES`. Raises: UserError as the reader of its form does."""
    return read_parquet(path) if path.suffix.lower() == ".parquet" else read_text_table(path)


def read_text_table(path: Path) -> Sheet:
    """A `.csv` file separated by commas, semicolons or tabs, as its header says, or a `.tsv` file.

    Raises: UserError as `reading.read_csv` does, and where no row follows the header.
    """
    numbers: list[int] = []
    rows: list[tuple[str, ...]] = []
    header: tuple[str, ...] = ()
    for number, fields in read_csv(path, (), _PURPOSE, _delimiter(path)):
        header = header or tuple(fields)
        numbers.append(number)
        rows.append(tuple(fields.values()))
    require(bool(rows), f"{path}: has no row below its header; write one for each picture")
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    return Sheet(path, header, numbers, "line", columns.__getitem__)


def read_parquet(path: Path) -> Sheet:
    """A `.parquet` file; null and NaN are empty cells, true and false are 1 and 0. Rows are counted from 1.

    Raises: UserError when pyarrow is not installed, or the file is missing, damaged or without rows.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{path}: reading it needs pyarrow: pip install pyarrow, or save the table as .csv") from error
    try:
        table = parquet.ParquetFile(path).read()
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise UserError(f"{path}: not a readable parquet file ({_first_line(error)}); {_PURPOSE}") from error
    header = tuple(name.strip() for name in table.column_names)
    twice = next((name for name in header if header.count(name) > 1), None)
    require(twice is None, f"{path}: column {twice!r} is there {header.count(str(twice))} times; use each name once")
    require(table.num_rows > 0, f"{path}: has no row below its columns; write one for each picture")
    columns: Mapping[str, Any] = dict(zip(header, table.columns, strict=True))
    return Sheet(
        path, header, range(1, table.num_rows + 1), "row", lambda name: _parquet_texts(path, name, columns[name])
    )


def _delimiter(path: Path) -> str:
    """The first of comma, semicolon and tab that stands in the header, outside quotes; a comma where none does."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    _, header = next(read_lines(path, _PURPOSE), (0, ""))
    return next((one for one in re.sub(r'"[^"]*"', "", header) if one in ",;\t"), ",")


def _parquet_texts(path: Path, name: str, column: Any) -> list[str]:
    """The cells of a parquet column as texts. Raises: UserError when they are neither texts nor numbers."""
    try:
        return [_text(value) for value in column.to_pylist()]
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path}: column {name!r} holds {str(column.type)[:60]}, where one text or number a row is expected"
        ) from error


def _text(value: object) -> str:
    """One cell of a parquet file. Raises: TypeError for a value that is neither text nor number nor missing."""
    if value is None or value != value:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool | int | float):
        return str(value)
    raise TypeError(type(value).__name__)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
