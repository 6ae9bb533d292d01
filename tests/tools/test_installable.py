"""The wheel: all that the checkout runs with, and no import that another project's packages could take."""

import ast
import base64
import csv
import hashlib
import io
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.commands.scene import ROOT, SMALL, tiny_voc
from tools import installed
from tools.installable import ROOMS, build_wheel, metadata, requirements, rewritten

INFO = "partial_truth-0.1.0.dist-info"
NAME = "partial_truth-0.1.0-py3-none-any.whl"


@pytest.fixture(scope="module")
def wheel_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    assert build_wheel(str(folder)) == NAME
    return folder / NAME


@pytest.fixture(scope="module")
def wheel(wheel_file):
    """Names and contents of the files of the wheel."""
    with zipfile.ZipFile(wheel_file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def imported(source):
    """First words of the absolute imports of a module."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {each.name.partition(".")[0] for each in node.names}
        if isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_imports_are_moved_and_nothing_else():
    source = (
        '"""from utils import nothing.\n\nfrom data here."""\nfrom __future__ import annotations\nimport torch, os\n'
        "from utils.checks import (\n    require,\n)\nfrom database import data\nfrom . import models\n"
        "def f():\n    from engine import core  # from engine\n    from losses.common import x; return 'from data'\n"
    )
    expected = (
        source.replace("\nfrom utils.checks", "\nfrom partial_truth.utils.checks")
        .replace("    from engine import core ", "    from partial_truth.engine import core ")
        .replace("from losses.common", "from partial_truth.losses.common")
    )
    assert rewritten(source) == expected


def test_an_import_that_cannot_be_moved_stops_the_build():
    with pytest.raises(ValueError, match="line 2: write `from"):
        rewritten("import os\nimport os, utils.checks as checks\n")


def test_no_module_of_the_wheel_imports_a_package_at_the_top(wheel):
    modules = {name: text.decode() for name, text in wheel.items() if name.endswith(".py")}
    assert len(modules) > 200
    for name, text in modules.items():
        assert not imported(text) & {*ROOMS, "tools", "tests", "benchmarks"}, name


def test_all_that_the_checkout_runs_with_is_in_it(wheel):
    kinds = {".py", ".yaml", ".json", ".j2", ".css", ".js", ".safetensors"}
    paths = (path for folder in (*ROOMS, "configs") for path in (ROOT / folder).rglob("*") if path.suffix in kinds)
    ours = [path.relative_to(ROOT).as_posix() for path in paths]
    assert {Path(name).suffix for name in ours} == kinds
    for name in [*ours, "main_BCE.py", "predict.py", "__init__.py", "__main__.py"]:
        assert f"partial_truth/{name}" in wheel, name
    assert all(name.startswith(("partial_truth/", INFO)) for name in wheel)
    assert not [name for name in wheel if "__pycache__" in name]
    same = "configs/settings.json"
    assert wheel[f"partial_truth/{same}"] == (ROOT / same).read_bytes()


def test_the_record_lists_every_file_with_its_hash(wheel):
    rows = list(csv.reader(io.StringIO(wheel[f"{INFO}/RECORD"].decode())))
    assert [row[0] for row in rows] == list(wheel)
    assert rows[-1] == [f"{INFO}/RECORD", "", ""]
    for name, code, size in rows[:-1]:
        digest = base64.urlsafe_b64encode(hashlib.sha256(wheel[name]).digest()).decode().rstrip("=")
        assert (code, int(size)) == (f"sha256={digest}", len(wheel[name])), name


def test_the_same_tree_makes_the_same_bytes(wheel_file, tmp_path):
    build_wheel(str(tmp_path))
    assert (tmp_path / NAME).read_bytes() == wheel_file.read_bytes()


def test_dependencies_are_those_of_the_files_of_requirements():
    lines = metadata().splitlines()
    needed = [line.partition(": ")[2] for line in lines if line.startswith("Requires-Dist")]
    plain = [each for each in needed if "extra ==" not in each]
    assert plain == requirements(ROOT / "requirements.txt")
    assert "torch>=2.4.1" in plain
    extras = [line.partition(": ")[2] for line in lines if line.startswith("Provides-Extra")]
    assert {"dev", "pretrained"} <= set(extras)
    assert "oldest" not in extras
    assert 'timm>=1.0.20; extra == "pretrained"' in needed
    assert 'pytorch-lightning>=2.5,!=2.6.2,!=2.6.3; extra == "dev"' in needed


def test_comments_and_other_files_are_no_requirements(tmp_path):
    (tmp_path / "some.txt").write_text("# why\n-r other.txt\n\none>=1  # because\ntwo<3,>=1\n")
    assert requirements(tmp_path / "some.txt") == ["one>=1", "two<3,>=1"]


@pytest.mark.parametrize(
    ("words", "code", "where"), [(["--help"], 0, "out"), ([], 2, "err"), (["predikt.py"], 2, "err")]
)
def test_a_command_that_there_is_not_is_answered_with_those_that_there_are(words, code, where, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["partial-truth", *words])
    with pytest.raises(SystemExit) as stop:
        installed.main()
    assert stop.value.code == code
    said = getattr(capsys.readouterr(), where)
    assert "usage: partial-truth COMMAND" in said
    assert said.startswith("error: ") == (code == 2)
    if words == ["predikt.py"]:
        assert "predikt.py: not a command" in said


class Environment:
    """A virtual environment that sees the packages of this one, with the wheel installed by pip."""

    def __init__(self, folder):
        self.folder, self.work = folder, folder / "elsewhere"
        self.work.mkdir()
        (self.work / "utils.py").write_text("MINE = True\n")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        packages = folder / "venv" / "lib" / version / "site-packages"
        (packages / "those_of_the_tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
        self.python("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-cache-dir", ROOT)
        assert (packages / "partial_truth" / "losses" / "build.py").is_file()

    def python(self, *words):
        return self.run("python", *words)

    def run(self, program, *words):
        """Run a program of the environment from a folder of another project; what it printed."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
        environment = {**kept, "XDG_CACHE_HOME": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [self.folder / "venv" / "bin" / program, *map(str, words)],
            **{"cwd": self.work, "env": environment, "capture_output": True, "text": True},
            **{"timeout": 300, "check": False},
        )
        assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    before = {path.name for path in ROOT.iterdir()}
    environment = Environment(tmp_path_factory.mktemp("installed"))
    assert {path.name for path in ROOT.iterdir()} == before  # nothing is left in the checkout
    return environment


@pytest.mark.slow
def test_a_project_with_its_own_utils_trains_with_a_method(clean):
    said = clean.python(
        "-c",
        "import torch, utils\n"
        "from partial_truth.losses import build_criterion\n"
        "observed = torch.randint(-1, 2, (8, 3))\n"
        "criterion = build_criterion('large_loss', observed=observed, epochs=3, mod_scheme='LL-R', delta_rel=5)\n"
        "out = criterion.from_logits(torch.zeros(8, 3, requires_grad=True), observed, torch.arange(8))\n"
        "import partial_truth.utils.checks\n"
        "print(utils.MINE, bool(out.total.isfinite()), partial_truth.__version__, utils.__file__)",
    ).split()
    assert said == ["True", "True", "0.1.0", str(clean.work / "utils.py")]


@pytest.mark.slow
def test_every_module_of_the_wheel_is_imported_without_the_checkout(clean):
    said = clean.python(
        "-c",
        "import importlib, pkgutil, sys, partial_truth\n"
        "names = [each.name for each in pkgutil.walk_packages(partial_truth.__path__, 'partial_truth.')]\n"
        "for name in names:\n"
        "    if not name.endswith('__main__'): importlib.import_module(name)\n"
        f"ours = [name for name in sys.modules if name.partition('.')[0] in {ROOMS!r}]\n"
        "print(len(names), ours)",
    )
    count, ours = said.split(maxsplit=1)
    assert int(count) > 200
    assert ours.strip() == "[]"


@pytest.mark.slow
def test_commands_run_from_another_folder(clean):
    tiny_voc(clean.work)
    clean.run("partial-truth", "main_BCE.py", "--dataset", "voc07", *SMALL, "--epochs", 1, "--output", "run")
    assert (clean.work / "run" / "report.html").is_file()
    clean.run("partial-truth", "generate_labels", "--dataset", "voc07", "--seed", 3)
    assert list((clean.work / "pre-processed-data").rglob("*"))
    image = "Dataset/VOCdevkit/VOC2007/JPEGImages/000001.jpg"
    assert f"{image}: " in clean.run("partial-truth", "predict.py", image, "--load_from", "run/best.pth")
    assert "usage: analyse.py WHAT" in clean.python("-m", "partial_truth", "analyse", "--help")


@pytest.mark.slow
def test_training_scripts_of_a_plan_are_those_of_the_package(clean):
    said = clean.python("-c", "from partial_truth.reproduce import SCRIPTS; print(SCRIPTS['main_cls.py']().__name__)")
    assert said == "partial_truth.main_cls\n"
