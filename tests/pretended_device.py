"""A pretended GPU: the CPU computes, but each tensor is on the host or on `DEVICE`, and what would wait is noted.

Within `PretendedDevice` a tensor is on the device if made there (`device=DEVICE`), moved there (`.to(DEVICE)`) or
computed from tensors that are there; `tensor.device` says so. An operation on tensors of both is a
`DeviceMismatchError`, as it is on a GPU, where only scalars of the host take part, and in elementwise operations alone.
What makes the host wait for a GPU is noted with its place in the code: a value that is read, a result whose size
depends on values (`nonzero`, a boolean mask), a copy that blocks.

What it finds in the training of every method is what a real card found: benchmarks/results/gpu/waits.json. It does not
see what torch itself decides by the device in C++.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("cuda", 0)
ROOT = Path(__file__).resolve().parent.parent
_ROOMS = tuple(f"{ROOT}/{room}/" for room in ("engine", "losses", "models", "data", "utils", "benchmarks", "tests"))

_READS = {"tolist", "numpy", "__array__", "__repr__"}
"""Functions that copy a tensor to the host past the dispatcher."""
_FROM_DATA = {"tensor", "as_tensor", "asarray", "new_tensor"}
"""Functions that copy values of the host, which blocks."""
_NEEDS_VALUES = {
    *("_local_scalar_dense", "nonzero", "masked_select", "bincount", "_unique", "_unique2", "unique_dim"),
    *("unique_consecutive", "unique_dim_consecutive", "equal", "multinomial", "histc", "_linalg_check_errors"),
}
"""Operations by which the host learns a value, or the size of a result."""
_TAKES_SCALAR = {"masked_fill", "masked_fill_", "fill", "fill_"}
"""Operations that take a scalar of the host, besides those that torch calls pointwise."""

_ON_DEVICE: dict[int, StorageWeakRef] = {}
_PINNED: dict[int, StorageWeakRef] = {}
"""Storages by address, as views and what autograd saves share them. What a block has made stays where it is."""


class DeviceMismatchError(RuntimeError):
    """An operation on tensors of the host and of the device."""


class PretendedDevice:
    """A block of code for which `DEVICE` is there.

    `waits` are the places at which a GPU would be waited for, such as "losses/ndlp.py:_mix_loss".
    """

    def __init__(self) -> None:
        self.waits: list[str] = []
        self.call: tuple[Any, ...] = ()
        """Arguments of the call into torch that is going on."""
        self._modes = ExitStack()

    def __enter__(self) -> Self:
        self._modes.enter_context(mock.patch.object(torch._C, _GROUP.__name__, _grouped))
        self._modes.enter_context(mock.patch.object(torch.cuda, "Event", _Event))
        self._modes.enter_context(_Operations(self))
        self._modes.enter_context(_Calls(self))
        return self

    def __exit__(self, *_: object) -> None:
        self._modes.close()
        for kept in (_ON_DEVICE, _PINNED):
            for address in [address for address, storage in kept.items() if storage.expired()]:
                del kept[address]

    def wait(self) -> None:
        """Note that a GPU would be waited for here."""
        self.waits.append(place())


class _Event:
    """A mark among the operations of a device that has always been passed."""

    def record(self) -> None:
        """Set it here."""

    def synchronize(self) -> None:
        """Wait for it: it was set a step ago, so that a GPU has mostly passed it, and has more to do in any case."""


def holds(value: Any) -> bool:
    """True for a tensor on the device."""
    return isinstance(value, Tensor) and value.untyped_storage()._cdata in _ON_DEVICE


def _is_pinned(value: Tensor) -> bool:
    return value.untyped_storage()._cdata in _PINNED


def _put(result: Any, kept: dict[int, StorageWeakRef] = _ON_DEVICE) -> None:
    """Have the tensors of a result on the device, or in pinned memory."""
    for value in _tensors(result):
        storage = value.untyped_storage()
        if storage._cdata not in kept:  # no other storage gets the address while there is a weak reference
            kept[storage._cdata] = StorageWeakRef(storage)


def _take(value: Tensor) -> None:
    """Have a tensor on the host."""
    _ON_DEVICE.pop(value.untyped_storage()._cdata, None)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors among nested arguments."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))


def _is_device(wanted: Any) -> bool:
    """True if an argument names the pretended device."""
    return isinstance(wanted, str | torch.device) and str(wanted).partition(":")[0] == DEVICE.type


def _on_cpu(argument: Any) -> Any:
    return "cpu" if _is_device(argument) else argument


def place() -> str:
    """Innermost file of this project that is running, from its root, and the function."""
    frame: FrameType | None = sys._getframe(1)
    while frame:
        path = frame.f_code.co_filename
        if path.startswith(_ROOMS) and path != __file__:
            return f"{path[len(str(ROOT)) + 1 :]}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"


_GROUP = torch._C._group_tensors_by_device_and_dtype


def _grouped(lists, with_indices=False):
    """As torch groups the tensors of an optimiser, which must be on one device."""
    places = {holds(value) for value in _tensors(lists)}
    if len(places) > 1:
        raise DeviceMismatchError(f"tensors of the host and of the device, in {place()}")
    found = _GROUP(lists, with_indices)
    return {(DEVICE, dtype): group for (_, dtype), group in found.items()} if places == {True} else found


class _Calls(TorchFunctionMode):
    """Sees the calls into torch as they are written: where a result is wanted, and what is read."""

    def __init__(self, device: PretendedDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), func.__name__
        if name == "__get__":
            return _attribute(func, args[0])
        before, self.device.call = self.device.call, (args, kwargs)
        try:
            return self._result(func, name, args, kwargs)
        finally:
            self.device.call = before

    def _result(self, func, name, args, kwargs):
        if name in ("to", "cpu", "cuda"):
            return self._moved(func, name, *args, **kwargs)
        if name == "is_pinned":
            return _is_pinned(args[0])
        if name == "pin_memory":
            result = args[0].clone()
            _put(result, _PINNED)
            return result
        if name in _READS and holds(args[0]):
            self.device.wait()
        return self._made(func, name, args, kwargs)

    def _made(self, func, name, args, kwargs):
        """Result of a function that may be told a device."""
        wanted, new = kwargs.get("device"), name == "new_tensor"
        there = holds(args[0]) if new and wanted is None else _is_device(wanted)
        if there and kwargs.get("generator") is not None:
            raise DeviceMismatchError(f"{name}: a generator of the host, in {place()}")
        result = func(*args, **{key: _on_cpu(value) for key, value in kwargs.items()})
        if there:
            if name in _FROM_DATA and not any(map(holds, args[new:])):
                self.device.wait()
            _put(result)
        return result

    def _moved(self, func, name, value, *args, **kwargs):
        """Result of `to`, `cpu` or `cuda`."""
        there = name == "cuda" if name != "to" else _wanted(value, *args, **kwargs)
        told = {key: _on_cpu(each) for key, each in kwargs.items()}
        result = value if name == "cuda" else func(value, *map(_on_cpu, args), **told)
        if there == holds(value):
            return result
        non_blocking = kwargs.get("non_blocking", next((each for each in args if isinstance(each, bool)), False))
        if not non_blocking or (there and not _is_pinned(value)):
            self.device.wait()
        result = result.clone()
        (_put if there else _take)(result)
        return result


def _attribute(func, value):
    """An attribute of a tensor."""
    told = {"device": DEVICE, "is_cuda": True, "is_cpu": False}
    name = func.__self__.__name__
    return told[name] if name in told and holds(value) else func(value)


def _wanted(value, first=None, *_, **kwargs):
    """True if `value.to(...)` is to be on the device."""
    wanted = kwargs.get("device", kwargs.get("other", first))
    if isinstance(wanted, Tensor):
        return holds(wanted)
    return _is_device(wanted) if isinstance(wanted, str | torch.device) else holds(value)


class _Operations(TorchDispatchMode):
    """Sees every operation, those of backward passes too: on tensors of which device, and whether it waits."""

    def __init__(self, device: PretendedDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func._schema.name.removeprefix("aten::")
        tensors = list(_tensors((args, kwargs)))
        held = [holds(value) for value in tensors]
        if any(held):
            self._check(
                func, name, args, kwargs, [value for value, there in zip(tensors, held, strict=True) if not there]
            )
        result = func(*args, **kwargs)
        made_there = not tensors and any(map(holds, _tensors(self.device.call)))  # within a formula of torch
        if held[0] if name == "copy_" else any(held) or made_there:
            _put(result)
        return result

    def _check(self, func, name, args, kwargs, host):
        """Note what waits. Raises: DeviceMismatchError for tensors of the host that take part and must not."""
        if name in ("copy_", "_foreach_copy_"):
            return self._copied(name, *args, **kwargs)
        if name in ("index", "_unsafe_index", "index_put", "index_put_"):
            host = self._indexed(name, *args)
        if name in _NEEDS_VALUES or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            self.device.wait()
        scalars = torch.Tag.pointwise in func.tags or name in _TAKES_SCALAR
        written = func._schema.arguments[0].alias_info is not None and not holds(args[0])
        drawn = any(isinstance(each, torch.Generator) for each in kwargs.values())
        if drawn or (host and (written or not scalars or any(value.ndim for value in host))):
            raise DeviceMismatchError(f"{name}: of the host and of the device, in {place()}")
        return None

    def _copied(self, name, into, values, non_blocking=False):
        """Note a copy between host and device that waits."""
        pairs = zip(into, values, strict=True) if name == "_foreach_copy_" else [(into, values)]
        for target, source in pairs:
            outside = source if holds(target) else target
            if holds(target) != holds(source) and not (non_blocking and _is_pinned(outside)):
                self.device.wait()

    def _indexed(self, name, into, indices, values=None, *_):
        """Note an index that waits. Returns the tensors of the host that take part, indices apart, which are copied."""
        indices = [index for index in indices if index is not None]
        masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
        filled = name == "index_put_" and len(indices) == 1 and values.numel() == 1  # then it is a `masked_fill_`
        scalar = values is not None and values.ndim == 0 and not holds(values)  # copied, or a number in the code
        copied = scalar and isinstance(self.device.call[0][-1], Tensor)
        if (masks and not filled) or copied or not all(map(holds, indices)):
            self.device.wait()
        taking_part = [into] if values is None or scalar else [into, values]
        return [value for value in taking_part if not holds(value)]
