"""From lines to images: several lines of an image, by several annotators or one for each class. L lines, N images."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from data.datasets.table.seen import UNCERTAIN
from utils.types import ABSENT, PRESENT, UNKNOWN, Codes, Index, SoftTargets

Kind = TypeVar("Kind", np.int8, np.float32)

SILENT = UNCERTAIN - 1
"""Code of a class that a line says nothing of, while lines are combined."""


class Clash(NamedTuple):
    """Two lines of an image that contradict each other."""

    first: int
    second: int
    label: int


def combined(codes: Codes, image: Index, images: int, how: str) -> Codes:
    """(N, C) the labels of images that several annotators labelled.

    Args:
        codes: (L, C) of each line.
        image: (L,) which image it is of.
        images: N.
        how: `union`: present where any line says so; `majority`: of the lines that know, a tie is unknown; `unknown`:
            what all lines that know agree on; `first`: the first line.
    """
    if how == "first":
        return codes[first_lines(image, images)]
    present, absent = votes(codes, image, images)
    if how == "union":
        return np.select([present > 0, absent > 0], [PRESENT, ABSENT], UNKNOWN).astype(np.int8)
    if how == "majority":
        return np.select([present > absent, absent > present], [PRESENT, ABSENT], UNKNOWN).astype(np.int8)
    agreed = [(present > 0) & (absent == 0), (absent > 0) & (present == 0)]
    return np.select(agreed, [PRESENT, ABSENT], UNKNOWN).astype(np.int8)


def first_lines(image: Index, images: int) -> Index:
    """(N,) the first line of each image, of lines (L,) that say which image they are of."""
    first = np.full(images, len(image), dtype=np.int64)
    np.minimum.at(first, image, np.arange(len(image)))
    return first


def first_known(codes: NDArray[Kind], image: Index, images: int) -> NDArray[Kind]:
    """(N, C) of each entry what the first line says that knows it, of codes or soft targets as in `combined`."""
    found = np.full((images, codes.shape[1]), UNKNOWN, dtype=codes.dtype)
    line, label = np.nonzero(codes[::-1] != UNKNOWN)
    line = len(codes) - 1 - line  # the first of an image is written last
    found[image[line], label] = codes[line, label]
    return found


def votes(codes: Codes, image: Index, images: int) -> tuple[Index, Index]:
    """(N, C) how many lines of each image say present, and how many absent."""
    found = []
    for code in (PRESENT, ABSENT):
        count = np.zeros((images, codes.shape[1]), dtype=np.int64)
        np.add.at(count, image, codes == code)
        found.append(count)
    return found[0], found[1]


def agreement(codes: Codes, image: Index, images: int) -> NDArray[np.float64]:
    """(C,) of the images of which two lines or more know a class, the share on which all agree; NaN without any."""
    present, absent = votes(codes, image, images)
    several = present + absent >= 2
    agreed = several & ((present == 0) | (absent == 0))
    with np.errstate(invalid="ignore"):
        share: NDArray[np.float64] = agreed.sum(axis=0) / several.sum(axis=0)
    return share


def of_pairs(codes: Codes, image: Index, images: int) -> Codes:
    """(N, C) the labels of images of which each line tells one class.

    What has no line is absent; if any line of the whole table says absent, it is unknown for every class.

    Args:
        codes: (L, C), `SILENT` for the classes that a line does not tell.
        image: (L,) which image a line is of.
        images: N.
    """
    told = codes != SILENT
    base = UNKNOWN if bool((codes == ABSENT).any()) else ABSENT
    found = np.full((images, codes.shape[1]), base, dtype=np.int8)
    line, label = np.nonzero(told)
    found[image[line], label] = codes[line, label]
    return found


def pair_targets(codes: Codes, soft: NDArray[np.float32], image: Index, labels: Codes) -> SoftTargets:
    """(N, C) the targets of images of which each line tells one class.

    Args:
        codes: (L, C) as in `of_pairs`.
        soft: (L,) the value between 0 and 1 of each line, NaN where its code says all.
        image: (L,) which image a line is of.
        labels: (N, C) the result of `of_pairs`.
    """
    found = labels.astype(np.float32)
    line, label = np.nonzero((codes != SILENT) & ~np.isnan(soft)[:, None])
    found[image[line], label] = soft[line]
    return found


def clash(codes: Codes, image: Index, soft: NDArray[np.float32] | None = None) -> Clash | None:
    """Two lines that tell the same class of an image differently, in code or in value; None if there are none.

    Args: as in `pair_targets`; without `soft` only codes are compared.
    """
    line, label = np.nonzero(codes != SILENT)
    order = np.lexsort((line, label, image[line]))
    line, label = line[order], label[order]
    same = (image[line[1:]] == image[line[:-1]]) & (label[1:] == label[:-1])
    told = codes[line, label].astype(np.float32)
    if soft is not None:
        told = np.where(np.isnan(soft[line]), told, soft[line])
    wrong = same & (told[1:] != told[:-1])
    if not wrong.any():
        return None
    at = int(np.argmax(wrong))
    return Clash(int(line[at]), int(line[at + 1]), int(label[at]))
