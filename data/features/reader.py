"""Features that another program computed of images, by the ids of these: `.npz`, `.safetensors`, `.npy`.

N rows, D feature width, h w feature map. The numbers stay in the file, which is mapped into memory; nothing in it is
ever run.

- `.npz` of `numpy.savez`: arrays `features` and `ids`;
- `.safetensors`: a tensor `features`, and in the metadata `ids`, a list in JSON;
- `NAME.npy`: the features, with the ids in `NAME.ids.txt` beside it, one a line.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import mmap
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.files.text_files import is_plain_text, read_text
from utils.checks import UserError, require
from utils.safe_files import is_text, load_metadata, npy_header, open_file

FORMS = (".npz", ".safetensors", ".npy")
_NUMBERS = ("float16", "float32", "float64")
_STORED = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2"}  # types of safetensors; NumPy has no bfloat16
_INFINITE = 0x7F80  # the bits of the exponent of a bfloat16; all are set where it is not finite
_LARGEST_PACKED = 1 << 30  # bytes; compressed arrays cannot be mapped
_LARGEST_HEADER = 1 << 27  # bytes, more than safetensors itself admits
_BLOCK = 1 << 24  # bytes that are looked at in one go
_HEAD = 1 << 16  # bytes in which the header of an array lies

Bytes = NDArray[np.uint8]


class FeatureFile(NamedTuple):
    """Features in a file, row by row, with their ids."""

    path: Path
    values: NDArray[Any]
    """(N, D), or maps (N, D, h, w), in the file; bfloat16 as its bits, uint16."""
    ids: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """D, or D, h and w."""
        return self.values.shape[1:]

    def rows(self, index: NDArray[np.int64] | slice) -> NDArray[Any]:
        """Features of these rows as NumPy and torch have them: bfloat16 becomes float32."""
        return plain_numbers(self.values[index])

    def require_finite(self) -> None:
        """Raise UserError naming the first row that holds a value that is not finite, in single precision."""
        size = max(1, _BLOCK // max(1, self.values[:1].nbytes))
        for start in range(0, len(self.values), size):
            finite = _finite_rows(self.values[start : start + size])
            if not finite.all():
                row = start + int(finite.argmin())
                raise UserError(
                    f"{self.path}: the features of {self.ids[row][:80]!r} (row {row}) are not finite in single "
                    "precision; compute them again"
                )

    def content_hash(self) -> str:
        """SHA-256 (hex) of the file, and of the ids beside it where they are."""
        digest = hashlib.sha256()
        for path in (self.path, *([ids_beside(self.path)] if self.path.suffix == ".npy" else [])):
            with open_file(path) as file:
                while part := file.read(_BLOCK):
                    digest.update(part)
        return digest.hexdigest()


def read_features(path: Path) -> FeatureFile:
    """The features of a file, their ids checked; whether the numbers are finite is not yet.

    Raises: UserError when the file is missing, damaged or of another form, holds Python objects, or has an id twice,
        or not one id for each row.
    """
    values = mapped_features(path)
    readers = {".npz": _npz_ids, ".safetensors": _metadata_ids, ".npy": _lines}
    ids, where = readers[path.suffix](path)
    _check_ids(ids, len(values), where)
    return FeatureFile(path, values, tuple(ids))


def mapped_features(path: Path) -> NDArray[Any]:
    """The array of a file, (N, D) or (N, D, h, w), mapped into memory. Raises: UserError as `read_features` does."""
    readers = {".npz": _npz_features, ".safetensors": _tensor, ".npy": _npy_file}
    require(path.suffix in readers, f"{path}: features are read from {', '.join(FORMS)}; save them as one of these")
    values = readers[path.suffix](path)
    kind = "bfloat16" if path.suffix == ".safetensors" and values.dtype == np.uint16 else values.dtype.name
    require(
        kind in (*_NUMBERS, "bfloat16"), f"{path}: features are {kind}; must be {', '.join(_NUMBERS)} (or bfloat16)"
    )
    require(
        values.ndim in (2, 4) and 0 not in values.shape,
        f"{path}: features have the shape {_sides(values.shape)}; must be N x D, or N x D x h x w for feature maps"
        f"{' (tokens: transpose them, and leave out that of the class)' if values.ndim == 3 else ''}",
    )
    return values


def plain_numbers(values: NDArray[Any]) -> NDArray[Any]:
    """Floats in the byte order of this machine; bits of bfloat16 as float32."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def ids_beside(path: Path) -> Path:
    """The file of ids of a `.npy`: `NAME.ids.txt` for `NAME.npy`."""
    return path.with_suffix(".ids.txt")


