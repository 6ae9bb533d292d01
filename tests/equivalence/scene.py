"""Tiny datasets on disk, with what a transcription needs to know of them: pixels and true labels by image id."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tests.data.trees import voc_tree

SIDE = 32
"""Side of the images, which is the size they are trained at: nothing is resized."""

# fmt: off
VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
TAIL = ("cat", "dog", "boat", "lamp", "kite")
SCORED = 15
"""Test images of each dataset."""


class Scene(NamedTuple):
    """A dataset in a folder."""

    words: tuple[str, ...]
    """Its flags."""
    pixels: dict[str, Tensor]
    """(3, H, W) uint8 of each image, as decoded from its file."""
    truth: dict[str, NDArray[np.int8]]
    """(C,) of each image: 1 present, 0 absent, -1 difficult objects only."""
    test: tuple[str, ...]
    """Ids of the test images, ascending."""


def with_validation(rows: int, share: float = 0.2) -> int:
    """Number of images of which `rows` are left for training, once a share has been split off for validation."""
    return next(total for total in range(rows, 3 * rows + 9) if total - round(share * total) == rows)


def _image(path: Path, rng: np.random.Generator) -> Tensor:
    """Write an image of noise around a colour, and read back what its file holds."""
    colour = rng.integers(0, 200, (1, 1, 3))
    noise = rng.integers(0, 56, (SIDE, SIDE, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((colour + noise).astype(np.uint8)).save(path, quality=95)
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _objects(rng: np.random.Generator, difficult: float) -> list[tuple[str, int]]:
    """One to four classes of an image, the first never difficult."""
    names = rng.choice(VOC, size=rng.integers(1, 5), replace=False)
    return [(str(name), int(place > 0 and rng.random() < difficult)) for place, name in enumerate(names)]


def _codes(objects: list[tuple[str, int]], unknown: int) -> NDArray[np.int8]:
    """(C,) codes of an image's objects; `unknown` for classes with difficult objects only."""
    codes = np.zeros(len(VOC), dtype=np.int8)
    for name, difficult in objects:
        codes[VOC.index(name)] = unknown if difficult else 1
    return codes


def _voc(folder: Path, home: str, year: int, rows: int, rng: np.random.Generator, unknown: int) -> Scene:
    parts, test = (("train", "val"), "test") if year == 2007 else (("train",), "val")
    where = [parts[row % len(parts)] for row in range(rows)] + [test] * SCORED
    named = [(f"{row:06d}", split, _objects(rng, 0.2)) for row, split in enumerate(where)]
    root = voc_tree(folder / home, year, named)
    pixels = {one: _image(root / "JPEGImages" / f"{one}.jpg", rng) for one, _, _ in named}
    truth = {one: _codes(objects, unknown) for one, _, objects in named}
    return Scene(("--path_images", home), pixels, truth, tuple(one for one, split, _ in named if split == test))


def voc07(folder: Path, rows: int, rng: np.random.Generator) -> Scene:
    """VOC 2007: no validation split, test labels with difficult objects."""
    scene = _voc(folder, "Dataset/VOCdevkit", 2007, rows, rng, unknown=-1)
    return scene._replace(words=("--dataset", "voc07", *scene.words))


def pascal(folder: Path, rows: int, rng: np.random.Generator) -> Scene:
    """VOC 2012 as the single-positive papers use it: a fifth for validation, difficult objects absent."""
    scene = _voc(folder, "Dataset/pascal", 2012, with_validation(rows), rng, unknown=0)
    return scene._replace(words=("--dataset", "pascal", *scene.words))


def voc_lt(folder: Path, rows: int, rng: np.random.Generator) -> Scene:
    """VOC-MLT in small: `rows` draws an epoch of a class-aware sampler that reduces nothing, or up to four more."""
    most = -(-rows // len(TAIL))
    labels = np.eye(most + len(TAIL) - 1, len(TAIL), 1 - most, dtype=np.int8)
    labels[:most, 0] = 1
    for label in range(1, len(TAIL)):
        labels[rng.choice(most, size=most // (label + 1), replace=False), label] = 1
    home = folder / "Dataset"
    truth, pixels, lines = {}, {}, {"train": [], "test": []}  # type: ignore[var-annotated]
    test = (rng.random((SCORED, len(TAIL))) < 0.4).astype(np.int8)
    forms = {"train": "VOCdevkit/VOC2012/JPEGImages/2008_{:06d}.jpg", "test": "VOCdevkit/VOC2007/JPEGImages/{:06d}.jpg"}
    for split, table in (("train", labels), ("test", test)):
        for number, codes in zip(rng.permutation(len(table)), table, strict=True):
            listed = forms[split].format(number)
            pixels[Path(listed).stem] = _image(home / listed, rng)
            truth[Path(listed).stem] = codes
            lines[split].append(" ".join([listed, *map(str, np.flatnonzero(codes))]))
    lists = folder / "appendix" / "VOCdevkit"
    lists.mkdir(parents=True)
    (lists / "voc_labels.txt").write_text("".join(f"{name} {label}\r\n" for label, name in enumerate(TAIL)))
    for split, listed in lines.items():
        (lists / f"voc_lt_{split}.txt").write_text("\n".join(listed) + "\n")
    return Scene(("--dataset", "voc-lt"), pixels, truth, tuple(sorted(one for one in truth if "_" not in one)))


SCENES: dict[str, Callable[[Path, int, np.random.Generator], Scene]] = {
    "voc07": voc07,
    "pascal": pascal,
    "voc-lt": voc_lt,
}
