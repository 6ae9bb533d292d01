"""What the settings say of one of several tables that are read as one: its encoding, and the columns that it has."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from data.datasets.table.config import TableConfig, joined_list, named, settings_by_table, split_list
from data.datasets.table.sheet import Sheet, is_sheet, read_sheet, read_titles
from utils.checks import UserError, require

_LISTS = ("image_column", "class_columns", "ignore_columns", "split_column")
"""Settings that name columns, as A,B."""
_TITLES = ("label_column", "value_column", "group_column")
"""Settings that name one column."""
_LABELS = ("label_column", "class_columns")
_BLOCK = 1 << 20  # bytes at a time


def own_sheet(path: Path, config: TableConfig, *, several: bool) -> tuple[Sheet, TableConfig]:
    """The cells of a table, and the settings that hold for it.

    Args:
        path: the file.
        config: what was asked for.
        several: True for one of several tables that are read as one; flags then name columns of those that have them.

    Raises:
        UserError: as `read_sheet` does.
    """
    if not several:
        own = with_own(config, path)
        return read_sheet(path, own.encoding), own
    own = with_own_encoding(config, path)
    sheet = read_sheet(path, own.encoding)
    return sheet, with_own_columns(own, sheet)


def with_own(config: TableConfig, path: Path) -> TableConfig:
    """The settings of a table, those of `--table_columns` before all others."""
    own = settings_by_table(config.table_columns).get(str(path), {})
    others: dict[str, Any] = dict.fromkeys(_LABELS) if own.keys() & set(_LABELS) else {}
    try:
        return replace(config, **{**others, **own}) if own else config
    except UserError as error:
        raise UserError(f"--table_columns: {path}: {error}") from error


def with_own_encoding(config: TableConfig, path: Path) -> TableConfig:
    """The settings of one of several tables, without `--encoding` where its text is UTF-8 already.

    Several tables may come from several programs, and a text that is UTF-8 by chance is rare.
    """
    own = settings_by_table(config.table_columns).get(str(path), {})
    usual = None if config.encoding is None or _is_utf8(path) else config.encoding
    return replace(config, encoding=own.get("encoding", usual))


def with_own_columns(config: TableConfig, sheet: Sheet) -> TableConfig:
    """The settings of one of several tables: of the columns that flags name, those that it has."""
    held: dict[str, Any] = {name: _held(getattr(config, name), sheet.titles) for name in _LISTS}
    for name in _TITLES:
        held[name] = title if (title := getattr(config, name)) in sheet.titles else None
    return with_own(replace(config, **held), sheet.path)


def check_titles(config: TableConfig, sheets: Sequence[Sheet]) -> None:
    """Raise UserError for a flag that names a column which none of several tables has."""
    for setting in (*_LISTS, *_TITLES):
        text = getattr(config, setting)
        parts = split_list(text) if setting in _LISTS else filter(None, [text])
        if any(text in sheet.titles for sheet in sheets):
            continue
        for title in parts:
            there = any(title in sheet.titles for sheet in sheets)
            tables = named([sheet.path for sheet in sheets])
            require(there, f"--{setting} {title}: none of {tables} has such a column")


class OfRun(NamedTuple):
    """What a run says of columns, as far as it holds for other tables."""

    settings: dict[str, Any]
    notes: tuple[str, ...]


def of_run(settings: Mapping[str, Any], tables: Sequence[Path], encoding: str | None) -> OfRun:
    """The settings of a run, where it is scored on other tables than its own.

    A flag that names a column which a table lacks says nothing of that table; it stays with the tables of the run.

    Args:
        settings: of the run, with `table` and `test_table`; None where a value was not given.
        tables: those that are read now.
        encoding: of those that are not UTF-8.

    Raises: UserError as `read_sheet` does.
    """
    own = {*(settings.get("table") or ()), *(settings.get("test_table") or ())}
    if own.issuperset(tables):
        return OfRun(dict(settings), ())
    titles = {path: frozenset(read_titles(path, encoding)) for path in tables if path not in own and is_sheet(path)}
    by_table = settings_by_table(settings.get("table_columns"))
    kept: dict[str, dict[str, str]] = {str(path): by_table.get(str(path), {}) for path in tables}
    left, notes = dict(settings), []
    for name in (*_LISTS, *_TITLES):
        text = settings.get(name)
        lacking = [] if text is None else [path for path, held in titles.items() if not _holds(text, name, held)]
        if lacking:
            left[name] = None
            notes.append(f"--{name} {text} of the run is not used: {named(lacking)} has no such column")
            kept.update({str(path): {name: str(text), **kept[str(path)]} for path in own.intersection(tables)})
    told = {path: values for path, values in kept.items() if values}
    notes += [f"--table_columns of the run is not used for {path}" for path in by_table if path not in kept]
    return OfRun({**left, "table_columns": json.dumps(told, ensure_ascii=False) if told else None}, tuple(notes))


def _holds(text: str, name: str, titles: frozenset[str]) -> bool:
    """Whether a table has all columns that a setting names."""
    return text in titles or (name in _LISTS and titles.issuperset(split_list(text)))


def _held(text: str | None, titles: Iterable[str]) -> str | None:
    """Of the columns that a flag names, those that are there; None without any."""
    known = frozenset(titles)
    found = (text,) if text in known else tuple(name for name in split_list(text) if name in known)
    return None if not found or text is None else text if text in known else joined_list(found)


def _is_utf8(path: Path) -> bool:
    """True for a text in UTF-8; one with a NUL is in another encoding."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                if "\0" in decoder.decode(block):
                    return False
        decoder.decode(b"", final=True)
    except (OSError, UnicodeDecodeError):
        return False
    return True
