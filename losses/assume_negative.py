"""The baseline: binary cross-entropy in which every label that is not known to be present counts as absent."""

from __future__ import annotations

from dataclasses import dataclass

from losses.base import Criterion
from losses.functional import present, weighted_bce, widened
from utils.types import Batch, LossOutput, Model


@dataclass(frozen=True, kw_only=True)
class BCEConfig:
    """The baseline has no settings of its own."""


class BCE(Criterion):
    """Mean over B*C of BCE-with-logits, UNKNOWN read as ABSENT (the CoNeS authors' `main_BCE.py`).

    It holds no state. Logged: `bce`, the loss.
    """

    config: BCEConfig

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        logits = widened(model(batch.images).logits)
        loss = weighted_bce(logits, present(batch.observed, logits.dtype))
        return LossOutput(loss, logits.detach(), {"bce": loss.detach()})
