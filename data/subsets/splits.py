"""Validation splits of a training set, and random subsets of both.

The recipes are those of the single-positive papers (Cole et al., CVPR 2021, published code, datasets.py): they draw
in the order of the published files, which `Annotations.recipe_order` gives, and are mapped back to rows here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import RandomState

from utils.checks import require
from utils.options import option
from utils.types import Annotations, Index


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Choice of the rows of the training set that train and that validate."""

    val_frac: float = option(0.0, "share of the training set held out for validation", common=True)
    split_seed: int | None = option(None, "seed of that split (default: --seed)")
    ss_frac_train: float = option(1.0, "share of the training rows left after the split that is used")
    ss_frac_val: float = option(1.0, "share of the validation rows that is used")
    ss_seed: int = option(999, "seed of those two choices")

    def __post_init__(self) -> None:
        require(0 <= self.val_frac < 1, f"--val_frac {self.val_frac}: must be in [0, 1)")
        for name in ("ss_frac_train", "ss_frac_val"):
            require(0 < getattr(self, name) <= 1, f"--{name} {getattr(self, name)}: must be above 0 and at most 1")
        for name in ("split_seed", "ss_seed"):
            seed = getattr(self, name)
            require(seed is None or 0 <= seed < 2**32, f"--{name} {seed}: must be in 0 .. 2^32 - 1")


@dataclass(frozen=True, kw_only=True)
class TrainingSplitConfig(SplitConfig):
    """Choice of the rows that train and that validate, and of the labels of each: the true or the observed ones."""

    train_set_variant: Literal["observed", "clean"] = option(
        "observed", "labels of the training rows: of the regime, or the true ones (as --labels full)"
    )
    val_set_variant: Literal["clean", "observed", "known"] = option(
        "clean",
        "labels that validation compares with: the true ones, or the regime's; of these unknown ones are read as "
        "absent (observed) or left out (known)",
    )


def split_rows(annotations: Annotations, config: SplitConfig, seed: int) -> tuple[Index, Index]:
    """Rows (sorted) that train and rows that validate; `seed` is used where `--split_seed` is not given.

    Images of one group (`Annotations.groups`) stay together.

    Raises:
        UserError: no row is left to train on.
    """
    order = annotations.recipe_order()
    seed = seed if config.split_seed is None else config.split_seed
    if annotations.groups is None:
        train, held_out = validation_split(len(annotations), config.val_frac, seed)
    else:
        train, held_out = group_split(annotations.groups[order], config.val_frac, seed)
    rng = RandomState(config.ss_seed)
    train, held_out = (
        subsample(part, fraction, rng)
        for part, fraction in ((train, config.ss_frac_train), (held_out, config.ss_frac_val))
    )
    require(len(train) > 0, f"--ss_frac_train {config.ss_frac_train}: leaves no image for training")
    return np.sort(order[train]), np.sort(order[held_out])


def validation_split(rows: int, fraction: float, seed: int) -> tuple[Index, Index]:
    """Positions (sorted) of the remaining training set and of its validation split.

    One permutation of numpy's legacy generator; the last `round(fraction * rows)` of it (half to even) validate.

    Raises:
        UserError: `fraction` is outside [0, 1), or leaves no training row.
    """
    require(0 <= fraction < 1, f"--val_frac {fraction}: must be in [0, 1)")
    held_out = int(np.round(fraction * rows))
    require(held_out < rows, f"--val_frac {fraction}: leaves none of the {rows} images for training")
    order = RandomState(seed).permutation(rows).astype(np.int64)
    return np.sort(order[: rows - held_out]), np.sort(order[rows - held_out :])


def group_split(groups: Index, fraction: float, seed: int) -> tuple[Index, Index]:
    """Positions (sorted) of the remaining training set and of its validation split, which share no group.

    Groups are taken in the order of a permutation, from its end, until their images are nearest to the share.

    Args:
        groups: (N,) the group of each row.
        fraction: share of the rows that validates, in [0, 1).
        seed: of the permutation of the groups, in the order of their first rows.

    Raises:
        UserError: no group would be left for training, or none for validation.
    """
    _, first, number, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    if not fraction:
        return np.arange(len(groups)), np.empty(0, dtype=np.int64)
    require(len(sizes) > 1, f"--val_frac {fraction}: all {len(groups)} images are of one group, which stays whole")
    drawn = np.argsort(first)[RandomState(seed).permutation(len(sizes))][::-1]
    sums = np.cumsum(sizes[drawn])[:-1]
    taken = drawn[: 1 + int(np.argmin(np.abs(sums - fraction * len(groups))))]
    held_out = np.isin(number.reshape(-1), taken)
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def subsample(positions: Index, fraction: float, rng: RandomState) -> Index:
    """`round(fraction * len(positions))` of `positions`, in their order: the first of a permutation, sorted.

    One generator serves the training rows and then the validation rows, and draws even where all are kept.
    """
    count = int(np.round(fraction * len(positions)))
    return positions[np.sort(rng.permutation(len(positions))[:count])]
