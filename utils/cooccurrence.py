"""Counts of labels that are observed together. N rows, C classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from utils.types import PRESENT, LabelTable


def cooccurrence(table: LabelTable, *, block: int = 16_384) -> NDArray[np.int64]:
    """Number of rows in which two classes are both PRESENT; on the diagonal, in which one is.

    A sparse table is never made dense. A dense one is read in blocks of rows, whose products are of float32, which is
    fast, and below 2**24, where it is exact.

    Args:
        table: the labels, (N, C).
        block: rows of a dense table read at a time, at most 2**24.

    Returns:
        (C, C), symmetric.
    """
    codes = table.codes
    if isinstance(codes, csr_array) and table.default != PRESENT:
        present = (codes == PRESENT).astype(np.int64)
        together: NDArray[np.int64] = (present.T @ present).toarray()
        return together
    counts = np.zeros((table.num_classes, table.num_classes), dtype=np.int64)
    for start in range(0, len(table), block):
        rows = (table.rows(slice(start, start + block)) == PRESENT).astype(np.float32)
        counts += (rows.T @ rows).astype(np.int64)
    return counts
