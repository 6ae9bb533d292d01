"""Readers of files from elsewhere that never run code from them, and writers of files that are complete or absent.

Published label files are pickles, and a pickle may name any function to be called while it loads. The readers here
admit the few names that plain arrays and dictionaries need, and refuse everything else by name.

Published checkpoints are pickles too, with tensors beside; `tensor_files` reads them. Other content (numbers of numpy,
Munch, Namespace) is mapped to plain containers, and no class of another package is imported.
"""

from __future__ import annotations

import glob
import math
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.checks import RunError, UserError, require
from utils.plain_pickle import PlainUnpickler, RefusedGlobal, named_globals, without_stand_ins
from utils.tensor_files import KNOWN_GLOBALS, read_torch

_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
_NUMBERS = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16}
    | {torch.int8, torch.uint8, torch.bool}
)


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """The file, open for reading. Raises: UserError where it cannot be opened or read."""
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error


def _first_line(error: Exception) -> str:
    """First line of an error of another library, shortened."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def _unpickle(file: BinaryIO, path: Path) -> Any:
    """Return the plain data pickled at the file's position. A damaged pickle can raise nearly any exception."""
    try:
        return without_stand_ins(PlainUnpickler(file, encoding="latin1").load(), {})
    except RefusedGlobal as error:
        raise UserError(
            f"{path}: refused: the file asks to run {error}, which plain labels never need; use a copy you trust"
        ) from error
    except OSError:
        raise
    except Exception as error:
        raise UserError(
            f"{path}: not a readable pickle of plain data ({_first_line(error)}); fetch the file again"
        ) from error


