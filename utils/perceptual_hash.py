"""Perceptual hashes: bits of an image that stay when it is scaled, saved again or slightly changed.

The bits say which of the lowest frequencies of the grey levels are above their median (the DCT hash known as pHash, at
255 bits rather than 63: of 500 photographs no two differ in fewer than 90, and copies saved at half the size in up to
22). S side of the square of grey levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

from utils.types import Index

SIDE = 64
"""S: pixels of a side of the square that is hashed."""
BITS = 255
RADIUS = 31
"""Largest number of differing bits by which `nearest_within` finds; two wrong bits of every part are too many."""
_KEPT = 16  # frequencies of a side
_PARTS, _PART_BITS = 16, 16  # of a hash
_FLIPS = np.array([0, *(1 << bit for bit in range(_PART_BITS))], dtype=np.uint16)
_ONES = np.array([bits.bit_count() for bits in range(1 << _PART_BITS)], dtype=np.uint8)
_BLOCK = 1 << 20  # candidates compared at a time

Hashes = NDArray[np.uint16]


class Nearest(NamedTuple):
    """Rows that have one near them in another set, by row."""

    row: Index
    of: Index
    """The nearest row of the other set, the first of equally near ones."""
    bits: Index
    """Number of bits in which the two differ."""


def perceptual_hash(grey: NDArray[np.uint8]) -> Hashes:
    """(16,) the hash of grey levels (S, S): 255 bits, the last bit is 0."""
    spectrum = dctn(grey.astype(np.float64))[:_KEPT, :_KEPT].ravel()[1:]  # the first is the mean grey level
    return np.packbits(np.append(spectrum > np.median(spectrum), False)).view(np.uint16)


def differing_bits(one: Hashes, other: Hashes) -> Index:
    """(N,) number of bits in which hashes (N, 16) differ."""
    bits: Index = _ONES[one ^ other].sum(axis=1, dtype=np.int64)
    return bits


def nearest_within(hashes: Hashes, others: Hashes, radius: int = RADIUS) -> Nearest:
    """The rows of N `hashes` (N, 16) that one of M `others` (M, 16) differs from in at most `radius` bits.

    Of the 16 parts of two such hashes one differs in at most one bit, so only hashes with such a part are compared.

    Raises: ValueError for a radius beyond `RADIUS`, within which that holds.
    """
    if not 0 <= radius <= RADIUS:
        raise ValueError(f"radius {radius}: must be in 0 .. {RADIUS}")
    best = np.full(len(hashes), BITS + 1, dtype=np.int64)
    of = np.full(len(hashes), -1, dtype=np.int64)
    values, first = np.unique(others, axis=0, return_index=True)  # of a thousand blank images, one
    for row, other in _candidates(hashes, values):
        bits, found = differing_bits(hashes[row], values[other]), first[other]
        order = np.lexsort((found, bits, row))
        row, bits, found = row[order], bits[order], found[order]
        head = np.flatnonzero(np.diff(row, prepend=-1))  # the nearest of each row
        row, bits, found = row[head], bits[head], found[head]
        better = (bits < best[row]) | ((bits == best[row]) & (found < of[row]))
        best[row[better]], of[row[better]] = bits[better], found[better]
    near = np.flatnonzero(best <= radius)
    return Nearest(near, of[near], best[near])


def _candidates(hashes: Hashes, values: Hashes) -> Iterator[tuple[Index, Index]]:
    """Rows of both that have a part alike but for at most one bit, some at a time; a pair may come several times."""
    for part in range(_PARTS):
        order = np.argsort(values[:, part], kind="stable")
        ordered = values[order, part]
        for flip in _FLIPS:
            wanted = hashes[:, part] ^ flip
            start, end = (np.searchsorted(ordered, wanted, side=side) for side in ("left", "right"))
            for rows in _blocks(end - start):
                yield from _expanded(np.arange(rows.start, rows.stop), start[rows], (end - start)[rows], order)


def _expanded(rows: Index, start: Index, counts: Index, order: Index) -> Iterator[tuple[Index, Index]]:
    """Each row as often as it has candidates, and these: `order` from its `start` on."""
    if counts.sum():
        steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        yield np.repeat(rows, counts), order[np.repeat(start, counts) + steps]


def _blocks(counts: Index) -> Iterator[slice]:
    """Slices of rows with about `_BLOCK` candidates each; a single row may have more."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _BLOCK, side="right")))
        yield slice(start, stop)
        start = stop
