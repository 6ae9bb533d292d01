"""Pickles of plain data, read without importing or calling anything that they name.

A pickle may name any function to be called while it loads. Here a handful of names that plain arrays and containers
need have stand-ins, and everything else is refused by name.
"""

from __future__ import annotations

import codecs
import math
import pickle
import pickletools
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

_PLAIN_DTYPE = re.compile(r"[biufcSU][0-9]{1,9}|O[48]?")


class RefusedGlobal(pickle.UnpicklingError):
    """A pickle asked for a name that plain data never needs."""


class _DType:
    """What stands for `numpy.dtype` in a pickle: numbers, booleans, strings and objects, in either byte order.

    numpy's own `__setstate__` methods trust what they are given, and bytes made for it can crash or worse; these
    stand-ins check first and hand over only what fits.
    """

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if not _PLAIN_DTYPE.fullmatch(code):
            raise ValueError(f"arrays of type {code[:40]!r} are not plain")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take the byte order; subarrays, names and fields are not plain."""
        if state[2:5] != (None, None, None):
            raise ValueError("structured arrays are not plain")
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class Fields:
    """What stands for an object that is nothing but named values, such as `argparse.Namespace`, until all is read."""


class _Array:
    """What stands for an array in a pickle until all of it is read: numpy makes it empty and sets its state later."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Keep (version, shape, dtype, Fortran order, data)."""
        self.state = state

    def array(self, done: dict[int, Any]) -> NDArray[Any]:
        """The array itself, its objects settled."""
        _, shape, stand_in, fortran, data = self.state
        if stand_in.dtype.kind != "O":
            return _from_buffer(data, stand_in, shape, "F" if fortran else "C")
        if len(data) != math.prod(shape):
            raise ValueError(f"{len(data)} objects for an array of shape {shape}")
        flat = np.empty(len(data), dtype=object)
        for place, value in enumerate(data):
            flat[place] = settled(value, done)
        return flat.reshape(shape)  # numpy lists the objects in C order, whatever the flag says


def settled(value: Any, done: dict[int, Any]) -> Any:
    """`value` with every stand-in replaced by its array; `done` holds by id what has been replaced already."""
    if id(value) not in done:
        done[id(value)] = _replaced(value, done)
    return done[id(value)]


def _replaced(value: Any, done: dict[int, Any]) -> Any:
    if isinstance(value, _Array):
        return value.array(done)
    if isinstance(value, Fields):
        return {key: settled(item, done) for key, item in vars(value).items()}
    if isinstance(value, dict):
        made = type(value)()
        made.update({settled(key, done): settled(item, done) for key, item in value.items()})
        return made
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)([settled(item, done) for item in value])
    if isinstance(value, _DType | type) or callable(value):
        raise ValueError("a type or function stands where data should")
    return value


def _reconstruct(kind: type, shape: object, code: object) -> _Array:
    """What protocols below 5 call for an empty array, to be given its state later."""
    if kind is not _Array:
        raise ValueError("only plain arrays are rebuilt")
    return _Array()


def _from_buffer(data: bytes | str, stand_in: _DType, shape: tuple[int, ...], order: Any) -> NDArray[Any]:
    """What protocol 5 calls for an array; Python 2 wrote the bytes as a string."""
    raw = data.encode("latin1") if isinstance(data, str) else bytes(memoryview(data))
    dtype = stand_in.dtype
    if dtype.kind == "O" or len(raw) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(raw)} bytes for a {dtype} array of shape {shape}")
    return np.ndarray(shape, dtype, buffer=raw, order=order).copy(order="K")


def _scalar(stand_in: _DType, data: bytes | str) -> Any:
    """What numpy's numbers are pickled as."""
    return _from_buffer(data, stand_in, (), "C")[()]


def _latin1(text: str, encoding: str) -> bytes:
    """`_codecs.encode`, the way protocol 2 stores bytes, in the one encoding it uses for that."""
    if encoding not in ("latin1", "latin-1"):
        raise RefusedGlobal(f"_codecs.encode to {encoding!r}")
    return codecs.latin_1_encode(text)[0]


