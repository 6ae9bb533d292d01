"""Label regimes: pure functions from true labels and a random generator to the labels that training sees.

N rows, C classes. Each takes the truth as an array (N, C) or as a `LabelTable`, and returns the same kind: of a sparse
table a sparse one, equal to what the dense one gives, entry for entry. Truth that is UNKNOWN counts as ABSENT, except
in a sparse table that stores known labels only (its default is UNKNOWN): there the unknown stays unknown, and draws are
made for stored entries alone.

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
    places_of,
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
    """A regime: of an array it makes an array, of a table a table."""

    @overload
    def __call__(self, truth: Codes, /, *args: Params.args, **kwargs: Params.kwargs) -> Codes: ...
    @overload
    def __call__(self, truth: LabelTable, /, *args: Params.args, **kwargs: Params.kwargs) -> LabelTable: ...


def _of_arrays_too(recipe: Callable[Concatenate[LabelTable, Params], LabelTable]) -> Recipe[Params]:
    """A recipe for tables that takes arrays as well."""

    @wraps(recipe)
    def either(truth: Any, /, *args: Params.args, **kwargs: Params.kwargs) -> Any:
        """The recipe on a table, or on codes and back."""
        if isinstance(truth, LabelTable):
            return recipe(truth, *args, **kwargs)
        return recipe(LabelTable(truth.view()), *args, **kwargs).dense()  # a view, for a table locks its array

    return either


@_of_arrays_too
def candidate_labels(truth: LabelTable, rng: Rng, rate: ChancePerEntry) -> LabelTable:
    """Candidate labels: each true label, and each other one with probability `rate`.

    A `RandomState` is used as published: N * C doubles in row-major order, one per entry, a candidate where the draw
    is below the rate (CoNeS, published code, utils/pml_data.py). They are drawn for a sparse truth too, block after
    block, although it stores few of them. A `Generator` needs one byte an entry instead.

    Args:
        truth: (N, C) codes; not changed.
        rng: where the draws come from.
        rate: in [0, 1], one for all classes or (C,) for each its own; equal ones give the labels that one gives.

    Returns:
        (N, C) PRESENT for a candidate, ABSENT for the rest.

    Raises:
        UserError: a rate is outside [0, 1].
    """
    _require_rates("rate", rate)
    entries = entries_of(truth)
    if isinstance(rate, np.ndarray):
        by_class = rate
        return _candidates(entries, rng, lambda start, stop: by_class[entries.columns(start, stop)])
    return _candidates(entries, rng, lambda start, stop: rate)


@_of_arrays_too
def confused_labels(truth: LabelTable, rng: Rng, confusion: NDArray[np.float64]) -> LabelTable:
    """Candidate labels, the wrong ones brought by the true ones: cat by dog rather than by bus.

    True label j brings the absent class k with probability `confusion[j, k]`, each independently of the others, so
    that k is a candidate with probability 1 - prod over true j of (1 - confusion[j, k]). Draws as `candidate_labels`.

    Args:
        truth: (N, C) codes; not changed.
        rng: where the draws come from.
        confusion: (C, C) in [0, 1]; the diagonal plays no part.

    Returns:
        (N, C) PRESENT for a candidate, ABSENT for the rest.

    Raises:
        UserError: a value is outside [0, 1].
    """
    _require_rates("confusion", confusion)
    entries, true, spared = entries_of(truth), places_of(truth, PRESENT), 1 - confusion
    return _candidates(
        entries,
        rng,
        lambda start, stop: _brought(entries.rows(start, stop), entries.columns(start, stop), true, spared),
    )


@_of_arrays_too
def dropped_positives(truth: LabelTable, rng: Rng, rate: float, keep_one: bool = False) -> LabelTable:
    """Each positive loses its label with probability `rate`, independently (the "x % left" settings of CLS).

    One draw per positive, in row-major order.

    Args:
        truth: (N, C) codes; not changed.
        rng: where the draws come from.
        rate: in [0, 1].
        keep_one: a row that would lose all of its labels keeps the one of the largest draw, the first of equal ones.
            The draws are the same, so what is kept without it is kept with it.

    Returns:
        (N, C) PRESENT for a kept positive, UNKNOWN for the rest.

    Raises:
        UserError: `rate` is outside [0, 1].
    """
    _require_rates("rate", rate)
    positives = places_of(truth, PRESENT)
    kept = np.empty(len(positives.columns), dtype=np.bool_)
    for first, last in row_blocks(len(truth), truth.num_classes):
        starts = positives.starts[first : last + 1]
        draws = rng.uniform(0.0, 1.0, int(starts[-1] - starts[0]))
        part = kept[starts[0] : starts[-1]]
        np.greater_equal(draws, rate, out=part)
        if keep_one:
            part[_last_hopes(draws, part, np.diff(starts))] = True
    known = positives.narrowed(kept, truth.num_classes)
    return table_like(truth, known, np.full(len(known.columns), PRESENT, dtype=np.int8), UNKNOWN)


@_of_arrays_too
def observed_labels(truth: LabelTable, rng: Rng, num_pos: int, num_neg: int, order: Index | None = None) -> LabelTable:
    """A few known labels per row: at most `num_pos` positives and `num_neg` negatives, chosen by shuffling.

    The recipe of Cole et al. (CVPR 2021), published code, preproc/generate_observed_labels.py: row by row the
    positions of the positives are shuffled, then those of the negatives, also where none of them is wanted, so that
    the draws of a row depend on the truth alone. A row without positives stays, with nothing positive known.

    Args:
        truth: (N, C) codes; not changed.
        rng: where the draws come from.
        num_pos: positives kept per row, -1 for all.
        num_neg: negatives kept per row, -1 for all.
        order: (N,) the rows in the order in which they draw; as they are when left out.

    Returns:
        (N, C) PRESENT and ABSENT for what is known, UNKNOWN for the rest.

    Raises:
        UserError: a number is below -1.
    """
    require_number("num_pos", num_pos)
    require_number("num_neg", num_neg)
    positives, negatives = places_of(truth, PRESENT), _Negatives(truth, needed=num_neg > 0)
    # where all that is not positive is known to be absent, only the positives need a place
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


@_of_arrays_too
def known_labels(truth: LabelTable, rng: Rng, rate: float) -> LabelTable:
    """Each label, present or absent, is known with probability `rate`: the 10 % to 90 % protocol of partial labels.

    One draw per entry in row-major order, known where it is below the rate, so that of one seed the labels known at
    10 % are among those known at 20 % (Chen et al., AAAI 2022, public repository HCPLab-SYSU/HCP-MLR-PL,
    datasets/coco2014.py, whose seed is 0).

    Args:
        truth: (N, C) codes; not changed.
        rng: where the draws come from.
        rate: in [0, 1].

    Returns:
        (N, C) PRESENT and ABSENT for what is known, UNKNOWN for the rest.

    Raises:
        UserError: `rate` is outside [0, 1].
    """
    _require_rates("rate", rate)
    entries = entries_of(truth)

    def drawn() -> Iterator[Codes]:
        """Blocks with part of the entries unknown."""
        for start, stop in blocks(entries):
            codes = as_codes(entries.codes(start, stop) == PRESENT)
            codes[rng.uniform(0.0, 1.0, stop - start) >= rate] = UNKNOWN
            yield codes

    return entries.table(drawn(), UNKNOWN)


@_of_arrays_too
def flipped_labels(truth: LabelTable, rng: Rng, rho_pos: float, rho_neg: float) -> LabelTable:
    """Wrong labels in both directions, class by class alike: independent flips with a rate for each direction.

    One draw per entry in row-major order, flipped where it is below the rate of its true label (the class-conditional
    noise of Natarajan et al., NeurIPS 2013, label by label).

    Args:
        truth: (N, C) codes; not changed.
        rng: where the draws come from.
        rho_pos: in [0, 1], chance that a present label is seen absent.
        rho_neg: in [0, 1], chance that an absent label is seen present.

    Returns:
        (N, C) PRESENT and ABSENT.

    Raises:
        UserError: a rate is outside [0, 1].
    """
    _require_rates("rho_pos", rho_pos)
    _require_rates("rho_neg", rho_neg)
    entries = entries_of(truth)

    def drawn() -> Iterator[Codes]:
        """Blocks of turned labels."""
        for start, stop in blocks(entries):
            present = entries.codes(start, stop) == PRESENT
            present ^= rng.uniform(0.0, 1.0, stop - start) < np.where(present, rho_pos, rho_neg)
            yield as_codes(present)

    return entries.table(drawn(), ABSENT)


@_of_arrays_too
def semi_labels(truth: LabelTable, rng: Rng, share: float, order: Index | None = None) -> LabelTable:
    """Some rows fully labelled, the others not at all.

    The labelled ones are the first `round(share * N)` (half to even) of one permutation of the rows, so that of one
    seed those of a smaller share are among those of a larger.

    Args:
        truth: (N, C) codes; not changed.
        rng: where the permutation comes from.
        share: in [0, 1].
        order: (N,) the rows in the order that is permuted; as they are when left out.

    Returns:
        (N, C) the truth in the labelled rows, UNKNOWN in the others.

    Raises:
        UserError: `share` is outside [0, 1].
    """
    _require_rates("labelled_share", share)
    chosen = rng.permutation(len(truth))[: int(np.round(share * len(truth)))]
    labelled = np.zeros(len(truth), dtype=np.bool_)
    labelled[chosen if order is None else order[chosen]] = True
    entries = entries_of(truth)

    def seen() -> Iterator[Codes]:
        """Blocks with the rows that are not labelled unknown."""
        for start, stop in blocks(entries):
            codes = as_codes(entries.codes(start, stop) == PRESENT)
            codes[~labelled[entries.rows(start, stop)]] = UNKNOWN
            yield codes

    return entries.table(seen(), UNKNOWN)


@_of_arrays_too
def full_labels(truth: LabelTable) -> LabelTable:
    """The true labels (N, C), UNKNOWN read as ABSENT; a copy, or a table of known labels itself."""
    if truth.stores_known_only:
        return truth
    if isinstance(truth.codes, csr_array):
        held = canonical(truth)
        return with_codes(held, as_codes(held.data == PRESENT), ABSENT)
    return LabelTable(as_codes(truth.codes == PRESENT))


def require_number(name: str, number: int) -> None:
    """Raise UserError unless `number` is a number of labels, or -1 for all."""
    require(number >= -1, f"{name} {number}: must be -1 (all) or a number of labels")


def require_rate(name: str, rate: float) -> None:
    """Raise UserError unless `rate` is in [0, 1]."""
    require(0 <= rate <= 1, f"{name} {rate}: must be between 0 and 1")  # a NaN is outside too


class _Negatives:
    """The negatives that `observed_labels` shuffles: all that is not positive, or what is known to be absent."""

    def __init__(self, truth: LabelTable, *, needed: bool) -> None:
        self.known = places_of(truth, ABSENT) if truth.stores_known_only else None
        self.needed = needed
        self.free = np.ones(truth.num_classes, dtype=np.bool_)
        self.scratch = np.zeros(truth.num_classes, dtype=np.int64)

    def counts(self, positives: EntryColumns) -> Index:
        """(N,) how many there are in each row."""
        return len(self.free) - positives.counts() if self.known is None else self.known.counts()

    def row(self, row: int, positives: Index) -> Index:
        """The negatives of one row, ascending; where they are not needed, as many numbers for the sake of the draws."""
        if self.known is not None:
            return self.known.row(row)
        if not self.needed:
            return self.scratch[: len(self.free) - len(positives)]
        self.free[positives] = False
        negatives = np.flatnonzero(self.free).astype(np.int64, copy=False)
        self.free[positives] = True
        return negatives


def _candidates(entries: Entries, rng: Rng, chance: Callable[[int, int], ChancePerEntry]) -> LabelTable:
    """Every positive, and every other entry with its `chance` (of the entries from start to stop)."""

    def drawn() -> Iterator[Codes]:
        """Blocks of true and wrong candidates."""
        for start, stop in blocks(entries):
            present = entries.codes(start, stop) == PRESENT
            present |= _below(rng, stop - start, chance(start, stop))
            yield as_codes(present)

    return entries.table(drawn(), ABSENT)


def _below(rng: Rng, count: int, rate: ChancePerEntry) -> NDArray[np.bool_]:
    """(count,) True with probability `rate` (one, or one for each place).

    Of a `RandomState`, one double a place is below the rate. Of a `Generator`, one byte decides nearly every place:
    below, or above, 256 * rate cut to an integer. Where it is equal, a second draw decides by the fraction that was cut
    off, so that the chance is exact to the precision of a double.
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


