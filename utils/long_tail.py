"""Statistics of long-tailed labels: class frequencies, co-occurrence, and groups of frequent and rare classes.

N rows, C classes. UNKNOWN entries count as ABSENT, as in the papers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from utils.metrics import Tally, group_map
from utils.types import PRESENT, Index, LabelTable

HEAD_FROM = 100
"""Training positives from which a class belongs to the head."""
MIDDLE_FROM = 20
"""Training positives from which it belongs to the middle."""


class ClassFrequencies(NamedTuple):
    """Label statistics that the distribution-balanced loss and its sampler use."""

    class_freq: Index
    """(C,) rows that have the class."""
    neg_class_freq: Index
    """(C,) rows that do not."""
    condition_prob: NDArray[np.float64]
    """(C, C) at [j, k]: the share of the rows with class j that have class k too; a row of zeros where none has j."""


class GroupFigures(NamedTuple):
    """Metrics of a group of classes; fractions, NaN for a group without known labels."""

    mAP: float  # noqa: N815 - the field's own spelling; a class without positives counts as 0
    micro_F1: float  # noqa: N815 - of all predictions for classes of the group together
    macro_F1: float  # noqa: N815 - mean over its classes, 0 for one neither predicted nor present
    accuracy: float  # mean over its classes of the share of correct predictions, of presence and absence alike


def group_figures(per_class: NDArray[np.float64], tally: Tally, groups: Mapping[str, Index]) -> dict[str, GroupFigures]:
    """Metrics of each group and, under "total", of all classes.

    As in published code wutong16/DistributionBalancedLoss, mllt/core/evaluation/eval_tools.py, which predicts where a
    logit is above 0. A class without known labels is left out. A micro or macro F1 is no CF1 or OF1: macro F1 is a
    mean of F1s, CF1 the F1 of means; micro F1 of all classes is OF1.

    Args:
        per_class: (C,) average precision, NaN for a class without positives: `Metrics.per_class`.
        tally: (C,) counts of predictions: `Metrics.tally`.
        groups: the classes of each group.
    """
    correct = tally.known - tally.chosen - tally.positives + 2 * tally.true
    accuracy = correct / np.maximum(tally.known, 1)
    named = {**groups, "total": np.arange(len(per_class))}
    means = group_map(per_class, (tally.known > 0) & ~tally.untold, named)
    result = {}
    for name, classes in named.items():
        known = classes[tally.known[classes] > 0]
        f1 = _f1(tally.true[known], tally.chosen[known] + tally.positives[known])
        pooled = _f1(tally.true[known].sum(), (tally.chosen + tally.positives)[known].sum())
        figures = (pooled, f1.mean(), accuracy[known].mean()) if len(known) else (math.nan,) * 3
        result[name] = GroupFigures(means[name], *map(float, figures))
    return result


def _f1(true: Index, total: Index) -> NDArray[np.float64]:
    """F1 from true positives and from the total of predictions and positives, 0 where that is 0."""
    return 2 * true / np.maximum(total, 1)


def class_groups(counts: Index) -> dict[str, Index]:
    """The classes of the head (100 training positives or more), the middle (20 to 99) and the tail (fewer).

    Wu et al., ECCV 2020, published code wutong16/DistributionBalancedLoss, appendix (`class_split.pkl`).

    Args:
        counts: (C,) training positives of each class.

    Returns:
        Class numbers, ascending, under "head", "middle" and "tail"; a group may be empty.
    """
    head, tail = counts >= HEAD_FROM, counts < MIDDLE_FROM
    groups = {"head": head, "middle": ~head & ~tail, "tail": tail}
    return {name: np.flatnonzero(group).astype(np.int64) for name, group in groups.items()}


def positives(truth: LabelTable) -> tuple[Index, Index]:
    """(M,) rows and (M,) classes of the M entries that are PRESENT, by row and then by class."""
    if isinstance(truth.codes, csr_array) and truth.default != PRESENT:
        kept = np.flatnonzero(truth.codes.data == PRESENT)  # of all stored entries a row number each would be much
        row = np.searchsorted(truth.codes.indptr, kept, side="right") - 1
        label = truth.codes.indices[kept].astype(np.int64)
        order = np.lexsort((label, row))  # the classes of a CSR row may be in any order
        return row[order], label[order]
    row, label = np.nonzero(truth.dense() == PRESENT)
    return row.astype(np.int64), label.astype(np.int64)


def class_frequencies(truth: LabelTable) -> ClassFrequencies:
    """Frequencies of classes, alone and together, in training labels.

    Wu et al., ECCV 2020, published code wutong16/DistributionBalancedLoss, appendix (`class_freq.pkl`).

    Args:
        truth: (N, C) labels. The result holds C x C doubles, whatever the table's storage.
    """
    row, label = positives(truth)
    present = csr_array((np.ones(len(row)), (row, label)), shape=(len(truth), truth.num_classes))
    together = (present.T @ present).toarray()
    count = np.diagonal(together)
    conditional = np.divide(together, count[:, None], out=np.zeros_like(together), where=count[:, None] > 0)
    class_freq = count.astype(np.int64)
    return ClassFrequencies(class_freq, len(truth) - class_freq, conditional)
