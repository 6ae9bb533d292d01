"""Long-tailed subsets of any training set, and the lists that describe them.

N rows, C classes. A class can be subsampled alone only where images have one label. Here they have several, so that an
image of a rare class brings frequent ones with it, and targets are met as closely as that allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from utils.checks import UserError, require
from utils.long_tail import class_groups, positives
from utils.options import option
from utils.safe_files import make_folder, write_text
from utils.seeding import derive_seed
from utils.types import Annotations, Index, LabelTable, Splits

_PARETO_SHAPE = 6.0
_PARETO_LAST = 0.99  # the quantile that stands for the rarest class


@dataclass(frozen=True, kw_only=True)
class LongTailConfig:
    """Subsampling of the training set to a long tail."""

    long_tail: Literal["none", "exponential", "pareto"] = option(
        "none", "subsample the training set until its class frequencies fall like this"
    )
    imbalance: float = option(100.0, "long_tail: positives of the most frequent class for one of the rarest")
    tail_max: int | None = option(None, "long_tail: positives of the most frequent class (default: all it has)")
    tail_order: Literal["frequency", "random"] = option(
        "frequency", "long_tail: which class is the most frequent, the second, ...: as they are, or at random"
    )
    tail_seed: int | None = option(None, "long_tail: seed of the choice of images (default: --seed)")

    def __post_init__(self) -> None:
        require(self.imbalance > 1, f"--imbalance {self.imbalance}: must be above 1")
        require(self.tail_max is None or self.tail_max >= 1, f"--tail_max {self.tail_max}: must be at least 1")
        require(self.tail_seed is None or self.tail_seed >= 0, f"--tail_seed {self.tail_seed}: must be at least 0")


def target_counts(
    profile: Literal["exponential", "pareto"], num_classes: int, largest: float, imbalance: float
) -> NDArray[np.float64]:
    """(C,) positives of the most frequent class, the second, ...: from `largest` down to `largest / imbalance`.

    "exponential": largest * imbalance^(-r / (C - 1)) for rank r (Cui et al., CVPR 2019). "pareto": the density of a
    Pareto distribution of shape 6 at C points evenly spaced between its quantiles 0 and 0.99, scaled linearly to the
    same two ends (Wu et al., ECCV 2020; published code wutong16/DistributionBalancedLoss,
    tools/create_longtail_dataset.py, where the last stays above the smallest by 0.5 % of the largest).

    Args:
        profile: shape of the curve.
        num_classes: C, at least 1.
        largest: positives of the first.
        imbalance: ratio of the first to the last.
    """
    if num_classes == 1:
        return np.array([float(largest)])
    if profile == "exponential":
        return largest * np.power(float(imbalance), -np.arange(num_classes) / (num_classes - 1))
    from scipy.stats import pareto  # imported here: it takes half a second

    first, last = pareto.ppf((0.0, _PARETO_LAST), _PARETO_SHAPE)
    density = pareto.pdf(np.linspace(first, last, num_classes), _PARETO_SHAPE)
    share = (density - density[-1]) / (density[0] - density[-1])
    smallest = largest / imbalance
    return np.asarray(smallest + (largest - smallest) * share)


def class_targets(counts: Index, config: LongTailConfig, rng: Generator) -> Index:
    """(C,) number of positives that each class should keep: at least 1, at most all it has, 0 if it has none.

    Classes without positives have no rank.

    Args:
        counts: (C,) positives of each class.
        config: the settings; `long_tail` is one of the two profiles.
        rng: ranks the classes if `tail_order` is "random".

    Raises:
        UserError: no class has a positive, or the most frequent one has fewer than `tail_max`.
    """
    assert config.long_tail != "none", "with it all positives stay"
    order = np.argsort(-counts, kind="stable") if config.tail_order == "frequency" else rng.permutation(len(counts))
    order = order[counts[order] > 0]
    require(len(order) > 0, f"--long_tail {config.long_tail}: no class has a positive in this training set")
    available = int(counts[order[0]])
    largest = available if config.tail_max is None else config.tail_max
    require(
        largest <= available,
        f"--tail_max {largest}: class {order[0]}, the most frequent of the long tail, has {available} positives here",
    )
    wanted = np.rint(target_counts(config.long_tail, len(order), largest, config.imbalance)).astype(np.int64)
    targets = np.zeros_like(counts)
    targets[order] = np.clip(wanted, 1, counts[order])
    return targets


def choose_rows(truth: LabelTable, targets: Index, rng: Generator) -> Index:
    """(M,) rows, sorted, whose numbers of positives are close to the targets.

    The rarest class is met first. Its rows come in random order, and one is taken if that lowers the deviation
    sum_k |n_k - target_k| / target_k, in which rare classes weigh more. So a class exceeds its target only where
    its rows help classes of more weight that are still below theirs. A class that would get no row gets the one that
    raises the deviation least. A last pass in random order drops rows that have become superfluous. All randomness
    comes from `rng`.

    Args:
        truth: (N, C) labels; rows without a positive are never chosen.
        targets: (C,) positives wanted.
        rng: source of randomness.
    """
    row, label = positives(truth)
    ends = np.cumsum(np.bincount(row, minlength=len(truth)))[:-1]
    labels_of: list[list[int]] = [part.tolist() for part in np.split(label, ends)]
    by_class = np.argsort(label, kind="stable")
    rows_of = np.split(row[by_class], np.cumsum(np.bincount(label, minlength=truth.num_classes))[:-1])
    choice = _Choice(labels_of, targets)
    for one in np.argsort(targets, kind="stable").tolist():
        choice.fill(one, rng.permutation(rows_of[one]).tolist())
    choice.prune(rng.permutation(np.flatnonzero(choice.chosen)).tolist())
    return np.flatnonzero(choice.chosen).astype(np.int64)


def long_tailed_rows(truth: LabelTable, config: LongTailConfig, seed: int) -> Index:
    """(M,) the rows of a long-tailed subset, sorted: a function of labels, settings and seed only.

    Args:
        truth: (N, C) labels of the training set.
        config: the settings; `long_tail` is one of the two profiles.
        seed: used if `tail_seed` is not given.

    Raises:
        UserError: as `class_targets` does.
    """
    rng = np.random.default_rng(derive_seed("long tail", seed if config.tail_seed is None else config.tail_seed))
    return choose_rows(truth, class_targets(truth.counts(), config, rng), rng)


def subsample_long_tail(splits: Splits, config: LongTailConfig, seed: int) -> Splits:
    """The same test set, a long-tailed subset of the training set, and its head, middle and tail as class groups.

    With `long_tail` "none" the splits stay as they are. Raises: UserError as `class_targets` does.
    """
    if config.long_tail == "none":
        return splits
    train = splits.train.take(long_tailed_rows(splits.train.truth, config, seed))
    return splits._replace(train=train, groups={**splits.groups, **class_groups(train.truth.counts())})


def write_lists(folder: Path, name: str, splits: Splits, root: Path) -> None:
    """Write `<name>_lt_train.txt`, `<name>_lt_test.txt` and `<name>_labels.txt`, as published long-tailed splits are.

    One line per image, its path from `root` and its classes, in the order of the rows; UNKNOWN counts as absent.
    `data.datasets.long_tail` reads them under the names voc, coco and nw.

    Args:
        folder: made if it does not exist.
        name: prefix of the file names.
        splits: training and test set; their images are files.
        root: folder that the listed paths start from.

    Raises:
        UserError: an image is not in `root`, a path has white space, which would end it in a list, or a class name does
            not fit a line.
        RunError: the lists cannot be written.
    """
    texts = {
        "lt_train": _lines(splits.train, root),
        "lt_test": _lines(splits.test, root),
        "labels": [f"{_one_line(one)} {number}" for number, one in enumerate(splits.train.classes)],
    }
    make_folder(folder)
    for part, lines in texts.items():
        write_text(folder / f"{name}_{part}.txt", "".join(f"{line}\n" for line in lines))


class _Choice:
    """The rows chosen so far and their positives by class. Plain lists: numpy is slow for one row at a time."""

    def __init__(self, labels_of: Sequence[Sequence[int]], targets: Index) -> None:
        self.labels_of = labels_of
        self.targets: list[int] = targets.tolist()
        self.weights: list[float] = (1.0 / np.maximum(targets, 1)).tolist()
        self.counts = [0] * len(targets)
        self.chosen = np.zeros(len(labels_of), dtype=bool)

    def fill(self, label: int, rows: Sequence[int]) -> None:
        """Take rows of a class, in their order, while it is below its target and the deviation falls."""
        chosen, counts, target = self.chosen, self.counts, self.targets[label]
        for row in rows:
            if counts[label] >= target:
                return
            if not chosen[row] and self._change(row, 1) < 0:
                self._move(row, 1)
        if rows and not counts[label]:
            self._move(min(rows, key=lambda row: self._change(row, 1)), 1)

    def prune(self, rows: Sequence[int]) -> None:
        """Drop rows, in their order, if that lowers the deviation and no class loses its last positive."""
        for row in rows:
            if self._change(row, -1) < 0 and all(self.counts[label] > 1 for label in self.labels_of[row]):
                self._move(row, -1)

    def _change(self, row: int, step: int) -> float:
        """Increase of the deviation when a row is taken (`step` 1) or dropped (-1)."""
        change = 0.0
        for label in self.labels_of[row]:
            short = self.targets[label] - self.counts[label]
            change += (abs(short - step) - abs(short)) * self.weights[label]
        return change

    def _move(self, row: int, step: int) -> None:
        self.chosen[row] = step > 0
        for label in self.labels_of[row]:
            self.counts[label] += step


def _lines(annotations: Annotations, root: Path) -> list[str]:
    """The lines of a list, one per row."""
    row, label = positives(annotations.truth)
    numbers = np.split(label, np.cumsum(np.bincount(row, minlength=len(annotations)))[:-1])
    return [
        " ".join([_listed(annotations.images.name(k), root), *map(str, part.tolist())])
        for k, part in enumerate(numbers)
    ]


def _one_line(name: str) -> str:
    """A class name, checked to be read back unchanged from a labels file. Raises: UserError."""
    require(bool(name) and " ".join(name.split()) == name, f"class {name!r}: its name does not fit a line of a list")
    return name


def _listed(path: str, root: Path) -> str:
    """The path of an image from `root`, as lists have it. Raises: UserError."""
    try:
        listed = Path(path).relative_to(root).as_posix()
    except ValueError:
        raise UserError(f"image {path}: not in {root}; lists name images by their path from one folder") from None
    require(len(listed.split()) == 1, f"image {path}: white space in its path would end it in a list; rename it")
    return listed
