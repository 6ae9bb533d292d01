"""Reading files that others made without ever running code from them, and writing files that are whole or absent.

Published label files are pickles, and a pickle may name any function to be called while it loads. The readers here
admit the handful of names that plain arrays and dictionaries need, and refuse everything else by name.
"""

from __future__ import annotations

import codecs
import math
import os
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from utils.checks import RunError, UserError, require

_PLAIN_DTYPE = re.compile(r"[biufcSU][0-9]{1,9}|O[48]?")


class _RefusedGlobal(pickle.UnpicklingError):
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
            flat[place] = _settled(value, done)
        return flat.reshape(shape)  # numpy lists the objects in C order, whatever the flag says


def _settled(value: Any, done: dict[int, Any]) -> Any:
    """`value` with every stand-in replaced by its array; `done` holds by id what has been replaced already."""
    if id(value) not in done:
        done[id(value)] = _replaced(value, done)
    return done[id(value)]


def _replaced(value: Any, done: dict[int, Any]) -> Any:
    if isinstance(value, _Array):
        return value.array(done)
    if isinstance(value, dict):
        return type(value)((_settled(key, done), _settled(item, done)) for key, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)([_settled(item, done) for item in value])
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
        raise _RefusedGlobal(f"_codecs.encode to {encoding!r}")
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


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("collections", "OrderedDict"): _ordered,
    ("_codecs", "encode"): _latin1,
    ("builtins", "set"): _set,  # protocols before 4 have no sign of their own for a set
    ("__builtin__", "set"): _set,  # the same module under Python 2's name
}
for _core in ("numpy.core", "numpy._core"):  # the same functions under numpy 1's name and numpy 2's
    _ADMITTED[(f"{_core}.multiarray", "_reconstruct")] = _reconstruct
    _ADMITTED[(f"{_core}.multiarray", "scalar")] = _scalar
    _ADMITTED[(f"{_core}.numeric", "_frombuffer")] = _from_buffer


class _PlainUnpickler(pickle._Unpickler):  # the one in C cannot be watched
    """Unpickles built-in containers, numbers, strings and stand-ins of numpy arrays; imports nothing.

    What is hashed, keys and members of sets, must be plain: a tuple of a tuple of itself, sixty times over, is a
    hundred bytes that take years to hash.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of an admitted global; any other is refused by name, before it is looked up."""
        try:
            return _ADMITTED[(module, name)]
        except KeyError:
            raise _RefusedGlobal(f"{module}.{name}") from None


def _watched(operation: int, first_key: int, step: int) -> None:
    """Let one operation of pickles that hashes look at what it is about to hash."""
    plain = _PlainUnpickler.dispatch[operation]

    def watching(unpickler: _PlainUnpickler) -> None:
        _hashable(unpickler.stack[first_key::step])  # type: ignore[attr-defined]
        plain(unpickler)

    _PlainUnpickler.dispatch[operation] = watching


_watched(pickle.SETITEM[0], -2, 2)
for _operation in (pickle.SETITEMS[0], pickle.DICT[0]):
    _watched(_operation, 0, 2)
for _operation in (pickle.ADDITEMS[0], pickle.FROZENSET[0]):
    _watched(_operation, 0, 1)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file for reading; UserError where it cannot be opened or read."""
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error


def _first_line(error: Exception) -> str:
    """What an error of another library says, cut to a part of one line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def _unpickle(file: BinaryIO, path: Path) -> Any:
    """The plain data pickled at the file's position. A damaged pickle can raise nearly any exception."""
    try:
        return _settled(_PlainUnpickler(file, encoding="latin1").load(), {})
    except _RefusedGlobal as error:
        raise UserError(
            f"{path}: refused: the file asks to run {error}, which plain labels never need; use a copy you trust"
        ) from error
    except OSError:
        raise
    except Exception as error:
        raise UserError(
            f"{path}: not a readable pickle of plain data ({_first_line(error)}); fetch the file again"
        ) from error


