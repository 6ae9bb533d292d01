"""From lines to images: several lines of an image, by several annotators or one for each class. L lines, N images."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from utils.types import ABSENT, PRESENT, UNKNOWN, Codes, Index, SoftTargets

Kind = TypeVar("Kind", np.int8, np.float32)


class Pairs(NamedTuple):
    """What lines say that tell one class of one image each. P pairs of an image and a class, some of them repeated."""

    image: Index
    """(P,)."""
    label: Index
    """(P,)."""
    codes: Codes
    """(P,)."""
    soft: NDArray[np.float32] | None = None
    """(P,) values between 0 and 1, NaN where the code says all; None where there are none."""


class Clash(NamedTuple):
    """Two pairs of one image and class that contradict each other."""

    first: int
    second: int


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
    found = np.full((images, codes.shape[1]), UNKNOWN, dtype=np.int8)
    for label in range(codes.shape[1]):  # votes on all classes at once would be sixteen times the labels
        present, absent = votes(codes[:, label], image, images)
        is_present, is_absent = _DECIDED[how](present, absent)
        found[is_absent, label] = ABSENT
        found[is_present, label] = PRESENT
    return found


_DECIDED: dict[str, Callable[[Index, Index], tuple[NDArray[np.bool_], NDArray[np.bool_]]]] = {
    "union": lambda present, absent: (present > 0, (absent > 0) & (present == 0)),
    "majority": lambda present, absent: (present > absent, absent > present),
    "unknown": lambda present, absent: ((present > 0) & (absent == 0), (absent > 0) & (present == 0)),
}
"""From the numbers (N,) of lines that say present, and absent, to the images that are."""


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
    """(N,) how many lines of each image say present, and how many absent, of one class (L,)."""
    present, absent = (np.bincount(image[codes == code], minlength=images) for code in (PRESENT, ABSENT))
    return present, absent


def agreement(codes: Codes, image: Index, images: int) -> NDArray[np.float64]:
    """(C,) of the images of which two lines or more know a class, the share on which all agree; NaN without any."""
    found = np.full(codes.shape[1], np.nan)
    for label in range(codes.shape[1]):
        present, absent = votes(codes[:, label], image, images)
        several = present + absent >= 2
        if several.any():
            found[label] = ((present == 0) | (absent == 0))[several].mean()
    return found


def of_pairs(pairs: Pairs, images: int, classes: int) -> Codes:
    """(N, C) the labels of images of which each line tells one class.

    What has no line is absent; if any line of the whole table says absent, it is unknown for every class.
    """
    base = UNKNOWN if bool((pairs.codes == ABSENT).any()) else ABSENT
    found = np.full((images, classes), base, dtype=np.int8)
    found[pairs.image, pairs.label] = pairs.codes
    return found


def pair_targets(pairs: Pairs, labels: Codes) -> SoftTargets:
    """(N, C) the targets of images of which each line tells one class; `labels` are those of `of_pairs`."""
    found = labels.astype(np.float32)
    assert pairs.soft is not None
    valued = ~np.isnan(pairs.soft)
    found[pairs.image[valued], pairs.label[valued]] = pairs.soft[valued]
    return found


def clash(pairs: Pairs) -> Clash | None:
    """Two lines that tell the same class of an image differently, in code or in value; None if there are none."""
    order = np.lexsort((pairs.label, pairs.image))  # stable: the first line comes first
    image, label = pairs.image[order], pairs.label[order]
    told = pairs.codes.astype(np.float32)
    if pairs.soft is not None:
        told = np.where(np.isnan(pairs.soft), told, pairs.soft)
    told = told[order]
    wrong = (image[1:] == image[:-1]) & (label[1:] == label[:-1]) & (told[1:] != told[:-1])
    if not wrong.any():
        return None
    at = int(np.argmax(wrong))
    return Clash(int(order[at]), int(order[at + 1]))
