"""The places that name methods, datasets and scripts agree with each other."""

from pathlib import Path

import pytest
import yaml

from data.datasets import DATASETS, SYNONYMS
from engine.core.setting_table import joined, settings_of
from engine.core.settings_files import read_settings_file
from engine.training.config import training_command
from losses import CRITERIA, methods_of
from models.backbones.packaged import PACKAGED
from tools.tables import generated

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
PAGES = ROOT / "docs" / "methods"
PUBLISHED = dict.fromkeys(("voc", "coco", "nuswide"), "ndlp")
"""Folders of settings files that have the names of a published repository, and the method those are for."""


def page(method):
    """The page of a method: its own, or that of its module, which then serves the whole family."""
    own = PAGES / f"{method}.md"
    return own if own.exists() else PAGES / f"{CRITERIA[method].criterion.__module__.split('.')[-1]}.md"


def test_every_method_has_a_script_and_every_script_a_method():
    scripts = {path.name for path in ROOT.glob("main_*.py")}
    assert {method.script for method in CRITERIA.values()} | {"main_real.py"} == scripts  # that one trains CoNeS
    assert all(methods_of(script) for script in scripts - {"main_real.py"})


def test_every_method_has_a_page_that_says_its_name_and_every_page_a_method():
    pages = {method: page(method) for method in CRITERIA}
    assert set(pages.values()) == set(PAGES.glob("*.md"))
    for method, path in pages.items():
        assert path.stem == method or f"`{method}`" in path.read_text(), f"{path.name} says nothing of {method}"


def test_the_readme_names_every_script():
    readme = (ROOT / "README.md").read_text()
    for path in ROOT.glob("*.py"):
        assert path.name in readme, f"README.md says nothing of {path.name}"


def test_generated_tables_are_as_the_code_says():
    stale = [path for path, text in generated().items() if not path.exists() or path.read_text() != text]
    assert not stale, f"`make tables` writes {', '.join(str(path.relative_to(ROOT)) for path in stale)}"


def test_every_method_has_a_test_of_its_file():
    for method in CRITERIA.values():
        module = method.criterion.__module__.split(".")[-1]
        assert (ROOT / "tests" / "losses" / f"test_{module}.py").exists()


def test_every_dataset_has_settings_and_a_page_in_the_docs():
    assert {path.stem for path in (CONFIGS / "datasets").glob("*.yaml")} == set(DATASETS)
    assert set(SYNONYMS.values()) <= set(DATASETS)
    assert not set(SYNONYMS) & set(DATASETS)
    pages = [path.read_text() for path in sorted((ROOT / "docs" / "datasets").glob("*.md"))]
    for name in DATASETS:
        assert any(f"`{name}`" in page for page in pages), f"no page in docs/datasets names {name}"


SETTINGS = sorted(
    set(CONFIGS.rglob("*.yaml")) - {CONFIGS / "released.yaml", *(CONFIGS / "plans").glob("*.yaml")}
)  # those are no settings files


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_settings_file_is_for_something_and_reads(path):
    folder, name = path.parent.name, path.stem
    if folder == "protocols":  # how one paper trains everything, or its model
        models = (ROOT / "docs" / "models.md").read_text()
        assert (PAGES / f"{name}.md").exists() or f"configs/protocols/{name}.yaml" in models
    elif folder == "weights":
        assert name in PACKAGED
    elif folder in PUBLISHED:  # says whose settings it stands for, and the rate that its flag does not change
        assert folder not in CRITERIA
        held = yaml.safe_load(path.read_text())
        assert held.keys() == {"dataset", "lr", "rules", "scripts"}
        assert (CONFIGS / PUBLISHED[folder] / f"{held['dataset']}.yaml").exists()
    else:
        assert name in DATASETS or (name == "every" and folder != "datasets")
        assert folder == "datasets" or folder in CRITERIA
    chosen = yaml.safe_load(path.read_text()).get("loss", next(iter(CRITERIA)))
    method = CRITERIA[folder] if folder in CRITERIA else CRITERIA[chosen]
    command = training_command("main_BCE.py", {}).table()
    table = {**command.shared, **{name: each for head in command.heads.values() for name, each in head.items()}}
    read_settings_file(path, joined([table, settings_of(method.config, "method")]))


THROUGH_OTHERS = {
    *("utils/checks", "utils/console", "data/loading/dataset", "data/labels/entries", "data/labels/validation"),
    *("data/labels/class_rates", "data/datasets/source"),
    *("data/datasets/long_tail_pickles", "data/datasets/generated/letters", "data/datasets/generated/scenes"),
    *("data/images/kinds", "data/datasets/voc_files", "utils/class_facts"),
    "models/backbones/__main__",
    *(f"models/released/{name}" for name in ("contents", "resnets", "transformers", "tresnets")),
}
"""Modules that are tested through those that use them."""


@pytest.mark.parametrize("package", ["utils", "data", "models", "losses"])
def test_every_module_has_a_test_file_in_the_same_room(package):
    for path in (ROOT / package).rglob("*.py"):
        place = path.relative_to(ROOT).with_suffix("")
        if str(place) not in THROUGH_OTHERS and path.stem != "__init__":
            test = ROOT / "tests" / place.with_name(f"test_{place.name}.py")
            assert test.exists(), f"no {test.relative_to(ROOT)}"


def test_every_test_file_stands_in_a_room_that_there_is():
    for path in (ROOT / "tests").rglob("test_*.py"):
        place = path.parent.relative_to(ROOT / "tests")
        if str(place) not in {".", "commands", "equality", "equivalence", "faults", "kills"}:
            assert (ROOT / place).is_dir(), f"{path.relative_to(ROOT)} mirrors no room"