def _npy_header(file: BinaryIO, path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype of an `.npy` file, leaving the position at its data."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(file)
        shape, fortran, dtype = readers[version](file)
    except KeyError as error:
        raise UserError(f"{path}: .npy format {error} is not supported; save it again with numpy.save") from error
    except OSError:
        raise
    except Exception as error:  # numpy parses the header as Python source, so damage shows in many ways
        raise UserError(f"{path}: not an .npy file ({_first_line(error)})") from error
    sides: tuple[Any, ...] = shape  # the header may say anything
    if not all(type(side) is int and 0 <= side < 2**62 for side in sides) or (math.prod(sides) and not dtype.itemsize):
        raise UserError(f"{path}: not an .npy file (no array has shape {str(shape)[:60]} of {dtype})")
    return shape, fortran, dtype


def load_npy(path: Path) -> NDArray[Any]:
    """The array of a plain `.npy` file; pickled objects are refused unread.

    Raises: UserError when the file is missing, is no `.npy`, is cut short or holds Python objects.
    """
    with _opened(path) as file:
        shape, fortran, dtype = _npy_header(file, path)
        require(not dtype.hasobject, f"{path}: holds pickled Python objects, not a plain array; convert it first")
        count = math.prod(shape)  # Python integers: a hostile shape cannot overflow
        held, wanted = os.fstat(file.fileno()).st_size - file.tell(), count * dtype.itemsize
        require(held >= wanted, f"{path}: cut short: {held} bytes of data where {shape} {dtype} needs {wanted}")
        values = np.fromfile(file, dtype=dtype, count=count)
    if dtype.kind == "U" and not (sound := _is_text(values)).all():
        raise UserError(f"{path}: text {sound.argmin()} holds what is no character; fetch or save it again")
    return values.reshape(shape, order="F" if fortran else "C")


def _is_text(values: NDArray[Any]) -> NDArray[np.bool_]:
    """(N,) whether each of N texts consists of characters; numpy takes that on trust, and crashes."""
    points = values.view(np.dtype("u4").newbyteorder(values.dtype.byteorder)).reshape(
        len(values), values.dtype.itemsize // 4
    )
    return np.asarray(((points < 0xD800) | ((points > 0xDFFF) & (points <= 0x10FFFF))).all(axis=1))


def load_pickled_npy(path: Path) -> Any:
    """What a published `.npy` holding one pickled object (a 0-d object array) contains, usually a dictionary.

    Raises: UserError when the file is missing or damaged, is a plain array, or names anything but numpy's own
        reconstruction functions (CoNeS, published code, utils/pml_data.py writes such files).
    """
    with _opened(path) as file:
        shape, _, dtype = _npy_header(file, path)
        require(dtype.hasobject, f"{path}: a plain {dtype} array {shape} where a pickled dictionary was expected")
        held = _unpickle(file, path)
    if not (isinstance(held, np.ndarray) and held.dtype.kind == "O" and held.shape == ()):
        raise UserError(f"{path}: expected one pickled object, found {type(held).__name__} with shape {shape}")
    return held.item()


def load_pickle(path: Path) -> Any:
    """The plain data (containers, numbers, strings, numpy arrays) of a pickle, Python 2's included.

    Raises: UserError when the file is missing, damaged or names any other class or function.
    """
    with _opened(path) as file:
        return _unpickle(file, path)


def load_tensors(path: Path) -> Any:
    """The content of a `.safetensors` file (name to tensor), or of a torch file of plain data, on the CPU.

    Raises: UserError when the file is missing, damaged, or a torch file that names more than tensors and containers.
    """
    with _opened(path) as file:
        try:
            if path.suffix == ".safetensors":
                return safetensors.torch.load(file.read())
            with warnings.catch_warnings():  # a foreign pickle makes torch warn before it refuses
                warnings.simplefilter("ignore", UserWarning)
                return torch.load(file, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:
            raise UserError(_why_not_tensors(path, error)) from error


def _why_not_tensors(path: Path, error: Exception) -> str:
    """One line: the names the file wanted to call, or that it is damaged."""
    names = _foreign_globals(path) if isinstance(error, pickle.UnpicklingError) else []
    if names:
        wanted = ", ".join(names[:5])
        return f"{path}: refused: the file asks to run {wanted}; only tensors in plain containers are loaded"
    return f"{path}: not a readable file of tensors ({_first_line(error)}); fetch or save it again"


def _foreign_globals(path: Path) -> list[str]:
    """Names in a torch file outside torch's own list; none for formats that torch cannot list."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # only the wording of a refusal depends on it
        return []


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that at every moment `path` is the whole old file or the whole new one.

    Args:
        path: the file to make or replace; its folder exists.
        write: writes the content to the binary stream it is given.

    Raises: RunError when the system refuses (disk full, file too large, no permission); whatever `write` raises.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # same folder, so that the rename is atomic
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch hides a failed write in its own
        if not isinstance(cause, OSError):
            raise
        raise RunError(
            f"{path}: cannot be written: {cause.strerror or cause}; what was there before is intact"
        ) from error
    finally:
        with suppress(OSError):  # gone after the rename, never made, or out of reach: the reason is told above
            temporary.unlink()
