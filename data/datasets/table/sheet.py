"""Tables whose cells are texts, from `.csv`, `.tsv` and `.parquet` files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data.files.text_files import read_csv, read_lines
from utils.checks import UserError, require

SUFFIXES = (".csv", ".tsv", ".parquet")

_PURPOSE = "it has the labels of your images"


class Sheet(NamedTuple):
    """A table whose cells are texts."""

    path: Path
    header: tuple[str, ...]
    numbers: Sequence[int]  # (N,) line or row number of each row in the file
    unit: str  # line | row
    column: Callable[[str], Sequence[str]]  # name of a column to its cells (N,)

    def where(self, row: int) -> str:
        """Return file and line of one row, for messages."""
        return f"{self.path}, {self.unit} {self.numbers[row]}"


def read_sheet(path: Path) -> Sheet:
    """Read a file with one of `SUFFIXES`. Raises: UserError as the reader of its format does."""
    return read_parquet(path) if path.suffix.lower() == ".parquet" else read_text_table(path)


def read_text_table(path: Path) -> Sheet:
    """Read a `.csv` file separated by commas, semicolons or tabs, as in its header, or a `.tsv` file.

    Raises: UserError as `text_files.read_csv` does, and if no row follows the header.
    """
    numbers: list[int] = []
    rows: list[tuple[str, ...]] = []
    header: tuple[str, ...] = ()
    for number, fields in read_csv(path, (), _PURPOSE, _delimiter(path)):
        header = header or tuple(fields)
        numbers.append(number)
        rows.append(tuple(fields.values()))
    require(bool(rows), f"{path}: has no row below its header; write one per image")
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    return Sheet(path, header, numbers, "line", columns.__getitem__)


def read_parquet(path: Path) -> Sheet:
    """Read a `.parquet` file; null and NaN are empty cells, booleans the texts True and False. Rows count from 1.

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
    require(table.num_rows > 0, f"{path}: has no row below its columns; write one per image")
    columns: Mapping[str, Any] = dict(zip(header, table.columns, strict=True))
    return Sheet(
        path, header, range(1, table.num_rows + 1), "row", lambda name: _parquet_texts(path, name, columns[name])
    )


def _delimiter(path: Path) -> str:
    """Return the first comma, semicolon or tab of the header outside quotes; a comma if there is none."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    _, header = next(read_lines(path, _PURPOSE), (0, ""))
    return next((one for one in re.sub(r'"[^"]*"', "", header) if one in ",;\t"), ",")


def _parquet_texts(path: Path, name: str, column: Any) -> list[str]:
    """Return the cells of a parquet column as texts. Raises: UserError when they are neither texts nor numbers."""
    try:
        return [_text(value) for value in column.to_pylist()]
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path}: column {name!r} holds {str(column.type)[:60]}, must be one text or number per row"
        ) from error


def _text(value: object) -> str:
    """Return one cell of a parquet file as text. Raises: TypeError for a value that is no text, number or null."""
    if value is None or value != value:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool | int | float):
        return str(value)
    raise TypeError(type(value).__name__)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
