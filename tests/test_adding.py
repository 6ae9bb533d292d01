"""Adding a method, a head, a dataset and a command costs the files that CONTRIBUTING.md names, and no others.

Its templates are taken as they stand, put into a copy of the project, and checked there.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^`(?P<path>[\w./]+)`[^\n]*(?:\n[^\n`#]+)*\n\n```\w+\n(?P<text>.*?)```", re.MULTILINE | re.DOTALL)
MORE = re.compile(r"; `(?P<path>engine/sample/command\.py)`.*?```python\n(?P<text>.*?)```", re.DOTALL)
GENERATED = {
    "configs/settings.json",
    "README.md",
    *(f"docs/{name}.md" for name in ("settings", "methods", "models", "data")),
}
REGISTRIES = {"losses/__init__.py", "models/heads/__init__.py", "data/datasets/__init__.py"}
EMPTY = ("engine/sample/__init__.py", "tests/engine/sample/__init__.py")
PRICES = {
    "a method": {"losses/sample.py", "tests/losses/test_sample.py", "docs/methods/sample.md", "losses/__init__.py"},
    "a head": {"models/heads/sample.py", "tests/models/heads/test_sample.py", "models/heads/__init__.py"},
    "a dataset": {
        *("data/datasets/sample.py", "tests/data/datasets/test_sample.py", "docs/datasets/sample.md"),
        *("configs/datasets/sample.yaml", "data/datasets/__init__.py"),
    },
    "a command": {
        *("sample.py", "engine/sample/command.py", "tests/engine/sample/test_command.py", "docs/sample.md"),
        *EMPTY,
    },
}


def templates():
    """Path -> text of every template in CONTRIBUTING.md."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    found = {block["path"]: block["text"] for block in BLOCK.finditer(page)}
    command = MORE.search(page)
    found.pop("engine/sample/__init__.py", None)
    return {**found, command["path"]: command["text"], **dict.fromkeys(EMPTY, "")}


def registered(text, block):
    """A registry with the import and the line of a template."""
    added, line = block.rstrip("\n").split("\n")
    lines = text.split("\n")
    package = added.split()[1].rsplit(".", 1)[0]
    last = max(at for at, each in enumerate(lines) if each.startswith(f"from {package}."))
    while not lines[last].endswith(")") and lines[last].endswith("("):
        last = next(at for at in range(last, len(lines)) if lines[at] == ")")
    lines.insert(last + 1, added)
    end = next(at for at, each in enumerate(lines) if each == "}")
    lines.insert(end, line)
    return "\n".join(lines)


def files(folder):
    """Relative path -> content of all files of a tree that are of the project."""
    skipped = {".git", ".venv", ".venv-oldest", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", "runs"}
    paths = (path for path in folder.rglob("*") if path.is_file() and not skipped & set(path.relative_to(folder).parts))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def python(folder, *words):
    """Run a command in the copy; its output."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / ".cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the project with all templates added and the tables written, and its files before that."""
    folder = tmp_path_factory.mktemp("adding") / "project"
    ignored = shutil.ignore_patterns(
        ".git", ".venv*", "__pycache__", ".*_cache", "runs", "Dataset", "appendix", "my", "golden", "fixtures"
    )
    shutil.copytree(ROOT, folder, ignore=ignored)
    before = files(folder)
    for path, text in templates().items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(registered(file.read_text(), text) if path in REGISTRIES else text)
    python(folder, "-m", "tools.tables")
    return folder, before


def test_the_templates_are_the_price_list():
    assert templates().keys() == set().union(*PRICES.values())


@pytest.mark.slow
def test_nothing_but_the_price_and_generated_files_changes(copy):
    folder, before = copy
    after = files(folder)
    changed = {path for path in after if before.get(path) != after[path] and not path.startswith(".cache")}
    assert changed - GENERATED == set().union(*PRICES.values())
    assert before.keys() <= after.keys()


@pytest.mark.slow
def test_completeness_and_the_samples_own_tests_pass(copy):
    folder, _ = copy
    shown = python(
        *(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_methods_complete.py"),
        *(
            "tests/test_layers.py",
            "tests/test_links.py",
            "tests/losses/test_sample.py",
            "tests/losses/common/test_base.py",
        ),
        *("tests/models/heads/test_sample.py", "tests/data/datasets/test_sample.py", "tests/engine/sample"),
    )
    assert "passed" in shown


@pytest.mark.slow
def test_a_user_finds_them_at_once(copy):
    folder, _ = copy
    rng = np.random.default_rng(0)
    root = folder / "Dataset" / "sample"
    (root / "images").mkdir(parents=True)
    for split, count in (("train", 24), ("test", 8)):
        lines = []
        for row in range(count):
            name = f"{split}{row}.png"
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(root / "images" / name)
            classes = rng.choice(["cat", "dog", "person"], size=rng.integers(1, 3), replace=False)
            lines.append(f"{name} {' '.join(classes)}")
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    words = "--dataset sample --loss sample --thresholds -1,9 --head sample --sharpness 2 --model scenenet"
    shown = python(
        folder, "main_BCE.py", *words.split(), "--weights", "none", "--epochs", "2", "--output", "runs/sample"
    )
    assert "sample on sample: 24 train, 8 test" in shown
    assert "mAP" in python(folder, "evaluate.py", "--load_from", "runs/sample/best.pth")
    assert python(folder, "sample.py", "--dataset", "sample") == "3 classes\n"
    help_text = python(folder, "main_BCE.py", "--help", "--loss", "sample")
    assert "--thresholds" in help_text
    assert "--sharpness" in python(folder, "main_BCE.py", "--help", "all")
