"""Reader of pickles of plain data that imports and calls nothing that they name.

A pickle may name any function to be called while it loads. Here the few names that plain arrays and containers need
have stand-ins, and everything else is refused by name.
"""

from __future__ import annotations

import codecs
import math
import pickle
import pickletools
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

_PLAIN_DTYPE = re.compile(r"[biufcSU][0-9]{1,9}|O[48]?")


class RefusedGlobal(pickle.UnpicklingError):
    """A pickle names something that plain data never needs."""


class NotData:
    """Stand-in of what pickles need on the way, and plain data never holds."""


class _DType(NotData):
    """Stand-in of `numpy.dtype` in a pickle: numbers, booleans, strings and objects, in either byte order.

    numpy's own `__setstate__` methods trust their input, and hostile bytes can crash the process or worse; these
    stand-ins check first and pass on only valid state.
    """

    def __init__(self, code: str, *_align_and_copy: object) -> None:
        if not _PLAIN_DTYPE.fullmatch(code):
            raise ValueError(f"arrays of type {code[:40]!r} are not plain")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Read the byte order; subarrays, names and fields are not plain."""
        if state[2:5] != (None, None, None):
            raise ValueError("structured arrays are not plain")
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class Fields:
    """Stand-in of an object of named values only, such as `argparse.Namespace`, until all is read."""


class _Array:
    """Stand-in of an array until all of the pickle is read: numpy makes it empty and sets its state later."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Keep (version, shape, dtype, Fortran order, data)."""
        self.state = state

    def array(self, done: dict[int, Any]) -> NDArray[Any]:
        """Return the array, with all stand-ins in it replaced."""
        _, shape, stand_in, fortran, data = self.state
        if stand_in.dtype.kind != "O":
            return _from_buffer(data, stand_in, shape, "F" if fortran else "C")
        if len(data) != math.prod(shape):
            raise ValueError(f"{len(data)} objects for an array of shape {shape}")
        flat = np.empty(len(data), dtype=object)
        for position, value in enumerate(data):
            flat[position] = without_stand_ins(value, done)
        return flat.reshape(shape)  # numpy stores objects in C order, also in Fortran arrays


def without_stand_ins(value: Any, done: dict[int, Any]) -> Any:
    """`value` with every stand-in replaced by its data; `done` maps ids of values to results that exist already."""
    if id(value) not in done:
        done[id(value)] = _replaced(value, done)
    return done[id(value)]


def _replaced(value: Any, done: dict[int, Any]) -> Any:
    if isinstance(value, _Array):
        return value.array(done)
    if isinstance(value, Fields):
        return {key: without_stand_ins(item, done) for key, item in vars(value).items()}
    if isinstance(value, dict):
        result = type(value)()
        result.update({without_stand_ins(key, done): without_stand_ins(item, done) for key, item in value.items()})
        return result
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)([without_stand_ins(item, done) for item in value])
    if isinstance(value, NotData | type) or callable(value):
        raise ValueError("a type or function where data is expected")
    return value


def _reconstruct(kind: type, shape: object, code: object) -> _Array:
    """Replacement of numpy's `_reconstruct`, which protocols below 5 call for an empty array."""
    if kind is not _Array:
        raise ValueError("only plain arrays are rebuilt")
    return _Array()


def _from_buffer(data: bytes | str, stand_in: _DType, shape: tuple[int, ...], order: Any) -> NDArray[Any]:
    """Replacement of numpy's `_frombuffer`, which protocol 5 calls; Python 2 wrote the bytes as a string."""
    raw = data.encode("latin1") if isinstance(data, str) else bytes(memoryview(data))
    dtype = stand_in.dtype
    if dtype.kind == "O" or len(raw) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(raw)} bytes for a {dtype} array of shape {shape}")
    return np.ndarray(shape, dtype, buffer=raw, order=order).copy(order="K")


def _scalar(stand_in: _DType, data: bytes | str) -> Any:
    """Replacement of numpy's `scalar`, as which its numbers are pickled."""
    return _from_buffer(data, stand_in, (), "C")[()]


def _latin1(text: str, encoding: str) -> bytes:
    """Replacement of `_codecs.encode`, with which protocol 2 stores bytes, for the one encoding that it uses."""
    if encoding not in ("latin1", "latin-1"):
        raise RefusedGlobal(f"_codecs.encode to {encoding!r}")
    return codecs.latin_1_encode(text)[0]


