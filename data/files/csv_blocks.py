"""Fast reading of large CSV files without quotation marks: numpy on blocks of whole lines.

M rows, K fields. Fields are separated by commas and have neither quotation marks nor NUL bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from utils.checks import UserError, require
from utils.types import Index

Texts = NDArray[np.bytes_]

_SIZE = 1 << 24  # bytes; also the longest line that is read

_FORBIDDEN = {ord('"'): "holds a quotation mark", 0: "holds a NUL byte"}


class CsvBlock(NamedTuple):
    """Rows of a table as bytes, and the position of each field in them."""

    path: Path
    text: NDArray[np.uint8]
    line: Index  # (M,) line numbers in the file, from 1
    start: Index  # (M, K)
    end: Index  # (M, K)

    def lengths(self, field: int) -> Index:
        """Length (M,) in bytes of one field of each row."""
        return self.end[:, field] - self.start[:, field]

    def chars(self, field: int, width: int) -> NDArray[np.uint8]:
        """Bytes (M, width) of one field of each row, cut after `width`, padded with zeros."""
        position = self.start[:, field, None] + np.arange(width)
        inside = position < self.end[:, field, None]
        return np.where(inside, self.text[np.minimum(position, len(self.text) - 1)], np.uint8(0))

    def texts(self, field: int, width: int) -> Texts:
        """One field (M,) of each row, cut after `width` bytes."""
        texts: Texts = self.chars(field, width).view(f"S{width}")[:, 0]
        return texts

    def require(self, valid: NDArray[np.bool_], field: int, expected: str) -> None:
        """Raise UserError that quotes line and field of the first row for which `valid` (M,) is False."""
        if not valid.all():
            row = int(np.argmin(valid))
            value = bytes(self.text[self.start[row, field] : self.end[row, field]][:60]).decode("utf-8", "replace")
            raise UserError(f"{self.path}, line {self.line[row]}: {value!r}: {expected}")


def read_blocks(path: Path, columns: Sequence[str], purpose: str) -> Iterator[CsvBlock]:
    """Read the rows of a CSV file with a header, block by block; blank lines are skipped.

    Args:
        path: the file.
        columns: names of the K columns to read; others are ignored.
        purpose: reason why the file is needed, for messages.

    Raises:
        UserError: the file is missing or empty, its header lacks a column, a row has another number of fields or
            quotation marks or NUL bytes, or a line is longer than 16 MiB; the message names the line.
    """
    chosen: list[int] = []
    before = fields = 0
    for text in _whole_lines(path, purpose):
        ends = np.flatnonzero(text == ord("\n"))
        if not chosen:
            chosen, fields = _header(path, bytes(text[: ends[0]]), columns)
        whole = _rows(path, text, ends, before)
        yield _split(whole, chosen, fields)
        before += len(ends)
    require(bool(chosen), f"{path}: is empty; {purpose}")


def _whole_lines(path: Path, purpose: str) -> Iterator[NDArray[np.uint8]]:
    """Read the bytes of a file in blocks of whole lines."""
    try:
        with path.open("rb") as file:
            rest = b""
            while read := file.read(_SIZE):
                lines, newline, rest = (rest + read).rpartition(b"\n")
                if newline:
                    yield np.frombuffer(lines + newline, dtype=np.uint8)
                require(
                    len(rest) <= _SIZE, f"{path}: has a line of more than {_SIZE >> 20} MiB, so it is no such table"
                )
            if rest:
                yield np.frombuffer(rest + b"\n", dtype=np.uint8)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {purpose}") from error


def _header(path: Path, text: bytes, columns: Sequence[str]) -> tuple[list[int], int]:
    """Return the indices of `columns` in the first line, and the number of names there."""
    names = [name.strip() for name in text.decode("utf-8-sig", "replace").split(",")]
    for column in columns:
        if names.count(column) != 1:
            raise UserError(f"{path}, line 1: must name the column {column} once, it is {', '.join(names)[:120]!r}")
    return [names.index(column) for column in columns], len(names)


def _rows(path: Path, text: NDArray[np.uint8], ends: Index, before: int) -> CsvBlock:
    """Return the lines except the header and blank ones, each as one field."""
    start = np.concatenate([[0], ends[:-1] + 1])
    line = before + 1 + np.arange(len(ends))
    end = ends - (text[np.maximum(ends - 1, 0)] == ord("\r"))  # before start if a block cut "\r\n": blank too
    row = np.flatnonzero((end > start) & (line > 1))
    return CsvBlock(path, text, line[row], start[row, None], end[row, None])


def _split(whole: CsvBlock, chosen: list[int], fields: int) -> CsvBlock:
    """Split whole lines at their commas and keep the chosen fields."""
    for byte, fault in _FORBIDDEN.items():
        _, count = _find_byte(whole, byte)
        whole.require(count == 0, 0, f"{fault}, which no such table has")
    comma, count = _find_byte(whole, ord(","))
    whole.require(count == fields - 1, 0, f"{fields} fields are expected, as in the first line")
    between = comma.reshape(-1, fields - 1)
    start = np.concatenate([whole.start, between + 1], axis=1)
    end = np.concatenate([between, whole.end], axis=1)
    return whole._replace(start=start[:, chosen], end=end[:, chosen])


def _find_byte(whole: CsvBlock, byte: int) -> tuple[Index, Index]:
    """Return the positions of a byte in the lines, line by line, and its count (M,) in each line."""
    position = np.flatnonzero(whole.text == byte)
    first, stop = (np.searchsorted(position, side[:, 0]) for side in (whole.start, whole.end))
    inside = slice(first[0], stop[-1]) if len(first) else slice(0)  # without the header
    return position[inside], stop - first
