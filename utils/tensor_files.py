"""Reader of torch's checkpoint files that believes nothing in them, the same under every version of torch.

`torch.load(weights_only=True)` runs code or writes outside its memory for files made for it, before torch 2.6
(CVE-2025-32434) and before 2.10 (CVE-2026-24747). Here a file's pickle is read with stand-ins for the names that
checkpoints need, everything else is refused, and every tensor lies inside the bytes that the file holds.
"""

from __future__ import annotations

import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from utils.plain_pickle import ADMITTED, Fields, NotData, PlainUnpickler, hashable, without_stand_ins

_PART = 1 << 24
"""Bytes read at a time: a member of an archive is first read as bytes, all that are asked for, and then copied."""
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # how files of torch before 1.6 begin


@dataclass(frozen=True)
class _StorageType(NotData):
    """Stand-in of a class of storages, such as `torch.FloatStorage`; without a dtype it holds bytes."""

    dtype: torch.dtype = torch.uint8


@dataclass(frozen=True)
class _Storage(NotData):
    """Stand-in of a storage: its numbers as a flat tensor."""

    values: Tensor


class _MadeAsDict:
    """Stand-in of a class of dictionaries: what it makes is an empty `OrderedDict`, which the pickle then fills."""

    def __new__(cls) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        """Return the dictionary."""
        return OrderedDict()


def _tensor(storage: _Storage, offset: int, size: Sequence[int], stride: Sequence[int], *rest: Any) -> Tensor:
    """Replacement of `_rebuild_tensor` and `_rebuild_tensor_v2`; `rest` is requires_grad, hooks, metadata."""
    return _tensor_of(storage.values.dtype, storage, offset, size, stride, *rest[:1])


def _tensor_of_bytes(storage: _Storage, offset: int, size: Sequence[int], stride: Sequence[int], *rest: Any) -> Tensor:
    """Replacement of `_rebuild_tensor_v3`; `rest` is requires_grad, hooks, dtype, metadata."""
    return _tensor_of(rest[2], storage, offset, size, stride, rest[0])


def _tensor_of(
    dtype: torch.dtype, storage: _Storage, offset: int, size: Any, stride: Any, requires_grad: bool = False
) -> Tensor:
    """Tensor over a storage. Raises: ValueError when a number of it lies outside."""
    if any(not isinstance(value, int) or value < 0 for value in (offset, *size, *stride)) or len(size) != len(stride):
        raise ValueError("a tensor of impossible shape")
    values = storage.values
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if 0 not in size and (last + 1) * dtype.itemsize > values.numel() * values.element_size():
        raise ValueError(f"a tensor of shape {tuple(size)}, of which the file holds only a part")
    offset = 0 if 0 in size else offset
    tensor = torch.empty(0, dtype=dtype).set_(values.untyped_storage(), offset, tuple(size), tuple(stride))
    return tensor.requires_grad_() if requires_grad is True and dtype.is_floating_point else tensor


def _parameter(data: Tensor, requires_grad: bool, *_hooks: Any) -> nn.Parameter:
    """Replacement of `_rebuild_parameter`."""
    return nn.Parameter(data.detach(), requires_grad=requires_grad is True)


def _with_attributes(rebuild: Any, kind: Any, arguments: Any, attributes: Any) -> Tensor:
    """Replacement of `_rebuild_from_type_v2`: a tensor with attributes, which are left out."""
    if rebuild not in _REBUILD.values():
        raise ValueError("a tensor that is made in an unknown way")
    return rebuild(*arguments)  # type: ignore[no-any-return]


def _counter(content: Mapping[Any, Any]) -> dict[Any, Any]:
    """Replacement of `Counter`, in which schedules keep their milestones."""
    hashable(content)
    return dict(content)


def _device(kind: str, index: int | None = None) -> str:
    """Replacement of `torch.device`: its name."""
    return str(kind) if index is None else f"{kind}:{int(index)}"


def _size(lengths: Sequence[int] = ()) -> tuple[int, ...]:
    """Replacement of `torch.Size`."""
    return tuple(int(length) for length in lengths)


