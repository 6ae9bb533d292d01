"""Copies of the project for changes to be made in, and pytest in forks of a process that has imported the libraries."""

from __future__ import annotations

import importlib
import os
import resource
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

PASSED, FAILED, INTERRUPTED, USAGE, NOTHING_RUN = 0, 1, 2, 4, 5
"""Exit codes of pytest."""
BROKEN = 99
"""The exit code of a fork in which pytest did not come to an end."""
LEFT_BEHIND = (".git", ".venv*", "__pycache__", "runs", ".*_cache", "Dataset")
LIBRARIES = (
    *("torch", "torchvision", "torchvision.transforms.v2", "accelerate", "safetensors.torch", "timm", "onnx"),
    *("scipy.sparse", "scipy.stats", "sklearn.cluster", "sklearn.metrics"),
    *("pycocotools.coco", "PIL.Image", "matplotlib.pyplot", "pyarrow.parquet", "yaml", "tqdm"),
    *("pytest", "_pytest.assertion.rewrite", "_pytest.junitxml", "_pytest.python"),
)
"""What tests import and takes long."""


def copy_project(root: Path, copy: Path) -> Path:
    """Copy the project without what git ignores; the folder of real data beside it is linked beside the copy."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns(*LEFT_BEHIND), symlinks=True)
    data, link = root.parent / "shared", copy.parent / "shared"
    if data.is_dir() and not link.exists():
        link.symlink_to(data)
    return copy


def import_libraries() -> None:
    """Import the libraries once, for all forks, with one thread each; those that are missing are passed over."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError:
            sys.stderr.write(f"not installed: {name}\n")
    sys.modules["torch"].set_num_threads(1)


def fork_pytest(copy: Path, tests: Sequence[str], log: Path, cpu_seconds: int) -> int:
    """Start pytest in a copy until its first failure; returns the id of the fork.

    Args:
        copy: the project's copy.
        tests: files, or tests by their pytest name.
        log: file for the output.
        cpu_seconds: how much of a processor it may use before it is killed.
    """
    child = os.fork()
    if child:
        return child
    code = BROKEN
    try:
        os.setsid()
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
        enter(copy)
        code = _pytest(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={copy}.tmp", *tests])
    finally:
        print(end="", flush=True)  # noqa: T201 - what is left in the buffer
        os._exit(code)


def enter(copy: Path) -> None:
    """Make a copy the project of this process: nothing of the checkout that runs this is imported any more."""
    here = str(Path(__file__).resolve().parents[2])
    sys.path[:] = [str(copy), *(place for place in sys.path if place not in ("", here))]
    for name in [name for name in sys.modules if name.split(".")[0] == "tools"]:
        del sys.modules[name]
    sys.argv = ["pytest"]
    os.chdir(copy)


def _pytest(arguments: Sequence[str]) -> int:
    """Run pytest in this process."""
    import pytest

    return int(pytest.main(list(arguments)))
