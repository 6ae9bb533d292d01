"""The map of tests and functions, made of one run of all tests in several processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tools.mutants.copies import enter, import_libraries
from tools.mutants.reach import Reach, watched


def cover(copy: Path, packages: Sequence[str], work: Path, jobs: int) -> Reach:
    """Run all tests of a copy, each process every so many files of them.

    Args:
        copy: a copy of the project, unchanged.
        packages: those whose functions count.
        work: folder for the parts of the map.
        jobs: how many processes.
    """
    import_libraries()
    files = sorted(str(path.relative_to(copy)) for path in (copy / "tests").rglob("test_*.py"))
    parts = {fork_part(copy, packages, files[job::jobs], work / f"reach-{job}"): job for job in range(jobs)}
    found = Reach()
    for pid, job in parts.items():
        os.waitpid(pid, 0)
        found.merge(Reach.load(work / f"reach-{job}.json"))
    return found


def fork_part(copy: Path, packages: Sequence[str], files: Sequence[str], part: Path) -> int:
    """Start a part of the tests; returns the id of the process."""
    child = os.fork()
    if child:
        return child
    try:
        enter(copy)
        watched(copy, packages, files, part.with_suffix(".tmp")).save(part.with_suffix(".json"))
    finally:
        os._exit(0)
