"""Tables of a user's own labels in any form: one line per image, per image and annotator, or per image and class.

`sheet` reads the cells, `seen` looks at the columns, `decided` says what each is for; here they become labels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from data.datasets.table.codes import (
    LineLabels,
    NameList,
    class_columns,
    name_column,
    read_name_list,
    without_empty,
)
from data.datasets.table.config import TableConfig, joined_list, split_list
from data.datasets.table.decided import decide
from data.datasets.table.image_labels import ImageLines, LineValues, image_labels, line_values, require_value_said
from data.datasets.table.labelled import (
    OwnLabels,
    check_id,
    sorted_by_id,
)
from data.datasets.table.matching import ImageFolder, all_plain, image_id
from data.datasets.table.roles import Roles, quoted
from data.datasets.table.seen import UNCERTAIN, look
from data.datasets.table.sheet import Sheet, read_sheet
from data.datasets.table.soft import soft_note, soft_policy
from data.datasets.table.split_cells import line_splits
from utils.checks import UserError, require
from utils.types import PRESENT, UNKNOWN, Index

Kind = TypeVar("Kind", bound=np.generic)

_LOOKED_AT = 5  # of these, before the folder is listed
_SAMPLE = 200  # cells of a column that are looked for among the files


class TableRead(NamedTuple):
    """A table before its lines become images."""

    sheet: Sheet
    roles: Roles
    images: ImageLines
    lines: LineLabels
    values: LineValues | None

    def counted(self, code: int) -> Index:
        """(C,) how many entries are UNKNOWN, or `UNCERTAIN`."""
        return self.lines.counted(code) if self.values is None else self._named(self.values.codes == code)

    @property
    def soft(self) -> Index:
        """(C,) how many entries have a value between 0 and 1."""
        soft = self.lines.soft if self.values is None else self.values.soft
        if soft is None:
            return np.zeros(len(self.lines.classes), dtype=np.int64)
        valued: NDArray[np.bool_] = ~np.isnan(soft)
        return valued.sum(axis=0, dtype=np.int64) if self.values is None else self._named(valued)

    def _named(self, lines: NDArray[np.bool_]) -> Index:
        """(C,) how many of some lines (L,) name each class."""
        assert isinstance(self.lines.cells, csr_array)  # values stand beside names only
        named = self.lines.cells[np.flatnonzero(lines)].indices
        return np.bincount(named, minlength=len(self.lines.classes))


def read_table(path: Path, config: TableConfig, fixed: tuple[str, ...] | None, folder: Path) -> TableRead:
    """Read the lines of a table.

    Args:
        path: the file.
        config: what is asked for of its columns.
        fixed: the names of `classes.txt`, for labels written as names; None without that file.
        folder: the image folder; its files are looked at where no title says which column names images.

    Raises:
        UserError: the file is missing, damaged, empty or lacks a column, a cell has an invalid value, or two readings
            are equally likely.
    """
    return read_lines(read_sheet(path, config.encoding), config, fixed, folder)


def read_lines(sheet: Sheet, config: TableConfig, fixed: tuple[str, ...] | None, folder: Path) -> TableRead:
    """The same for a table whose cells are read. Raises: UserError as `read_table` does."""
    roles = find_roles(sheet, config, folder)
    images = image_lines(sheet, roles.images, folder)
    listed = read_name_list(config.class_names, config.label_separator) if config.class_names else None
    policy = soft_policy(config.soft_labels)
    values = line_values(sheet, roles, policy)
    lines = _line_labels(sheet, roles, config, fixed, listed)
    if config.repeated == "refuse" and images.repeated and lines.one_each:
        require_value_said(sheet, roles)
    return TableRead(sheet, roles, images, lines, values)


def labels_of(read: TableRead, config: TableConfig, known: Sequence[str] = ()) -> OwnLabels:
    """The labels of the images of a table.

    Args:
        read: the table.
        config: how lines become images.
        known: the classes of all tables, where there are several; a file of `--uncertain` may name each of them.

    Raises:
        UserError: lines do not fit together.
    """
    sheet, roles, images, lines, values = read
    labels = image_labels(sheet, images, lines, values, config, known)
    splits = _of_images(sheet, images, line_splits(sheet, roles.split), "split")
    groups = _groups(sheet, roles, images)
    decided = (*_role_notes(sheet, roles, lines), *_code_notes(read, config), *_soft_notes(read, config))
    said = (*sheet.notes, *decided, *lines.notes, *labels.notes)
    found = _found(roles, lines)
    own = OwnLabels(images.ids, lines.classes, labels.codes, splits, lines.closed, None, said, found, groups)
    return sorted_by_id(own._replace(soft=labels.soft))


def _code_notes(read: TableRead, config: TableConfig) -> Iterator[str]:
    """Lines about entries that are unknown because nobody has said what they are."""
    uncertain, blank = (int(read.counted(code).sum()) for code in (UNCERTAIN, UNKNOWN))
    if uncertain and config.uncertain == "unknown":
        yield f"{read.sheet.path}: {uncertain:,} entries of -1 are unknown; --uncertain says otherwise"
    if blank and config.blank is None and read.roles.labels is None:
        yield f"{read.sheet.path}: {blank:,} blank entries are unknown; --blank says otherwise"


def _soft_notes(read: TableRead, config: TableConfig) -> tuple[str, ...]:
    """A line about values between 0 and 1, where something was said of them."""
    policy = soft_policy(config.soft_labels)
    return () if policy is None else (soft_note(read.sheet.path, int(read.soft.sum()), policy),)


def _found(roles: Roles, lines: LineLabels) -> dict[str, str]:
    """The settings that give the same reading again, whatever else comes to be on disk or in the table."""
    found = {"image_column": joined_list(roles.images)}
    if roles.labels is None:
        found["class_columns"] = joined_list(roles.classes)
    else:
        found["label_column"] = roles.labels
    if lines.reading is not None and lines.reading.separator is not None:
        found["label_separator"] = lines.reading.separator
    if roles.split:
        found["split_column"] = joined_list(roles.split)
    return found


def find_roles(sheet: Sheet, config: TableConfig, folder: Path) -> Roles:
    """What each column of a table is for. Raises: UserError as `decide` does."""
    disk = ImageFolder(folder)

    def files_in(title: str) -> int:
        """Number of images that the first cells of a column name."""
        cells = (_id_or_none(text, folder) for text in sheet.column(title).texts[:_SAMPLE] if text)
        names = list(filter(None, cells))
        near = sum(os.path.isfile(f"{folder}/{name}") for name in names[:_LOOKED_AT])  # noqa: PTH113 - never raises
        return near or disk.holds(names)

    return decide(look(sheet), config, files_in)


def image_lines(sheet: Sheet, titles: Sequence[str], folder: Path) -> ImageLines:
    """The images that lines name, in one column or in several.

    Raises: UserError for a name that leads out of the folder, or a line that names none.
    """
    only = sheet.column(titles[0])
    if len(titles) == 1 and all_plain(only.texts):
        return ImageLines(only.texts, only.at.astype(np.int64), np.arange(sheet.rows))
    number_of: dict[str, int] = {}
    image, line = [], []
    named = np.zeros(sheet.rows, dtype=bool)
    for title in titles:
        column = sheet.column(title)
        of_text = np.full(len(column.texts), -1, dtype=np.int64)
        for text, cell in enumerate(column.texts):
            if cell or len(titles) == 1:
                try:
                    name = _checked_id(cell, "", folder)
                except UserError:  # finding the line takes time
                    name = _checked_id(cell, f"{sheet.where(column.row_of(text))}, column {title!r}", folder)
                of_text[text] = number_of.setdefault(name, len(number_of))
        found = of_text[column.at]
        named |= found >= 0
        image.append(found[found >= 0])
        line.append(np.flatnonzero(found >= 0))
    if not named.all():
        row = int(np.argmin(named))
        raise UserError(f"{sheet.where(row)}: names no image in {quoted(titles)}")
    return ImageLines(tuple(number_of), np.concatenate(image), np.concatenate(line).astype(np.int64))


def _checked_id(cell: str, where: str, folder: Path) -> str:
    """The id of an image in a cell. Raises: UserError for what is no path inside the folder."""
    require(cell[:2] not in ('{"', "[{"), f"{where}: holds {cell[:60]!r}, not a path")
    name = image_id(cell, where, folder)
    if name != cell or not cell.isprintable():
        check_id(name, where, {})
    return name


def _id_or_none(text: str, folder: Path) -> str | None:
    try:
        return image_id(text, "", folder)
    except UserError:
        return None


def _line_labels(
    sheet: Sheet, roles: Roles, config: TableConfig, fixed: tuple[str, ...] | None, listed: NameList | None
) -> LineLabels:
    """The labels of each line. Raises: UserError as the readers of both forms do."""
    separator, empty = config.label_separator, frozenset(split_list(config.empty_names))
    whole = roles.value is not None
    named = roles.twin or roles.labels
    names = None if named is None else name_column(sheet, named, separator, fixed, listed, empty, whole=whole)
    if names is not None and not roles.classes:
        return names
    policy = soft_policy(config.soft_labels)
    columns = class_columns(sheet, roles.classes, config.blank, separator, listed, policy)
    columns = without_empty(sheet.path, columns, empty)
    if names is not None:
        _require_same(sheet, str(roles.twin), names, columns)
    return columns if roles.labels is None or names is None else names


def _require_same(sheet: Sheet, named: str, names: LineLabels, columns: LineLabels) -> None:
    """Check that labels that are there twice agree. Raises: UserError naming the first line where they do not."""
    place = {title.casefold(): label for label, title in enumerate(columns.classes)}
    missing = [name for name in names.classes if name.casefold() not in place]
    require(not missing, f"{sheet.path}: column {named!r} names {missing[:1]}, but no column is called so")
    there = np.zeros(columns.codes.shape, dtype=bool)
    there[:, [place[name.casefold()] for name in names.classes]] = names.codes == PRESENT
    differs = (there != (columns.codes == PRESENT)) & (columns.codes != UNKNOWN)
    if differs.any():
        line, label = (int(one) for one in np.argwhere(differs)[0])
        raise UserError(
            f"{sheet.where(line)}: column {named!r} and column {columns.classes[label]!r} disagree; name the one that "
            "holds with --label_column, or --class_columns"
        )


def _groups(sheet: Sheet, roles: Roles, images: ImageLines) -> Index | None:
    """(N,) the group of each image: of a column, or the line where that names several images; None without either."""
    if roles.group is not None:
        return _of_images(sheet, images, sheet.column(roles.group).at.astype(np.int64), "group")
    if len(roles.images) > 1:
        return _of_images(sheet, images, np.arange(sheet.rows), "line")
    return None


def where_of(read: TableRead, image: str) -> str:
    """File and line where a table names an image for the first time."""
    number = read.images.ids.index(image)
    return read.sheet.where(int(read.images.line[read.images.image == number].min()))


def group_texts(read: TableRead) -> tuple[str, ...] | None:
    """What the groups of a table are called, by their numbers; None without a column of groups."""
    return None if read.roles.group is None else read.sheet.column(read.roles.group).texts


def _of_images(sheet: Sheet, images: ImageLines, values: NDArray[Kind], what: str) -> NDArray[Kind]:
    """(N,) what each image has, of what its lines (L,) have. Raises: UserError where two lines differ."""
    found = np.empty(len(images.ids), dtype=values.dtype)
    found[images.image] = values[images.line]
    wrong = found[images.image] != values[images.line]
    if wrong.any():
        at = int(np.argmax(wrong))
        name = images.ids[images.image[at]]
        raise UserError(f"{sheet.where(int(images.line[at]))}: image {name[:200]!r} has another {what} in another line")
    return found


def _role_notes(sheet: Sheet, roles: Roles, lines: LineLabels) -> Iterator[str]:
    """A line for each decision that another flag could change."""
    path = sheet.path
    by = {role.title: role for role in roles.read}

    def told(title: str) -> str:
        return f"column {title!r} ({by[title].why})"

    yield f"{path}: images of {' and '.join(map(told, roles.images))}; --image_column names another"
    if roles.labels is not None:
        yield (
            f"{path}: {len(lines.classes)} classes named in {told(roles.labels)}, {lines.reading}; --label_column and "
            "--label_separator say otherwise"
        )
    else:
        yield f"{path}: {len(lines.classes)} classes, a column each; --class_columns, --ignore_columns choose others"
    if roles.split:
        yield f"{path}: split by {' and '.join(map(told, roles.split))}; --split_column names another"
    rest = [role for role in roles.read if role.role == "not read"]
    if rest:
        shown = ", ".join(f"{role.title[:40]!r} ({role.why})" for role in rest[:6])
        yield f"{path}: not read: {shown}{f', ... ({len(rest)} in all)' if len(rest) > 6 else ''}"