def _sides(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape[:8])) or "of one number"


def _finite_rows(values: NDArray[Any]) -> NDArray[np.bool_]:
    """(B,) True for rows without a value that is not finite in single precision."""
    flat = values.reshape(len(values), -1)
    if values.dtype == np.uint16:
        return np.asarray(((flat & _INFINITE) != _INFINITE).all(axis=1))
    with np.errstate(over="ignore"):
        return np.asarray(np.isfinite(flat.astype(np.float32, copy=False)).all(axis=1))


def _mapped(path: Path) -> Bytes:
    """The bytes of a file, mapped into memory. Raises: UserError when it cannot be read, or is empty."""
    with open_file(path) as file:
        require(bool(file.read(1)), f"{path}: is empty; save the features again")
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def _npy_file(path: Path) -> NDArray[Any]:
    return _npy_array(_mapped(path), path)


def _npy_array(content: Bytes, path: Path) -> NDArray[Any]:
    """The array that the bytes of an `.npy` hold, without a copy. Raises: UserError when they hold something else."""
    head = io.BytesIO(content[:_HEAD].tobytes())
    shape, fortran, dtype = npy_header(head, path)
    require(not dtype.hasobject, f"{path}: holds pickled Python objects, which are never read; save plain arrays")
    size = math.prod(shape) * dtype.itemsize
    data = content[head.tell() : head.tell() + size]
    require(len(data) == size, f"{path}: cut short: {len(data)} bytes of data where {shape} {dtype} needs {size}")
    values = data.view(dtype) if dtype.itemsize else np.empty(0, dtype)
    return values.reshape(shape, order="F" if fortran else "C")


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive, open. Raises: UserError where it is damaged; that can raise nearly any exception."""
    with open_file(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                yield archive
        except (UserError, OSError):
            raise
        except Exception as error:
            said = (str(error).splitlines() or [type(error).__name__])[0][:160]
            raise UserError(f"{path}: damaged, or no .npz file ({said}); save it again with numpy.savez") from error


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> zipfile.ZipInfo:
    """The record of an array. Raises: UserError when there is none, or several."""
    found = [info for info in archive.infolist() if info.filename == f"{name}.npy"]
    there = ", ".join(info.filename.removesuffix(".npy")[:40] for info in archive.infolist()[:8]) or "nothing"
    require(
        len(found) == 1,
        f"{path}: has {len(found) or 'no'} arrays `{name}` (there is {there}); write numpy.savez(file, "
        "features=features, ids=ids)",
    )
    return found[0]


def _npz_features(path: Path) -> NDArray[Any]:
    """The array `features` of an archive: mapped where it is stored, in memory where it is compressed."""
    with _archive(path) as archive:
        info = _member(archive, "features", path)
        if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
            content = _mapped(path)
            start = _start(content, info, path)
            return _npy_array(content[start : start + info.file_size], path)
        return _npy_array(_unpacked(archive, info, path), path)


def _start(content: Bytes, info: zipfile.ZipInfo, path: Path) -> int:
    """Place of the first byte of a stored member, behind its name and what else is said of it."""
    head = content[info.header_offset : info.header_offset + 30].tobytes()
    require(head[:4] == b"PK\3\4" and len(head) == 30, f"{path}: damaged: {info.filename} is not where it should be")
    return info.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> Bytes:
    """The bytes of a member, in memory, its checksum compared."""
    require(
        info.file_size <= _LARGEST_PACKED,
        f"{path}: {info.filename} takes {info.file_size / 1e9:.1f} GB and is compressed, so it cannot stay in the "
        "file; save it with numpy.savez, or as .npy",
    )
    return np.frombuffer(archive.read(info), np.uint8)


def _compare_checksum(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """Read a stored member through, piece by piece, so that the archive compares its checksum."""
    if info.compress_type == zipfile.ZIP_STORED:
        with archive.open(info) as stream:
            while stream.read(_BLOCK):
                pass


def _npz_ids(path: Path) -> tuple[list[str], str]:
    with _archive(path) as archive:
        content = _unpacked(archive, _member(archive, "ids", path), path)
        _compare_checksum(archive, _member(archive, "features", path))
    return _texts(_npy_array(content, path), path), f"{path}, `ids`"


def _texts(ids: NDArray[Any], path: Path) -> list[str]:
    """Ids as texts, of an array (N,) of texts, of bytes in UTF-8, or of whole numbers. Raises: UserError."""
    require(
        ids.ndim == 1 and ids.dtype.kind in "USiu",
        f"{path}: `ids` is {ids.dtype} of the shape {_sides(ids.shape)}; must be N texts or whole numbers",
    )
    if ids.dtype.kind == "U" and ids.dtype.itemsize:
        valid = is_text(np.ascontiguousarray(ids))
        if not valid.all():
            raise UserError(f"{path}: id {int(valid.argmin())} contains an invalid character; write it again")
    if ids.dtype.kind != "S":
        return [str(one) for one in ids.tolist()]
    try:
        return [one.decode() for one in ids.tolist()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: `ids` holds bytes that are not UTF-8 ({error.reason}); write texts") from error


def _tensor(path: Path) -> NDArray[Any]:
    """The tensor `features` of a file whose header the library has checked."""
    load_metadata(path)
    content = _mapped(path)
    length = int.from_bytes(content[:8].tobytes(), "little")
    require(length <= _LARGEST_HEADER, f"{path}: damaged: its header takes {length} bytes")
    tensors = json.loads(content[8 : 8 + length].tobytes())
    entry = tensors.get("features")
    there = ", ".join(name[:40] for name in list(tensors)[:8] if name != "__metadata__") or "nothing"
    require(entry is not None, f"{path}: has no tensor `features` (there is {there})")
    require(
        entry["dtype"] in _STORED,
        f"{path}: features are {entry['dtype']}; must be {', '.join(_NUMBERS)} or bfloat16",
    )
    start, end = entry["data_offsets"]
    data, dtype = content[8 + length + start : 8 + length + end], np.dtype(_STORED[entry["dtype"]])
    fits = len(data) == math.prod(entry["shape"]) * dtype.itemsize
    require(fits, f"{path}: damaged: {len(data)} bytes of features where {_sides(entry['shape'])} take others")
    return data.view(dtype).reshape(entry["shape"])


def _metadata_ids(path: Path) -> tuple[list[str], str]:
    text, where = load_metadata(path).get("ids"), f"{path}, metadata `ids`"
    require(
        text is not None,
        f"{path}: has no `ids` in its metadata; write save_file(tensors, file, metadata={{'ids': json.dumps(ids)}})",
    )
    try:
        ids = json.loads(text or "")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: no JSON ({error}); write json.dumps(ids)") from error
    fits = isinstance(ids, list) and all(type(one) in (str, int) for one in ids)
    require(fits, f"{where}: must be a list of texts or whole numbers")
    return list(map(str, ids)), where


def _lines(path: Path) -> tuple[list[str], str]:
    file = ids_beside(path)
    text = read_text(file, f"it holds the ids of the rows of {path.name}, one a line")
    return [line.strip() for line in text.rstrip("\r\n").split("\n")], str(file)


def _check_ids(ids: Sequence[str], rows: int, where: str) -> None:
    """Raise UserError unless there is one id for each row, plain text, and none twice."""
    require(len(ids) == rows, f"{where}: {len(ids):,} ids for {rows:,} rows of features; there must be one for each")
    first: dict[str, int] = {}
    for row, one in enumerate(ids):
        plain = one.isprintable() or is_plain_text(one)  # the first is faster, and refuses unusual spaces
        require(bool(one) and plain, f"{where}: id {row} (from 0) is {one[:60]!r}; must be text of one line")
        if first.setdefault(one, row) != row:
            raise UserError(
                f"{where}: {one[:80]!r} stands there twice (rows {first[one]} and {row}); keep one row each"
            )
