"""The entries of a label table one after another, and the tables that are made of what is drawn for them.

N rows, C classes. Whatever is drawn goes by entries in row-major order and by blocks, so that dense and sparse tables
of equal labels get equal draws, and a table of millions of rows never becomes dense.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from utils.types import UNKNOWN, Codes, Index, LabelTable

BLOCK = 1 << 18
"""Entries at a time; for a `Generator` part of what its stream means."""

Columns = NDArray[Any]  # of 32 or 64 bits, as the table has them


class AllEntries:
    """Every entry of a table, N * C of them."""

    def __init__(self, truth: LabelTable) -> None:
        self.truth = truth
        self.classes = truth.num_classes

    def __len__(self) -> int:
        return len(self.truth) * self.classes

    def codes(self, start: int, stop: int) -> Codes:
        """(stop - start,) the labels of the entries `start` to `stop`, not for writing."""
        first = start // self.classes
        held, wanted = self.truth.codes, slice(first, -(-stop // self.classes))
        rows: Codes = self.truth.rows(wanted) if isinstance(held, csr_array) else held[wanted]
        return rows.reshape(-1)[start - first * self.classes : stop - first * self.classes]

    def rows(self, start: int, stop: int) -> Index:
        """(stop - start,) the row of each entry."""
        return np.arange(start, stop, dtype=np.int64) // self.classes

    def columns(self, start: int, stop: int) -> Columns:
        """(stop - start,) the class of each entry."""
        return np.arange(start, stop, dtype=np.int64) % self.classes

    def table(self, drawn: Iterable[Codes], default: int) -> LabelTable:
        """The table of the codes `drawn` for all entries, block after block; of a sparse truth it is sparse too."""
        shape = (len(self.truth), self.classes)
        if isinstance(self.truth.codes, csr_array):
            return _sparse(drawn, shape, default)
        codes = np.empty(len(self), dtype=np.int8)
        _fill(codes, drawn)
        return LabelTable(codes.reshape(shape))


class StoredEntries:
    """The entries that a table of known labels stores; the others are UNKNOWN and stay so."""

    def __init__(self, truth: LabelTable) -> None:
        self.held = canonical(truth)

    def __len__(self) -> int:
        return len(self.held.data)

    def codes(self, start: int, stop: int) -> Codes:
        """(stop - start,) the labels of the entries `start` to `stop`, not for writing."""
        codes: Codes = self.held.data[start:stop]
        return codes

    def rows(self, start: int, stop: int) -> Index:
        """(stop - start,) the row of each entry."""
        return np.searchsorted(self.held.indptr, np.arange(start, stop), side="right") - 1

    def columns(self, start: int, stop: int) -> Columns:
        """(stop - start,) the class of each entry."""
        columns: Columns = self.held.indices[start:stop]
        return columns

    def table(self, drawn: Iterable[Codes], default: int = UNKNOWN) -> LabelTable:
        """The table of the codes `drawn`, block after block. What is stored as UNKNOWN stays so, whatever was drawn.

        Its default is UNKNOWN whatever `default` says, and it shares the places of the truth where all are known.
        """
        codes = np.empty(len(self), dtype=np.int8)
        _fill(codes, drawn)
        codes[self.held.data == UNKNOWN] = UNKNOWN
        known = codes != UNKNOWN
        if known.all():
            return with_codes(self.held, codes, UNKNOWN)
        places = EntryColumns(self.held.indptr, self.held.indices).narrowed(known, self.held.shape[1])
        return LabelTable(places.csr(codes[known], self.held.shape), default=UNKNOWN)


Entries = AllEntries | StoredEntries


def entries_of(truth: LabelTable) -> Entries:
    """The entries of `truth` that a regime draws for: all of them, or those that a table of known labels stores."""
    return StoredEntries(truth) if truth.stores_known_only else AllEntries(truth)


def blocks(entries: Entries) -> Iterator[tuple[int, int]]:
    """Start and stop of each block of entries."""
    yield from ((start, min(start + BLOCK, len(entries))) for start in range(0, len(entries), BLOCK))


def row_blocks(rows: int, classes: int, size: int = BLOCK) -> Iterator[tuple[int, int]]:
    """First row and end of each block of rows that hold at most `size` entries, at least a row each."""
    step = max(1, size // max(classes, 1))
    yield from ((first, min(first + step, rows)) for first in range(0, rows, step))


class EntryColumns(NamedTuple):
    """Some entries of a table: those of row i have the classes `columns[starts[i]:starts[i + 1]]`, ascending."""

    starts: NDArray[Any]  # (N + 1,)
    columns: Columns  # (E,)

    def row(self, row: int) -> Index:
        """The classes of one row, a copy of 64 bits."""
        return self.columns[self.starts[row] : self.starts[row + 1]].astype(np.int64)

    def counts(self) -> Index:
        """(N,) how many there are in each row."""
        return np.diff(self.starts).astype(np.int64)

    def narrowed(self, chosen: NDArray[np.bool_], classes: int) -> EntryColumns:
        """Those that are `chosen` (E,); the same arrays where all are."""
        if chosen.all():
            return self
        counts = np.zeros(len(self.starts), dtype=np.int64)
        for first, last in row_blocks(len(self.starts) - 1, classes):
            starts = self.starts[first : last + 1].astype(np.int64)
            before = np.concatenate([[0], np.cumsum(chosen[starts[0] : starts[-1]])])
            counts[first + 1 : last + 1] = np.diff(before[starts - starts[0]])
        return EntryColumns(np.cumsum(counts), self.columns[chosen])

    def csr(self, codes: Codes, shape: tuple[int, int]) -> csr_array:
        """These entries with their codes (E,), in 32 bits where they do: scipy takes the wider of two kinds."""
        kind = np.int32 if max(len(codes), *shape) < 2**31 else np.int64
        columns, starts = (part.astype(kind, copy=False) for part in (self.columns, self.starts))
        return csr_array((codes, columns, starts), shape=shape)


def places_of(table: LabelTable, code: int) -> EntryColumns:
    """Where `table` holds `code`, which must not be the default of a sparse one."""
    if isinstance(table.codes, csr_array):
        held = canonical(table)
        return EntryColumns(held.indptr, held.indices).narrowed(held.data == code, table.num_classes)
    row, column = np.nonzero(table.codes == code)
    return EntryColumns(np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(table)))]), column)


def table_like(truth: LabelTable, places: EntryColumns, codes: Codes, default: int) -> LabelTable:
    """The labels `codes` (E,) at `places` and `default` elsewhere, stored as `truth` is.

    The classes of a row may come in any order here.
    """
    if isinstance(truth.codes, csr_array):
        held = places.csr(codes, truth.codes.shape)
        if not held.has_sorted_indices:
            held.sort_indices()
        return LabelTable(held, default=default)
    dense = np.full(truth.codes.shape, default, dtype=np.int8)
    dense[np.repeat(np.arange(len(truth)), places.counts()), places.columns] = codes
    return LabelTable(dense)


def with_codes(held: csr_array, codes: Codes, default: int) -> LabelTable:
    """A sparse table with the places of `held`, which it shares, and other codes (E,)."""
    return LabelTable(EntryColumns(held.indptr, held.indices).csr(codes, held.shape), default=default)


def canonical(table: LabelTable) -> csr_array:
    """The CSR array of a sparse table, the classes of each row ascending: its own where they are, else a copy.

    Raises:
        ValueError: an entry is stored twice.
    """
    held = table.codes
    if not isinstance(held, csr_array):
        raise TypeError("a dense table has no stored entries")
    if not held.has_sorted_indices:
        held = held.sorted_indices()
    if not held.has_canonical_format:
        raise ValueError("a sparse table of labels stores an entry twice")
    return held


def as_codes(present: NDArray[np.bool_]) -> Codes:
    """PRESENT where true, ABSENT elsewhere, without a copy: these codes are the bytes of the truth values."""
    codes: Codes = present.view(np.int8)
    return codes


def _fill(codes: Codes, drawn: Iterable[Codes]) -> None:
    """Write the blocks into `codes` (E,), one behind the other."""
    at = 0
    for part in drawn:
        codes[at : at + len(part)] = part
        at += len(part)


def _sparse(drawn: Iterable[Codes], shape: tuple[int, int], default: int) -> LabelTable:
    """The sparse table of all N * C codes, of which those other than `default` are stored."""
    counts = np.zeros(shape[0] + 1, dtype=np.int64)
    columns: list[Columns] = [np.empty(0, dtype=np.int32)]
    codes: list[Codes] = [np.empty(0, dtype=np.int8)]
    at = 0
    for part in drawn:
        place = np.flatnonzero(part != default)
        row, column = np.divmod(place + at, shape[1])
        first = at // shape[1]
        held = np.bincount(row - first)
        counts[first + 1 : first + 1 + len(held)] += held
        columns.append(column.astype(np.int32))
        codes.append(part[place])
        at += len(part)
    places = EntryColumns(np.cumsum(counts), np.concatenate(columns))
    return LabelTable(places.csr(np.concatenate(codes), shape), default=default)