_REBUILD: dict[tuple[str, str], Callable[..., Tensor]] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_bytes,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}
_STORAGES = {
    **{"Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16},
    **{"Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8},
    **{"Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128},
}
_STAND_INS: dict[tuple[str, str], Any] = {
    **ADMITTED,
    **_REBUILD,
    **{("torch", f"{name}Storage"): _StorageType(dtype) for name, dtype in _STORAGES.items()},
    **{
        ("torch", str(dtype).removeprefix("torch.")): dtype
        for dtype in vars(torch).values()
        if type(dtype) is torch.dtype
    },
    ("torch.storage", "UntypedStorage"): _StorageType(),
    ("torch._tensor", "_rebuild_from_type_v2"): _with_attributes,
    ("torch", "Tensor"): NotData(),
    ("torch.nn.parameter", "Parameter"): NotData(),
    ("torch", "Size"): _size,
    ("torch", "device"): _device,
    ("collections", "Counter"): _counter,
    ("munch", "Munch"): _MadeAsDict,
    ("argparse", "Namespace"): Fields,
}
KNOWN_GLOBALS = frozenset(starmap("{}.{}".format, _STAND_INS))
"""Full names that checkpoints may hold."""


class _TensorUnpickler(PlainUnpickler):
    """Unpickles plain data with tensors; `storage(type, key, number)` gives the storages that it names."""

    stand_ins = _STAND_INS

    def __init__(self, file: BinaryIO, storage: Callable[[_StorageType, str, int], _Storage]) -> None:
        super().__init__(file, encoding="latin1")
        self.storage = storage

    def persistent_load(self, persistent_id: Any) -> _Storage:
        """Return a storage from ("storage", type, key, device, number of elements and, in old files, None)."""
        if (
            not isinstance(persistent_id, tuple)
            or len(persistent_id) not in (5, 6)
            or persistent_id[0] != "storage"
            or persistent_id[5:] not in ((), (None,))
        ):
            raise ValueError("a persistent id that names no storage")
        _, kind, key, _, number = persistent_id[:5]
        if not (isinstance(kind, _StorageType) and isinstance(key, str) and isinstance(number, int) and number >= 0):
            raise ValueError("a storage that is not plain")
        return self.storage(kind, key, number)


def read_torch(file: BinaryIO) -> Any:
    """Return the content of a file of `torch.save`, of any version, on the CPU.

    Objects of numpy, Munch and Namespace become arrays, numbers and dictionaries; devices become their names.

    Raises: RefusedGlobal when the file names anything else; nearly any exception when it is damaged.
    """
    return without_stand_ins(_read_zip(file) if zipfile.is_zipfile(file) else _read_old(file), {})


def _read_zip(file: BinaryIO) -> Any:
    """Content of a file of torch from 1.6 on: an archive of `data.pkl` and one record per storage, never compressed."""
    with zipfile.ZipFile(file) as archive:
        records = {record.filename: record for record in archive.infolist()}
        if any(record.compress_type for record in records.values()) or (
            sum(record.file_size for record in archive.infolist()) > os.fstat(file.fileno()).st_size
        ):
            raise ValueError("its records are compressed or overlap, which torch never does")
        roots = [name.removesuffix("data.pkl") for name in records if name.endswith("/data.pkl")]
        if any(name.endswith("/constants.pkl") for name in records):
            raise ValueError("TorchScript archive")
        if len(roots) != 1:
            raise ValueError("an archive without data.pkl")
        if f"{roots[0]}byteorder" in records and archive.read(f"{roots[0]}byteorder") != b"little":
            raise ValueError("written on a big-endian machine")
        storages: dict[str, _Storage] = {}

        def storage(kind: _StorageType, key: str, number: int) -> _Storage:
            """Read a storage the first time that it is named."""
            if key not in storages:
                record = records[f"{roots[0]}data/{key}"]
                if record.file_size != number * kind.dtype.itemsize:
                    raise ValueError(f"{record.file_size} bytes for a storage of {number} {kind.dtype}")
                with archive.open(record) as stream:
                    storages[key] = _filled(_empty(kind, number), stream)  # type: ignore[arg-type]
            return _same(storages[key], kind, number)

        with archive.open(f"{roots[0]}data.pkl") as stream:
            return _TensorUnpickler(stream, storage).load()  # type: ignore[arg-type]


def _read_old(file: BinaryIO) -> Any:
    """Content of a file of torch before 1.6: five pickles, then the storages in the order of the last."""
    file.seek(0)
    magic, protocol, system = (PlainUnpickler(file, encoding="latin1").load() for _ in range(3))
    if magic != _MAGIC or protocol != _PROTOCOL:
        raise ValueError("no file of torch.save")
    if not system["little_endian"]:
        raise ValueError("written on a big-endian machine")
    storages: dict[str, _Storage] = {}
    room = os.fstat(file.fileno()).st_size

    def storage(kind: _StorageType, key: str, number: int) -> _Storage:
        """Make a storage the first time that it is named; its numbers follow the pickles."""
        nonlocal room
        if key not in storages:
            room -= number * kind.dtype.itemsize
            if room < 0:
                raise ValueError(f"a storage of {number} {kind.dtype}, of which the file holds only a part")
            storages[key] = _empty(kind, number)
        return _same(storages[key], kind, number)

    content = _TensorUnpickler(file, storage).load()
    keys = PlainUnpickler(file, encoding="latin1").load()
    if len(set(hashable(keys))) != len(keys) or set(keys) != set(storages):
        raise ValueError("storages are missing")
    for key in keys:
        if int.from_bytes(file.read(8), "little") != storages[key].values.numel():
            raise ValueError("a storage of another length than its tensors say")
        _filled(storages[key], file)
    return content


def _empty(kind: _StorageType, number: int) -> _Storage:
    return _Storage(torch.empty(number, dtype=kind.dtype))


def _same(storage: _Storage, kind: _StorageType, number: int) -> _Storage:
    """Return the storage. Raises: ValueError when it was made with another type or length."""
    if storage.values.dtype != kind.dtype or storage.values.numel() != number:
        raise ValueError("a storage of two types or lengths")
    return storage


def _filled(storage: _Storage, stream: BinaryIO) -> _Storage:
    """Fill a storage with the next bytes of a stream and return it. Raises: EOFError when there are too few."""
    if storage.values.numel():
        room = memoryview(storage.values.view(torch.uint8).numpy())  # type: ignore[arg-type]
        while room:
            count = stream.readinto(room[:_PART])  # type: ignore[attr-defined]
            if not count:
                raise EOFError("the file ends too early")
            room = room[count:]
    return storage
