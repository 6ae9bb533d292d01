"""Removal of rows without an image that can be used, and a check that no image is in two splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations

import numpy as np

from utils.checks import UserError, require
from utils.console import say
from utils.types import Annotations, Index

_NAMED = 3  # images named in a message
_LISTED = 20  # images named with their faults, one a line


def without_missing(annotations: Annotations, split: str) -> Index:
    """(M,) the rows whose image file exists; prints how many do not.

    Args:
        annotations: the rows of a split.
        split: its name, for messages.

    Raises:
        UserError: none of the images exists.
    """
    missing = annotations.images.missing()
    if not len(missing):
        return np.arange(len(annotations))
    first = annotations.images.name(int(missing[0]))
    require(
        len(missing) < len(annotations),
        f"{first}: does not exist, nor does any other of the {len(annotations)} {split} images; check --path_images",
    )
    say(f"left out {len(missing)} of {len(annotations)} {split} rows: image missing ({first}, ...)")
    return np.setdiff1d(np.arange(len(annotations)), missing)


def without_bad(annotations: Annotations, split: str) -> Index:
    """(M,) the rows whose image can be read, or is missing; prints how many cannot, and names them with their faults.

    Every image is decoded, but for those that an earlier check found good.

    Args:
        annotations: the rows of a split.
        split: its name, for messages.

    Raises:
        UserError: none of the images can be read.
    """
    missing = set(annotations.images.missing().tolist())
    bad = [(row, fault) for row, fault in annotations.images.faults() if row not in missing]
    if not bad:
        return np.arange(len(annotations))
    lines = [f"  {annotations.images.label(row)} {fault}" for row, fault in bad[:_LISTED]]
    require(
        len(bad) < len(annotations),
        f"{lines[0].strip()}, nor can any other of the {len(annotations)} {split} images be read; check --path_images",
    )
    more = [f"  ... and {len(bad) - _LISTED} more"] if len(bad) > _LISTED else []
    counted = f"left out {len(bad)} of {len(annotations)} {split} rows: image cannot be read"
    say("\n".join([counted, *lines, *more]))
    return np.setdiff1d(np.arange(len(annotations)), [row for row, _ in bad])


def check_disjoint(splits: Mapping[str, Annotations | None]) -> None:
    """Check that no two splits share an image id or an image file.

    Raises: UserError naming the images.
    """
    present = [(name, part) for name, part in splits.items() if part is not None]
    for pair in combinations(present, 2):
        (few_name, few), (many_name, many) = sorted(pair, key=lambda named: len(named[1]))
        wanted = set(few.ids)  # of the smaller split only: the other may have millions of rows
        shared = {one for one in many.ids if one in wanted}
        if not shared:
            wanted = set(_files(few))
            shared = {file for file in _files(many) if file in wanted}
        if shared:
            named = ", ".join(sorted(shared)[:_NAMED]) + (", ..." if len(shared) > _NAMED else "")
            raise UserError(
                f"{len(shared)} images are in both {few_name} and {many_name} ({named}; an image of the latter"
                f" is {many.images.name(0)}); correct the lists so that each is in one split only"
            )


def _files(annotations: Annotations) -> Iterable[str]:
    return (annotations.images.name(row) for row in range(len(annotations)))
