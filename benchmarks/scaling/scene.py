"""Photographs of noise with random labels on disk, and the commands that train on them."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TEST, VALIDATION = 0.2, 0.1


class Scene(NamedTuple):
    """Network and data of all runs."""

    model: str
    side: int
    batch: int
    """Images of one process in a step."""
    images: int
    classes: int
    epochs: int
    tried: tuple[int, ...]
    """Images of one process at which steps are measured: fewer and more than a run has."""

    @property
    def scored(self) -> tuple[int, int]:
        """Images of the validation and of the test split."""
        test = round(self.images * TEST)
        return round((self.images - test) * VALIDATION), test

    @property
    def trained(self) -> int:
        """Images of the training split."""
        return self.images - sum(self.scored)


FULL = Scene("timm/tf_efficientnet_lite0", 160, 16, 1200, 80, 2, (8, 12, 24))
SMALL = Scene("scenenet", 32, 4, 80, 5, 1, (2, 3, 6))


def write_scene(folder: Path, scene: Scene) -> None:
    """Files of 480 x 360 pixels, and a table of up to 3 labels of each image; nothing where they are there already."""
    if (folder / "labels.csv").exists():
        return
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [("image", "labels")]
    for number in range(scene.images):
        coarse = Image.fromarray(rng.integers(0, 256, (45, 60, 3), dtype=np.uint8))
        coarse.resize((480, 360), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=92)
        labels = {number % scene.classes, *rng.integers(0, scene.classes, 2).tolist()}
        rows.append((f"{number}.jpg", ";".join(f"c{label}" for label in sorted(labels))))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def settings(folder: Path, scene: Scene, output: Path, images: int, processes: int) -> list[str]:
    """The settings of a run of so many processes on so many of the training images."""
    given = {
        **{"dataset": "table", "table": folder / "labels.csv", "path_images": folder, "labels": "candidate"},
        **{"partial_rate": 0.05, "model": scene.model, "weights": "none", "img_size": scene.side, "augment": "flip"},
        **{
            "batch_size": scene.batch * processes,
            "epochs": scene.epochs,
            "optimizer": "sgd",
            "lr": 1e-3,
            "device": "cpu",
        },
        **{"threads": 1, "num_workers": 0, "test_frac": TEST, "val_frac": VALIDATION, "selection": "last"},
        **{"output": output, "cache_dir": output.with_name(f"{output.name}-cache")},
    }
    part = {"ss_frac_train": images / scene.trained} if images < scene.trained else {}
    return [*(str(word) for name, value in (given | part).items() for word in (f"--{name}", value)), "--no-figures"]


def launched(processes: int, *words: str) -> list[str]:
    """A command, by torchrun for several processes."""
    if processes == 1:
        return [sys.executable, *words]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", *words]


def training(script: str, processes: int, given: Sequence[str]) -> list[str]:
    """The command of a run."""
    return launched(processes, str(ROOT / script), *given)
