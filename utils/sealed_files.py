"""Files of tensors with a checksum of every byte at their end, so that no changed bit is taken for a weight.

A file of `torch.save` is a zip archive, and a zip archive may end with a comment, which `torch.load` passes over. The
seal is that comment: a mark and the CRC-32 of all bytes before it, as they are without a comment. It is against damage,
every changed bit for certain; who edits a file can make its seal anew.
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import torch

from utils.checks import UserError, require
from utils.safe_files import write_atomically

_MARK = b"partial-truth crc32 "
_SEAL = re.compile(re.escape(_MARK) + rb"([0-9a-f]{8})")
_LENGTH = len(_MARK) + 8
_COMMENT = _LENGTH.to_bytes(2, "little")
"""The end of the record that ends a zip archive: the length of the comment behind it."""
_END = 22
"""Bytes of that record."""
_ADVICE = "damaged since it was written, or edited; put an intact copy back"


class _Sealing:
    """A file being written, whose bytes are summed up."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._sum = file, 0

    def write(self, data: Any) -> int:
        """Write and sum up."""
        self._sum = zlib.crc32(data, self._sum)
        return self._file.write(data)

    def flush(self) -> None:
        """Do nothing: the file is flushed when it is complete."""

    def finish(self) -> None:
        """Say in the last record that a comment follows, and let the seal follow."""
        self._file.seek(-len(_COMMENT), os.SEEK_END)
        self._file.write(_COMMENT + _MARK + f"{self._sum:08x}".encode())


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
                same = _sum(file, size - _LENGTH) == int(seal[1], 16)
                require(same, f"{path}: its checksum is wrong: {_ADVICE}")
            elif ours and zipfile.is_zipfile(file):
                file.seek(max(0, size - _END))
                end = file.read()
                plain = end.startswith(b"PK\5\6") and end.endswith(b"\0\0")  # and no comment announced
                require(plain, f"{path}: it does not end with its checksum: {_ADVICE}")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error


def _sum(file: BinaryIO, length: int) -> int:
    """The sum of the first `length` bytes, as it was before there was a comment; none where no comment is announced."""
    total, left = 0, length - len(_COMMENT)
    file.seek(0)
    while left > 0 and (data := file.read(min(left, 1 << 20))):
        total = zlib.crc32(data, total)
        left -= len(data)
    return zlib.crc32(bytes(len(_COMMENT)), total) if file.read(len(_COMMENT)) == _COMMENT else -1
