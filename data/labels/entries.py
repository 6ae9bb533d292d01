"""The entries of a label table in row-major order, and tables built from the codes drawn for them.

N rows, C classes, E entries. Draws are made block by block in row-major order, so that dense and sparse tables of equal
labels get equal draws, and a table of millions of rows never becomes dense.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from utils.types import UNKNOWN, Codes, Index, LabelTable

BLOCK = 1 << 18
"""Entries per block; the labels drawn from a `Generator` depend on it."""

Columns = NDArray[Any]  # integers of 32 or 64 bits, as in the table


class AllEntries:
    """Every entry of a table, N * C of them."""

    def __init__(self, truth: LabelTable) -> None:
        self.truth = truth
        self.classes = truth.num_classes

    def __len__(self) -> int:
        return len(self.truth) * self.classes

    def codes(self, start: int, stop: int) -> Codes:
        """(stop - start,) the labels of the entries `start` to `stop`, read-only."""
        first = start // self.classes
        codes, wanted = self.truth.codes, slice(first, -(-stop // self.classes))
        rows: Codes = self.truth.rows(wanted) if isinstance(codes, csr_array) else codes[wanted]
        return rows.reshape(-1)[start - first * self.classes : stop - first * self.classes]

    def rows(self, start: int, stop: int) -> Index:
        """(stop - start,) the row of each entry."""
        return np.arange(start, stop, dtype=np.int64) // self.classes

    def columns(self, start: int, stop: int) -> Columns:
        """(stop - start,) the class of each entry."""
        return np.arange(start, stop, dtype=np.int64) % self.classes

    def table(self, drawn: Iterable[Codes], default: int) -> LabelTable:
        """The table of the codes `drawn` for all entries, block by block; sparse if the truth is."""
        shape = (len(self.truth), self.classes)
        if isinstance(self.truth.codes, csr_array):
            return _sparse(drawn, shape, default)
        codes = np.empty(len(self), dtype=np.int8)
        _fill(codes, drawn)
        return LabelTable(codes.reshape(shape))


class StoredEntries:
    """The entries stored by a table of known labels; the others are UNKNOWN and stay so."""

    def __init__(self, truth: LabelTable) -> None:
        self.stored = canonical(truth)

    def __len__(self) -> int:
        return len(self.stored.data)

    def codes(self, start: int, stop: int) -> Codes:
        """(stop - start,) the labels of the entries `start` to `stop`, read-only."""
        codes: Codes = self.stored.data[start:stop]
        return codes

    def rows(self, start: int, stop: int) -> Index:
        """(stop - start,) the row of each entry."""
        return np.searchsorted(self.stored.indptr, np.arange(start, stop), side="right") - 1

    def columns(self, start: int, stop: int) -> Columns:
        """(stop - start,) the class of each entry."""
        columns: Columns = self.stored.indices[start:stop]
        return columns

    def table(self, drawn: Iterable[Codes], default: int = UNKNOWN) -> LabelTable:
        """The table of the codes `drawn`, block by block. Entries stored as UNKNOWN stay so, whatever was drawn.

        Its default is UNKNOWN whatever `default` is. If all codes are known it shares the index arrays of the truth.
        """
        codes = np.empty(len(self), dtype=np.int8)
        _fill(codes, drawn)
        codes[self.stored.data == UNKNOWN] = UNKNOWN
        known = codes != UNKNOWN
        if known.all():
            return with_codes(self.stored, codes, UNKNOWN)
        entries = EntryColumns(self.stored.indptr, self.stored.indices).select(known, self.stored.shape[1])
        return LabelTable(entries.csr(codes[known], self.stored.shape), default=UNKNOWN)


Entries = AllEntries | StoredEntries


def entries_of(truth: LabelTable) -> Entries:
    """The entries of `truth` that a regime draws for: all, or those that a table of known labels stores."""
    return StoredEntries(truth) if truth.stores_known_only else AllEntries(truth)


def blocks(entries: Entries) -> Iterator[tuple[int, int]]:
    """Start and stop of each block of entries."""
    yield from ((start, min(start + BLOCK, len(entries))) for start in range(0, len(entries), BLOCK))


def row_blocks(rows: int, classes: int, size: int = BLOCK) -> Iterator[tuple[int, int]]:
    """First row and end of each block of rows with at most `size` entries, but at least one row."""
    step = max(1, size // max(classes, 1))
    yield from ((first, min(first + step, rows)) for first in range(0, rows, step))


class EntryColumns(NamedTuple):
    """Some entries of a table: those of row i have the classes `columns[starts[i]:starts[i + 1]]`, ascending."""

    starts: NDArray[Any]  # (N + 1,)
    columns: Columns  # (E,)

    def row(self, row: int) -> Index:
        """The classes of one row, a 64-bit copy."""
        return self.columns[self.starts[row] : self.starts[row + 1]].astype(np.int64)

    def counts(self) -> Index:
        """(N,) number of entries in each row."""
        return np.diff(self.starts).astype(np.int64)

    def select(self, chosen: NDArray[np.bool_], classes: int) -> EntryColumns:
        """The entries that are `chosen` (E,); the same arrays if all are."""
        if chosen.all():
            return self
        counts = np.zeros(len(self.starts), dtype=np.int64)
        for first, last in row_blocks(len(self.starts) - 1, classes):
            starts = self.starts[first : last + 1].astype(np.int64)
            before = np.concatenate([[0], np.cumsum(chosen[starts[0] : starts[-1]])])
            counts[first + 1 : last + 1] = np.diff(before[starts - starts[0]])
        return EntryColumns(np.cumsum(counts), self.columns[chosen])

    def csr(self, codes: Codes, shape: tuple[int, int]) -> csr_array:
        """These entries with their codes (E,); indices have 32 bits if that is enough, else 64."""
        dtype = np.int32 if max(len(codes), *shape) < 2**31 else np.int64
        columns, starts = (part.astype(dtype, copy=False) for part in (self.columns, self.starts))
        return csr_array((codes, columns, starts), shape=shape)


def entries_with(table: LabelTable, code: int) -> EntryColumns:
    """The entries of `table` with `code`, which must not be the default of a sparse one."""
    if isinstance(table.codes, csr_array):
        stored = canonical(table)
        return EntryColumns(stored.indptr, stored.indices).select(stored.data == code, table.num_classes)
    row, column = np.nonzero(table.codes == code)
    return EntryColumns(np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(table)))]), column)


def table_like(truth: LabelTable, entries: EntryColumns, codes: Codes, default: int) -> LabelTable:
    """The labels `codes` (E,) of `entries` and `default` elsewhere, dense or sparse as `truth` is.

    The classes of a row may be in any order here.
    """
    if isinstance(truth.codes, csr_array):
        stored = entries.csr(codes, truth.codes.shape)
        if not stored.has_sorted_indices:
            stored.sort_indices()
        return LabelTable(stored, default=default)
    dense = np.full(truth.codes.shape, default, dtype=np.int8)
    dense[np.repeat(np.arange(len(truth)), entries.counts()), entries.columns] = codes
    return LabelTable(dense)


def with_codes(stored: csr_array, codes: Codes, default: int) -> LabelTable:
    """A sparse table with the index arrays of `stored`, which it shares, and other codes (E,)."""
    return LabelTable(EntryColumns(stored.indptr, stored.indices).csr(codes, stored.shape), default=default)


def canonical(table: LabelTable) -> csr_array:
    """The CSR array of a sparse table, the classes of each row ascending: its own if they are, else a copy.

    Raises:
        ValueError: an entry is stored twice.
    """
    stored = table.codes
    if not isinstance(stored, csr_array):
        raise TypeError("a dense table has no stored entries")
    if not stored.has_sorted_indices:
        stored = stored.sorted_indices()
    if not stored.has_canonical_format:
        raise ValueError("a sparse table of labels stores an entry twice")
    return stored


def as_codes(present: NDArray[np.bool_]) -> Codes:
    """PRESENT where true, ABSENT elsewhere, without a copy: the codes equal the bytes of the booleans."""
    codes: Codes = present.view(np.int8)
    return codes


def _fill(codes: Codes, drawn: Iterable[Codes]) -> None:
    """Write the blocks into `codes` (E,), one after the other."""
    start = 0
    for part in drawn:
        codes[start : start + len(part)] = part
        start += len(part)


def _sparse(drawn: Iterable[Codes], shape: tuple[int, int], default: int) -> LabelTable:
    """The sparse table of all N * C codes; those other than `default` are stored."""
    counts = np.zeros(shape[0] + 1, dtype=np.int64)
    columns: list[Columns] = [np.empty(0, dtype=np.int32)]
    codes: list[Codes] = [np.empty(0, dtype=np.int8)]
    start = 0
    for part in drawn:
        kept = np.flatnonzero(part != default)
        row, column = np.divmod(kept + start, shape[1])
        first = start // shape[1]
        per_row = np.bincount(row - first)
        counts[first + 1 : first + 1 + len(per_row)] += per_row
        columns.append(column.astype(np.int32))
        codes.append(part[kept])
        start += len(part)
    entries = EntryColumns(np.cumsum(counts), np.concatenate(columns))
    return LabelTable(entries.csr(np.concatenate(codes), shape), default=default)
