"""Imports go down: between packages by floor, inside a package along the arrows below, and never in a circle."""

import ast

import pytest

from benchmarks.structure import PACKAGES, ROOT, circle, imported, module_name, rooms

FLOOR = {"utils": 1, "losses": 2, "models": 2, "data": 2, "engine": 3}
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SCRIPTS = sorted(ROOT.glob("*.py"))

TRAINED = {"training", "core"}
ARROWS = {
    "engine": {
        "core": set(),
        "report": {"core"},
        "training": {"core", "report"},
        "evaluation": TRAINED,
        "prediction": TRAINED,
        "analysis": TRAINED | {"reproduction", "report"},
        "reproduction": TRAINED,
        "inspection": TRAINED,
        "generate_labels": TRAINED,
    },
    "data": {
        "files": set(),
        "images": {"files"},
        "download": set(),
        "features": {"images", "files"},
        "labels": {"files"},
        "subsets": set(),
        "loading": {"images"},
        "datasets": {"images", "files", "subsets"},
        "build": {"datasets", "labels", "subsets", "files", "images"},
        "inspection": {"images"},
    },
    "models": {
        "backbones": set(),
        "heads": set(),
        "classifier": {"backbones", "heads"},
        "trained_head": {"heads"},
        "build": {"classifier", "backbones", "heads", "trained_head"},
        "peers": {"build", "classifier", "heads"},
        "released": {"build", "backbones", "heads"},
        "as_model": set(),
    },
}
"""The rooms of each package, and those that each may import from."""


def package(name):
    return name.split(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_imports_only_from_packages_below(path):
    own = package(module_name(path))
    for name in imported(path):
        other = package(name)
        assert other not in {"tests", "benchmarks"} | {script.stem for script in SCRIPTS}, f"{path} imports {name}"
        if other in FLOOR and other != own:
            assert FLOOR[other] < FLOOR[own], f"{path} imports {name}, which is not below it"


@pytest.mark.parametrize("name", ARROWS)
def test_rooms_import_only_along_the_arrows(name):
    for room, others in rooms(name).items():
        allowed = ARROWS[name].get(room, TRAINED if name == "engine" else set())  # a command's room needs no line here
        assert others <= allowed, f"{name}/{room} imports from {', '.join(others - allowed)}"


@pytest.mark.parametrize("name", ARROWS)
def test_every_arrow_starts_at_a_room_that_there_is(name):
    assert ARROWS[name].keys() <= rooms(name).keys()


def test_what_methods_share_knows_no_method():
    assert rooms("losses")["common"] == set()


def test_imports_are_absolute():
    for path in MODULES:
        relative = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        assert not any(node.level for node in relative), f"{path}: relative import"


def test_no_circle_between_modules():
    names = {module_name(path): path for path in MODULES}
    edges = {name: {other for other in imported(path) if other in names} - {name} for name, path in names.items()}
    assert circle(edges) == []


@pytest.mark.parametrize("name", PACKAGES)
def test_no_circle_between_rooms(name):
    assert circle(rooms(name)) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=module_name)
def test_entry_scripts_are_wiring_only(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 60
    loops = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.For | ast.While)]
    assert not loops, f"{path} has a loop"
    assert "if dataset" not in text
