"""Imports go down a floor, never up or sideways, and never in a circle."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOOR = {"utils": 1, "losses": 2, "models": 2, "data": 2, "engine": 3}
MODULES = sorted(path for room in FLOOR for path in (ROOT / room).rglob("*.py"))
SCRIPTS = sorted(ROOT.glob("*.py"))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def room(name):
    return name.split(".")[0]


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_imports_only_from_floors_below(path):
    own = room(module_name(path))
    for name in imported(path):
        other = room(name)
        assert other not in {"tests", "benchmarks"} | {script.stem for script in SCRIPTS}, f"{path} imports {name}"
        if other in FLOOR and other != own:
            assert FLOOR[other] < FLOOR[own], f"{path} imports {name}, which is not below it"


def test_no_circle_between_modules():
    names = {module_name(path): path for path in MODULES}
    edges = {name: {other for other in imported(path) if other in names} for name, path in names.items()}
    done: set[str] = set()

    def visit(name, trail):
        assert name not in trail, f"circle: {' -> '.join([*trail, name])}"
        if name not in done:
            for other in edges[name]:
                visit(other, [*trail, name])
            done.add(name)

    for name in edges:
        visit(name, [])


@pytest.mark.parametrize("path", SCRIPTS, ids=module_name)
def test_entry_scripts_are_wiring_only(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 60
    loops = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.For | ast.While)]
    assert not loops, f"{path} has a loop"
    assert "if dataset" not in text
