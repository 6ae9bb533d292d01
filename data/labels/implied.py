"""Labels that follow from others by a hierarchy of classes. N images, C classes.

Whoever sees a cat sees an animal: a present class makes all classes above it present. Where there is no animal there is
no cat: an absent class makes all classes below it absent. Where the two meet present wins, for somebody saw the object;
how many labels were overruled so is counted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from utils.types import ABSENT, PRESENT, UNKNOWN, Annotations, Codes, LabelTable

_CELLS = 1 << 24  # of a block of dense rows
_ROWS = 1 << 19  # of a block of sparse rows


class Changes(NamedTuple):
    """How many entries followed from others."""

    present: int = 0
    """Became present."""
    absent: int = 0
    """Became absent."""
    overruled: int = 0
    """Of those that became present, how many had been absent."""

    def __str__(self) -> str:
        """All three, as the end of a note."""
        return (
            f"{self.present} labels became present, as a class below them is; {self.overruled} of these were absent; "
            f"{self.absent} became absent, as a class above them is"
        )

    def plus(self, other: Changes) -> Changes:
        """The sums of both."""
        return Changes(*(one + more for one, more in zip(self, other, strict=True)))


def completed(split: Annotations, above: csr_array) -> tuple[Annotations, Changes]:
    """A split with the labels that follow, those of its truth counted. Args: as of `with_implied`."""
    truth, changes = with_implied(split.truth, above)
    given = None if split.given is None else with_implied(split.given, above)[0]
    return replace(split, truth=truth, given=given), changes


def with_implied(table: LabelTable, above: csr_array) -> tuple[LabelTable, Changes]:
    """A table of true or observed labels with those that follow from them; a table of known labels only stays one.

    Args:
        table: (N, C).
        above: (C, C), 1 where the class of a column is above that of a row; complete: above what is above, too.
    """
    if not len(table) or not above.nnz:
        return table, Changes()
    size = _ROWS if table.stores_known_only else _CELLS // table.num_classes
    blocks = [table.take(np.arange(start, min(start + size, len(table)))) for start in range(0, len(table), size)]
    if table.stores_known_only:
        sparse = [_sparse_block(csr_array(block.codes), above) for block in blocks]
        stacked = csr_array(vstack([codes for codes, _ in sparse], format="csr"))
        return LabelTable(stacked, default=UNKNOWN), _total([changes for _, changes in sparse])
    dense = [_dense_block(block.dense(), above) for block in blocks]
    return LabelTable(np.concatenate([codes for codes, _ in dense])), _total([changes for _, changes in dense])


def _sparse_block(codes: csr_array, above: csr_array) -> tuple[csr_array, Changes]:
    """Of (B, C) codes whose stored entries are known: the same with more of them."""
    present, absent, changes = _follow(_where(codes, PRESENT), _where(codes, ABSENT), above)
    merged = present * np.int8(2) + absent
    return csr_array(((merged.data == 2).astype(np.int8), merged.indices, merged.indptr), shape=codes.shape), changes


def _dense_block(codes: Codes, above: csr_array) -> tuple[Codes, Changes]:
    """Of (B, C) codes."""
    present, absent, changes = _follow(_ones(codes == PRESENT), _ones(codes == ABSENT), above)
    found = np.full(codes.shape, UNKNOWN, dtype=np.int8)
    found[absent.nonzero()] = ABSENT
    found[present.nonzero()] = PRESENT
    return found, changes


def _follow(present: csr_array, absent: csr_array, above: csr_array) -> tuple[csr_array, csr_array, Changes]:
    """(B, C) int8 ones where a class is present, and where it is absent, after all that follows.

    What is absent after the first step has nothing present below it, so that the second contradicts nothing.
    """
    seen = _once(present + present.astype(np.int32) @ above)
    overruled = absent.multiply(seen)
    left = csr_array(absent - overruled)
    left.eliminate_zeros()
    gone = _once(left + left.astype(np.int32) @ above.T)
    return seen, gone, Changes(seen.nnz - present.nnz, gone.nnz - left.nnz, int(overruled.sum()))


def _where(codes: csr_array, code: int) -> csr_array:
    """Ones where a stored entry is a code."""
    kept = csr_array(((codes.data == code).astype(np.int8), codes.indices, codes.indptr), shape=codes.shape, copy=True)
    kept.eliminate_zeros()
    return kept


def _ones(chosen: NDArray[np.bool_]) -> csr_array:
    return csr_array(chosen.astype(np.int8))


def _once(counts: csr_array) -> csr_array:
    """Ones where a count is not 0, in the order of the columns."""
    found = csr_array((np.ones(counts.nnz, dtype=np.int8), counts.indices, counts.indptr), shape=counts.shape)
    found.sort_indices()
    return found


def _total(changes: list[Changes]) -> Changes:
    return Changes(*(sum(counts) for counts in zip(*changes, strict=True)))
