"""A user's table with some labels corrected, read back before anybody gets it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.datasets.table.columns import TableRead, labels_of, read_lines
from data.datasets.table.config import TableConfig
from data.datasets.table.corrections import Change, edits_of, expected_codes
from data.datasets.table.each import own_sheet
from data.datasets.table.formats import class_names_beside, image_folder
from data.datasets.table.labelled import OwnLabels
from data.datasets.table.rewriting import rewritten
from data.datasets.table.seen import TICKS
from data.datasets.table.sheet import is_sheet, read_sheet
from utils.checks import UserError, require
from utils.types import ABSENT, PRESENT, Codes


class OpenTable(NamedTuple):
    """A table, and how it is read."""

    path: Path
    config: TableConfig
    """What holds for this one."""
    fixed: tuple[str, ...] | None
    folder: Path
    read: TableRead
    labels: OwnLabels


def open_table(path: Path, config: TableConfig, path_images: Path) -> OpenTable:
    """Read a table that is to be corrected.

    Args:
        path: the file.
        config: as it is read in training, with all tables.
        path_images: folder of the images.

    Raises:
        UserError: the file is no table, or cannot be read.
    """
    require(path.is_file() or path.is_dir(), f"{path}: no such file; check --table")
    require(
        is_sheet(path),
        f"--apply: corrects tables with a line per image or per class, and {path} is none; write the corrections as a "
        "table, and read it before this one: --table corrections.csv ... --repeated first",
    )
    several = max(len(config.table or ()), len(config.test_table or ())) > 1
    sheet, own = own_sheet(path, config, several=several)
    fixed, folder = class_names_beside(config, path), image_folder(path_images, path)
    read = read_lines(sheet, own, fixed, folder)
    return OpenTable(path, own, fixed, folder, read, labels_of(read, own))


class CorrectedTable(NamedTuple):
    """A corrected file that is not written yet."""

    content: bytes
    flags: Mapping[str, str]
    """Settings that reading it needs besides those of the old table, as its columns are not told apart without."""


def corrected(table: OpenTable, changes: Sequence[Change]) -> CorrectedTable:
    """The file of a table with some labels changed, in its own form.

    Args:
        table: the table.
        changes: of images and classes that it has, each label once.

    Raises:
        UserError: its form cannot say what a label is to be, or would say something else of another label.
    """
    content = rewritten(table.read.sheet, edits_of(table.read, table.config, changes), table.config.encoding)
    labels, found = table.labels, _kept_settings(table)
    wanted = expected_codes(labels.codes, labels.ids, labels.classes, changes)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / table.path.name
        file.write_bytes(content)
        try:
            again = _labels_of(file, table, found)
        except UserError as error:
            raise UserError(f"with these decisions: {str(error).replace(str(file), str(table.path))}") from error
        _require_same(table, again, wanted, changes)
        alike = _is_read_alike(file, table, again)
    return CorrectedTable(content, {} if alike else found)


def _kept_settings(table: OpenTable) -> dict[str, str]:
    """What was found about the columns of a table, as settings that say it."""
    found = dict(table.labels.found)
    classes = [table.read.sheet.column(title) for title in table.read.roles.classes]
    marks = {text.lower() for column in classes for text in column.texts if text}
    if table.config.blank is None and classes and marks <= TICKS:
        found["blank"] = "absent"  # of a class without a tick nobody could tell
    return found


def _labels_of(file: Path, table: OpenTable, settings: Mapping[str, Any]) -> OwnLabels:
    """The labels of a file by the settings of a table and some more. Raises: UserError."""
    config = replace(table.config, **settings)
    return labels_of(read_lines(read_sheet(file, config.encoding), config, table.fixed, table.folder), config)


def _is_read_alike(file: Path, table: OpenTable, wanted: OwnLabels) -> bool:
    """True if a file is read in the same way without further settings."""
    try:
        found = _labels_of(file, table, {})
    except UserError:
        return False
    same = (found.ids, found.classes) == (wanted.ids, wanted.classes)
    return same and bool((found.codes == wanted.codes).all())


def _require_same(table: OpenTable, found: OwnLabels, wanted: Codes, changes: Sequence[Change]) -> None:
    """Raise UserError unless what was read back are the labels (N, C) that are wanted, of the same images."""
    labels = table.labels
    new = set(found.classes) - set(labels.classes)
    require(
        found.ids == labels.ids and not new,
        f"{table.path}: with these decisions it would be read with other images or classes; name its columns "
        "(--label_column or --class_columns, --label_separator), and audit it so",
    )
    codes = np.full(wanted.shape, ABSENT, dtype=np.int8)  # of a class that no image has any more
    codes[:, [labels.classes.index(name) for name in found.classes]] = found.codes
    differs = np.argwhere(codes != wanted)
    if len(differs):
        row, label = differs[0].tolist()
        image, name = labels.ids[row], labels.classes[label]
        mine = any((one.image, one.label) == (image, name) for one in changes)
        raise UserError(
            f"{table.path}: {name!r} of {image!r} would "
            + ("not be what was decided" if mine else "change too, as it stands in the same line")
            + f" ({' instead of '.join(_WORDS[int(each[row, label])] for each in (codes, wanted))}); leave it out"
        )


_WORDS = {PRESENT: "present", ABSENT: "absent", -1: "unknown"}
