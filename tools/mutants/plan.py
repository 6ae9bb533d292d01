"""The choice of changes: a number in every package, spread over kinds and files, the same for the same seed."""

from __future__ import annotations

import dataclasses
import difflib
import json
import random
from collections import Counter, defaultdict
from pathlib import Path

from tools.mutants.changes import alters, changes_of
from tools.mutants.places import Change

QUOTA = {"losses": 60, "data": 52, "engine": 52, "models": 50, "utils": 50}
"""How many changes are made in each package."""
LEFT_OUT = {
    "models/backbones/__main__.py": "starts the writing of weights, by hand",
}
"""Files without changes, and why; every other file of the packages takes part."""
WEIGHTS = {
    **{"compare": 4, "arith": 4, "const": 3, "boolop": 2, "negate": 2, "bool": 2, "swap": 3, "detach": 3, "dim": 2},
    **{"guard": 3, "return": 2, "slice": 3, "default": 3, "sort": 1, "dropcall": 2, "extreme": 2, "flow": 1},
}
"""How often each kind is drawn."""


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A change that a plan has chosen."""

    id: str
    change: Change

    @property
    def package(self) -> str:
        """The package that it is made in."""
        return self.change.file.split("/")[0]


def files_of(root: Path, package: str) -> list[str]:
    """The files of a package in which changes are made."""
    names = (str(path.relative_to(root)) for path in (root / package).rglob("*.py"))
    return sorted(name for name in names if name not in LEFT_OUT)


def choose(root: Path, seed: int, quota: dict[str, int] | None = None) -> list[Mutant]:
    """Choose the changes of a plan, at most one in a line.

    Args:
        root: folder of the project.
        seed: another seed, another plan.
        quota: how many in each package; by default `QUOTA`.
    """
    rng = random.Random(seed)
    chosen: list[Change] = []
    for package, wanted in (QUOTA if quota is None else quota).items():
        pool = [change for file in files_of(root, package) for change in changes_of(root, file)]
        chosen += _drawn(root, pool, wanted, rng)
    return [Mutant(f"M{number:03d}", change) for number, change in enumerate(chosen)]


def _drawn(root: Path, pool: list[Change], wanted: int, rng: random.Random) -> list[Change]:
    """Draw a kind, then a file that has few changes so far, then a change; until there are enough or none is left."""
    taken: set[tuple[str, int]] = set()
    drawn: list[Change] = []
    while len(drawn) < wanted:
        kinds: dict[str, list[Change]] = defaultdict(list)
        for change in pool:
            if (change.file, change.line) not in taken:
                kinds[change.kind].append(change)
        if not kinds:
            break
        kind = rng.choices(list(kinds), [WEIGHTS[each] for each in kinds])[0]
        change = _one(kinds[kind], Counter(change.file for change in drawn), rng)
        taken.add((change.file, change.line))
        if alters(change, (root / change.file).read_text(encoding="utf-8")):
            drawn.append(change)
    return drawn


def _one(pool: list[Change], drawn: Counter[str], rng: random.Random) -> Change:
    """One change, from a file with many places and few changes drawn."""
    sizes = Counter(change.file for change in pool)
    files = sorted(sizes)
    file = rng.choices(files, [sizes[each] ** 0.5 / (1 + drawn[each]) for each in files])[0]
    return rng.choice([change for change in pool if change.file == file])


def save_plan(path: Path, mutants: list[Mutant]) -> None:
    """Write a plan as JSON."""
    rows = [{"id": mutant.id, "package": mutant.package, **dataclasses.asdict(mutant.change)} for mutant in mutants]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def load_plan(path: Path) -> list[Mutant]:
    """Read a plan."""
    return [Mutant(row["id"], Change.read(row)) for row in json.loads(path.read_text(encoding="utf-8"))]


def shown(root: Path, mutant: Mutant) -> str:
    """What a change does, as the lines of a diff under a line that names the place."""
    change = mutant.change
    old = (root / change.file).read_text(encoding="utf-8")
    lines = difflib.unified_diff(old.splitlines(), change.applied(old).splitlines(), n=0, lineterm="")
    title = f"{mutant.id} {change.file}:{change.line} {change.kind} in {change.function or 'module'}"
    return "\n".join([title, *list(lines)[2:]])
