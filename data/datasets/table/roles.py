"""What the columns of a table are for, and the columns that flags name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from data.datasets.table.config import split_list
from data.datasets.table.seen import TableSeen
from utils.checks import require


class Role(NamedTuple):
    """What a column is for, and why."""

    title: str
    role: str
    why: str


class Roles(NamedTuple):
    """The columns by what they are for."""

    images: tuple[str, ...]
    labels: str | None
    """The column of class names; None where there is a column per class."""
    classes: tuple[str, ...]
    """The columns of one class each; also where the same labels are read from names."""
    split: tuple[str, ...]
    value: str | None
    group: str | None
    twin: str | None
    """A column of class names that are all columns of codes too: the same labels twice, which must agree."""
    read: tuple[Role, ...]
    """Every column, in the order of the table."""


def listed(text: str | None, table: TableSeen, setting: str) -> tuple[str, ...]:
    """The titles that a flag names: one that equals the whole text, or else those of one CSV line.

    Raises: UserError for a title that the table does not have.
    """
    if text is None:
        return ()
    if text in table.titles:
        return (text,)
    names = split_list(text)
    for name in names:
        require(
            name in table.titles, f"{table.path}: --{setting} {name}: no such column; it has {quoted(table.titles)}"
        )
    require(len(set(names)) == len(names), f"--{setting} {text}: names a column twice")
    return names


def requested(table: TableSeen, setting: str, title: str | None, why: dict[str, Role]) -> str | None:
    """The column that a flag names; None without that flag. Raises: UserError if there is no such column."""
    if title is None:
        return None
    require(title in table.titles, f"{table.path}: --{setting} {title}: no such column; it has {quoted(table.titles)}")
    why[title] = Role(title, setting.removesuffix("_column").replace("label", "labels"), f"--{setting}")
    return title


def quoted(names: Sequence[str], most: int = 8) -> str:
    """Titles in a message."""
    shown = ", ".join(repr(name[:40]) for name in names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)} in all)"
