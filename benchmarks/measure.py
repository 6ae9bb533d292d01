"""Measurement and report of every question: both ways in one process, in turns, medians of the turns."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
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
    """Result of one question. Times are seconds per call."""

    question: str
    published: float
    recorded: str
    """Time of the published code itself, imported unmodified, on another machine: a check on our imitation."""
    ours: float
    goal: float
    """Ratio to reach."""
    difference: float
    tolerance: float
    compared: str = "results"
    """Name of the compared values, of which `difference` is the largest difference."""
    note: str = ""

    @property
    def ratio(self) -> float:
        """Speed of ours as a multiple of the published way's."""
        return self.published / self.ours

    @property
    def agrees(self) -> bool:
        """True if both ways give the same within the tolerance; never for a NaN."""
        return self.difference <= self.tolerance

    def cells(self) -> tuple[str, ...]:
        """Cells of the row of the table."""
        verdict = f"{'agree' if self.agrees else 'DISAGREE'}, {self.compared} within {self.difference:.1e}"
        reached = f"{self.goal:g}" if self.ratio >= self.goal else f"{self.goal:g} (missed)"
        times = seconds(self.published), self.recorded, seconds(self.ours)
        ratio = f"{self.ratio:,.0f}" if self.ratio >= 100 else f"{self.ratio:.3g}"
        return self.question, *times, ratio, reached, verdict, self.note


HEADINGS = ("question", "published way", "recorded", "ours", "ratio", "goal", "same result?", "note")


def seconds(value: float) -> str:
    """Return a duration as text, three digits with a suitable unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} us"


def in_turns(published: Callable[[], Any], ours: Callable[[], Any], *, turns: int) -> tuple[float, float]:
    """Median seconds of one call of each, measured alternately so that other load on the machine affects both."""
    calls = [_calls_per_turn(published), _calls_per_turn(ours)]
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(turns):
        for way, number, times in zip((published, ours), calls, taken, strict=True):
            times.append(_seconds_of(way, number) / number)
    return statistics.median(taken[0]), statistics.median(taken[1])


def _calls_per_turn(way: Callable[[], Any]) -> int:
    """Number of calls that fill a turn; the call that finds it out is also the warm-up."""
    return max(1, round(TURN / _seconds_of(way, 1)))


def _seconds_of(way: Callable[[], Any], number: int) -> float:
    start = perf_counter()
    for _ in range(number):
        way()
    return perf_counter() - start


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Record, while active, of the size in bytes of the largest tensor that an operation newly allocates."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation; results that share memory with inputs are views and do not count."""
        result = func(*args, **(kwargs or {}))
        known = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)}
        made = [leaf.untyped_storage() for leaf in tree_leaves(result) if torch.is_tensor(leaf)]
        self.bytes = max([self.bytes, *(storage.nbytes() for storage in made if storage.data_ptr() not in known)])
        return result


def largest_tensor(way: Callable[[], Any]) -> float:
    """Size in MiB of the largest tensor that one call allocates."""
    mode = LargestTensor()
    with mode:
        way()
    return mode.bytes / MIB


def machine() -> str:
    """Describe the machine: cores, threads, versions."""
    threads = {torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())}
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "scikit-learn"))
    plural = f"{max(threads)} thread{'s' if max(threads) > 1 else ''} used"
    return f"{platform.machine()}, {os.cpu_count()} cores, {plural}; Python {platform.python_version()}, {packages}"


def show(results: Iterable[Result]) -> list[Result]:
    """Print each result as soon as it is measured; return all."""
    shown = []
    for result in results:
        lines = zip(HEADINGS, result.cells(), strict=True)
        print("\n".join(f"{name:14} {cell}" for name, cell in lines if cell), end="\n\n", flush=True)
        shown.append(result)
    return shown


def command(results: Callable[[], Iterable[Result]]) -> None:
    """Body of each script: measure, print, exit with 1 when results disagree. A missed goal is no error."""
    print(machine(), end="\n\n", flush=True)
    sys.exit(not all(result.agrees for result in show(results())))


def verdict(ratio: float, goal: float) -> str:
    """Goal of a ratio that should be at most `goal`, marked if it is missed."""
    return f"{goal:g}" if ratio <= goal else f"{goal:g} (missed)"


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, ("---",) * len(headings), *rows))


def options(name: str, doc: str | None) -> argparse.ArgumentParser:
    """Parser of the command line of `python -m benchmarks.NAME`, with `--output`."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=doc, allow_abbrev=False)
    parser.add_argument("--output", type=Path, help="also write the results to this Markdown file")
    return parser


def finish(name: str, title: str, text: str, output: Path | None) -> None:
    """Print the results of `python -m benchmarks.NAME` and, if asked, write them as a page."""
    print(text)
    if output is not None:
        page = f"# {title}\n\nWritten by `python -m benchmarks.{name}`.\n\n{text}"
        output.write_text(page.rstrip("\n") + "\n", encoding="utf-8")
