"""Label regimes: pure functions from true labels and a random generator to the labels that training sees.

N rows, C classes. Each takes the truth as an array (N, C) or as a `LabelTable`, and returns the same kind: of a sparse
table a sparse one, equal to the dense result, entry for entry. UNKNOWN truth counts as ABSENT, except in a sparse table
that stores known labels only (its default is UNKNOWN): there unknown stays unknown, and draws are made for stored
entries only.

The published recipes are defined by numpy's legacy generator (`RandomState`); given a `Generator` the same functions
draw its own stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, overload

import numpy as np
from numpy.random import Generator, RandomState
from numpy.typing import NDArray
from scipy.sparse import csr_array

from data.labels.entries import (
    Entries,
    EntryColumns,
    as_codes,
    blocks,
    canonical,
    entries_of,
    entries_with,
    row_blocks,
    table_like,
    with_codes,
)
from utils.checks import require
from utils.types import ABSENT, PRESENT, UNKNOWN, Codes, Index, LabelTable

Rng = RandomState | Generator
ChancePerEntry = float | NDArray[np.float64]
Params = ParamSpec("Params")


class Recipe(Protocol[Params]):
    """A regime: maps an array to an array and a table to a table."""

    @overload
    def __call__(self, truth: Codes, /, *args: Params.args, **kwargs: Params.kwargs) -> Codes: ...
    @overload
    def __call__(self, truth: LabelTable, /, *args: Params.args, **kwargs: Params.kwargs) -> LabelTable: ...


def of_arrays_too(recipe: Callable[Concatenate[LabelTable, Params], LabelTable]) -> Recipe[Params]:
    """Make a recipe for tables accept arrays as well."""

    @wraps(recipe)
    def either(truth: Any, /, *args: Params.args, **kwargs: Params.kwargs) -> Any:
        """The recipe on a table, or on codes and back."""
        if isinstance(truth, LabelTable):
            return recipe(truth, *args, **kwargs)
        return recipe(LabelTable(truth.view()), *args, **kwargs).dense()  # a view, as a table locks its array

    return either


@of_arrays_too
def candidate_labels(truth: LabelTable, rng: Rng, rate: ChancePerEntry) -> LabelTable:
    """Candidate labels: each true label, and each other one with probability `rate`.

    A `RandomState` is used as published: N * C doubles in row-major order, one per entry, a candidate where the draw
    is below the rate (CoNeS, published code, utils/pml_data.py). They are drawn for a sparse truth too, block after
    block, although it stores few of them. A `Generator` needs one byte per entry instead.

    Args:
        truth: (N, C) codes; not changed.
        rng: source of the draws.
        rate: in [0, 1], one for all classes or (C,) one for each; equal ones give the same labels as one.

    Returns:
        (N, C) PRESENT for a candidate, ABSENT for the rest.

    Raises:
        UserError: a rate is outside [0, 1].
    """
    require_rate("rate", rate)
    entries = entries_of(truth)
    if isinstance(rate, np.ndarray):
        by_class = rate
        return _candidates(entries, rng, lambda start, stop: by_class[entries.columns(start, stop)])
    return _candidates(entries, rng, lambda start, stop: rate)


@of_arrays_too
def confused_labels(truth: LabelTable, rng: Rng, confusion: NDArray[np.float64]) -> LabelTable:
    """Candidate labels whose wrong ones depend on the true ones: cat comes with dog rather than with bus.

    True label j makes the absent class k a candidate with probability `confusion[j, k]`, independently of the others,
    so that k is one with probability 1 - prod over true j of (1 - confusion[j, k]). Draws as `candidate_labels`.

    Args:
        truth: (N, C) codes; not changed.
        rng: source of the draws.
        confusion: (C, C) in [0, 1]; the diagonal is ignored.

    Returns:
        (N, C) PRESENT for a candidate, ABSENT for the rest.

    Raises:
        UserError: a value is outside [0, 1].
    """
    require_rate("confusion", confusion)
    entries, true, spared = entries_of(truth), entries_with(truth, PRESENT), 1 - confusion
    return _candidates(
        entries,
        rng,
        lambda start, stop: _chances(entries.rows(start, stop), entries.columns(start, stop), true, spared),
    )


@of_arrays_too
def dropped_positives(truth: LabelTable, rng: Rng, rate: float, keep_one: bool = False) -> LabelTable:
    """Each positive loses its label with probability `rate`, independently (the "x % left" settings of CLS).

    One draw per positive, in row-major order.

    Args:
        truth: (N, C) codes; not changed.
        rng: source of the draws.
        rate: in [0, 1].
        keep_one: a row that would lose all of its labels keeps the one of the largest draw, the first of equal ones.
            The draws are the same, so all that is kept without it is kept with it.

    Returns:
        (N, C) PRESENT for a kept positive, UNKNOWN for the rest.

    Raises:
        UserError: `rate` is outside [0, 1].
    """
    require_rate("rate", rate)
    positives = entries_with(truth, PRESENT)
    kept = np.empty(len(positives.columns), dtype=np.bool_)
    for first, last in row_blocks(len(truth), truth.num_classes):
        starts = positives.starts[first : last + 1]
        draws = rng.uniform(0.0, 1.0, int(starts[-1] - starts[0]))
        part = kept[starts[0] : starts[-1]]
        np.greater_equal(draws, rate, out=part)
        if keep_one:
            part[_largest_of_lost(draws, part, np.diff(starts))] = True
    known = positives.select(kept, truth.num_classes)
    return table_like(truth, known, np.full(len(known.columns), PRESENT, dtype=np.int8), UNKNOWN)


@of_arrays_too
def observed_labels(truth: LabelTable, rng: Rng, num_pos: int, num_neg: int, order: Index | None = None) -> LabelTable:
    """A few known labels per row: at most `num_pos` positives and `num_neg` negatives, chosen by shuffling.

    The recipe of Cole et al. (CVPR 2021), published code, preproc/generate_observed_labels.py: row by row the
    positions of the positives are shuffled, then those of the negatives, even if none of them is wanted, so that
    the draws of a row depend on the truth only. A row without positives stays, with no known positive.

    Args:
        truth: (N, C) codes; not changed.
        rng: source of the draws.
        num_pos: positives kept per row, -1 for all.
        num_neg: negatives kept per row, -1 for all.
        order: (N,) the rows in the order of their draws; as they are if not given.

    Returns:
        (N, C) PRESENT and ABSENT for known labels, UNKNOWN for the rest.

    Raises:
        UserError: a number is below -1.
    """
    require_number("num_pos", num_pos)
    require_number("num_neg", num_neg)
    positives, negatives = entries_with(truth, PRESENT), _Negatives(truth, needed=num_neg > 0)
    # if all other classes are known to be absent, only the positives are stored
    mostly_absent = num_neg < 0 and not truth.stores_known_only
    second, rest = (UNKNOWN, ABSENT) if mostly_absent else (ABSENT, UNKNOWN)
    kept = _at_most(positives.counts(), num_pos)
    others = positives.counts() - kept if mostly_absent else _at_most(negatives.counts(positives), num_neg)
    starts = np.concatenate([[0], np.cumsum(kept + others)])
    columns, codes = np.empty(starts[-1], dtype=np.int32), np.empty(starts[-1], dtype=np.int8)
    for row in range(len(truth)) if order is None else order:
        shuffled = positives.row(row)
        rng.shuffle(shuffled)
        absent = negatives.row(row, shuffled)
        rng.shuffle(absent)
        start, middle, stop = starts[row], starts[row] + kept[row], starts[row + 1]
        columns[start:middle] = shuffled[: kept[row]]
        columns[middle:stop] = shuffled[kept[row] :] if mostly_absent else absent[: others[row]]
        codes[start:middle], codes[middle:stop] = PRESENT, second
    return table_like(truth, EntryColumns(starts, columns), codes, rest)


@of_arrays_too
def flipped_labels(truth: LabelTable, rng: Rng, rho_pos: float, rho_neg: float) -> LabelTable:
    """Wrong labels in both directions: independent flips, with one rate for each direction.

    One draw per entry in row-major order, flipped where it is below the rate of its true label (the class-conditional
    noise of Natarajan et al., NeurIPS 2013, label by label).

    Args:
        truth: (N, C) codes; not changed.
        rng: source of the draws.
        rho_pos: in [0, 1], probability that a present label is observed absent.
        rho_neg: in [0, 1], probability that an absent label is observed present.

    Returns:
        (N, C) PRESENT and ABSENT.

    Raises:
        UserError: a rate is outside [0, 1].
    """
    require_rate("rho_pos", rho_pos)
    require_rate("rho_neg", rho_neg)
    entries = entries_of(truth)

    def drawn() -> Iterator[Codes]:
        """Blocks of flipped labels."""
        for start, stop in blocks(entries):
            present = entries.codes(start, stop) == PRESENT
            present ^= rng.uniform(0.0, 1.0, stop - start) < np.where(present, rho_pos, rho_neg)
            yield as_codes(present)

    return entries.table(drawn(), ABSENT)


@of_arrays_too
def semi_labels(truth: LabelTable, rng: Rng, share: float, order: Index | None = None) -> LabelTable:
    """Some rows fully labelled, the others not at all.

    The labelled rows are the first `round(share * N)` (half to even) of one permutation of the rows, so that for one
    seed those of a smaller share are among those of a larger share.

    Args:
        truth: (N, C) codes; not changed.
        rng: source of the permutation.
        share: in [0, 1].
        order: (N,) the rows in the order that is permuted; as they are if not given.

    Returns:
        (N, C) the truth in the labelled rows, UNKNOWN in the others.

    Raises:
        UserError: `share` is outside [0, 1].
    """
    require_rate("labelled_share", share)
    chosen = rng.permutation(len(truth))[: int(np.round(share * len(truth)))]
    labelled = np.zeros(len(truth), dtype=np.bool_)
    labelled[chosen if order is None else order[chosen]] = True
    entries = entries_of(truth)

    def seen() -> Iterator[Codes]:
        """Blocks of codes with unlabelled rows unknown."""
        for start, stop in blocks(entries):
            codes = as_codes(entries.codes(start, stop) == PRESENT)
            codes[~labelled[entries.rows(start, stop)]] = UNKNOWN
            yield codes

    return entries.table(seen(), UNKNOWN)


@of_arrays_too
def full_labels(truth: LabelTable) -> LabelTable:
    """The true labels (N, C), UNKNOWN read as ABSENT; a copy, or a table of known labels itself."""
    if truth.stores_known_only:
        return truth
    if isinstance(truth.codes, csr_array):
        stored = canonical(truth)
        return with_codes(stored, as_codes(stored.data == PRESENT), ABSENT)
    soft = None if truth.soft is None else truth.soft.clip(min=0)
    return LabelTable(as_codes(truth.codes == PRESENT), soft=soft)


def require_number(name: str, number: int) -> None:
    """Raise UserError unless `number` is a number of labels, or -1 for all."""
    require(number >= -1, f"{name} {number}: must be -1 (all) or a number of labels")


def require_rate(name: str, rate: ChancePerEntry) -> None:
    """Raise UserError unless `rate`, or each of an array of rates, is in [0, 1]."""
    for extreme in (np.min(rate), np.max(rate)) if np.size(rate) else ():  # a NaN is both, and outside
        require(bool(0 <= extreme <= 1), f"{name} {extreme}: must be between 0 and 1")


class _Negatives:
    """The negatives that `observed_labels` shuffles: all classes that are not positive, or those known to be absent."""

    def __init__(self, truth: LabelTable, *, needed: bool) -> None:
        self.known = entries_with(truth, ABSENT) if truth.stores_known_only else None
        self.needed = needed
        self.free = np.ones(truth.num_classes, dtype=np.bool_)
        self.scratch = np.zeros(truth.num_classes, dtype=np.int64)

    def counts(self, positives: EntryColumns) -> Index:
        """(N,) number of negatives in each row."""
        return len(self.free) - positives.counts() if self.known is None else self.known.counts()

    def row(self, row: int, positives: Index) -> Index:
        """The negatives of one row, ascending; if not needed, as many zeros, so that the draws are the same."""
        if self.known is not None:
            return self.known.row(row)
        if not self.needed:
            return self.scratch[: len(self.free) - len(positives)]
        self.free[positives] = False
        negatives = np.flatnonzero(self.free).astype(np.int64)
        self.free[positives] = True
        return negatives


def _candidates(entries: Entries, rng: Rng, chance: Callable[[int, int], ChancePerEntry]) -> LabelTable:
    """Every positive, and every other entry with its `chance`, a function of start and stop of a block."""

    def drawn() -> Iterator[Codes]:
        """Blocks of true and wrong candidates."""
        for start, stop in blocks(entries):
            present = entries.codes(start, stop) == PRESENT
            present |= _below(rng, stop - start, chance(start, stop))
            yield as_codes(present)

    return entries.table(drawn(), ABSENT)


def _below(rng: Rng, count: int, rate: ChancePerEntry) -> NDArray[np.bool_]:
    """(count,) True with probability `rate` (one, or (count,) one for each).

    A `RandomState` draws one double each, compared with the rate. A `Generator` draws one byte each, which decides
    nearly always: it is below or above 256 * rate, rounded down. If equal, a second draw is compared with the remaining
    fraction, so that the probability is exact to the precision of a double.
    """
    if isinstance(rng, RandomState):
        return np.less(rng.uniform(0.0, 1.0, count), rate)
    whole, fraction = np.divmod(np.multiply(rate, 256), 1)
    words = rng.integers(0, 2**64, -(-count // 8), dtype=np.uint64)  # eight draws each; faster than byte by byte
    draws = words.astype("<u8", copy=False).view(np.uint8)[:count]
    whole = whole.astype(np.int16)  # up to 256, which no byte reaches
    below: NDArray[np.bool_] = draws < whole
    even = np.flatnonzero(draws == whole)
    below[even] = rng.random(len(even)) < np.broadcast_to(fraction, count)[even]
    return below


def _chances(row: Index, column: NDArray[Any], true: EntryColumns, spared: NDArray[np.float64]) -> NDArray[np.float64]:
    """(E,) probability that the true labels of its row make an entry a candidate; `spared` (C, C) is 1 - confusion."""
    none = np.ones(len(row))
    starts, stops = true.starts[row], true.starts[row + 1]
    for rank in range(int((stops - starts).max(initial=0))):  # the labels of each row in turn, ascending
        has = np.flatnonzero(starts + rank < stops)
        none[has] *= spared[true.columns[starts[has] + rank], column[has]]
    return 1 - none


def _largest_of_lost(draws: NDArray[np.float64], kept: NDArray[np.bool_], counts: NDArray[Any]) -> Index:
    """For each row with nothing kept, the index of its largest draw; R rows of `counts` (R,) draws."""
    row = np.repeat(np.arange(len(counts)), counts)
    lost = counts > 0
    lost[row[kept]] = False
    index = np.flatnonzero(lost[row])
    best = index[np.lexsort((index, -draws[index], row[index]))]  # row by row, the largest first
    return best[np.unique(row[best], return_index=True)[1]]


def _at_most(counts: Index, number: int) -> Index:
    """(N,) `counts` limited to `number`, -1 for no limit."""
    return counts if number < 0 else np.minimum(counts, number)