def _brought(row: Index, column: NDArray[Any], true: EntryColumns, spared: NDArray[np.float64]) -> NDArray[np.float64]:
    """(E,) the chance that the true labels of an entry's row bring its class; `spared` (C, C) is the chance of not."""
    none = np.ones(len(row))
    starts, stops = true.starts[row], true.starts[row + 1]
    for rank in range(int((stops - starts).max(initial=0))):  # the labels of each row in turn, ascending
        has = np.flatnonzero(starts + rank < stops)
        none[has] *= spared[true.columns[starts[has] + rank], column[has]]
    return 1 - none


def _last_hopes(draws: NDArray[np.float64], kept: NDArray[np.bool_], counts: NDArray[Any]) -> Index:
    """Of each row without anything kept, the place of its largest draw; rows of `counts` (R,) draws each."""
    row = np.repeat(np.arange(len(counts)), counts)
    lost = counts > 0
    lost[row[kept]] = False
    place = np.flatnonzero(lost[row])
    best = place[np.lexsort((place, -draws[place], row[place]))]  # row by row, the largest first
    return best[np.unique(row[best], return_index=True)[1]]


def _at_most(counts: Index, number: int) -> Index:
    """(N,) how many of `counts` are kept, -1 for all."""
    return counts if number < 0 else np.minimum(counts, number)


def _require_rates(name: str, rates: ChancePerEntry) -> None:
    for rate in (np.min(rates), np.max(rates)) if np.size(rates) else ():  # a NaN is the least and the largest
        require_rate(name, rate)