def hashable(values: Iterable[Any]) -> list[Any]:
    """Return the values. Raises: ValueError unless all are numbers, strings or tuples of such."""
    result = list(values)
    for value in result:
        for part in value if isinstance(value, tuple) else (value,):
            if not isinstance(part, str | bytes | int | float | complex | np.generic | None):
                raise ValueError(f"a {type(part).__name__} where a number or a string is expected")
    return result


def _set(values: Iterable[Any] = ()) -> set[Any]:
    """Replacement of `set`, which protocols below 4 call."""
    return set(hashable(values))


def _ordered(pairs: Iterable[Sequence[Any]] = ()) -> OrderedDict[Any, Any]:
    """Replacement of `OrderedDict`, which protocol 2 may call with the content."""
    items = [tuple(pair) for pair in pairs]
    hashable(pair[0] for pair in items)
    return OrderedDict(items)


ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("collections", "OrderedDict"): _ordered,
    ("_codecs", "encode"): _latin1,
    ("builtins", "set"): _set,  # protocols before 4 have no operation for a set
    ("__builtin__", "set"): _set,  # the same module under Python 2's name
}
for _core in ("numpy.core", "numpy._core"):  # the same functions under numpy 1's name and numpy 2's
    ADMITTED[(f"{_core}.multiarray", "_reconstruct")] = _reconstruct
    ADMITTED[(f"{_core}.multiarray", "scalar")] = _scalar
    ADMITTED[(f"{_core}.numeric", "_frombuffer")] = _from_buffer


class PlainUnpickler(pickle._Unpickler):  # operations of the one in C cannot be replaced
    """Unpickles built-in containers, numbers, strings and stand-ins of numpy arrays; imports nothing.

    Values that are hashed, keys and elements of sets, must be plain: tuples nested sixty times, each with the inner one
    twice, are a hundred bytes that take years to hash.
    """

    stand_ins: ClassVar[dict[tuple[str, str], Any]] = ADMITTED
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def load_build(self) -> None:
        """Set the state of a stand-in or an OrderedDict. Raises: ValueError for anything else."""
        if not isinstance(self.stack[-2], _DType | _Array | Fields | OrderedDict):  # type: ignore[attr-defined]
            raise ValueError("a state for plain data, which has none")
        super().load_build()  # type: ignore[misc]

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of an admitted global. Raises: RefusedGlobal for any other, before it is looked up."""
        try:
            return self.stand_ins[(module, name)]
        except KeyError:
            raise RefusedGlobal(f"{module}.{name}") from None


def _watched(operation: int, first_key: int, step: int, target: Callable[[PlainUnpickler], object]) -> None:
    """Make an operation of pickles check the values that it is about to hash, and that it fills a dictionary or set."""
    plain = PlainUnpickler.dispatch[operation]

    def watching(unpickler: PlainUnpickler) -> None:
        """Check the keys of the operation, then do it."""
        hashable(unpickler.stack[first_key::step])  # type: ignore[attr-defined]
        if not isinstance(target(unpickler), dict | set):
            raise ValueError("an entry for something else than a dictionary or a set")
        plain(unpickler)

    PlainUnpickler.dispatch[operation] = watching


def _below_the_mark(unpickler: PlainUnpickler) -> object:
    return unpickler.metastack[-1][-1]  # type: ignore[attr-defined]


_watched(pickle.SETITEM[0], -2, 2, lambda unpickler: unpickler.stack[-3])  # type: ignore[attr-defined]
_watched(pickle.SETITEMS[0], 0, 2, _below_the_mark)
_watched(pickle.ADDITEMS[0], 0, 1, _below_the_mark)
_watched(pickle.DICT[0], 0, 2, lambda _unpickler: {})  # these two make what they fill
_watched(pickle.FROZENSET[0], 0, 1, lambda _unpickler: {})


def named_globals(stream: BinaryIO) -> list[str]:
    """Full names in a pickle, in its order, up to its end or the first damage; nothing is run.

    Names of Python 2, which older protocols write, are translated to Python 3. Empty for a file that is no pickle.
    """
    names: list[str] = []
    texts: list[Any] = []  # the texts that were pushed last
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
