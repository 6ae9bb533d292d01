"""Regimes of partial annotation: known labels by chance, a fixed number per class (FPC), a random part per image (RPS).

N rows, C classes. Source of the last two: Ben-Baruch et al., CVPR 2022, arXiv 2110.10955; published code
Alibaba-MIIL/PartialLabelingCSL, `src/helper_functions/coco_simulation.py`, which draws from numpy's legacy generator
and never seeds it: its recipe is ours, and its own labels nobody can draw again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

from data.labels.entries import EntryColumns, as_codes, blocks, entries_of, entries_with, table_like
from data.labels.regimes import Rng, of_arrays_too, require_rate
from utils.checks import require
from utils.types import ABSENT, PRESENT, UNKNOWN, Codes, Index, LabelTable


@of_arrays_too
def fixed_per_class_labels(truth: LabelTable, rng: Rng, number: int) -> LabelTable:
    """So many positives and so many negatives of each class are known, all of them where there are fewer.

    Class by class a choice of the rows of its positives, without replacement, then one of the rows of its negatives.

    Args:
        truth: (N, C) codes; not changed.
        rng: source of the draws.
        number: of each kind and class, at least 1.

    Returns:
        (N, C) PRESENT and ABSENT for known labels, UNKNOWN for the rest.

    Raises:
        UserError: `number` is below 1.
    """
    require_known_number(number)
    positives = _rows_by_class(truth, PRESENT)
    negatives = _rows_by_class(truth, ABSENT) if truth.stores_known_only else None
    rows, columns, codes = [_NO_ROWS], [_NO_ROWS], [_NO_ROWS]
    for label in range(truth.num_classes):
        present = positives.of(label)
        shown = present[_chosen(rng, len(present), number)]
        if negatives is None:
            absent = _outside(present, _chosen(rng, len(truth) - len(present), number))
        else:
            absent = negatives.of(label)
            absent = absent[_chosen(rng, len(absent), number)]
        rows += [shown, absent]
        columns.append(np.full(len(shown) + len(absent), label))
        codes.append(np.repeat([PRESENT, ABSENT], [len(shown), len(absent)]))
    place = np.concatenate(rows), np.concatenate(columns)
    known = coo_array((np.concatenate(codes).astype(np.int8), place), shape=truth.codes.shape).tocsr()
    return table_like(truth, EntryColumns(known.indptr, known.indices), known.data, UNKNOWN)


@of_arrays_too
def known_labels(truth: LabelTable, rng: Rng, rate: float) -> LabelTable:
    """Each label, present or absent, is known with probability `rate`: the 10 % to 90 % protocol of partial labels.

    One draw per entry in row-major order, known where it is below the rate, so that of one seed the labels known at
    10 % are among those known at 20 % (Chen et al., AAAI 2022, public repository HCPLab-SYSU/HCP-MLR-PL,
    datasets/coco2014.py, whose seed is 0).

    Args:
        truth: (N, C) codes; not changed.
        rng: source of the draws.
        rate: in [0, 1].

    Returns:
        (N, C) PRESENT and ABSENT for known labels, UNKNOWN for the rest.

    Raises:
        UserError: `rate` is outside [0, 1].
    """
    require_rate("rate", rate)
    return partly_known(truth, rng, lambda draws: draws >= rate)


@of_arrays_too
def random_per_sample_labels(truth: LabelTable, rng: Rng, rate: float) -> LabelTable:
    """Each label, present or absent, is unknown with probability `rate`.

    One draw per entry in row-major order, unknown where it is below the rate: `known` labels at 1 - rate, of other
    draws. Of one seed the labels unknown at 50 % are among those unknown at 90 %.

    Args:
        truth: (N, C) codes; not changed.
        rng: source of the draws.
        rate: in [0, 1].

    Returns:
        (N, C) PRESENT and ABSENT for known labels, UNKNOWN for the rest.

    Raises:
        UserError: `rate` is outside [0, 1].
    """
    require_rate("rps_unknown", rate)
    return partly_known(truth, rng, lambda draws: draws < rate)


def require_known_number(number: int) -> None:
    """Raise UserError unless `number` is a number of labels to be known of each class."""
    require(number >= 1, f"fpc_known {number}: must be at least 1 label of each kind and class")


_NO_ROWS = np.empty(0, dtype=np.int64)


class _RowsByClass(NamedTuple):
    """Some entries of a table: those of class k are in the rows `rows[starts[k]:starts[k + 1]]`, ascending."""

    starts: NDArray[Any]  # (C + 1,)
    rows: NDArray[Any]  # (E,)

    def of(self, label: int) -> Index:
        """The rows of a class, a 64-bit copy."""
        return self.rows[self.starts[label] : self.starts[label + 1]].astype(np.int64)


def _rows_by_class(truth: LabelTable, code: int) -> _RowsByClass:
    """The rows in which each class has `code`."""
    found = entries_with(truth, code)
    by_class = found.csr(np.ones(len(found.columns), dtype=np.int8), truth.codes.shape).tocsc()
    return _RowsByClass(by_class.indptr, by_class.indices)


def _chosen(rng: Rng, count: int, number: int) -> Index:
    """Up to `number` of `count` things, drawn without replacement, in the order of the draw."""
    return np.asarray(rng.choice(count, min(number, count), replace=False), dtype=np.int64)


def _outside(taken: Index, ranks: Index) -> Index:
    """The rows at `ranks` among those that are not `taken` (ascending), without a list of them."""
    return ranks + np.searchsorted(taken - np.arange(len(taken)), ranks, side="right")


def partly_known(
    truth: LabelTable, rng: Rng, unknown: Callable[[NDArray[np.float64]], NDArray[np.bool_]]
) -> LabelTable:
    """True labels (N, C), each UNKNOWN where its draw in [0, 1) is `unknown`; one draw per entry in row-major order."""
    entries = entries_of(truth)

    def drawn() -> Iterator[Codes]:
        """Blocks of codes with some entries unknown."""
        for start, stop in blocks(entries):
            codes = as_codes(entries.codes(start, stop) == PRESENT)
            codes[unknown(rng.uniform(0.0, 1.0, stop - start))] = UNKNOWN
            yield codes

    return entries.table(drawn(), UNKNOWN)
