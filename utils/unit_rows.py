"""Images of one group taken as one: a patient, a burst, a recording. N images, G groups, C classes."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from utils.types import ABSENT, PRESENT, UNKNOWN, Codes, Index

GroupScore = Literal["max", "mean"]


class GroupRows(NamedTuple):
    """A row per group, in the order of their numbers."""

    scores: NDArray[np.floating[Any]]
    """(G, C)"""
    truth: Codes
    """(G, C) 1 present, 0 absent, -1 unknown."""


def group_rows(scores: NDArray[np.floating[Any]], truth: Codes, groups: Index, score: GroupScore = "max") -> GroupRows:
    """Scores and truth of groups of images.

    A group has a label that any of its images has; it is without it where all of them are known to be.

    Args:
        scores: (N, C) higher means more likely present.
        truth: (N, C) 1 present, 0 absent, -1 unknown.
        groups: (N,) what each image belongs to.
        score: the highest score of the group's images, or their mean.

    Raises: ValueError when lengths differ.
    """
    if not len(scores) == len(truth) == len(groups):
        raise ValueError(f"{len(scores)} scores, {len(truth)} rows of truth and {len(groups)} groups")
    order = np.argsort(groups, kind="stable")
    _, start, counts = np.unique(groups[order], return_index=True, return_counts=True)
    if not len(start):
        return GroupRows(scores, truth)
    joined = np.maximum.reduceat(scores[order], start)
    if score == "mean":
        joined = np.add.reduceat(scores[order].astype(np.float64), start) / counts[:, None]
    has, unsure = (np.logical_or.reduceat((truth == code)[order], start) for code in (PRESENT, UNKNOWN))
    return GroupRows(joined, np.where(has, PRESENT, np.where(unsure, UNKNOWN, ABSENT)).astype(np.int8))
