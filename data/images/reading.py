"""How the files of images become pixels: upright or as stored, and which values of deep images are black and white.

Whatever is done here changes pixels, and so is a part of the key of every cache of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, Self, runtime_checkable

from utils.checks import require
from utils.options import option

Exif = Literal["apply", "ignore"]

READING = ("exif", "value_range")
"""The settings."""


class Reading(NamedTuple):
    """Rules by which files are read. The defaults are what the published code does, and what all earlier runs did."""

    exif: Exif = "ignore"
    """`apply` turns a photograph as its orientation (EXIF) says; `ignore` leaves it as it is stored."""
    value_range: tuple[float, float] | None = None
    """The values of deep images that become black and white, alike in all; None: by the depth or range of each."""

    @property
    def mark(self) -> bytes:
        """Bytes that tell pixels read by these rules from others, for caches; empty for the defaults."""
        return b"" if self == AS_STORED else json.dumps(self).encode()


AS_STORED = Reading()
"""The defaults."""


@runtime_checkable
class ReadFromFiles(Protocol):
    """Images that are read from files."""

    reading: Reading

    def read_as(self, reading: Reading) -> Self:
        """The same images, read by other rules."""
        ...


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """Rules by which images are read. Raises: UserError for values between which there is no range."""

    exif: Exif | None = option(
        None,
        "photographs with an orientation: apply turns them as the camera was held, ignore leaves them as stored "
        "(default: as in training; new on --dataset table without boxes apply, else ignore)",
    )
    value_range: tuple[float, ...] | None = option(
        None,
        "images of 16 or 32 bits: the values LOW,HIGH that become black and white, in all alike, such as 0,4095 "
        "(default: as in training, else by the depth or range of each image)",
    )

    def __post_init__(self) -> None:
        limits = self.value_range
        require(
            limits is None or _is_range(limits),
            f"--value_range {','.join(f'{value:g}' for value in limits or ())}: give two numbers, the lower first, as "
            "0,4095",
        )

    @property
    def reading(self) -> Reading:
        """The rules; what is not set is as in runs of versions that had no such settings."""
        return Reading(self.exif or "ignore", _pair(self.value_range))


AS_TRAINED = ReadingConfig()
"""Nothing is set: as a checkpoint was trained."""


def _is_range(limits: Sequence[float]) -> bool:
    return len(limits) == 2 and all(map(math.isfinite, limits)) and limits[0] < limits[1]


def _pair(limits: Sequence[float] | None) -> tuple[float, float] | None:
    return None if limits is None else (limits[0], limits[1])
