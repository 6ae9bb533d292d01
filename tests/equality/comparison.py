"""How far runs on several processes are from a run on one, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tests.equality.training import Left

RATIOS = {"label_mask": {"bce"}, "cdcr": {"chosen", "negatives_only"}}
"""Columns of the log that are ratios within a batch: with several processes, the mean of theirs."""
LARGEST = {"losses": 1e-9, "logits": 1e-9, "selected": 0.0, "columns": 1e-6, "memories": 1e-6, "weights": 1e-9}
"""Differences that rounding explains. Some columns and some of what methods keep are float32."""


def differences(method: str, found: Left, expected: Left) -> dict[str, float]:
    """The largest difference of each part, relative where numbers are above 1; infinite where names differ."""
    apart = {part: _largest(getattr(found, part), getattr(expected, part)) for part in Left._fields}
    left_out = RATIOS.get(method, set())
    columns = (
        {name: each[name] for name in each if name not in left_out} for each in (found.columns, expected.columns)
    )
    return apart | {"columns": _largest(*columns)}


def _largest(found: Any, expected: Any) -> float:
    if isinstance(found, Mapping):
        if found.keys() != expected.keys():
            return float("inf")
        return max((_largest(found[name], expected[name]) for name in found), default=0.0)
    return max(_distances(found, expected), default=0.0)


def _distances(found: Tensor, expected: Tensor) -> Iterator[float]:
    if found.shape != expected.shape:
        yield float("inf")
        return
    one, other = (torch.nan_to_num(each.double(), nan=-1e30, posinf=1e30) for each in (found, expected))
    distance = (one - other).abs() / other.abs().clamp(min=1)
    yield from distance.flatten()[distance.numel() and distance.argmax()][None].tolist() if distance.numel() else ()
