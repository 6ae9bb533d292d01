"""The structure of the packages: `python -m benchmarks.structure` counts rooms, floors, arrows and circles of each.

A room is a module or a subpackage that stands directly in a package; an arrow is one room importing from another; a
floor is one more than the highest floor below it. A package's own `__init__` is no room: it lists what there is.
"""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("utils", "data", "models", "losses", "engine")

Arrows = dict[str, set[str]]


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, by full name; of `from a import b` both a and a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def module_name(path: Path) -> str:
    """The full name of a module of the project."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def rooms(package: str) -> Arrows:
    """The rooms of a package, each with the rooms it imports from."""
    folder = ROOT / package
    found: Arrows = {
        path.stem: set()
        for path in sorted(folder.iterdir())
        if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").exists()
    }
    for path in folder.rglob("*.py"):
        own = path.relative_to(folder).with_suffix("").parts[0]
        if own in found:
            others = {name.split(".")[1] for name in imported(path) if name.startswith(f"{package}.")}
            found[own] |= (others & found.keys()) - {own}
    return found


def circle(arrows: Arrows) -> list[str]:
    """The rooms of one circle, the first again at the end; empty where there is none."""
    done: set[str] = set()

    def visit(room: str, trail: list[str]) -> list[str]:
        if room in trail:
            return [*trail[trail.index(room) :], room]
        if room in done:
            return []
        done.add(room)
        return next((found for other in sorted(arrows[room]) if (found := visit(other, [*trail, room]))), [])

    return next((found for room in arrows if (found := visit(room, []))), [])


def floors(arrows: Arrows) -> int:
    """The number of floors of rooms without a circle."""
    held: dict[str, int] = {}

    def floor(room: str) -> int:
        if room not in held:
            held[room] = 1 + max((floor(other) for other in arrows[room]), default=0)
        return held[room]

    return max(map(floor, arrows), default=0)


def function_lengths() -> list[int]:
    """Lines of every function of the packages and the scripts, in rising order."""
    paths = [*ROOT.glob("*.py"), *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))]
    return sorted(
        (node.end_lineno or node.lineno) - node.lineno + 1
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def main() -> None:
    """Print one line per package, and the lengths of files and functions."""
    print(f"{'package':10}{'rooms':>6}{'floors':>7}{'arrows':>7}{'modules':>8}{'longest file':>13}  circle")
    for package in PACKAGES:
        arrows = rooms(package)
        found = circle(arrows)
        lengths = [len(path.read_text().splitlines()) for path in (ROOT / package).rglob("*.py")]
        count = sum(map(len, arrows.values()))
        stands = "-" if found else floors(arrows)
        print(
            f"{package:10}{len(arrows):6}{stands:>7}{count:7}{len(lengths):8}{max(lengths):13}  "
            f"{' -> '.join(found) or 'none'}"
        )
    lengths = function_lengths()
    p95 = lengths[int(0.95 * (len(lengths) - 1))]
    print(f"functions: {len(lengths)}, lines median {statistics.median(lengths):.0f}, p95 {p95}, longest {lengths[-1]}")


if __name__ == "__main__":
    main()
