"""Files of tensors with a checksum of every byte at their end, so that no changed bit is taken for a weight.

A file of `torch.save` is a zip archive, and a zip archive may end with a comment, which `torch.load` passes over. The
seal is that comment: a mark and the SHA-256 of all bytes before it.
"""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from utils.checks import UserError, require
from utils.safe_files import write_atomically

_MARK = b"partial-truth sha256 "
_SEAL = re.compile(re.escape(_MARK) + rb"([0-9a-f]{64})")
_LENGTH = len(_MARK) + 64
_END = 22
"""Bytes of the record that ends a zip archive; its last two are the length of the comment."""
_ADVICE = "damaged since it was written, or edited; put an intact copy back"


class _Sealing:
    """A file being written, all but its last two bytes, which only `finish` writes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest, self._held = file, hashlib.sha256(), b""

    def write(self, data: Any) -> int:
        """Write what is held back and the data, less their last two bytes."""
        view = memoryview(data).cast("B")
        end = self._held + bytes(view[-2:])
        self._put(self._held if len(view) >= 2 else end[:-2])
        self._put(view[:-2])
        self._held = end[-2:]
        return len(view)

    def _put(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self._file.write(data)

    def flush(self) -> None:
        """Do nothing: the file is flushed when it is complete."""

    def finish(self) -> None:
        """Write the length of the seal in place of the last two bytes, and the seal."""
        self._put(_LENGTH.to_bytes(2, "little"))
        self._file.write(_MARK + self._digest.hexdigest().encode())


def save_sealed(path: Path, content: Any, keep: Path | None = None) -> None:
    """Write a file of `torch.save` with its seal, atomically.

    Args:
        path: the file to make or replace; its folder exists.
        content: tensors and plain values.
        keep: a path beside it for the file that is replaced.

    Raises: RunError when the disk refuses; an earlier file stays intact.
    """

    def write(file: BinaryIO) -> None:
        """Write content and seal."""
        sealing = _Sealing(file)
        torch.save(content, sealing)  # type: ignore[arg-type]  # all that it needs is `write` and `flush`
        sealing.finish()

    write_atomically(path, write, keep)


def check_seal(path: Path, *, ours: bool = True) -> None:
    """Raise UserError when a file is not as it was written.

    Args:
        path: the file.
        ours: True for a file that this project wrote: it ends with its seal or, from an earlier version, as
            `torch.save` ends its files. Others may end in any way, but a seal holds for them too.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _LENGTH))
            seal = _SEAL.fullmatch(file.read())
            if seal is not None:
                same = _digest(file, size - _LENGTH) == seal[1].decode()
                require(same, f"{path}: its checksum is wrong: {_ADVICE}")
            elif ours and zipfile.is_zipfile(file):
                file.seek(max(0, size - _END))
                plain = file.read().startswith(b"PK\5\6")
                require(plain, f"{path}: it does not end with its checksum: {_ADVICE}")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error


def _digest(file: BinaryIO, length: int) -> str:
    """SHA-256 (hex) of the first `length` bytes."""
    digest = hashlib.sha256()
    file.seek(0)
    while length > 0 and (data := file.read(min(length, 1 << 20))):
        digest.update(data)
        length -= len(data)
    return digest.hexdigest()
