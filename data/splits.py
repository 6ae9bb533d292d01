"""Taking a validation split off a training set."""

from __future__ import annotations

import numpy as np

from utils.checks import require
from utils.types import Index


def validation_split(rows: int, fraction: float, seed: int) -> tuple[Index, Index]:
    """Row indices (sorted) of the remaining training set and of its validation split.

    The recipe of the single-positive papers: one permutation of numpy's legacy generator, the last
    `round(fraction * rows)` of it (half to even) are the validation split.

    Raises:
        UserError: `fraction` is outside [0, 1), or leaves no training row.
    """
    require(0 <= fraction < 1, f"--val_frac {fraction}: must be in [0, 1)")
    held_out = int(np.round(fraction * rows))
    require(held_out < rows, f"--val_frac {fraction}: leaves none of the {rows} images for training")
    order = np.random.RandomState(seed).permutation(rows).astype(np.int64)
    return np.sort(order[: rows - held_out]), np.sort(order[rows - held_out :])
