"""Reading of text, CSV and JSON files of datasets; every error is one line that names the file and the line in it."""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Protocol

from utils.checks import UserError

_LONGEST_FIELD = 1 << 22  # characters; a longer field means that a quote was never closed
_BLANKS = re.compile(r"[ \t\n\r]*")
_CONTROL = ("Cc", "Cs", "Zl", "Zp")  # Unicode categories of control characters, surrogates and line breaks


class CsvReader(Protocol):
    """What `csv.reader` returns."""

    @property
    def line_num(self) -> int:
        """Number of the line that was read last, from 1."""
        ...

    def __iter__(self) -> Iterator[list[str]]: ...


def read_text(path: Path, purpose: str) -> str:
    """Read a UTF-8 file, with or without a byte order mark.

    Args:
        path: the file.
        purpose: reason why it is needed, for the message: "it lists the training images".

    Raises:
        UserError: it is missing, unreadable or not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {purpose}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8, or get it anew; {purpose}"
        ) from error


def read_lines(path: Path, purpose: str) -> Iterator[tuple[int, str]]:
    """Yield number (from 1) and stripped text of each line that is not blank. Raises: UserError as `read_text` does."""
    lines = read_text(path, purpose).splitlines()
    yield from ((number, line.strip()) for number, line in enumerate(lines, 1) if line.strip())


def read_json(path: Path, purpose: str) -> Any:
    """Read a JSON file. Raises: UserError when it is missing or no JSON."""
    text = read_text(path, purpose)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a json file ({_first_line(error)}); get it anew") from error


def json_entries(path: Path, purpose: str) -> Iterator[tuple[int, Any]]:
    """Yield number (from 0) and value of each entry of a JSON list, so that never all of them are in memory at once.

    Raises: UserError when the file is missing or no JSON list.
    """
    text, decoder, number = read_text(path, purpose), json.JSONDecoder(), 0
    position = _after_blanks(text, 0)
    if text[position : position + 1] != "[":
        raise UserError(f"{path}: not a json file whose outermost value is a list; get it anew")
    position = _after_blanks(text, position + 1)
    closed = text[position : position + 1] == "]"
    while not closed:
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: not a json file ({_first_line(error)}); get it anew") from error
        yield number, value
        position, number = _after_blanks(text, position), number + 1
        closed = text[position : position + 1] == "]"
        if not closed and text[position : position + 1] != ",":
            raise UserError(f"{path}: not a json file (nothing ends entry {number - 1} of its list); get it anew")
        position = position if closed else _after_blanks(text, position + 1)
    if _after_blanks(text, position + 1) < len(text):
        raise UserError(f"{path}: not a json file (there is more behind its list); get it anew")


def _after_blanks(text: str, position: int) -> int:
    """The place of the next character that is not blank."""
    match = _BLANKS.match(text, position)
    return position if match is None else match.end()


def read_csv(
    path: Path, needed: Sequence[str], purpose: str, delimiter: str = ","
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and fields by column name of each data row of a CSV file with a header.

    Spaces around names and values are removed; rows without any value are skipped.

    Args:
        path: the file.
        needed: required columns.
        purpose: reason why the file is needed, for the message.
        delimiter: character between fields.

    Raises:
        UserError: the file is missing or not UTF-8, has no header, repeats or lacks a column, or has a row of
            another length; the message names the line.
    """
    header: list[str] | None = None
    for line, fields in read_rows(path, purpose, delimiter):
        if header is None:
            header = _header(path, fields, needed)
        elif len(fields) != len(header):
            raise UserError(f"{path}, line {line}: {len(fields)} fields, the header has {len(header)} columns")
        else:
            yield line, dict(zip(header, fields, strict=True))
    if header is None:
        raise UserError(f"{path}: is empty; {purpose}")


def read_rows(path: Path, purpose: str, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of each row of a CSV file, the first included; spaces around fields are removed.

    Rows without any value are skipped.

    Raises:
        UserError: the file is missing or not UTF-8, or a row is no CSV; the message names the line.
    """
    text = without_nul(path, read_text(path, purpose))
    rows = filled_rows(path, csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True))
    yield from ((line, [field.strip() for field in fields]) for line, fields in rows)


def filled_rows(path: Path, rows: CsvReader) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of each row of a `csv.reader` that holds anything but blanks.

    Raises: UserError naming the line that is no CSV.
    """
    limit_fields()
    try:
        for fields in rows:
            if any(map(str.strip, fields)):
                yield rows.line_num, fields
    except csv.Error as error:
        raise csv_fault(path, rows, error) from error


def limit_fields() -> None:
    """Let `csv` take fields as long as any that is meant."""
    csv.field_size_limit(_LONGEST_FIELD)


def csv_fault(path: Path, rows: CsvReader, error: csv.Error) -> UserError:
    """The error for the line that a reader could not take apart."""
    return UserError(f"{path}, line {rows.line_num}: not a table of text ({error}); correct this line")


def without_nul(path: Path, text: str) -> str:
    """The text of a file. Raises: UserError naming the line of the first NUL byte."""
    if "\0" in text:
        raise UserError(f"{path}, line {text[: text.index(chr(0))].count(chr(10)) + 1}: holds NUL bytes; get it anew")
    return text


def relative_path(text: str, where: str) -> str:
    """Return a file name of a list, checked to be inside its dataset: relative, no `..`.

    Args:
        text: the name in the list; backslashes count as slashes.
        where: file and line, for the message.

    Raises:
        UserError: it is empty, absolute, or leads out of the dataset.
    """
    name = PurePosixPath(text.replace("\\", "/"))
    if (
        not name.parts
        or name.is_absolute()
        or PureWindowsPath(text).is_absolute()
        or ".." in name.parts
        or "\0" in text
    ):
        raise UserError(f"{where}: {text[:80]!r} is no file name inside the dataset")
    return str(name)


def is_plain_text(text: str) -> bool:
    """Tell whether a text has no control characters, line breaks or lone surrogates (which json can contain)."""
    return not any(unicodedata.category(one) in _CONTROL for one in text)


def _header(path: Path, names: list[str], needed: Sequence[str]) -> list[str]:
    """Return the names of the columns, checked to be distinct and to include all needed ones."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: column {twice!r} is there {names.count(twice)} times; each name may be used once")
    missing = next((name for name in needed if name not in names), None)
    if missing is not None:
        shown = ", ".join(repr(name) for name in names[:12])
        raise UserError(f"{path}: no column {missing!r}; its first line must name the columns, it has {shown}"[:400])
    return names


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
