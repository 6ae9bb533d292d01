"""Soft labels of a table: values between 0 and 1 where others write 1 or 0, and what `--soft_labels` makes of them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from utils.checks import UserError, require
from utils.types import Codes, SoftTargets

HALF = 0.5
"""A value that is kept counts as present from here on, wherever a label must be present or absent."""
FLAG = "--soft_labels threshold=0.5 makes such values present or absent, --soft_labels keep trains on them"

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_NUMBERS = re.compile(rf"(?:{_NUMBER.pattern}\n)*+", _NUMBER.flags)


class SoftPolicy(NamedTuple):
    """What a table's values between 0 and 1 are."""

    threshold: float
    """Present from here on, else absent."""
    keep: bool
    """Whether they are targets of the loss besides."""


def soft_policy(setting: str) -> SoftPolicy | None:
    """The meaning of `--soft_labels`; None for `refuse`. Raises: UserError for anything else than it may be."""
    if setting in ("refuse", "keep"):
        return SoftPolicy(HALF, keep=True) if setting == "keep" else None
    name, _, text = setting.partition("=")
    threshold = number_in(text) if name == "threshold" else None
    if threshold is None or not 0 < threshold <= 1:
        raise UserError(f"--soft_labels {setting}: must be refuse, keep, or threshold=T with T above 0 and at most 1")
    return SoftPolicy(threshold, keep=False)


def number_in(text: str) -> float | None:
    """The number that a cell holds; None where it holds anything else."""
    return float(text) if _NUMBER.fullmatch(text) else None


def soft_value(text: str) -> float | None:
    """The value from 0 to 1 that a cell holds as a decimal number; None for anything else, whole numbers included."""
    number = None if text.isdigit() else number_in(text)
    return abs(number) if number is not None and 0 <= number <= 1 else None  # there is a -0.0


class FirstBeside(NamedTuple):
    """The first texts of a column that are no codes; None where there are none."""

    soft: str | None
    """A value between 0 and 1."""
    other: str | None
    """Anything else."""


def numbers_of(texts: Sequence[str]) -> Sequence[str] | None:
    """The texts if each is a number; None otherwise."""
    lines = "\n".join([*texts, ""])
    return texts if _NUMBERS.fullmatch(lines) and lines.count("\n") == len(texts) else None


def first_beside(numbers: Sequence[str]) -> FirstBeside:
    """The first numbers that are not -1, 0 or 1."""
    values = np.fromiter(map(float, numbers), np.float64, len(numbers))
    between, beyond = (values > 0) & (values < 1), (np.abs(values) > 1) | ((values < 0) & (values > -1))
    first = (numbers[int(np.argmax(one))] if one.any() else None for one in (between, beyond))
    return FirstBeside(*first)


class CellValues(NamedTuple):
    """Cells of a column of codes or values, each distinct text once."""

    codes: list[int | None]
    """None for a text that is neither."""
    soft: list[float]
    """NaN where the code says all."""

    @property
    def has_soft(self) -> bool:
        """True if any text is a value and no code."""
        return not all(map(math.isnan, self.soft))


def cell_values(texts: Sequence[str], codes: Sequence[int | None], policy: SoftPolicy | None) -> CellValues:
    """Codes of cells, those of values between 0 and 1 by the policy; without one they are no codes."""
    found = [soft_value(text) if code is None and policy else None for text, code in zip(texts, codes, strict=True)]
    threshold = policy.threshold if policy else math.nan
    hard = [code if value is None else int(value >= threshold) for code, value in zip(codes, found, strict=True)]
    return CellValues(hard, [math.nan if value is None else value for value in found])


def targets_of(codes: Codes, soft: NDArray[np.float32]) -> SoftTargets:
    """Targets of a loss: the code where nothing more is known (-1 stays unknown), else the value. Both of one shape."""
    return np.where(np.isnan(soft), codes, soft).astype(np.float32)


def soft_note(path: object, values: int, policy: SoftPolicy) -> str:
    """A line about the values between 0 and 1 of a table, and what they are taken for."""
    if not values:
        return f"{path}: has no value between 0 and 1, so --soft_labels changes nothing"
    start = f"{path}: {values:,} values between 0 and 1 (--soft_labels)"
    if policy.keep:
        return f"{start} are targets of the loss; metrics and statistics count them as present from {HALF} on"
    return f"{start} are present from {policy.threshold:g} on, else absent"


def refuse_value(text: str, where: str, title: str, policy: SoftPolicy | None) -> None:
    """Raise UserError for a value between 0 and 1 that nobody expects, or a number outside where they are expected."""
    held = f"{where}: column {title!r} holds {text[:40]!r}"
    number = number_in(text)
    require(policy is not None or soft_value(text) is None, f"{held}, between absent (0) and present (1); {FLAG}")
    require(
        policy is None or number is None or 0 <= number <= 1,
        f"{held}; values go from 0 to 1 (and -1 or blank is unknown); correct it",
    )
