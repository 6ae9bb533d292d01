"""From the lines of a table to the labels of its images: one line each, several annotators, or a line per class.

L lines, M mentions of N images, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.datasets.dense import require_room
from data.datasets.table.codes import LineLabels, settled, uncertain_policy
from data.datasets.table.config import TableConfig
from data.datasets.table.decided import VALUE_TITLES, plain_title
from data.datasets.table.repeated import Pairs, agreement, clash, combined, first_lines, of_pairs, pair_targets
from data.datasets.table.roles import Roles
from data.datasets.table.seen import code_of
from data.datasets.table.sheet import Sheet
from data.datasets.table.soft import SoftPolicy, cell_values, refuse_value, soft_policy, targets_of
from utils.checks import UserError, require
from utils.types import ABSENT, PRESENT, UNKNOWN, Codes, Index, SoftTargets


class ImageLines(NamedTuple):
    """Which images the lines of a table name. M mentions of N images."""

    ids: tuple[str, ...]
    image: Index
    """(M,) which of the images."""
    line: Index
    """(M,) in which line."""

    @property
    def repeated(self) -> bool:
        """Whether an image stands in several lines."""
        return len(self.image) > len(self.ids)


class LineValues(NamedTuple):
    """What the lines of a table say of the one class that each names."""

    codes: Codes
    """(L,), `UNCERTAIN` included."""
    soft: NDArray[np.float32] | None
    """(L,) values between 0 and 1, NaN where the code says all; None where there are none."""


class ImageLabels(NamedTuple):
    """Labels of the images of a table."""

    codes: Codes
    """(N, C)."""
    soft: SoftTargets | None
    """(N, C) in [0, 1], -1 unknown; None where labels are hard."""
    notes: tuple[str, ...]


def line_values(sheet: Sheet, roles: Roles, policy: SoftPolicy | None) -> LineValues | None:
    """What each line says of its class; None without a column of values.

    Raises: UserError for a cell that is no code and no value that is allowed, or without a column of names beside it.
    """
    if roles.value is None:
        return None
    require(roles.labels is not None, f"--value_column {roles.value}: needs a column of class names, --label_column")
    column = sheet.column(roles.value)
    found = cell_values(column.texts, [code_of(text) for text in column.texts], policy)
    if None in found.codes:
        text = found.codes.index(None)
        where = sheet.where(column.row_of(text))
        refuse_value(column.texts[text], where, roles.value, policy)
        raise UserError(
            f"{where}: {column.texts[text][:40]!r} in column {roles.value!r} must be 1 (present) or 0 (absent)"
        )
    soft = np.array(found.soft, dtype=np.float32)[column.at] if found.has_soft else None
    return LineValues(np.array(found.codes, dtype=np.int8)[column.at], soft)


def require_value_said(sheet: Sheet, roles: Roles) -> None:
    """Check that no column contradicts lines that name a class each, by its title and by a cell that says absent.

    Raises: UserError for such a column that no flag has settled.
    """
    unread = {role.title for role in roles.read if role.role == "not read" and role.why != "--ignore_columns"}
    likely = [
        column for column in sheet.columns if column.title in unread and plain_title(column.title) in VALUE_TITLES
    ]
    for column in likely if roles.labels is not None and roles.value is None else ():
        found = cell_values(column.texts, [code_of(text) for text in column.texts], soft_policy("keep"))
        if None not in found.codes and ABSENT in found.codes:
            text = found.codes.index(ABSENT)
            soft = " --soft_labels threshold=0.5" if found.has_soft else ""
            raise UserError(
                f"{sheet.where(column.row_of(text))}: names a class in column {roles.labels!r}, but holds "
                f"{column.texts[text]!r} in column {column.title!r}; give --value_column {column.title}{soft} if that "
                f"means absent, else --ignore_columns {column.title}"
            )


def image_labels(
    sheet: Sheet,
    images: ImageLines,
    lines: LineLabels,
    values: LineValues | None,
    config: TableConfig,
    known: Sequence[str] = (),
) -> ImageLabels:
    """The labels of the images of a table; `known` as in `uncertain_policy`.

    Raises: UserError for an image in several lines that do not say how they belong together, or contradict each other.
    """
    require_room(sheet.path, len(images.ids), len(lines.classes))
    policy, soft = uncertain_policy(config.uncertain, lines.classes, known), soft_policy(config.soft_labels)
    keep = soft is not None and soft.keep
    if values is not None or (images.repeated and config.repeated == "refuse" and lines.one_each):
        require(lines.one_each, f"{sheet.path}: --value_column is for one class per line, but lines name several")
        return _labels_of_pairs(sheet, images, lines, values, policy, keep=keep)
    codes = settled(lines.codes, policy)
    targets = targets_of(codes, lines.soft) if keep and lines.soft is not None else None
    if not images.repeated:
        line = images.line[np.argsort(images.image)]
        return ImageLabels(codes[line], None if targets is None else targets[line], ())
    if config.repeated == "refuse":
        raise UserError(_repeated_refusal(sheet, images))
    if targets is not None:
        require(
            config.repeated == "first",
            f"{sheet.path}: --repeated {config.repeated}: takes marks together, not the values that --soft_labels keep "
            "keeps; take --repeated first, or --soft_labels threshold=0.5",
        )
        targets = targets[images.line][first_lines(images.image, len(images.ids))]
    return _combined(sheet, images, codes[images.line], config.repeated)._replace(soft=targets)


def _combined(sheet: Sheet, images: ImageLines, codes: Codes, how: str) -> ImageLabels:
    """The labels of images in several lines, of which `codes` (M, C) are those of each mention."""
    number = len(images.ids)
    agreed = agreement(codes, images.image, number)
    note = (
        f"{sheet.path}: {sheet.rows} lines of {number} images, taken together by --repeated {how}; annotators "
        f"agree on {np.nanmean(agreed) if np.isfinite(agreed).any() else 1:.1%} of the labels that several know"
    )
    return ImageLabels(combined(codes, images.image, number, how), None, (note,))


def _labels_of_pairs(
    sheet: Sheet, images: ImageLines, lines: LineLabels, values: LineValues | None, policy: Index, *, keep: bool
) -> ImageLabels:
    """The labels of images of which each line tells one class. Raises: UserError for two that differ."""
    number = len(images.ids)
    pairs, line = _pairs(images, lines, values, policy, keep=keep)
    wrong = clash(pairs)
    if wrong is not None:
        first, second = (sheet.where(int(line[one])) for one in wrong)
        image, label = (int(of_pair[wrong.second]) for of_pair in (pairs.image, pairs.label))
        raise UserError(
            f"{second}: {images.ids[image]!r} and {lines.classes[label]!r} have another value than in {first}; "
            "correct one of them"
        )
    codes = of_pairs(pairs, number, len(lines.classes))
    if lines.none is not None:
        none = lines.none if values is None else lines.none & (values.codes == PRESENT)
        rows = images.image[none[images.line]]
        codes[rows] = np.where(codes[rows] == UNKNOWN, ABSENT, codes[rows])
    rest = "unknown, as some lines say absent" if bool((pairs.codes == ABSENT).any()) else "absent"
    note = (
        f"{sheet.path}: a line per image and class, {sheet.rows} lines of {number} images; what has no line is {rest}"
    )
    return ImageLabels(codes, None if pairs.soft is None else pair_targets(pairs, codes), (note,))


def _pairs(
    images: ImageLines, lines: LineLabels, values: LineValues | None, policy: Index, *, keep: bool
) -> tuple[Pairs, Index]:
    """The pairs of an image and a class that lines tell, and (P,) in which line each is."""
    label = lines.label[images.line]
    told = np.flatnonzero(label >= 0)
    label, line = label[told], images.line[told]
    codes = np.full(len(line), PRESENT, dtype=np.int8) if values is None else settled(values.codes[line], policy[label])
    soft = values.soft[line] if keep and values is not None and values.soft is not None else None
    return Pairs(images.image[told], label, codes, soft), line


def _repeated_refusal(sheet: Sheet, images: ImageLines) -> str:
    """The message for an image in two lines."""
    order = np.argsort(images.image, kind="stable")
    same = np.flatnonzero(np.diff(images.image[order]) == 0)
    first, second = (sheet.where(int(images.line[order[at]])) for at in (same[0], same[0] + 1))
    name = images.ids[images.image[order[same[0]]]]
    return (
        f"{second}: image {name[:200]!r} is there already ({first}); write it once, with all its labels, or say with "
        "--repeated how several lines belong together (union, majority, unknown, first)"
    )