def npy_header(file: BinaryIO, path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype of an `.npy` file, whose position is then at its data."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(file)
        shape, fortran, dtype = readers[version](file)
    except KeyError as error:
        raise UserError(f"{path}: .npy format {error} is not supported; save it again with numpy.save") from error
    except OSError:
        raise
    except Exception as error:  # numpy parses the header as Python source, so damage can raise many exceptions
        raise UserError(f"{path}: not an .npy file ({_first_line(error)})") from error
    sides: tuple[Any, ...] = shape  # a header may contain anything
    if not all(type(side) is int and 0 <= side < 2**62 for side in sides) or (math.prod(sides) and not dtype.itemsize):
        raise UserError(f"{path}: not an .npy file (no array has shape {str(shape)[:60]} of {dtype})")
    return shape, fortran, dtype


def load_npy(path: Path) -> NDArray[Any]:
    """The array of a plain `.npy` file; pickled objects are refused unread.

    Raises: UserError when the file is missing, is no `.npy`, is cut short or holds Python objects.
    """
    with open_file(path) as file:
        shape, fortran, dtype = npy_header(file, path)
        require(not dtype.hasobject, f"{path}: holds pickled Python objects, not a plain array; convert it first")
        count = math.prod(shape)  # Python integers: a hostile shape cannot overflow
        size, wanted = os.fstat(file.fileno()).st_size - file.tell(), count * dtype.itemsize
        require(size >= wanted, f"{path}: cut short: {size} bytes of data where {shape} {dtype} needs {wanted}")
        values = np.fromfile(file, dtype=dtype, count=count)
    if dtype.kind == "U" and not (valid := is_text(values)).all():
        raise UserError(f"{path}: text {valid.argmin()} contains an invalid character; fetch or save it again")
    return values.reshape(shape, order="F" if fortran else "C")


def is_text(values: NDArray[Any]) -> NDArray[np.bool_]:
    """(N,) True for each text of valid characters; numpy does not check that, and crashes."""
    points = values.view(np.dtype("u4").newbyteorder(values.dtype.byteorder)).reshape(
        len(values), values.dtype.itemsize // 4
    )
    return np.asarray(((points < 0xD800) | ((points > 0xDFFF) & (points <= 0x10FFFF))).all(axis=1))


def load_pickled_npy(path: Path) -> Any:
    """Return the pickled object in a published `.npy` (a 0-d object array), usually a dictionary.

    Raises: UserError when the file is missing or damaged, is a plain array, or names anything but numpy's own
        reconstruction functions (CoNeS, published code, utils/pml_data.py writes such files).
    """
    with open_file(path) as file:
        shape, _, dtype = npy_header(file, path)
        require(dtype.hasobject, f"{path}: a plain {dtype} array {shape} where a pickled dictionary was expected")
        content = _unpickle(file, path)
    if not (isinstance(content, np.ndarray) and content.dtype.kind == "O" and content.shape == ()):
        raise UserError(f"{path}: expected one pickled object, found {type(content).__name__} with shape {shape}")
    return content.item()


def load_pickle(path: Path) -> Any:
    """Return the plain data (containers, numbers, strings, numpy arrays) of a pickle, Python 2's included.

    Raises: UserError when the file is missing, damaged or names any other class or function.
    """
    with open_file(path) as file:
        return _unpickle(file, path)


def load_tensors(path: Path) -> Any:
    """Return the content of a `.safetensors` file (name to tensor), or of a torch file of plain data, on the CPU.

    A Munch or Namespace becomes a dictionary; numbers and arrays of numpy stay as they are.

    Raises: UserError when the file is missing, damaged, or a torch file that names more than tensors and containers.
    """
    with open_file(path) as file:
        try:
            if path.suffix == ".safetensors":
                return safetensors.torch.load(file.read())
            return read_torch(file)
        except OSError:
            raise
        except Exception as error:
            raise UserError(_why_not_tensors(path, error)) from error


def load_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a `.safetensors` file. Raises: UserError when it cannot be read."""
    with open_file(path):
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                return dict(file.metadata() or {})
        except Exception as error:
            raise UserError(_why_not_tensors(path, error)) from error


def _why_not_tensors(path: Path, error: Exception) -> str:
    """Message in one line: the names that the file would call, or that it is a program, or that it is damaged."""
    names = _foreign_globals(path)
    if "TorchScript" in str(error) or any(name.startswith("__torch__.") for name in names):
        return f"{path}: refused: a TorchScript archive is a program; only tensors in plain containers are loaded"
    if names and all(name.startswith(("torch._", "torch.serialization.")) for name in names):
        return f"{path}: refused: it holds no plain tensors of numbers ({names[0][:80]}); save dense ones on the CPU"
    if names:
        wanted = ", ".join(name[:80] for name in names[:5])
        return f"{path}: refused: the file asks to run {wanted}; only tensors in plain containers are loaded"
    return f"{path}: not a readable file of tensors ({_first_line(error)}); fetch or save it again"


def _foreign_globals(path: Path) -> list[str]:
    """Names in a torch file that are not admitted, those of torch itself last; only the error message needs them."""
    found: dict[str, None] = {}
    with suppress(Exception):  # the error that led here says what is wrong with the file
        for name in (name for stream in _pickles(path) for name in named_globals(stream)):
            found[name] = None
    return sorted((name for name in found if name not in KNOWN_GLOBALS), key=lambda name: name.startswith("torch."))


def _pickles(path: Path) -> Iterator[BinaryIO]:
    """Pickles of a torch file: `data.pkl` of a zip file; in an older file several, one after the other."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                if record.filename.endswith(".pkl") and not record.compress_type:
                    with archive.open(record) as stream:
                        yield stream  # type: ignore[misc]
        return
    with path.open("rb") as file:
        for _ in range(5):  # magic number, version, sizes, content, keys of the storages
            yield file


def is_state(content: Any) -> TypeGuard[Mapping[str, Tensor]]:
    """Tell whether something is a mapping of names to tensors, at least one, and nothing else."""
    if not isinstance(content, Mapping) or not content:
        return False
    return all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())


def all_finite(value: Tensor) -> bool:
    """Tell whether all numbers of a tensor are finite, from its extremes: one pass, a tenth of the time of isfinite."""
    if not value.is_floating_point() or not value.numel():
        return True
    lowest, highest = torch.aminmax(value)  # NaN, if there is any, is both
    return math.isfinite(lowest) and math.isfinite(highest)