def _hashable(values: Iterable[Any]) -> list[Any]:
    """The values, all of them numbers, strings or tuples of such."""
    held = list(values)
    for value in held:
        for part in value if isinstance(value, tuple) else (value,):
            if not isinstance(part, str | bytes | int | float | complex | np.generic | None):
                raise ValueError(f"a {type(part).__name__} stands where a number or a string should")
    return held


def _set(members: Iterable[Any] = ()) -> set[Any]:
    """What protocols below 4 call for a set."""
    return set(_hashable(members))


def _ordered(pairs: Iterable[Sequence[Any]] = ()) -> OrderedDict[Any, Any]:
    """What protocol 2 may call for an ordered dictionary with its content."""
    held = [tuple(pair) for pair in pairs]
    _hashable(pair[0] for pair in held)
    return OrderedDict(held)


ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("collections", "OrderedDict"): _ordered,
    ("_codecs", "encode"): _latin1,
    ("builtins", "set"): _set,  # protocols before 4 have no sign of their own for a set
    ("__builtin__", "set"): _set,  # the same module under Python 2's name
}
NUMPY: dict[str, Any] = {"numpy.ndarray": _Array, "numpy.dtype": _DType}
"""Stand-ins of what numpy's arrays and numbers are pickled with, by full name."""

for _core in ("numpy.core", "numpy._core"):  # the same functions under numpy 1's name and numpy 2's
    ADMITTED[(f"{_core}.multiarray", "_reconstruct")] = _reconstruct
    ADMITTED[(f"{_core}.multiarray", "scalar")] = _scalar
    ADMITTED[(f"{_core}.numeric", "_frombuffer")] = _from_buffer
    NUMPY[f"{_core}.multiarray._reconstruct"] = _reconstruct
    NUMPY[f"{_core}.multiarray.scalar"] = _scalar
    NUMPY[f"{_core}.numeric._frombuffer"] = _from_buffer


class PlainUnpickler(pickle._Unpickler):  # the one in C cannot be watched
    """Unpickles built-in containers, numbers, strings and stand-ins of numpy arrays; imports nothing.

    What is hashed, keys and members of sets, must be plain: a tuple of a tuple of itself, sixty times over, is a
    hundred bytes that take years to hash.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of an admitted global; any other is refused by name, before it is looked up."""
        try:
            return ADMITTED[(module, name)]
        except KeyError:
            raise RefusedGlobal(f"{module}.{name}") from None


def _watched(operation: int, first_key: int, step: int) -> None:
    """Let one operation of pickles that hashes look at what it is about to hash."""
    plain = PlainUnpickler.dispatch[operation]

    def watching(unpickler: PlainUnpickler) -> None:
        _hashable(unpickler.stack[first_key::step])  # type: ignore[attr-defined]
        plain(unpickler)

    PlainUnpickler.dispatch[operation] = watching


_watched(pickle.SETITEM[0], -2, 2)
for _operation in (pickle.SETITEMS[0], pickle.DICT[0]):
    _watched(_operation, 0, 2)
for _operation in (pickle.ADDITEMS[0], pickle.FROZENSET[0]):
    _watched(_operation, 0, 1)


def named_globals(stream: BinaryIO) -> list[str]:
    """The full names that a pickle asks for, in its order, up to where it ends or is damaged; nothing is run.

    Names of Python 2, which older protocols write, come as those of today. What is no pickle names nothing.
    """
    names: list[str] = []
    texts: list[Any] = []  # what was pushed last, as far as it is text
    memo: dict[int, Any] = {}
    pickled = False
    with suppress(Exception):  # a damaged pickle can raise nearly any
        for operation, argument, _ in pickletools.genops(stream):
            pickled = pickled or operation.name in ("PROTO", "STOP")
            if operation.name in ("GLOBAL", "INST"):
                module, _, name = str(argument).partition(" ")
                names.append(".".join(NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))))
            elif operation.name == "STACK_GLOBAL":
                names.append(".".join(texts[-2:]))
            elif operation.name == "MEMOIZE" or "PUT" in operation.name:
                memo[len(memo) if argument is None else int(argument)] = texts[-1] if texts else None
            elif "GET" in operation.name:
                texts.append(memo.get(int(argument or 0)))
            elif isinstance(argument, str):
                texts.append(argument)
    return names if pickled else []
