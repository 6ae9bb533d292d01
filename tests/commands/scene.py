"""A tiny VOC 2007 of random pictures in a folder of its own, and the scripts run on it as a user would."""

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from PIL import Image

from engine.core.cli import exit_code
from engine.inspection import command as inspection
from engine.training import run_report
from engine.training.loop import Loop
from tests.data.trees import voc_tree

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("cat", "dog", "person", "sofa")
SMALL = ("--model", "scenenet", "--weights", "none", "--img_size", "32", "--batch_size", "4", "--threads", "1")


def tiny_voc(folder, rows=22, seed=0):
    """A VOC tree under `folder/Dataset/VOCdevkit`, two thirds of it for training; returns its path."""
    rng = np.random.default_rng(seed)
    images = []
    for row in range(rows):
        split = ("train", "val", "test")[row % 3]
        names = rng.choice(CLASSES, size=rng.integers(1, 3), replace=False)
        images.append((f"{row:06d}", split, [(str(name), int(rng.random() < 0.1)) for name in names]))
    devkit = folder / "Dataset" / "VOCdevkit"
    root = voc_tree(devkit, 2007, images)
    (root / "JPEGImages").mkdir()
    for one, _, _ in images:
        pixels = rng.integers(0, 256, (36, 44, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{one}.jpg")
    return devkit


def environment(folder):
    """The environment of a command: its cache in `folder`, one thread, no progress bars."""
    return {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1", "TORCH_HOME": str(folder)}


def command(folder, script, *arguments):
    """The words of a command, run from `folder` (its label files and runs stay there)."""
    return [sys.executable, str(ROOT / script), *map(str, arguments)]


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def blank(*given, **named):
    """Write an empty image where a figure would be drawn."""
    (path,) = (one for one in (*given, *named.values()) if isinstance(one, Path))
    Image.new("L", (256, 256), 255).save(path)


@contextlib.contextmanager
def undrawn(script):
    """Leave blank figures of a training script, or an inspection: drawing takes half of their time."""
    module, names = None, ()
    if script.startswith("main_"):
        module, names = run_report, ("plot_curves", "plot_heat_map", "draw_examples")
    if script == "inspect_data.py":
        module, names = inspection, ("plot_bars", "plot_counts", "plot_heat_map", "plot_contact_sheet")
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch.object(module, name, blank))
        yield


def run(folder, script, *arguments, draw=False):
    """Run a script to its end in this process (a start costs seconds), as from `folder`.

    Training scripts and inspections leave blank figures unless `draw` is said; other commands always draw.
    """
    main = importlib.import_module(script.removesuffix(".py")).main
    out, err = io.StringIO(), io.StringIO()
    words = [str(word) for word in arguments]
    with (
        contextlib.chdir(folder),
        mock.patch.dict(os.environ, environment(folder)),
        contextlib.nullcontext() if draw else undrawn(script),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = exit_code(main, words)
        except SystemExit as stop:  # --help
            code = stop.code or 0
    return Done(code, out.getvalue(), err.getvalue())


def run_process(folder, script, *arguments, timeout=300):
    """Run a script to its end as a user would, in a process of its own."""
    return subprocess.run(
        command(folder, script, *arguments),
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def cut_off(folder, *words, saves):
    """Run a script that is interrupted just after it has saved so many times; returns the step it had come to."""
    save, steps = Loop.save, []

    def interrupted(loop):
        save(loop)
        steps.append(loop.state.step)
        if len(steps) == saves:
            raise KeyboardInterrupt

    with mock.patch.object(Loop, "save", interrupted):
        assert run(folder, *words).returncode == 130
    return steps[-1]


def succeed(folder, script, *arguments, draw=False):
    """Run a script that must end well; returns what it printed."""
    done = run(folder, script, *arguments, draw=draw)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def refusal(folder, script, *arguments, code=2, run=run):
    """Run a script that must refuse; returns its one line."""
    done = run(folder, script, *arguments)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def result(path):
    """The result.json of a run."""
    return json.loads((path / "result.json").read_text())


def state(path):
    """The saved state of a run."""
    return torch.load(path / "last" / "state.pth", weights_only=True)


def same(a, b, trail=""):
    """Assert that two nested states are equal, tensors bit for bit."""
    assert type(a) is type(b), trail
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b), trail
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), trail
        for key in a:
            same(a[key], b[key], f"{trail}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), trail
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{trail}/{number}")
    else:
        assert a == b, (trail, a, b)
