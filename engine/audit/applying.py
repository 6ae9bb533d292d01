"""`audit.py --apply`: decisions become a corrected table beside the old one, with a log of the changes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data.build import DatasetConfig
from data.datasets.table.corrected import CorrectedTable, OpenTable, corrected, open_table
from data.datasets.table.corrections import Change
from data.datasets.table.formats import files_by_name
from data.datasets.table.joined_images import TableLabels, joined_images
from engine.audit.decisions import Decision, named_as, read_decisions
from engine.audit.findings import WORDS
from utils.checks import UserError, require
from utils.console import say
from utils.csv_cells import csv_text
from utils.nearest import nearest
from utils.safe_files import write_atomically, write_text

LOG_COLUMNS = ("image", "class", "before", "after", "decided_in")
_COMPARED = 10_000  # names among which the nearest is looked for
_NUMBERED = re.compile(r"(?P<stem>.*)\.corrected(-\d+)?")


class Corrected(NamedTuple):
    """A corrected table before it is written."""

    table: OpenTable
    file: CorrectedTable
    rows: Sequence[tuple[str, str, str, str, str]]
    """Of the log."""


def apply_decisions(path: Path, config: DatasetConfig) -> None:
    """Write a corrected table beside each table that decisions are about, and its log.

    Raises:
        UserError: the dataset is no table of one's own, or a decision does not fit; nothing has been written then.
        RunError: a file cannot be written.
    """
    require(
        config.dataset == "table" and config.table is not None,
        "--apply: corrects a table of your own; give --dataset table --table FILE as for the audit",
    )
    decisions = read_decisions(path)
    named = [
        each
        for paths in (config.table or (), config.test_table or ())
        if paths
        for each in named_tables([open_table(path, config, config.path_images or Path()) for path in paths], config)
    ]
    changes = _by_table(decisions, named)
    results = [_corrected(each.table, changes[each.table.path]) for each in named if changes[each.table.path]]
    unchanged = len(decisions) - len({row[-1] for result in results for row in result.rows})
    if unchanged:
        say(f"{path}: {unchanged:,} of {len(decisions):,} decisions are what the table says already")
    for result in results:
        _write(result)


class NamedTable(NamedTuple):
    """A table, and what it calls the images that it shares with others."""

    table: OpenTable
    own: Mapping[str, int]
    """Which of its images each one is, by any name that a table has for it."""


def named_tables(tables: Sequence[OpenTable], config: DatasetConfig) -> list[NamedTable]:
    """Tables that are read as one, with the images of each by their name in that."""
    labels = [TableLabels(table.path, table.labels, str) for table in tables]
    images = joined_images(labels, files_by_name(tables[0].folder, config) if len(tables) > 1 else lambda ids: {})
    called = {name: image for image, name in enumerate(images.ids)}
    for table, rows in zip(tables, images.rows, strict=True):
        for name, image in zip(table.labels.ids, rows.tolist(), strict=True):
            called.setdefault(name, image)
    row_of = [dict(zip(rows.tolist(), range(len(rows)), strict=True)) for rows in images.rows]
    return [
        NamedTable(table, {name: own[image] for name, image in called.items() if image in own})
        for table, own in zip(tables, row_of, strict=True)
    ]


def _by_table(decisions: Sequence[Decision], tables: Sequence[NamedTable]) -> Mapping[Path, list[Decision]]:
    """The decisions that change something, by table, with the names that the tables have.

    Raises: UserError for an image or a class that no table has, or a label that is not what it was.
    """
    found: dict[Path, list[Decision]] = {one.table.path: [] for one in tables}
    decided: dict[tuple[Path, str, str], Decision] = {}
    for one in decisions:
        fitting = {each.table.path: fits for each in tables if (fits := _in_table(one, each)) is not None}
        if not fitting:
            raise _no_such_label(one, tables)
        _require_as_given(one, fitting)
        for path, fits in fitting.items():
            before = decided.setdefault((path, fits.image, fits.label), fits)
            require(
                before.new == one.new,
                f"{one.where}: {one.label!r} of {one.image!r} is decided otherwise than in {before.where}, where the "
                "image has another name; keep one line",
            )
            if fits.given != one.new and before is fits:
                found[path].append(fits)
    return found


def _in_table(one: Decision, named: NamedTable) -> Decision | None:
    """The decision with the names and the label of a table; None where it has no such image or class."""
    labels = named.table.labels
    image, label = named_as(one.image, named.own), named_as(one.label, labels.classes)
    if image is None or label is None:
        return None
    row = named.own[image]
    return one._replace(image=labels.ids[row], label=label, given=int(labels.codes[row, labels.classes.index(label)]))


def _require_as_given(one: Decision, fitting: Mapping[Path, Decision]) -> None:
    """Raise UserError unless a table has the label of the audit, or the decided one already."""
    path, fits = next(iter(fitting.items()))
    require(
        one.given is None or any(each.given in (one.given, one.new) for each in fitting.values()),
        f"{one.where}: {one.label!r} of {one.image!r} is {WORDS[int(fits.given or 0)]} in {path}, and was "
        f"{WORDS[one.given or 0]} at the audit; audit the table again",
    )


def _no_such_label(one: Decision, tables: Sequence[NamedTable]) -> UserError:
    """The error for a decision about what no table has."""
    names = " or ".join(str(each.table.path) for each in tables)
    images = [name for each in tables for name in each.own]
    classes = [name for each in tables for name in each.table.labels.classes]
    if named_as(one.image, images) and named_as(one.label, classes):
        return UserError(
            f"{one.where}: no table, {names}, has both {one.image!r} and {one.label!r}; leave the line out"
        )
    what, text, known = ("class", one.label, classes) if named_as(one.image, images) else ("image", one.image, images)
    close = nearest(text, known[:_COMPARED])
    return UserError(
        f"{one.where}: {what} {text[:200]!r} is not in {names}{f' (did you mean {close}?)' if close else ''}; correct "
        "the line"
    )


def _corrected(table: OpenTable, decisions: Sequence[Decision]) -> Corrected:
    """A corrected table, read back. Raises: UserError as `corrected` does."""
    file = corrected(table, [Change(one.image, one.label, one.new) for one in decisions])
    rows = [(one.image, one.label, WORDS[int(one.given or 0)], WORDS[one.new], one.where) for one in decisions]
    return Corrected(table, file, rows)


def _write(result: Corrected) -> None:
    """Write the log, then the table."""
    path = free_name(result.table.path)
    log = path.with_name(f"{path.stem}.log.csv")
    write_text(log, csv_text([LOG_COLUMNS, *result.rows]), errors="surrogateescape")
    write_atomically(path, lambda file: file.write(result.file.content))
    say(f"written: {path} with {len(result.rows):,} labels changed ({log.name}); {result.table.path} is as it was")
    if result.file.flags:
        flags = shlex.join(word for name, text in result.file.flags.items() for word in (f"--{name}", text))
        say(f"{path}: its columns are no longer told apart by themselves; read it with {flags}")


def free_name(table: Path) -> Path:
    """The first name for a corrected table that is free: `labels.corrected.csv`, then `labels.corrected-2.csv`."""
    match = _NUMBERED.fullmatch(table.stem)
    stem, number = match["stem"] if match else table.stem, 1
    while True:
        path = table.with_name(f"{stem}.corrected{f'-{number}' if number > 1 else ''}{table.suffix}")
        if not path.exists() and not path.with_name(f"{path.stem}.log.csv").exists():
            return path
        number += 1
