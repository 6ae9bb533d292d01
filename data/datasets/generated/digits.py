"""Scenes of handwritten digits in warm and cool inks: a dataset that needs no download.

The digits are scikit-learn's bundled 8 x 8 ones (`sklearn.datasets.load_digits`, from UCI's "Optical Recognition of
Handwritten Digits"). A class is a digit in an ink, digit + 10 * ink, 20 in all. Samples of digits in training scenes
never appear in test scenes; writers may be in both, because the bundled files do not name them.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from data.datasets.generated.scenes import COOL, WARM, Floats, SceneSplit, Style, build_scenes
from data.datasets.source import DatasetSource
from utils.seeding import derive_seed
from utils.types import Annotations, Index, Splits

CLASSES = tuple(f"{digit} {ink}" for ink in ("warm", "cool") for digit in range(10))
STYLE = Style(sides=(11, 17), clutter=3, noise=0.06, background=0.55, bright=0.65)
SCENES = {"train": 3000, "test": 1500}
TRAIN_SAMPLES = 1198
"""The first 1198 of the 1797 digits, in file order, are for training scenes, the last 599 for test scenes."""

GROUPS = (
    (0, 1, 2, 10, 11),
    (2, 3, 4, 12, 13),
    (4, 5, 6, 14, 15),
    (6, 7, 8, 16, 17),
    (8, 9, 0, 18, 19),
    (11, 13, 15, 17, 19),
)
"""Classes that co-occur: each scene has one group, which gets three quarters of the probability."""

_GROUP_SHARE = 0.75
_TAIL_RATIO = 30.0
_TAIL_SEED = 7


def load_digits(source: DatasetSource) -> Splits:
    """Generate 3000 training and 1500 test scenes, 40 x 40, 20 classes, 1 to 4 labels each, from `source.seed`."""
    return Splits(digit_scenes(source.seed, "train"), digit_scenes(source.seed, "test"))


def load_long_tailed_digits(source: DatasetSource) -> Splits:
    """Generate training scenes with classes up to 30 times less likely; the test scenes are those of `load_digits`.

    By their frequency in training scenes the first 7 classes are the head, the next 6 the middle, the rest the tail.
    """
    train = digit_scenes(source.seed, "train", long_tail=True)
    ranked = np.argsort(-train.truth.counts(), kind="stable")
    groups = dict(zip(("head", "middle", "tail"), map(np.sort, np.split(ranked, [7, 13])), strict=True))
    return Splits(train, digit_scenes(source.seed, "test"), groups)


def digit_scenes(seed: int, split: str, *, long_tail: bool = False) -> Annotations:
    """Generate the scenes of one split.

    Args:
        seed: decides the scenes; train and test are independent.
        split: train or test.
        long_tail: make classes less likely by rank, the last one 30 times; ranks are the same for all seeds.
    """
    images, digits = samples(split)
    by_digit, counts = np.argsort(digits, kind="stable"), np.bincount(digits, minlength=10)

    def pick(rng: Generator, labels: Index) -> Floats:
        """Draw a random handwritten sample of each label's digit, (M, 8, 8)."""
        digit = labels % 10
        index = (rng.random(len(labels)) * counts[digit]).astype(np.int64)
        glyphs: Floats = images[by_digit[(np.cumsum(counts) - counts)[digit] + index]]
        return glyphs

    tail = tail_weights() if long_tail else np.ones(len(CLASSES))
    prefix = f"s{seed}{'lt' if long_tail else ''}-{split}"
    rng = np.random.default_rng(derive_seed("digits", seed, split, int(long_tail)))
    drawn_from = SceneSplit(partial(scene_weights, tail=tail), pick, ink_of, images)
    return build_scenes(rng, drawn_from, STYLE, CLASSES, SCENES[split], prefix)


def scene_weights(rng: Generator, number: int, tail: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draw a group per scene and return class weights (number, 20), multiplied by `tail` (20,)."""
    by_group = np.full((len(GROUPS), len(CLASSES)), (1 - _GROUP_SHARE) / len(CLASSES))
    for weight, group in zip(by_group, GROUPS, strict=True):
        weight[list(group)] += _GROUP_SHARE / len(group)
    weights: NDArray[np.float64] = by_group[rng.integers(len(GROUPS), size=number)] * tail
    return weights


def tail_weights() -> NDArray[np.float64]:
    """Factors (20,) of the classes from 1 down to 1/30, in geometric steps and a fixed order."""
    ranks = np.random.default_rng(_TAIL_SEED).permutation(len(CLASSES))
    weights: NDArray[np.float64] = _TAIL_RATIO ** (-ranks / (len(CLASSES) - 1))
    return weights


def ink_of(labels: Index) -> Index:
    """Inks (M,) of the classes (M,)."""
    return np.where(labels < 10, WARM, COOL)


def samples(split: str) -> tuple[Floats, Index]:
    """Glyphs (G, 8, 8) in [0, 1] and digits (G,) of one split."""
    from sklearn.datasets import load_digits as bundled  # slow to import

    digits = bundled()
    part = slice(None, TRAIN_SAMPLES) if split == "train" else slice(TRAIN_SAMPLES, None)
    return (digits.images[part] / 16).astype(np.float32), digits.target[part].astype(np.int64)
