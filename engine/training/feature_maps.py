"""Feature maps of a frozen backbone in a file that is mapped into memory. N rows, D feature width, h w feature map."""

from __future__ import annotations

import atexit
import os
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from data.files.cache import Cache
from data.files.room import room_for
from engine.core.distributed import Runtime
from engine.core.scoring import BatchLoader, computed_batches, require_finite
from utils.checks import UserError, require
from utils.console import say

MAPS = "maps"
"""The kind of entry of the cache that maps are."""


class MapStore(NamedTuple):
    """What feature maps are computed with, and where they are kept."""

    backbone: nn.Module
    """Images (B, 3, H, W) to maps (B, D, h, w); on the device of the run, in evaluation mode."""
    shape: tuple[int, int, int]
    """D, h and w."""
    dtype: str
    """float32, float64 or float16."""
    cache: Cache
    runtime: Runtime

    def maps(self, loader: BatchLoader, rows: int, entry: str | None, label: str) -> NDArray[Any]:
        """Maps (N, D, h, w) of all rows in order, out of the cache or computed now, on every process.

        Args:
            loader: the images, shared out among the processes.
            rows: N.
            entry: fingerprint of all that the maps depend on; None where that cannot be known, and they are computed
                for this run alone.
            label: what they are of, for messages.

        Raises:
            UserError: there is no room for them, or nowhere to keep them.
            RunError: an image cannot be read, or a feature is not finite.
        """
        name = entry or self.runtime.same_text(uuid.uuid4().hex)
        whole = (rows, *self.shape)
        found = self.cache.array(MAPS, name, whole, self.dtype)
        if self.runtime.agree(found is None):
            path = self.cache.array_path(MAPS, name)
            self._write(path, loader, whole, label)
            if entry is None and self.runtime.is_main:
                atexit.register(path.unlink, missing_ok=True)
            found = self.cache.array(MAPS, name, whole, self.dtype)
        require(found is not None, f"{label}: {self.cache.folder} is not the same folder for all processes")
        assert found is not None
        return found

    def _write(self, path: Path, loader: BatchLoader, whole: tuple[int, ...], label: str) -> None:
        """Write the file of an entry, each process its rows; a name of its own until it is complete."""
        runtime = self.runtime
        partial = path.with_name(runtime.same_text(f".{path.name}.{os.getpid()}.tmp"))
        if runtime.is_main:
            _reserve(path, partial, whole, self.dtype, label)
        runtime.barrier()
        try:
            self._fill(partial, loader, whole[0], label)
            runtime.barrier()
            if runtime.is_main:
                partial.replace(path)
            runtime.barrier()
        finally:
            if runtime.is_main:
                partial.unlink(missing_ok=True)

    def _fill(self, partial: Path, loader: BatchLoader, rows: int, label: str) -> None:
        """Compute this process's rows and write them."""
        array = np.lib.format.open_memmap(partial, "r+")
        finite = True
        for index, maps in computed_batches(self.backbone, loader, rows, self.runtime, label):
            values = maps.to(getattr(torch, self.dtype)).cpu().numpy()  # too large for half precision: infinite
            finite = finite and bool(np.isfinite(values).all())
            array[index.cpu().numpy()] = values
        array.flush()
        require_finite(not self.runtime.agree(not finite), label)


def _reserve(path: Path, partial: Path, whole: tuple[int, ...], dtype: str, label: str) -> None:
    """Say what will be written, with its size, and make the file with all its room on the disk.

    Without the room, a full disk would kill the process that writes to the mapped file.

    Raises: UserError where it does not fit, or the folder cannot be written to.
    """
    size, free = int(np.prod(whole)) * np.dtype(dtype).itemsize, room_for(path)
    text = f"{label}: {' x '.join(f'{side:,}' for side in whole)} {dtype} take {size / 1e9:.2f} GB in {path.parent}"
    require(
        size < free,
        f"{text}, and {free / 1e9:.2f} GB are free; name a larger disk with --cache_dir, or give --half_features or a "
        "smaller --img_size",
    )
    say(f"{text} ({free / 1e9:.2f} GB free)")
    try:
        np.lib.format.open_memmap(partial, "w+", dtype, whole).flush()
        if hasattr(os, "posix_fallocate"):
            with partial.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"--cache_dir {path.parent}: cannot be used ({error.strerror}); name another folder") from error
