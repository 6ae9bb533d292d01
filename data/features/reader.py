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
_ONE = {"ids": "id", "classes": "class", "kind": "kind"}  # names of arrays of texts, and of one of these
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
        return file_hash(self.path, *([ids_beside(self.path)] if self.path.suffix == ".npy" else []))


def file_hash(*paths: Path) -> str:
    """SHA-256 (hex) of the content of files, one after another. Raises: UserError when one cannot be read."""
    digest = hashlib.sha256()
    for path in paths:
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
    readers = {".npz": npz_texts, ".safetensors": metadata_texts, ".npy": _lines}
    ids, where = readers[path.suffix](path)
    check_ids(ids, len(values), where)
    return FeatureFile(path, values, tuple(ids))


def mapped_features(path: Path) -> NDArray[Any]:
    """The array of a file, (N, D) or (N, D, h, w), mapped into memory. Raises: UserError as `read_features` does."""
    readers = {".npz": npz_array, ".safetensors": stored_tensor, ".npy": _npy_file}
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
        f"{'features=features, ids=ids' if name in ('features', 'ids') else f'{name}={name}, ...'})",
    )
    return found[0]


def names_in(path: Path) -> list[str]:
    """Names of the arrays of an archive, or of the tensors of a `.safetensors`. Raises: UserError for other files."""
    if path.suffix == ".safetensors":
        return [name for name in _tensor_table(path)[0] if name != "__metadata__"]
    with _archive(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def npz_array(path: Path, name: str = "features") -> NDArray[Any]:
    """An array of an archive: mapped where it is stored, in memory where it is compressed.

    The checksum of one that is mapped is compared by `compare_checksum`. Raises: UserError when it is not there, is
    damaged or holds Python objects.
    """
    with _archive(path) as archive:
        info = _member(archive, name, path)
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


def compare_checksum(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    """Read a stored array through, piece by piece, so that the archive compares its checksum."""
    info = _member(archive, name, path)
    if info.compress_type == zipfile.ZIP_STORED:
        with archive.open(info) as stream:
            while stream.read(_BLOCK):
                pass


def npz_texts(path: Path, name: str = "ids", beside: Sequence[str] = ("features",)) -> tuple[list[str], str]:
    """Texts of an archive and where they stand; the checksums of the arrays `beside` them are compared too.

    Raises: UserError when they are not there, are damaged or of another kind.
    """
    with _archive(path) as archive:
        content = _unpacked(archive, _member(archive, name, path), path)
        for other in beside:
            compare_checksum(archive, other, path)
    return _texts(_npy_array(content, path), path, name), f"{path}, `{name}`"


def npz_words(path: Path, name: str) -> list[str]:
    """One text or several of an archive. Raises: UserError as `npz_texts`."""
    return _texts(np.atleast_1d(npz_array(path, name)), path, name)


def _texts(ids: NDArray[Any], path: Path, name: str) -> list[str]:
    """Ids as texts, of an array (N,) of texts, of bytes in UTF-8, or of whole numbers. Raises: UserError."""
    require(
        ids.ndim == 1 and ids.dtype.kind in "USiu",
        f"{path}: `{name}` is {ids.dtype} of the shape {_sides(ids.shape)}; must be N texts or whole numbers",
    )
    if ids.dtype.kind == "U" and ids.dtype.itemsize:
        valid = is_text(np.ascontiguousarray(ids))
        if not valid.all():
            raise UserError(f"{path}: {_ONE[name]} {int(valid.argmin())} contains an invalid character; write it again")
    if ids.dtype.kind != "S":
        return [str(one) for one in ids.tolist()]
    try:
        return [one.decode() for one in ids.tolist()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: `{name}` holds bytes that are not UTF-8 ({error.reason}); write texts") from error


def _tensor_table(path: Path) -> tuple[dict[str, Any], Bytes]:
    """What the header of a file says of its tensors, checked by the library, and the bytes behind it."""
    load_metadata(path)
    content = _mapped(path)
    length = int.from_bytes(content[:8].tobytes(), "little")
    require(length <= _LARGEST_HEADER, f"{path}: damaged: its header takes {length} bytes")
    return json.loads(content[8 : 8 + length].tobytes()), content[8 + length :]


def stored_tensor(path: Path, name: str = "features") -> NDArray[Any]:
    """A tensor of a `.safetensors`, mapped. Raises: UserError when it is not there, damaged, or not of floats."""
    tensors, content = _tensor_table(path)
    entry: Any = tensors.get(name)
    there = ", ".join(other[:40] for other in list(tensors)[:8] if other != "__metadata__") or "nothing"
    require(entry is not None, f"{path}: has no tensor `{name}` (there is {there})")
    require(
        entry["dtype"] in _STORED,
        f"{path}: {name} are {entry['dtype']}; must be {', '.join(_NUMBERS)} or bfloat16",
    )
    start, end = entry["data_offsets"]
    data, dtype = content[start:end], np.dtype(_STORED[entry["dtype"]])
    fits = len(data) == math.prod(entry["shape"]) * dtype.itemsize
    require(fits, f"{path}: damaged: {len(data)} bytes of {name} where {_sides(entry['shape'])} take others")
    return data.view(dtype).reshape(entry["shape"])


def metadata_texts(path: Path, name: str = "ids") -> tuple[list[str], str]:
    """Texts in the metadata of a `.safetensors` and where they stand. Raises: UserError when there are none."""
    text, where = load_metadata(path).get(name), f"{path}, metadata `{name}`"
    require(
        text is not None,
        f"{path}: has no `{name}` in its metadata; write save_file(tensors, file, "
        f"metadata={{'{name}': json.dumps({name})}})",
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


def check_ids(ids: Sequence[str], rows: int, where: str, of: str = "features") -> None:
    """Raise UserError unless there is one id for each row `of` the file, plain text, and none twice."""
    require(len(ids) == rows, f"{where}: {len(ids):,} ids for {rows:,} rows of {of}; there must be one for each")
    first: dict[str, int] = {}
    for row, one in enumerate(ids):
        plain = one.isprintable() or is_plain_text(one)  # the first is faster, and refuses unusual spaces
        require(bool(one) and plain, f"{where}: id {row} (from 0) is {one[:60]!r}; must be text of one line")
        if first.setdefault(one, row) != row:
            raise UserError(
                f"{where}: {one[:80]!r} stands there twice (rows {first[one]} and {row}); keep one row each"
            )