def require_plain_tensors(state: Mapping[str, Tensor], path: Path) -> None:
    """Raise UserError unless every tensor is of real numbers, complete in the file and finite."""
    for name, value in state.items():
        require_plain(name, value, path)
        require(
            not value.is_floating_point() or bool(value.isfinite().all()),
            f"{path}: {name[:80]} holds numbers that are not finite; the file is damaged, or its training diverged",
        )


def require_plain(name: str, value: Tensor, path: Path) -> None:
    """Raise UserError unless a tensor is of real numbers and complete in the file.

    A file may declare a shape that it does not store (one number repeated a trillion times).
    """
    require(
        value.layout == torch.strided and value.device.type == "cpu" and value.dtype in _NUMBERS,
        f"{path}: {name[:80]} is no plain tensor of numbers ({value.layout}, {value.dtype}, {value.device})",
    )
    require(
        value.numel() * value.element_size() <= value.untyped_storage().nbytes(),
        f"{path}: {name[:80]} claims the shape {tuple(value.shape)}, of which the file holds only a part",
    )


def write_atomically(path: Path, write: Callable[[BinaryIO], object], keep: Path | None = None) -> None:
    """Write a file so that at every moment `path` is the complete old file or the complete new one.

    Args:
        path: the file to make or replace; its folder exists.
        write: writes the content to the binary stream it is given.
        keep: a path in the same folder for the file that is replaced, once the new one is whole.

    Raises: RunError when the system refuses (disk full, file too large, no permission); whatever `write` raises.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # same folder, so that the rename is atomic
    try:
        with _new_file(temporary) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None:
            _keep(path, keep)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch hides a failed write in its own
        if not isinstance(cause, OSError):
            raise
        raise RunError(
            f"{path}: cannot be written: {cause.strerror or cause}; what was there before is intact"
        ) from error
    finally:
        with suppress(OSError):  # gone after the rename, never made, or out of reach: the error above says why
            temporary.unlink()


ABANDONED = 3600.0
"""Seconds after which a half-written file must be from a process that was killed."""


def remove_unfinished(path: Path, *, age: float = 0.0) -> None:
    """Remove what killed writers of `path` have left beside it.

    Args:
        path: a file that `write_atomically` writes.
        age: seconds since such a file last changed from which on it must be abandoned; 0 where no one else writes it.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime >= age:
                left.unlink()


def _keep(path: Path, keep: Path) -> None:
    """Name a file `keep` too, if there is one; it loses its own name only where the file system knows no hard links."""
    spare = keep.with_name(f".{keep.name}.{os.getpid()}.tmp")
    try:
        with suppress(FileExistsError):  # left by a process of this number: a name of some earlier file
            os.link(path, spare)
        spare.replace(keep)
        spare.unlink(missing_ok=True)  # there still where both are names of one file already
    except FileNotFoundError:
        return
    except OSError:
        path.replace(keep)


def _new_file(path: Path) -> BinaryIO:
    """A file that was not there, open for writing; what lies at its path, a link among others, is removed unread."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb")


def append_line(path: Path, line: str) -> None:
    """Add a line (UTF-8) to a text file, which is made if need be; a link there is not followed.

    Raises: RunError when the system refuses, or there is a link.
    """
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_LINKS, 0o666), "ab") as file:
            file.write(line.encode("utf-8") + b"\n")
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error


def drop_half_line(path: Path) -> None:
    """Cut what follows the last line break of a text file, which a kill has left; a link is not followed.

    Raises: RunError when the system refuses, or there is a link.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDWR | _NO_LINKS), "r+b") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """Write a text file (UTF-8) as `write_atomically` does.

    Args:
        path: the file to make or replace; its folder exists.
        text: the content.
        errors: how characters without an encoding are written (names of damaged files), as for `str.encode`.

    Raises: RunError when the system refuses.
    """
    content = text.encode("utf-8", errors)
    write_atomically(path, lambda file: file.write(content))


def make_folder(folder: Path, flag: str = "") -> None:
    """Make a folder and the folders above it, unless it exists.

    Args:
        folder: the folder.
        flag: the option that named it, for the message.

    Raises: UserError when the system refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        named = f"{flag} {folder}".lstrip()
        raise UserError(f"{named}: cannot be made ({error.strerror}); name another folder") from error
