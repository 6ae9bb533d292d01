"""The arrays of label files in our own form: `.npy` for dense tables, `.npz` for sparse ones. Nothing read runs code.

N rows, C classes, E stored entries. A dense table is a plain int8 array (N, C). A sparse one is five plain arrays,
uncompressed: `indptr` (N + 1,), `indices` (E,), `codes` (E,) int8, `default` () int8 and `shape` (2,) int64.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from data.labels.entries import EntryColumns, canonical
from utils.checks import UserError, require
from utils.safe_files import load_npy
from utils.types import ABSENT, PRESENT, UNKNOWN, Codes, LabelTable

DENSE, SPARSE = ".npy", ".npz"

_ARRAYS = ("codes", "default", "indices", "indptr", "shape")
_BLOCK = 1 << 22  # entries checked at a time


def suffix_of(table: LabelTable) -> str:
    """The suffix of label files for the storage of this table: dense or sparse."""
    return SPARSE if isinstance(table.codes, csr_array) else DENSE


def write_table(file: BinaryIO, table: LabelTable) -> None:
    """Write a table as the arrays of its storage."""
    if not isinstance(table.codes, csr_array):
        np.save(file, table.codes, allow_pickle=False)
        return
    stored = canonical(table)
    np.savez(
        file,
        indptr=stored.indptr,
        indices=stored.indices,
        codes=stored.data,
        default=np.int8(table.default),
        shape=np.array(stored.shape, dtype=np.int64),
    )


def read_table(path: Path, shape: tuple[int, int]) -> LabelTable:
    """The table of a file: dense or sparse, by its suffix.

    Args:
        path: the `.npy` or `.npz` file.
        shape: (N, C) that it must have.

    Raises:
        UserError: the file is missing, damaged, of another form or shape, or has values other than 1, 0 and -1.
    """
    return _read_sparse(path, shape) if path.suffix == SPARSE else _read_dense(path, shape)


def _read_dense(path: Path, shape: tuple[int, int]) -> LabelTable:
    codes = load_npy(path)
    if codes.dtype != np.int8 or codes.shape != shape:
        raise UserError(f"{path}: holds {codes.dtype} {codes.shape}, must be int8 {shape}; make the file anew")
    _require_codes(path, codes)
    return LabelTable(codes)


def _read_sparse(path: Path, shape: tuple[int, int]) -> LabelTable:
    arrays = _read_arrays(path)
    default = arrays["default"]
    good = default.shape == () and default.dtype == np.int8 and int(default) in (ABSENT, UNKNOWN)
    _require_array(path, "default", good, "must be one int8, 0 or -1")
    good = arrays["shape"].dtype == np.int64 and arrays["shape"].tolist() == list(shape)
    _require_array(path, "shape", good, f"is {arrays['shape'].tolist()!r:.60}, must be {list(shape)}")
    codes, indices, indptr = arrays["codes"], arrays["indices"], arrays["indptr"]
    _require_array(path, "codes", codes.dtype == np.int8 and codes.ndim == 1, "must be int8 in one dimension")
    _require_codes(path, codes)
    _require_starts(path, indptr, shape[0], len(codes))
    _require_columns(path, indices, indptr, shape[1], len(codes))
    return LabelTable(EntryColumns(indptr, indices).csr(codes, shape), default=int(default))


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz` by name: exactly ours, and uncompressed (a small file could expand to a huge one)."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(archive.namelist())
            compressed = any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())
        if names != [f"{name}.npy" for name in _ARRAYS] or compressed:
            raise ValueError(f"it must hold {', '.join(_ARRAYS)}, uncompressed")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in _ARRAYS}
    except Exception as error:  # damage can make zipfile and numpy raise nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise UserError(f"{path}: not a readable file of sparse labels ({reason}); make it anew") from error


def _require_codes(path: Path, codes: Codes) -> None:
    good = not codes.size or (codes.min() >= UNKNOWN and codes.max() <= PRESENT)
    require(bool(good), f"{path}: holds values other than 1, 0 and -1; make the file anew")


def _require_starts(path: Path, indptr: NDArray[Any], rows: int, stored: int) -> None:
    """`indptr` (N + 1,) must rise from 0 to E."""
    good = indptr.dtype in (np.int32, np.int64) and indptr.shape == (rows + 1,)
    _require_array(path, "indptr", good, f"must be {rows + 1} integers in one dimension")
    good = indptr[0] == 0 and indptr[-1] == stored and bool((indptr[1:] >= indptr[:-1]).all())
    _require_array(path, "indptr", good, f"must rise from 0 to {stored}, the number of codes")


def _require_columns(path: Path, indices: NDArray[Any], indptr: NDArray[Any], classes: int, stored: int) -> None:
    """`indices` (E,) must be classes, and ascend within each row."""
    good = indices.dtype in (np.int32, np.int64) and indices.shape == (stored,)
    _require_array(path, "indices", good, f"must be {stored} integers in one dimension, as many as codes")
    good = not stored or bool(indices.min() >= 0 and indices.max() < classes)
    _require_array(path, "indices", good, f"must be classes, 0 to {classes - 1}")
    rises = np.ones(stored + 1, dtype=np.bool_)
    for start in range(1, stored, _BLOCK):
        stop = min(start + _BLOCK, stored)
        np.greater(indices[start:stop], indices[start - 1 : stop - 1], out=rises[start:stop])
    rises[indptr] = True  # the first class of a row follows another row
    _require_array(path, "indices", bool(rises.all()), "must ascend within each row")


def _require_array(path: Path, name: str, good: bool, what: str) -> None:
    require(bool(good), f"{path}: damaged: {name} {what}; delete it and its manifest and make both anew")
