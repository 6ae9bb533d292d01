"""Images of different splits that look alike: scaled or saved again, slightly changed, or of one burst."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import NamedTuple

import numpy as np

from data.images.files import in_threads
from data.images.opening import UNREADABLE
from data.inspection import DuplicateGroup, ImageStats, grey_square
from utils.checks import RunError
from utils.perceptual_hash import SIDE, Hashes, nearest_within, perceptual_hash
from utils.types import Annotations, Images, Index


class NearDuplicate(NamedTuple):
    """An image of a split, and the one of an earlier split that it looks most like."""

    split: str
    row: int
    of_split: str
    of_row: int
    bits: int
    """Number of bits in which their hashes differ."""


class _Hashed(NamedTuple):
    """The images of a split that could be hashed."""

    rows: Index
    hashes: Hashes


def near_duplicates(
    parts: Mapping[str, Annotations], images: Mapping[str, ImageStats], equal: Sequence[DuplicateGroup]
) -> list[NearDuplicate]:
    """Images of a split that look like one of an earlier split, without those that are equal to one there.

    Args:
        parts: the splits.
        images: statistics of their images; broken and missing ones are not looked at.
        equal: groups of equal images.
    """
    hashed = {name: _hashed(name, part.images, images[name]) for name, part in parts.items()}
    found = []
    for one, other in combinations(parts, 2):
        shared = [group for group in equal if any(split == one for split, _ in group)]
        known = {row for group in shared for split, row in group if split == other}
        near = nearest_within(hashed[other].hashes, hashed[one].hashes)
        rows, of = hashed[other].rows[near.row].tolist(), hashed[one].rows[near.of].tolist()
        pairs = zip(rows, of, near.bits.tolist(), strict=True)
        found += [NearDuplicate(other, row, one, of_row, bits) for row, of_row, bits in pairs if row not in known]
    return found


def _hashed(name: str, images: Images, stats: ImageStats) -> _Hashed:
    """Hashes of the images of a split that were found good."""
    rows = np.flatnonzero(stats.sizes > 0).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # decoders complain of odd metadata, which is harmless
        hashes = list(in_threads(partial(_hash, images), rows, f"hashing {name} images"))
    good = [number for number, each in enumerate(hashes) if each is not None]
    held = [each for each in hashes if each is not None]
    return _Hashed(np.array(rows, dtype=np.int64)[good], np.array(held, dtype=np.uint16).reshape(-1, 16))


def _hash(images: Images, row: int) -> Hashes | None:
    """The hash of an image; None where it does not open any more."""
    try:
        return perceptual_hash(grey_square(images, row, SIDE))
    except (*UNREADABLE, RunError):
        return None
