"""Folders of runs, finished and stopped in the middle, whose own files are changed; and what a dataset is kept in."""

import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch

from engine.training.loop import Loop
from tests.commands.scene import run
from tests.data.trees import picture
from tests.faults.folders import ours
from tests.faults.trial import Kind
from utils.checks import Interrupted

ROWS = [f"{n}.png,{'red;blue' if n % 3 else 'green'},{'train' if n < 6 else 'test'}\n" for n in range(9)]
SMALL = "--dataset table --table t.csv --path_images . --model scenenet --weights none --img_size 32 --batch_size 4"
SMALL = f"{SMALL} --threads 1 --num_workers 0 --warmup_epoch 0 --epochs 2 --save_minutes 0 --device cpu --output out"
BASELINE = ("main_BCE.py", *SMALL.split(), "--ema", "0.9")
CORRECTING = ("main_llm.py", *SMALL.split(), "--labels", "single", "--mod_scheme", "LL-Cp", "--record", "all")
FIXED = ("main_BCE.py", *SMALL.split(), "--train_mode", "linear_fixed_features", "--augment", "none", "--cache", "disk")
WORDS = {"baseline": BASELINE, "correcting": CORRECTING, "fixed": FIXED}


@functools.cache
def _trained(name: str, stopped: bool) -> Path:
    """A folder with a run of these words, made once; `stopped`: after its fourth save, in its second epoch."""
    folder = Path(tempfile.mkdtemp(prefix="run-files-"))
    (folder / "t.csv").write_text("image,labels,split\n" + "".join(ROWS))
    for n in range(9):
        picture(folder / f"{n}.png", colour=("red", "green", "blue")[n % 3])
    save, saved = Loop.save, []

    def save_and_stop(loop: Loop) -> None:
        save(loop)
        saved.append(loop.state.step)
        if len(saved) == 4:
            raise Interrupted(15)

    with mock.patch.object(Loop, "save", save_and_stop if stopped else save):
        done = run(folder, *WORDS[name])
    assert done.returncode == (143 if stopped else 0), done.stderr
    return folder


def run_of(name: str, *, stopped: bool) -> Callable[[Path], None]:
    """A builder of a folder with a run."""
    return lambda folder: shutil.copytree(_trained(name, stopped), folder, dirs_exist_ok=True) and None


def cached(folder: Path) -> None:
    """A folder in which a run has kept its decoded images, features and annotations, and is to be done again."""
    run_of("fixed", stopped=False)(folder)
    shutil.rmtree(folder / "out")


SHARDS = ("predict.py", "--load_from", "best.model", "--image_list", "list.txt", "--shards", "out", "--shard_size", "2")
SHARDS = (*SHARDS, "--device", "cpu", "--num_workers", "0", "--resume")


def in_shards(folder: Path) -> None:
    """A list of images of which one is damaged, and a folder of their predictions that lacks a shard."""
    for n in range(5):
        picture(folder / f"{n}.png", colour=("red", "green", "blue")[n % 3])
    (folder / "1.png").write_bytes(b"damaged")
    (folder / "list.txt").write_text("".join(f"{n}.png\n" for n in range(5)))
    torch.save(ours(), folder / "best.model")
    done = run(folder, *SHARDS)
    assert done.returncode == 1, done.stderr
    (folder / "out" / "predictions-00002.csv").unlink()


RESUMED = tuple((*words, "--resume") for words in WORDS.values())
RUN_KINDS = (
    Kind("run state", run_of("baseline", stopped=True), ("out/last/state.pth",), RESUMED[:1]),
    Kind("label state of a run", run_of("correcting", stopped=True), ("out/last/state.pth",), RESUMED[1:2]),
    Kind("events of a run", run_of("baseline", stopped=True), ("out/log.jsonl", "out/metrics.csv"), RESUMED[:1]),
    Kind(
        "run result",
        run_of("baseline", stopped=False),
        ("out/result.json",),
        (RESUMED[0], ("compare.py", "out")),
    ),
    Kind(
        "run settings",
        run_of("baseline", stopped=False),
        ("out/settings.yaml",),
        (RESUMED[0], ("compare.py", "out"), ("main_BCE.py", "--config", "out/settings.yaml", "--print_config")),
    ),
    Kind(
        "run log",
        run_of("correcting", stopped=False),
        ("out/metrics.csv",),
        tuple(("analyse.py", name, "out", "--output", "found") for name in ("memorisation", "modification", "found")),
    ),
    Kind(
        "recorded labels",
        run_of("correcting", stopped=False),
        ("out/labels.npz",),
        (("analyse.py", "modified", "out", "--output", "found"),),
    ),
    Kind("list of images", in_shards, ("list.txt",), ((*SHARDS, "--shards", "new"),)),
    Kind("folder of shards", in_shards, ("out/*.json", "out/*.txt", "out/unreadable*.csv"), (SHARDS,)),
    Kind("caches", cached, ("cache/**/*.np[yz]",), (FIXED,)),
)
"""Every kind of file that a run leaves and another command reads."""
