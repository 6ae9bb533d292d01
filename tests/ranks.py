"""Run a function in several gloo processes on this machine and collect what each returns.

The processes are forks of one that has imported the project once and done nothing since: a start takes a fraction of a
second, and no thread or lock of the tests' own process is inherited.
"""

import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing as mp


def run_ranks(work: Callable[..., Any], *args: Any, world_size: int = 2) -> list[Any]:
    """`work(rank, *args)` of every rank; `work` must be importable (defined at the top of a test module)."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.set_forkserver_preload(["tests.ranks", "engine.training.run", "losses", "sklearn.cluster"])
        mp.start_processes(_process, (work, args, world_size, folder), nprocs=world_size, start_method="forkserver")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def _process(rank: int, work: Callable[..., Any], args: tuple[Any, ...], world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    torch.save(work(rank, *args), Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
