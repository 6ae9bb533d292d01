"""Numbers that are not finite: which step they came from, and that none is saved over a state without them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from utils.types import StateDict

_NAMED = 8
"""Image ids of a batch that a message gives."""


class Step(NamedTuple):
    """One step of training, kept where it was computed until somebody looks at it."""

    number: int
    """From 1, within its epoch."""
    index: Tensor  # type: ignore[assignment]  # (B,) rows of this process; hides tuple.index, unused here
    rows_finite: Tensor
    """(B,) True for the rows whose logits are finite."""
    losses: Mapping[str, Tensor]
    """The loss and its terms, scalars by name."""

    def terms(self) -> list[str]:
        """Names of what is not finite, the terms of the loss before the loss itself."""
        wrong = [name for name, value in self.losses.items() if not bool(value.isfinite())]
        return [name for name in wrong if name != "loss"] or wrong

    def images(self, ids: Sequence[str]) -> str:
        """The images whose logits are not finite, else all of the batch; of many the first few."""
        wrong = ~self.rows_finite
        rows = (self.index[wrong] if bool(wrong.any()) else self.index).tolist()
        named = [ids[row] if row < len(ids) else f"row {row}" for row in rows[:_NAMED]]
        return ", ".join(named) + (f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else "")


def step_of(number: int, index: Tensor, logits: Tensor, losses: Mapping[str, Tensor]) -> Step:
    """The step of this number, of rows (B,) with logits (B, C); nothing is waited for."""
    return Step(number, index, logits.isfinite().all(dim=1), losses)


def first_not_finite(steps: Sequence[Step]) -> Step:
    """The first of some steps whose loss is not finite; the last where all are."""
    return next((step for step in steps if not bool(step.losses["loss"].isfinite())), steps[-1])


def where_not_finite(epoch: int, number: int, steps: Sequence[Step], ids: Sequence[str]) -> str:
    """Words on where training ceased to be finite, and on what may help.

    Args:
        epoch: the epoch.
        number: steps taken in it.
        steps: those that nobody has looked at; without any, `number` alone is told.
        ids: of the training images.
    """
    advice = "try a lower --lr, or --precision fp32; the last save is intact"
    if not steps:
        return f"at epoch {epoch}, step {number}; {advice}"
    step = first_not_finite(steps)
    terms = ", ".join(step.terms()) or "none: the gradient or the update"
    where = f"at epoch {epoch}, step {step.number} (term that is not finite: {terms}; images: {step.images(ids)})"
    return f"{where}; {advice}"


def not_finite(state: StateDict) -> str:
    """Name of the first tensor in a state of the loop that holds numbers it must not hold; empty where none does.

    Weights and what the optimiser keeps must be finite. What a criterion knows of labels may be infinite, as a
    threshold that nothing exceeds, but not NaN.
    """
    strict = [each for part in ("model", "averaging", "optimizer") for each in _tensors(state[part], part)]
    lenient = list(_tensors(state["criterion"], "criterion"))
    if _sums_are_finite([value for _, value in (*strict, *lenient)]):
        return ""
    wrong = [name for name, value in strict if not bool(value.isfinite().all())]
    return next(iter([*wrong, *(name for name, value in lenient if bool(value.isnan().any()))]), "")


def _sums_are_finite(values: Sequence[Tensor]) -> bool:
    """True if no sum overflows, which costs a tenth of looking at each number; then no number is NaN or infinite."""
    sums = [value.sum().double() for value in values]
    return not sums or bool(torch.stack([each.to(sums[0].device) for each in sums]).isfinite().all())


def _tensors(part: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Floating-point tensors in a nested part of a state, with their names."""
    if isinstance(part, Tensor):
        if part.is_floating_point():
            yield name, part
    elif isinstance(part, Mapping | list | tuple):
        items = part.items() if isinstance(part, Mapping) else enumerate(part)
        for key, value in items:
            yield from _tensors(value, f"{name}.{key}")
