"""A rank of `tests.ranks` as `torchrun` would have started it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from torch import distributed as dist


@contextmanager
def as_rank(rank: int | None) -> Iterator[None]:
    """A block in the environment of a rank; None: of a run of one process, without any."""
    if rank is None:
        yield
        return
    number, size = str(rank), str(dist.get_world_size())
    told = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    with mock.patch.dict(os.environ, told | {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1"}):
        yield
