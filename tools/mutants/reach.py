"""Which tests enter which function of the product: noted while all tests run once, unchanged.

Python calls a trace function at every entry into a function, and this one only notes the code that is entered: cheap
enough for the whole suite. Processes that a test starts are not seen; test files that run ranks count as reaching every
module that they name.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from tools.mutants.places import Change

RANKS = "run_ranks"
"""The name of what starts processes, in the test files that do."""
_SHARED = re.compile(r"scope=.(module|session|class|package)|^@(functools\.)?(lru_)?cache", re.MULTILINE)
_OPTIMISED = 0x1
"""The flag of code objects of functions, which those of modules and classes lack."""


@dataclasses.dataclass
class Reach:
    """The tests that enter each function."""

    functions: dict[str, dict[str, list[str]]] = dataclasses.field(default_factory=dict)
    """By file and lines `FIRST-LAST`: the tests, as `tests/FILE.py::NAME` without parameters."""
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    """How long each test took, with all its parameters."""
    failed: list[str] = dataclasses.field(default_factory=list)

    def merge(self, other: Reach) -> None:
        """Add what another part of the tests entered."""
        for file, entered in other.functions.items():
            held = self.functions.setdefault(file, {})
            for lines, tests in entered.items():
                held[lines] = sorted({*held.get(lines, ()), *tests})
        self.seconds.update(other.seconds)
        self.failed += other.failed

    def save(self, path: Path) -> None:
        """Write it as JSON, each test by its number."""
        numbers = {test: number for number, test in enumerate(self.seconds)}
        entered = {
            file: {lines: [numbers[test] for test in tests] for lines, tests in held.items()}
            for file, held in sorted(self.functions.items())
        }
        path.write_text(json.dumps({"seconds": self.seconds, "failed": self.failed, "functions": entered}))

    @classmethod
    def load(cls, path: Path) -> Reach:
        """Read what `save` wrote."""
        held = json.loads(path.read_text())
        names = list(held["seconds"])
        functions = {
            file: {lines: [names[number] for number in numbers] for lines, numbers in entered.items()}
            for file, entered in held["functions"].items()
        }
        return cls(functions, held["seconds"], held["failed"])

    def tests(self, change: Change) -> set[str]:
        """The tests that enter the function around a change.

        Any of its file where it runs at import, and where no test enters the function: it may be called at import.
        """
        entered = self.functions.get(change.file, {})
        around: set[str] = set()
        for span, tests in entered.items():
            first, last = map(int, span.split("-"))
            if any(first <= line <= last for line in change.lines):
                around.update(tests)
        return around if around and not change.imported else {test for tests in entered.values() for test in tests}

    def entered(self, change: Change) -> bool:
        """Whether any test enters the function around a change in its own process."""
        spans = (tuple(map(int, span.split("-"))) for span in self.functions.get(change.file, {}))
        return any(first <= line <= last for first, last in spans for line in change.lines)

    def others(self, change: Change, root: Path, tried: Sequence[str], budget: float) -> list[str]:
        """What else reaches a change and was not tried, the quickest first, for about `budget` seconds.

        Test files whose tests share what a fixture made come whole, since only the first of them enters the function;
        so do those that run ranks and name the module, or all of them for a function that no test enters by itself.
        """
        shared = set(_with_ranks(change if self.entered(change) else None, root))
        tests = self.tests(change)
        for file in {test.split("::")[0] for test in tests}:
            if _SHARED.search((root / file).read_text(encoding="utf-8")):
                shared.add(file)
        found = shared | {test for test in tests if test.split("::")[0] not in shared} - set(tried)
        return self._within(sorted(found, key=lambda test: (self.cost([test]), test)), budget)

    def cost(self, tests: Sequence[str]) -> float:
        """The seconds that tests, or all tests of files, took."""
        wanted = set(tests)
        return sum(taken for test, taken in self.seconds.items() if wanted & {test, test.split("::")[0]})

    def quickest(self, change: Change, budget: float, most: int = 300) -> list[str]:
        """Tests that reach a change, those of its own package first, for about `budget` seconds.

        What runs at import, such as the default of a setting, is also read by the tests of the project as a whole.
        """
        if change.imported and (whole := [test for test in self.seconds if test.count("/") == 1]):
            return whole
        own = f"tests/{change.file.split('/')[0]}/"
        every = sorted(self.tests(change), key=lambda test: (not test.startswith(own), self.seconds[test]))
        return self._within(every, budget)[:most]

    def _within(self, tests: Sequence[str], budget: float) -> list[str]:
        """Those of the tests, in their order, that the seconds suffice for; always the first."""
        chosen: list[str] = []
        for test in tests:
            if not chosen or self.cost([*chosen, test]) <= budget:
                chosen.append(test)
        return chosen


def _with_ranks(change: Change | None, root: Path) -> Iterator[str]:
    """The test files that run ranks and name the module of a change; without one all of them."""
    module = change.file.removesuffix(".py").replace("/", ".").removesuffix(".__init__") if change else ""
    package, _, name = module.rpartition(".")
    named = re.compile(rf"\b{re.escape(module)}\b|from {re.escape(package)} import [^\n]*\b{name}\b")
    for path in sorted((root / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if RANKS in text and (change is None or named.search(text)):
            yield str(path.relative_to(root))


class Watch:
    """A pytest plugin that notes the functions which each test enters, and how long it takes.

    Args:
        root: folder of the project.
        packages: those whose functions count.
    """

    def __init__(self, root: Path, packages: Iterable[str]) -> None:
        self._places = tuple(f"{root / package}{os.sep}" for package in packages)
        self._root = root
        self._entered: dict[int, CodeType] = {}
        self._by_code: dict[CodeType, set[str]] = {}
        self._test, self._began = "", 0.0
        self._seconds: dict[str, float] = {}
        self._failed: list[str] = []

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        """What Python calls at every entry; the lines inside are not traced."""
        self._entered[id(frame.f_code)] = frame.f_code

    def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> None:
        """Credit what was entered since the last test to that one, and begin anew."""
        self._finish()
        self._test, self._began = item.nodeid.split("[")[0], time.monotonic()
        threading.settrace(self._note)
        sys.settrace(self._note)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note a test that fails."""
        if report.failed:
            self._failed.append(report.nodeid)

    def _finish(self) -> None:
        """Credit what was entered to the test that ran."""
        sys.settrace(None)
        if self._test:
            taken = time.monotonic() - self._began
            self._seconds[self._test] = self._seconds.get(self._test, 0.0) + taken
        for code in list(self._entered.values()):  # a list at once: threads may still add to it
            if code.co_flags & _OPTIMISED and code.co_filename.startswith(self._places):
                self._by_code.setdefault(code, set()).add(self._test)
        self._entered.clear()

    def reach(self) -> Reach:
        """What all tests together entered."""
        self._finish()
        found = Reach(seconds={test: round(seconds, 3) for test, seconds in self._seconds.items()}, failed=self._failed)
        for code, tests in self._by_code.items():
            lines = [line for _, _, line in code.co_lines() if line is not None]
            file = str(Path(code.co_filename).relative_to(self._root))
            part = Reach({file: {f"{code.co_firstlineno}-{max(lines)}": sorted(tests - {""})}})
            found.merge(part)
        return found


def watched(root: Path, packages: Iterable[str], tests: Sequence[str], scratch: Path) -> Reach:
    """Run tests in this process, which should do nothing else, and note what they enter."""
    import pytest

    watch = Watch(root, packages)
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={scratch}"]
    pytest.main([*options, *tests], plugins=[watch])
    return watch.reach()
