"""How every question is measured and told: both ways in one process, in turns, medians of the turns."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from time import perf_counter
from typing import Any

import torch
from threadpoolctl import threadpool_info  # type: ignore[import-untyped]
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

TURN = 0.02  # seconds: a shorter call is repeated within a turn until it fills about this much
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was found on one question. Times are seconds a call."""

    question: str
    published: float
    recorded: str
    """What the published code itself took, imported unmodified, on another machine: a check on our imitation."""
    ours: float
    goal: float
    """The ratio that is asked for."""
    difference: float
    tolerance: float
    compared: str = "results"
    """What `difference` is the largest difference of."""
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.published / self.ours

    @property
    def agrees(self) -> bool:
        """Whether both ways give the same within the tolerance; a NaN never does."""
        return self.difference <= self.tolerance

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        verdict = f"{'agree' if self.agrees else 'DISAGREE'}, {self.compared} within {self.difference:.1e}"
        reached = f"{self.goal:g}" if self.ratio >= self.goal else f"{self.goal:g} (missed)"
        times = seconds(self.published), self.recorded, seconds(self.ours)
        ratio = f"{self.ratio:,.0f}" if self.ratio >= 100 else f"{self.ratio:.3g}"
        return self.question, *times, ratio, reached, verdict, self.note


HEADINGS = ("question", "published way", "recorded", "ours", "ratio", "goal", "same result?", "note")


def seconds(value: float) -> str:
    """A duration with a unit that suits it, three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} us"


def in_turns(published: Callable[[], Any], ours: Callable[[], Any], *, turns: int) -> tuple[float, float]:
    """Median seconds of one call of each, measured alternately so that a busy spell of the machine hits both."""
    calls = [_calls_per_turn(published), _calls_per_turn(ours)]
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(turns):
        for way, number, times in zip((published, ours), calls, taken, strict=True):
            times.append(_seconds_of(way, number) / number)
    return statistics.median(taken[0]), statistics.median(taken[1])


def _calls_per_turn(way: Callable[[], Any]) -> int:
    """How many calls fill a turn; trying it out is also the warm-up."""
    return max(1, round(TURN / _seconds_of(way, 1)))


def _seconds_of(way: Callable[[], Any], number: int) -> float:
    start = perf_counter()
    for _ in range(number):
        way()
    return perf_counter() - start


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While in force, notes the size in bytes of the largest tensor that an operation newly allocates."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation; what shares memory with its inputs is a view and does not count."""
        result = func(*args, **(kwargs or {}))
        known = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)}
        made = [leaf.untyped_storage() for leaf in tree_leaves(result) if torch.is_tensor(leaf)]
        self.bytes = max([self.bytes, *(storage.nbytes() for storage in made if storage.data_ptr() not in known)])
        return result


def largest_tensor(way: Callable[[], Any]) -> float:
    """MiB of the largest tensor that one call allocates."""
    mode = LargestTensor()
    with mode:
        way()
    return mode.bytes / MIB


def machine() -> str:
    """What this ran on, in general words."""
    threads = {torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())}
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "scikit-learn"))
    plural = f"{max(threads)} thread{'s' if max(threads) > 1 else ''} used"
    return f"{platform.machine()}, {os.cpu_count()} cores, {plural}; Python {platform.python_version()}, {packages}"


def tell(results: Iterable[Result]) -> list[Result]:
    """Print each result as soon as it is there; returns them all."""
    told = []
    for result in results:
        lines = zip(HEADINGS, result.cells(), strict=True)
        print("\n".join(f"{name:14} {cell}" for name, cell in lines if cell), end="\n\n", flush=True)
        told.append(result)
    return told


def command(results: Callable[[], Iterable[Result]]) -> None:
    """The body of each script: measure, print, and exit with 1 when results disagree. A missed goal is no error."""
    print(machine(), end="\n\n", flush=True)
    sys.exit(not all(result.agrees for result in tell(results())))
