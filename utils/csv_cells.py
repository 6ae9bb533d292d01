"""Rows as CSV that spreadsheets take for what they are: text, and no formulas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet computes a cell that begins so."""


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as lines of CSV; None and NaN are empty. Write it with the error handler `surrogateescape`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([cell(value) for value in row] for row in rows)
    return text.getvalue()


def cell(value: Any) -> Any:
    r"""A value as it stands in a cell.

    Text that a spreadsheet would compute gets an apostrophe in front, which it takes for "this is text"; numbers stay.
    Halves of characters, which no file can hold, are written as `\ud800`; bytes of file names that are no UTF-8 stay.
    """
    if value is None or value != value:
        return ""
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        text = text.encode("utf-8", "backslashreplace").decode()
    return f"'{text}" if text.startswith(_FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.strip() == text
