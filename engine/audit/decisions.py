"""Decisions about labels in a file: of the page of an audit, or written by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data.datasets.table.delimited import delimiter_of
from data.files.text_files import read_csv
from utils.checks import UserError, require
from utils.types import ABSENT, PRESENT, UNKNOWN

COLUMNS = ("image", "class", "new")
"""What a file of decisions needs; `given` may stand beside."""
CODES = {"present": PRESENT, "absent": ABSENT, "unknown": UNKNOWN, "1": PRESENT, "0": ABSENT, "-1": UNKNOWN}
_PURPOSE = "it says what labels are to be"


class Decision(NamedTuple):
    """A label, and what it is to be."""

    image: str
    label: str
    given: int | None
    """What it was at the audit; None where the file does not say."""
    new: int
    where: str
    """File and line."""


def read_decisions(path: Path) -> list[Decision]:
    """The decisions of a file, each label once; lines whose cell `new` is blank are passed over.

    Raises: UserError when the file cannot be read, lacks a column, decides nothing, or a line has another word than
        present, absent or unknown, or contradicts another one.
    """
    found: dict[tuple[str, str], Decision] = {}
    for one in _lines(path):
        before = found.setdefault((one.image, one.label), one)
        require(
            before.new == one.new,
            f"{one.where}: {one.label!r} of {one.image!r} is decided otherwise than in {before.where}; keep one line",
        )
    require(bool(found), f"{path}: decides nothing; write image,class,new, and a line for each label")
    return list(found.values())


def _lines(path: Path) -> Iterator[Decision]:
    for number, fields in read_csv(path, COLUMNS, _PURPOSE, delimiter_of(path, _PURPOSE)):
        where = f"{path}, line {number}"
        if fields["new"]:
            given = _code(fields["given"], "given", where) if fields.get("given") else None
            yield Decision(fields["image"], fields["class"], given, _code(fields["new"], "new", where), where)


def _code(text: str, column: str, where: str) -> int:
    code = CODES.get(text.lower())
    if code is None:
        raise UserError(f"{where}: {text[:40]!r} in column {column!r} must be present, absent or unknown")
    return code


def named_as(text: str, names: Mapping[str, int] | Sequence[str]) -> str | None:
    """The name that a cell means, without the apostrophe that marks text in a spreadsheet; None if there is none."""
    return next((name for name in (text, text.removeprefix("'")) if name in names), None)
