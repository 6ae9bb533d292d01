"""What each column of a table is for: image, labels, a class, split, value, group, or nothing that is read.

A function of what was seen and what was asked for, without files. What a flag says holds; a title that is known decides
next, then what the cells look like; where two readings are equally likely there is a refusal that names the flag.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from data.datasets.table.config import TableConfig
from data.datasets.table.roles import Role, Roles, listed, quoted, requested
from data.datasets.table.seen import ColumnSeen, TableSeen
from data.datasets.table.soft import FLAG
from utils.checks import UserError, require

IMAGE_TITLES = ("image", "file", "filename", "file_name", "filepath", "path", "img", "image_path", "picture")
"""Titles of image paths, in lower case; the first in the order of the table is meant."""
MORE_IMAGE_TITLES = (
    *("imagename", "imageindex", "imageid", "imagefile", "imagefilename", "imgname", "imgid", "imgpath", "fname"),
    *("photo", "photoname", "photoid", "photopath", "picturename", "galaxyid", "filenames", "images", "imageurl", "id"),
)
"""The same for others without blanks, lines and capitals, the first here is meant."""
LABEL_TITLES = ("labels", "label", "classes", "tags")
"""Titles of class names, in lower case; the first in the order of the table is meant."""
LABEL_WORDS = ("label", "tag", "class", "finding", "genre", "species", "target", "attribute", "choice")
"""Words in other titles of class names."""
SPLIT_TITLES = ("split", "set", "subset", "phase")
MARKED_SPLITS = {"is_train": 0, "is_valid": 1, "is_val": 1, "is_test": 2}
"""Titles of columns that mark one split, and which."""
FOLD_TITLES = ("fold", "folds", "kfold", "cv_fold")
VALUE_TITLES = ("confidence", "conf", "value", "present", "presence", "ispresent", "score", "probability", "prob")
"""Titles, without blanks, lines and capitals, of what lines of one class each say of it."""
_NO_NAME = re.compile(r"[a-z][a-z0-9+.-]*://\S+|[+-]?\d+\.\d+|\d{4}-\d\d-\d\d([ T].*)?", re.IGNORECASE)
"""Addresses, fractions and dates, which are no names of classes."""
_MOST_MARKS = 3  # present, absent, unknown
_PERSONAL = frozenset(("age", "sex", "gender", "weight", "height"))
"""Words in titles of what images of one person have in common with those of others."""
GROUP_WORDS = (
    "patient",
    "subject",
    "person",
    "site",
    "location",
    "burst",
    "sequence",
    "case",
    "study",
    "camera",
    "group",
)
"""Words in titles of what images may have in common, for the hint of an inspection."""


def decide(table: TableSeen, config: TableConfig, files_in: Callable[[str], int]) -> Roles:
    """Decide what each column is for.

    Args:
        table: what it looks like.
        config: what was asked for.
        files_in: how many cells of a column name a file of the image folder; asked only where no title decides.

    Raises:
        UserError: a column that was asked for does not exist, one column would be two things, no column of images or
            labels is found, or two are equally likely.
    """
    why: dict[str, Role] = {}
    ignored = listed(config.ignore_columns, table, "ignore_columns")
    images = _image_columns(table, config, ignored, files_in, why)
    split = _split_columns(table, config, ignored, why)
    value, group = (requested(table, name, getattr(config, name), why) for name in ("value_column", "group_column"))
    for title in ignored:
        why[title] = Role(title, "not read", "--ignore_columns")
    taken = [title for title in (*images, *split, value, group, *ignored) if title is not None]
    labels, classes, twin = _label_columns(table, config, taken, why)
    _require_one_role(table, [*taken, *([labels] if labels else classes)])
    for column in table.columns:
        why.setdefault(column.title, Role(column.title, "not read", _why_not(column)))
    return Roles(images, labels, classes, split, value, group, twin, tuple(why[title] for title in table.titles))


def _image_columns(
    table: TableSeen,
    config: TableConfig,
    ignored: Sequence[str],
    files_in: Callable[[str], int],
    why: dict[str, Role],
) -> tuple[str, ...]:
    """The columns of image paths: as asked for, by title, or the one whose cells are files.

    Where the title is not among the usual ones (`id`), and another column's cells are files, its own must be files too.
    """
    if config.image_column is not None:
        chosen = listed(config.image_column, table, "image_column")
        why.update({title: Role(title, "image", "--image_column") for title in chosen})
        return chosen
    other = {config.label_column, config.value_column, config.group_column, *ignored}
    other |= {
        *listed(config.class_columns, table, "class_columns"),
        *listed(config.split_column, table, "split_column"),
    }
    free = [title for title in table.titles if title not in other]
    usual = next((title for title in free if title.lower() in IMAGE_TITLES), None)
    by_plain = {plain_title(title): title for title in reversed(free)}
    more = next((by_plain[name] for name in MORE_IMAGE_TITLES if name in by_plain), None)
    found, reason = usual or more, "its title"
    if usual is None and (more is None or not (config.image_pattern or files_in(more))):
        by_files = _column_of_files(table, [title for title in free if title != more], files_in)
        found, reason = (by_files, "its cells are files of the image folder") if by_files else (more, reason)
    if found is None:
        usual_names = ", ".join(IMAGE_TITLES)
        raise UserError(
            f"{table.path}: no column of image paths ({usual_names}, or one whose cells are files of --path_images); "
            f"it has {quoted(table.titles)}: name it with --image_column"
        )
    why[found] = Role(found, "image", reason)
    return (found,)


def plain_title(title: str) -> str:
    """A title without blanks, lines and capitals."""
    return re.sub(r"[\W_]+", "", title.lower())


def _column_of_files(table: TableSeen, free: Sequence[str], files_in: Callable[[str], int]) -> str | None:
    """The one column whose cells are files; None if none is. Raises: UserError for two."""
    found = {title: files_in(title) for title in free if table.column(title).content in ("other", "count", "mixed")}
    found = {title: number for title, number in found.items() if number}
    if len(found) > 1:
        shown = " and ".join(repr(title) for title in list(found)[:2])
        raise UserError(
            f"{table.path}: the cells of {shown} are files of the image folder; name the column of the images, or "
            "both, with --image_column"
        )
    return next(iter(found), None)


def _split_columns(
    table: TableSeen, config: TableConfig, ignored: Sequence[str], why: dict[str, Role]
) -> tuple[str, ...]:
    """The column of splits, or those that mark one split each."""
    if config.split_column is not None:
        chosen = listed(config.split_column, table, "split_column")
        why.update({title: Role(title, "split", "--split_column") for title in chosen})
        return chosen
    free = [title for title in table.titles if title not in ignored and title not in why]
    found = next((title for title in free if title.lower() in SPLIT_TITLES), None)
    marked = [title for title in free if title.lower() in MARKED_SPLITS and table.column(title).content == "codes"]
    chosen = (found,) if found is not None else tuple(marked)
    why.update({title: Role(title, "split", "its title") for title in chosen})
    for title in free:
        if title.lower() in FOLD_TITLES:
            why[title] = Role(title, "not read", "a fold; --split_column if it is the split")
    return chosen


class LabelColumns(NamedTuple):
    """Where the labels are: a column of class names, or columns of one class each, or both."""

    labels: str | None
    classes: tuple[str, ...]
    twin: str | None


def _label_columns(table: TableSeen, config: TableConfig, taken: Sequence[str], why: dict[str, Role]) -> LabelColumns:
    """The column of class names, or else the columns of one class each; a column of names beside those of its classes.

    Where the same labels are there twice, those of a column with one of `LABEL_TITLES` are read, else the columns.
    """
    told = _asked_labels(table, config, why)
    if told is not None:
        return told
    free = [column for column in table.columns if column.title not in taken and column.title not in why]
    asked = config.soft_labels != "refuse"
    coded = _coded(table, free, soft=asked)
    usual = next((column.title for column in free if column.title.lower() in LABEL_TITLES), None)
    if usual is not None and (config.value_column or not _is_class(table.column(usual))):
        why[usual] = Role(usual, "labels", "its title")
        twice = bool(coded) and _names_the_columns(table, usual, coded)
        return LabelColumns(usual, coded if twice else (), usual if twice else None)
    named, reason = _column_of_names(table, free, anything=not coded)
    if named is not None and not (coded and _names_the_columns(table, named, coded)):
        why[named] = Role(named, "labels", reason)
        return LabelColumns(named, (), None)
    _require_classes(table, free, coded, soft=asked)
    for title in coded:
        cells = "values from 0 to 1" if table.column(title).is_soft else "codes"
        why[title] = Role(title, "class", f"its cells are {cells}")
    if named is not None:
        why[named] = Role(named, "not read", "the same labels as in the columns")
    return LabelColumns(None, coded, named)


def _asked_labels(table: TableSeen, config: TableConfig, why: dict[str, Role]) -> LabelColumns | None:
    """The labels that flags name; None without any. Raises: UserError for both kinds, or a column that is not there."""
    labels = requested(table, "label_column", config.label_column, why)
    wanted = listed(config.class_columns, table, "class_columns")
    require(
        labels is None or not wanted,
        "--label_column and --class_columns: labels are a column of names or a column per class; give one of the two",
    )
    why.update({title: Role(title, "class", "--class_columns") for title in wanted})
    return LabelColumns(labels, wanted, None) if labels or wanted else None


def _is_class(column: ColumnSeen) -> bool:
    """True for a column that holds what a class has, and so no names."""
    return column.content == "codes" or column.is_soft


def _coded(table: TableSeen, free: Sequence[ColumnSeen], *, soft: bool) -> tuple[str, ...]:
    """Columns of codes, ticks or with `soft` values from 0 to 1, and beside them those with a title that are blank."""
    marked = [column for column in free if column.content in ("codes", "ticks") or (soft and column.is_soft)]
    empty = [column for column in free if column.content == "empty" and column.title not in table.untitled and marked]
    return tuple(column.title for column in free if column in (*marked, *empty))


def _require_classes(table: TableSeen, free: Sequence[ColumnSeen], coded: Sequence[str], *, soft: bool) -> None:
    """Check that columns of codes are classes. Raises: UserError for others that hold codes too, no title, or none."""
    nameless = next((title for title in coded if title in table.untitled), None)
    require(
        nameless is None,
        f"{table.path}: {nameless} holds codes, but has no title; give it the name of its class, or --ignore_columns",
    )
    mixed = [column for column in free if column.content == "mixed" or (soft and column.beyond)]
    mixed = [column for column in mixed if not (soft and column.is_soft)]
    valued = [column for column in free if column.is_soft and column.title not in coded]
    if valued and (all(column.is_soft for column in mixed) if mixed else not coded):
        raise UserError(_soft_refusal(table, valued))
    if mixed:
        raise UserError(_mixed_refusal(table, mixed, soft=soft))
    require(
        bool(coded),
        f"{table.path}: no column of labels; it has {quoted(table.titles)}: name the column of class names with "
        "--label_column, or add one called labels, or one per class",
    )


def _mixed_refusal(table: TableSeen, mixed: Sequence[ColumnSeen], *, soft: bool) -> str:
    """The message for columns that hold codes, or with `soft` values from 0 to 1, beside what no class has."""
    shown = ", ".join(f"{column.title!r} ({(soft and column.beyond) or column.odd})" for column in mixed[:4])
    held, has = ("values from 0 to 1", "0 to 1, -1") if soft else ("1 or 0", "1, 0, -1")
    return (
        f"{table.path}: {len(mixed)} columns hold {held} beside other values: {shown}; a class has {has} or "
        "empty cells: name the classes with --class_columns or what is none with --ignore_columns, or the column "
        "of class names with --label_column"
    )


def _soft_refusal(table: TableSeen, valued: Sequence[ColumnSeen]) -> str:
    """The message for values between 0 and 1 that nobody has said the meaning of."""
    shown = ", ".join(f"{column.title!r} ({column.soft})" for column in valued[:4])
    return (
        f"{table.path}: {len(valued)} columns hold values between 0 and 1: {shown}; {FLAG}; or name what is no class "
        "with --ignore_columns, or the column of class names with --label_column"
    )


def _column_of_names(table: TableSeen, free: Sequence[ColumnSeen], *, anything: bool) -> tuple[str | None, str]:
    """The column of class names by a word in its title, or with `anything` the only one left; why.

    Raises: UserError for two that are equally likely.
    """
    texts = [column for column in free if column.content in ("other", "mixed", "codes") and _may_recur(column)]
    texts = [column for column in texts if not column.is_soft]
    named = [column for column in texts if not all(map(_NO_NAME.fullmatch, filter(None, column.texts)))]
    by_word = [column for column in texts if column.content != "codes" and has_label_word(column.title)]
    left = [column for column in named if column.content == "other"] if anything and not by_word else by_word
    if len(left) > 1:
        shown = " and ".join(f"{column.title!r} ({', '.join(column.examples)})" for column in left[:3])
        few = len({text for column in left for text in column.texts if text}) <= _MOST_MARKS
        marks = "; if these are marks of classes, write 1 and 0, True and False, or yes and no" if few else ""
        raise UserError(
            f"{table.path}: class names may be in {shown}; name the column with --label_column, or columns per class "
            f"with --class_columns{marks}"
        )
    reason = "a word in its title" if by_word else "the only column left whose cells recur"
    return (left[0].title, reason) if left else (None, "")


def has_label_word(title: str) -> bool:
    """True for a title with one of `LABEL_WORDS` in it: as a word, with an ending, or within a longer one."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", title).lower()
    words = re.findall(r"[a-z]+", spaced)
    return any(
        word in ("tag", "tags", "hashtags") or any(one in word for one in LABEL_WORDS if one != "tag") for word in words
    )


