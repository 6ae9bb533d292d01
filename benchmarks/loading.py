"""Speed of loading images into batches: `python -m benchmarks.loading --pictures FOLDER [--output FILE]` (minutes).

The published way (CSRA and CoNeS, their data sets and mains) restated: Pillow decodes, torchvision flips, crops and
makes floats, PyTorch's own collate stacks them, all in the process that trains.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import NamedTuple, get_args

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.measure import finish, in_turns, machine, markdown_table, options
from data.files.cache import Cache
from data.images.caching import Keep, keep_images
from data.images.decoders import Decoder, image_opener
from data.images.files import FileImages
from data.images.opening import decode
from data.loading.loader import build_loader
from data.loading.samplers import ShuffledBatches
from data.loading.transforms import normalizer, sample_generator, train_transform
from utils.types import Annotations, LabelTable

BATCH, CLASSES, TURNS = 16, 20, 7
CPU = torch.device("cpu")
PUBLISHED = "published way"
GOALS = {
    448: {"pillow": 1.4, "torchcodec": 2.0, "pillow, 2 workers": 1.6},
    224: {"pillow": 1.15, "torchcodec": 1.6, "pillow, 2 workers": 1.6},
}
DRAFT_SIZES, DRAFT_GOAL = (448, 224, 160), 1.3


class LoadingWay(NamedTuple):
    """Settings of one way of loading."""

    decoder: Decoder
    cache: Keep = "none"
    workers: int = 0

    @property
    def name(self) -> str:
        """Name in the table."""
        cached = "" if self.cache == "none" else f", --cache {self.cache}"
        return self.decoder + cached + (f", {self.workers} workers" if self.workers else "")


WAYS = [
    LoadingWay("pillow"),
    LoadingWay("pillow", workers=2),
    LoadingWay("torchcodec"),
    LoadingWay("torchcodec", workers=2),
    *(LoadingWay(decoder, cache) for decoder in get_args(Decoder) for cache in get_args(Keep)[1:]),
    LoadingWay("torchcodec", "disk", 2),
]


class PublishedDataset(Dataset[tuple[Tensor, Tensor]]):
    """One file per row, opened and transformed on access."""

    def __init__(self, paths: list[str], size: int) -> None:
        self.paths, self.transform = paths, published_transform(size)
        self.labels = torch.zeros(len(paths), CLASSES)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self.transform(Image.open(self.paths[row]).convert("RGB")), self.labels[row]


def published_transform(size: int) -> transforms.Compose:
    """Transforms of training images, with a normalisation that changes nothing."""
    return transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomResizedCrop(size, scale=(0.7, 1.0)),
            transforms.ToTensor(),
            transforms.Normalize([0, 0, 0], [1, 1, 1]),
        ]
    )


def unlabelled(paths: list[str]) -> Annotations:
    """The images as a split without labels."""
    table = LabelTable(np.zeros((len(paths), CLASSES), dtype=np.int8))
    return Annotations(FileImages(paths), tuple(paths), tuple(map(str, range(CLASSES))), table)


def our_passes(split: Annotations, way: LoadingWay, size: int) -> Iterator[Iterable[Tensor]]:
    """Pass after pass over the images, each the float batches of training."""
    batches = ShuffledBatches(len(split), BATCH, seed=0)
    loader = build_loader(
        split,
        split.truth,
        [train_transform("crop", size)],
        batches,
        normalizer=normalizer("unit"),
        decoder=way.decoder,
        seed=0,
        num_workers=way.workers,
        pin_memory=False,
    )
    for epoch in itertools.count(1):
        batches.set_epoch(epoch)
        yield (loader.to_batch(batch, CPU).images for batch in loader)


def published_passes(paths: list[str], size: int) -> Iterator[Iterable[Tensor]]:
    """Pass after pass by the published way."""
    loader = DataLoader(PublishedDataset(paths, size), batch_size=BATCH, shuffle=True, num_workers=0)
    while True:
        yield (images for images, _ in loader)


def rates(paths: list[str], kept: dict[Keep, Annotations], size: int) -> dict[str, float]:
    """Images/s of every way: median of passes in turns, so that other load on the machine affects all."""
    passes = {PUBLISHED: published_passes(paths, size)}
    passes |= {way.name: our_passes(kept[way.cache], way, size) for way in WAYS}
    for each in passes.values():
        seconds(next(each))  # starts workers, fills the page cache
    taken: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(TURNS):
        for name, each in passes.items():
            taken[name].append(seconds(next(each)))
    return {name: len(paths) / statistics.median(times) for name, times in taken.items()}


def seconds(batches: Iterable[Tensor]) -> float:
    """Seconds of one pass."""
    start = perf_counter()
    for _ in batches:
        pass
    return perf_counter() - start


def largest_differences(paths: list[str], kept: dict[Keep, Annotations], size: int) -> dict[str, int]:
    """Largest difference (of 255) of a pixel from the published way, with the same crops and flips."""
    view, published, worst = train_transform("crop", size), published_transform(size), dict.fromkeys(WAYS, 0)
    openers = {way: image_opener(kept[way.cache].images, way.decoder) for way in WAYS}
    for row, path in enumerate(paths):
        with sample_generator(row):
            theirs = published(Image.open(path).convert("RGB")).mul(255).round().int()
        for way, opener in openers.items():
            with sample_generator(row):
                ours = view(opener(row)).int()
            worst[way] = max(worst[way], int((ours - theirs).abs().max()))
    return {way.name: gap for way, gap in worst.items()}


def table(size: int, found: dict[str, float], gaps: dict[str, int]) -> str:
    """Markdown table of one image size."""
    rows = []
    for name, rate in found.items():
        ratio = rate / found[PUBLISHED]
        goal = GOALS[size].get(name)
        reached = "" if goal is None else f"{goal:g}" if ratio >= goal else f"{goal:g} (missed)"
        rows.append((name, f"{rate:.0f}", f"{ratio:.2f}", reached, f"{gaps[name]}/255" if name in gaps else ""))
    return f"## {size} x {size}\n\n" + markdown_table(("way", "images/s", "ratio", "goal", "largest difference"), rows)


def squeezed(path: str, size: int, draft: int) -> Image.Image:
    """An image as it is scored; `draft` as in `decode`."""
    return decode(path, draft=draft).resize((size, size), Image.Resampling.BILINEAR)


def squeeze_all(paths: list[str], size: int, draft: int) -> None:
    """One pass over images as they are scored."""
    for path in paths:
        squeezed(path, size, draft)


def draft_table(paths: list[str]) -> str:
    """What it would be worth to let JPEG be decoded at half or a quarter of its size, where that is still enough."""
    rows = []
    for size in DRAFT_SIZES:
        passes = (partial(squeeze_all, paths, size, each) for each in (0, size))
        whole, draft = in_turns(*passes, turns=TURNS)
        gaps = [
            np.abs(np.subtract(*(np.asarray(squeezed(path, size, each), dtype=np.int16) for each in (0, size))))
            for path in paths
        ]
        ratio, same = whole / draft, sum(not gap.any() for gap in gaps)
        mean = f"{np.mean([gap.mean() for gap in gaps]):.2f}/255"
        reached = f"{DRAFT_GOAL:g}" if ratio >= DRAFT_GOAL else f"{DRAFT_GOAL:g} (missed)"
        largest = f"{max(int(gap.max()) for gap in gaps)}/255"
        rows.append((f"{size} x {size}", f"{ratio:.2f}", reached, mean, largest, f"{100 * same / len(paths):.0f} %"))
    headings = ("size", "ratio", "to be worth an option", "mean difference", "largest", "images that stay as they are")
    about = (
        "Pillow's draft: JPEG decoded at half or a quarter of its size where both sides are still as long as wanted,\n"
        "then squeezed to a square as images are scored, against decoding all of it. Not offered: torchcodec gives\n"
        "more, with pixels that are all but the same."
    )
    return f"## Draft decoding\n\n{about}\n\n{markdown_table(headings, rows)}"


def heading(paths: list[str]) -> str:
    """Describe the machine and the files."""
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    sizes = sum(Path(path).stat().st_size for path in paths) / len(paths) / 1000
    return (
        f"{machine()}, Pillow {PIL.__version__}; load before the start {load}.\n\n{len(paths)} JPEG files, mean "
        f"{sizes:.0f} KB; batches of {BATCH}, float on the CPU; median of {TURNS} passes in turns."
    )


def main() -> int:
    """Measure, print, write; 1 when pixels differ more than they may. A missed goal is no error."""
    parser = options("loading", __doc__)
    parser.add_argument("--pictures", type=Path, nargs="+", required=True, help="folders with .jpg files")
    parser.add_argument("--most", type=int, default=400, help="number of images used, evenly spread (default 400)")
    given = parser.parse_args()
    found = sorted(str(path) for folder in given.pictures for path in folder.rglob("*.jpg"))
    paths = found[:: -(-len(found) // given.most)] if found else parser.error("no .jpg files there")
    parts, agrees = [heading(paths)], True
    with tempfile.TemporaryDirectory() as folder:
        split, cache = {"all": unlabelled(paths)}, Cache(Path(folder))
        kept = {mode: keep_images(split, mode, cache, processes=1, shown=False)["all"] for mode in get_args(Keep)}
        for size in GOALS:
            gaps = largest_differences(paths, kept, size)
            agrees &= all(gap <= (2 if "torchcodec" in name else 0) for name, gap in gaps.items())
            parts.append(table(size, rates(paths, kept, size), gaps))
    parts.append(draft_table(paths))
    finish("loading", "Loading", "\n\n".join(parts), given.output)
    return int(not agrees)


if __name__ == "__main__":
    sys.exit(main())
