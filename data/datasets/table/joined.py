"""Several tables as one: images and classes of all of them, unknown where a table lacks a class. N images, C classes.

Each table has been read for itself before. No file is read here, but for the lines that a message names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data.datasets.table.config import named
from data.datasets.table.joined_images import Files, JoinedImages, TableLabels, joined_images, naming
from data.datasets.table.labelled import NO_SPLIT, TEST, TRAIN, VALIDATION, OwnLabels, check_classes, with_classes
from data.datasets.table.repeated import Kind, agreement, combined, first_known
from utils.checks import UserError, require
from utils.types import ABSENT, PRESENT, UNKNOWN, Boxes, Codes, Index, SoftTargets

_SPLITS = {TRAIN: "train", VALIDATION: "val", TEST: "test"}
_SHOWN = 3  # classes in a note


class Joined(NamedTuple):
    """What several tables say together."""

    labels: OwnLabels
    agreement: NDArray[np.float64] | None
    """(C,) share of the images in several tables on which those that know a class agree; None without such images."""


def joined(
    tables: Sequence[TableLabels],
    repeated: str,
    order: Sequence[str] = (),
    rest: int = TRAIN,
    files: Files = lambda ids: {},
) -> Joined:
    """The labels of several tables as those of one.

    Args:
        tables: two or more.
        repeated: how the entries of an image in two tables belong together; `refuse` allows none.
        order: classes that come first, in this order; the others follow as the tables have them.
        rest: split of the images whose tables name none, where another table names some.
        files: the files of images, by which two names are one image.

    Raises:
        UserError: an image is in two tables and that is refused, it has two splits or groups, or a class is written in
            two ways.
    """
    classes = union_of_classes(tables, order)
    images = joined_images(tables, files)
    if repeated == "refuse":
        _require_apart(tables, images)
    codes, soft, agreed = joined_codes(tables, images, classes, repeated)
    splits, split_notes = joined_splits(tables, images, rest)
    boxes, box_notes = joined_boxes(tables, images, classes, codes)
    told = [note for table in tables for note in table.labels.notes]
    notes = (*told, *images.notes, *_notes(tables, images, classes, repeated, agreed), *split_notes, *box_notes)
    closed = all(table.labels.closed for table in tables)
    found = {str(table.path): dict(table.labels.found) for table in tables}
    kept = {"table_columns": json.dumps(found, ensure_ascii=False)}
    groups = joined_groups(tables, images)
    return Joined(OwnLabels(images.ids, classes, codes, splits, closed, boxes, notes, kept, groups, soft), agreed)


def union_of_classes(tables: Sequence[TableLabels], order: Sequence[str]) -> tuple[str, ...]:
    """The classes of all tables: those of `order` first, then as they appear. Raises: UserError for two spellings."""
    first: dict[str, str] = {}
    for table in tables:
        for name in table.labels.classes:
            first.setdefault(name, str(table.path))
    classes = check_classes(first.items(), None)
    place = {name: number for number, name in enumerate(order)}
    return tuple(sorted(classes, key=lambda name: place.get(name, len(place))))


def _require_apart(tables: Sequence[TableLabels], images: JoinedImages) -> None:
    """Check that no image is in two tables. Raises: UserError naming the lines of the first."""
    shared = np.flatnonzero(images.shared)
    if len(shared):
        image = int(shared[0])
        first, second, *_ = (table.place(row) for table, row in naming(tables, images, image))
        raise UserError(
            f"{second}: image {images.ids[image][:200]!r} is in another table too ({first}); {len(shared)} images are; "
            "say with --repeated how tables belong together (union, majority, unknown, first)"
        )


class JoinedCodes(NamedTuple):
    """What tables say together of each image and class."""

    codes: Codes
    """(N, C), unknown where no table of an image has the class."""
    soft: SoftTargets | None
    """(N, C) in [0, 1], -1 unknown; None where the labels of all tables are hard."""
    agreement: NDArray[np.float64] | None
    """As in `Joined`."""


def joined_codes(
    tables: Sequence[TableLabels], images: JoinedImages, classes: tuple[str, ...], repeated: str
) -> JoinedCodes:
    """The labels of tables, those of an image in several put together. Unknown entries do not vote.

    With `first` the first table that knows an entry decides it.

    Raises: UserError for soft labels of an image in two tables, but with `first`.
    """
    wide = [with_classes(table.labels._replace(boxes=None), classes, UNKNOWN) for table in tables]
    shared = images.shared
    image = (np.cumsum(shared) - 1)[np.concatenate([rows[shared[rows]] for rows in images.rows])]
    codes, votes = _laid_out([labels.codes for labels in wide], images, shared)
    is_soft = any(labels.soft is not None for labels in wide)
    laid = _laid_out([_targets(labels) for labels in wide], images, shared) if is_soft else None
    soft = None if laid is None else laid[0]
    if not len(image):
        return JoinedCodes(codes, soft, None)
    require(
        soft is None or repeated == "first",
        f"--repeated {repeated}: takes marks of tables together, not the values that --soft_labels keep keeps; take "
        "--repeated first, or --soft_labels threshold=0.5",
    )
    number = int(shared.sum())
    together = first_known(votes, image, number) if repeated == "first" else combined(votes, image, number, repeated)
    codes[shared] = together
    if laid is not None:
        laid[0][shared] = first_known(laid[1], image, number)
    return JoinedCodes(codes, soft, agreement(votes, image, number))


def _targets(labels: OwnLabels) -> SoftTargets:
    """(N, C) soft targets; of hard labels their codes."""
    return labels.codes.astype(np.float32) if labels.soft is None else labels.soft


def _laid_out(
    wide: Sequence[NDArray[Kind]], images: JoinedImages, shared: NDArray[np.bool_]
) -> tuple[NDArray[Kind], NDArray[Kind]]:
    """(N, C) the values of the images that one table has, unknown for the others, and (V, C) those of each table there.

    Args:
        wide: of each table, the values (N_t, C) of its images.
        images: which of all images these are.
        shared: (N,) the images in several tables.
    """
    found = np.full((len(images.ids), wide[0].shape[1]), UNKNOWN, dtype=wide[0].dtype)
    for values, rows in zip(wide, images.rows, strict=True):
        alone = ~shared[rows]
        found[rows[alone]] = values[alone]
    return found, np.concatenate([values[shared[rows]] for values, rows in zip(wide, images.rows, strict=True)])


def joined_splits(
    tables: Sequence[TableLabels], images: JoinedImages, rest: int
) -> tuple[NDArray[np.int8], tuple[str, ...]]:
    """(N,) splits, and lines to print. Raises: UserError for an image with one split here and another there."""
    splits = np.full(len(images.ids), NO_SPLIT, dtype=np.int8)
    for table, rows in zip(tables, images.rows, strict=True):
        own, before = table.labels.splits, splits[rows]
        differs = (own != NO_SPLIT) & (before != NO_SPLIT) & (own != before)
        if differs.any():
            image = int(rows[np.argmax(differs)])
            said = [(one, row, int(one.labels.splits[row])) for one, row in naming(tables, images, image)]
            said = [(one, row, split) for one, row, split in said if split != NO_SPLIT]
            raise _contradiction(images.ids[image], [(one.place(row), _SPLITS[split]) for one, row, split in said])
        splits[rows] = np.where(own == NO_SPLIT, before, own)
    left = splits == NO_SPLIT
    if left.all() or not left.any():
        return splits, ()
    splits[left] = rest
    without = named([table.path for table in tables if (table.labels.splits == NO_SPLIT).all()])
    purpose = "the test" if rest == TEST else "training"
    return splits, (
        f"{without}: without a split; {int(left.sum())} images of which no table names one are for {purpose}",
    )


def _contradiction(image: str, said: Sequence[tuple[str, str]]) -> UserError:
    """The error for an image of which two tables say different things: where, and what."""
    (first, one), *others = said
    second, other = next((place, text) for place, text in others if text != one)
    return UserError(f"{second}: image {image[:200]!r} is in {other!r}, but in {one!r} in {first}; correct one of them")


def joined_groups(tables: Sequence[TableLabels], images: JoinedImages) -> Index | None:
    """(N,) groups; None where no table has any.

    A name is the same group in all tables; an image without one stays with those of its line, else alone.

    Raises: UserError for an image with two names of groups.
    """
    if all(table.labels.groups is None for table in tables):
        return None
    name, edges = _named_groups(tables, images), []
    hubs = int(name.max(initial=-1)) + 1
    edges.append((np.flatnonzero(name >= 0), name[name >= 0]))
    for table, rows in zip(tables, images.rows, strict=True):
        lines = table.labels.groups
        if lines is not None and table.group_texts is None:
            edges.append((rows, hubs + lines))
            hubs += int(lines.max()) + 1
    image, hub = (np.concatenate(ends) for ends in zip(*edges, strict=True))
    size = len(images.ids) + hubs
    graph = coo_array((np.ones(len(image), dtype=np.int8), (image, len(images.ids) + hub)), shape=(size, size))
    found: Index = connected_components(graph, directed=False)[1][: len(images.ids)].astype(np.int64)
    return found


def _named_groups(tables: Sequence[TableLabels], images: JoinedImages) -> Index:
    """(N,) the number of the group that tables name, -1 without one; a blank cell counts where no table says more."""
    number_of: dict[str, int] = {"": 0}
    found = np.full(len(images.ids), -1, dtype=np.int64)
    for table, rows in zip(tables, images.rows, strict=True):
        groups, texts = table.labels.groups, table.group_texts
        if groups is not None and texts is not None:
            own = np.array([number_of.setdefault(text, len(number_of)) for text in texts], dtype=np.int64)[groups]
            before = found[rows]
            differs = (own > 0) & (before > 0) & (own != before)
            if differs.any():
                raise _two_groups(tables, images, int(rows[np.argmax(differs)]))
            found[rows] = np.maximum(own, before)
    return found


def _two_groups(tables: Sequence[TableLabels], images: JoinedImages, image: int) -> UserError:
    """The error for an image with two names of groups."""
    said = []
    for table, row in naming(tables, images, image):
        if table.labels.groups is not None and table.group_texts is not None:
            said.append((table.place(row), table.group_texts[table.labels.groups[row]]))
    return _contradiction(images.ids[image], [(place, text) for place, text in said if text])


def joined_boxes(
    tables: Sequence[TableLabels], images: JoinedImages, classes: tuple[str, ...], codes: Codes
) -> tuple[Boxes | None, tuple[str, ...]]:
    """Boxes where all tables have some, else none and a line to print.

    Those of an image and class are of the first table that has any; of what is absent in the end there are none.
    """
    bare = named([table.path for table in tables if table.labels.boxes is None])
    held = [table.labels.boxes for table in tables if table.labels.boxes is not None]
    if len(held) < len(tables):
        return None, (f"{bare}: without boxes; those of the other tables are not used",) if held else ()
    column = {name: label for label, name in enumerate(classes)}
    of_label = [np.array([column[name] for name in table.labels.classes], dtype=np.int64) for table in tables]
    row = np.concatenate([rows[boxes.row] for rows, boxes in zip(images.rows, held, strict=True)])
    label = np.concatenate([own[boxes.label] for own, boxes in zip(of_label, held, strict=True)])
    table = np.repeat(np.arange(len(held)), [len(boxes.row) for boxes in held])
    _, first, pair = np.unique(np.ravel_multi_index((row, label), codes.shape), return_index=True, return_inverse=True)
    kept = np.flatnonzero((table == table[first][pair]) & (codes[row, label] != ABSENT))
    kept = kept[np.argsort(row[kept], kind="stable")]
    corners = np.concatenate([boxes.corners for boxes in held])
    return Boxes(row[kept], label[kept], corners[kept]), ()


def _notes(
    tables: Sequence[TableLabels],
    images: JoinedImages,
    classes: tuple[str, ...],
    repeated: str,
    agreed: NDArray[np.float64] | None,
) -> Iterator[str]:
    """Lines about what was joined, and about the classes that each table lacks."""
    shared = int(images.shared.sum())
    together = ""
    if agreed is not None:
        share = np.nanmean(agreed) if np.isfinite(agreed).any() else 1
        together = (
            f"; {shared} images are in several, taken together by --repeated {repeated}: tables agree on {share:.1%} "
            "of the labels that several know"
        )
    yield f"{len(tables)} tables: {len(images.ids)} images and {len(classes)} classes{together}"
    for table in tables:
        lacks = [name for name in classes if name not in table.labels.classes]
        if lacks:
            yield (
                f"{table.path}: lacks {len(lacks)} of {len(classes)} classes ({_some(lacks)}), unknown for its "
                f"{len(table.labels.ids)} images{'' if table.labels.closed else _LISTED}"
            )
        silent = _never_named(table, tables)
        if silent:
            yield (
                f"{table.path}: never names {_some(silent)}, absent for its images as the list of all classes has it; "
                "without that list unknown"
            )


_LISTED = "; absent where --class_names or classes.txt lists them"


def _never_named(table: TableLabels, tables: Sequence[TableLabels]) -> list[str]:
    """Classes that a table of names has by a list alone, while another table names them."""
    if not table.labels.closed or "label_column" not in table.labels.found:
        return []
    return [
        name for name in table.labels.classes if not _shows(table, name) and any(_shows(one, name) for one in tables)
    ]


def _shows(table: TableLabels, name: str) -> bool:
    """Whether an image of a table has a class."""
    own = table.labels
    return name in own.classes and bool((own.codes[:, own.classes.index(name)] == PRESENT).any())


def _some(names: Sequence[str]) -> str:
    return ", ".join(name[:40] for name in names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
