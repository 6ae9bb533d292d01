"""What an inspection tells about a user's tables: each column and why it is what it is, and what each class holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.datasets.table.columns import TableRead
from data.datasets.table.joined import Joined
from data.datasets.table.repeated import agreement
from data.datasets.table.seen import UNCERTAIN, look
from utils.types import UNKNOWN, Index


class Entries(NamedTuple):
    """What a table holds of each class (C,) before anything is decided about it."""

    classes: tuple[str, ...]
    uncertain: Index
    """Entries of -1."""
    blank: Index
    """Blank cells of a column per class, or of values, that count as unknown."""
    soft: Index
    """Entries with a value between 0 and 1."""
    agreement: NDArray[np.float64] | None
    """Share of images on which annotators agree; None where each image stands once."""


class DescribedColumn(NamedTuple):
    """A column of a table, for an inspection."""

    table: str
    title: str
    role: str
    why: str
    examples: tuple[str, ...]


class TableReport(NamedTuple):
    """What an inspection tells about tables."""

    columns: tuple[DescribedColumn, ...] = ()
    entries: tuple[Entries, ...] = ()


See = Callable[[Callable[[], TableReport]], object]
"""Looks at what was read: called with what makes the report, which takes time and is wanted by inspections only."""


def collected(parts: Iterable[TableReport]) -> TableReport:
    """Several reports as one."""
    held = tuple(parts)
    columns = chain.from_iterable(part.columns for part in held)
    return TableReport(tuple(columns), tuple(chain.from_iterable(part.entries for part in held)))


def report_of_joined(tables: Joined) -> TableReport:
    """How far several tables agree on the images that they share; nothing without such images."""
    classes = tables.labels.classes
    none = np.zeros(len(classes), dtype=np.int64)
    told = () if tables.agreement is None else (Entries(classes, none, none, none, tables.agreement),)
    return TableReport((), told)


def report_of(read: TableRead) -> TableReport:
    """What an inspection tells about one table."""
    return TableReport(tuple(described_columns(read)), (entries_of(read),))


def described_columns(read: TableRead) -> list[DescribedColumn]:
    """Every column of a table, what it is for, why, and what it holds."""
    seen = look(read.sheet)
    return [
        DescribedColumn(str(read.sheet.path), role.title, role.role, role.why, seen.column(role.title).examples)
        for role in read.roles.read
    ]


def entries_of(read: TableRead) -> Entries:
    """What a table holds of each class, for an inspection."""
    agreed = _agreement(read) if read.images.repeated and not read.lines.one_each else None
    return Entries(read.lines.classes, read.counted(UNCERTAIN), read.counted(UNKNOWN), read.soft, agreed)


def _agreement(read: TableRead) -> NDArray[np.float64]:
    """(C,) as in `Entries`."""
    codes, images = read.lines.codes, read.images
    known = np.where(codes == UNCERTAIN, UNKNOWN, codes)[images.line]
    return agreement(known, images.image, len(images.ids))