def _may_recur(column: ColumnSeen) -> bool:
    """True if a cell stands in several rows, or something in it stands in several cells."""
    if column.recurs:
        return True
    parts: set[str] = set()
    for text in column.texts:
        found = set(re.split(r"[;|,/#+\s\[\]'\"]+", text)) - {""}
        if parts & found:
            return True
        parts |= found
    return False


def _names_the_columns(table: TableSeen, named: str, coded: Sequence[str]) -> bool:
    """True if all names in a column are titles of the coded ones, so that the same labels are there twice.

    Raises: UserError if only some are, and the title of the column does not decide.
    """
    titles = {title.casefold() for title in coded}
    found = {part.strip().casefold() for text in table.column(named).texts for part in _name_parts(text)} - {""}
    if not found & titles:
        return False
    if found <= titles or named.lower() in LABEL_TITLES:
        return found <= titles
    raise UserError(
        f"{table.path}: column {named!r} names some of the columns of codes and others ({min(found - titles)!r}); say "
        "which labels hold: --label_column, or --class_columns"
    )


def _name_parts(text: str) -> list[str]:
    return re.findall(r"[^;|,\[\]'\"]+", text)


def _require_one_role(table: TableSeen, taken: Iterable[str]) -> None:
    seen: set[str] = set()
    for title in taken:
        require(title not in seen, f"{table.path}: column {title!r} cannot be two of image, labels and split")
        seen.add(title)


def _why_not(column: ColumnSeen) -> str:
    """Why a column is not read."""
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column.title).lower())
    if plain_title(column.title) in VALUE_TITLES and column.content == "codes":
        return "--value_column if it says whether the class of its line is present"
    if column.recurs and any(word in GROUP_WORDS for word in words) and _PERSONAL.isdisjoint(words):
        return "holds other things; --group_column if images of one belong together"
    if column.is_soft:
        return "values from 0 to 1; --class_columns and --soft_labels if it is a class"
    return {
        "empty": "empty",
        "count": "the numbers of the rows",
        "codes": "codes, but labels are read elsewhere",
        "ticks": "marks, but labels are read elsewhere",
    }.get(column.content, "holds other things")
