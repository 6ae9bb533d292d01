"""PLC and LAC: pseudo labels of a weak view that the strong one learns, and classes told apart by their embeddings.

B batch, C classes, G rows of the global batch, p the sigmoid of the logits of the weak view. Source: Xie et al.,
"Label-Aware Global Consistency for Multi-Label Learning with Single Positive Labels", NeurIPS 2022; published code
milkxie/SPML-LAC, `first_stage.py`, `second_stage.py`. Differences from it: docs/methods/plc.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from losses.assume_negative import assume_negative_losses
from losses.common.base import Criterion
from losses.common.functional import at_least_float32
from losses.consistency import known_means
from losses.single_positive import known_losses
from utils.checks import require
from utils.options import option
from utils.types import ABSENT, PRESENT, UNKNOWN, Batch, CriterionInfo, LossOutput, Model


@dataclass(frozen=True, kw_only=True)
class PLCConfig:
    """Settings of PLC. Raises: UserError for a value that cannot work."""

    pseudo_threshold: float = option(
        0.6, "tau: an unknown label is present where the probability in the weak view is this or more"
    )
    plc_weight: float = option(1.0, "weight of the loss of the strong view")

    def __post_init__(self) -> None:
        require_threshold("pseudo_threshold", self.pseudo_threshold, 0.6)
        require_weight("plc_weight", self.plc_weight)


def require_threshold(name: str, value: float, published: float) -> None:
    """Raise UserError unless a threshold is in [1/2, 1)."""
    require(0.5 <= value < 1, f"--{name} {value}: must be in [0.5, 1); the published value is {published}")


def require_weight(name: str, value: float) -> None:
    """Raise UserError unless a weight is 0 or more."""
    require(0 <= value < math.inf, f"--{name} {value}: must be 0 or more; the published value is 1")


@torch.no_grad()
def sure_labels(weak: Tensor, observed: Tensor, threshold: float) -> Tensor:
    """Labels that the strong view learns: all known ones, and those of which the weak view is sure.

    Args:
        weak: (B, C) logits in single precision at least.
        observed: (B, C) label codes.
        threshold: tau in [1/2, 1).

    Returns:
        (B, C) codes of the type of the logits: what is known; PRESENT where p >= tau, ABSENT where p < 1 - tau, UNKNOWN
        between the two.
    """
    p, known = torch.sigmoid(weak), observed != UNKNOWN
    labels = torch.full_like(weak, UNKNOWN).masked_fill(p < 1 - threshold, ABSENT)
    return labels.masked_fill(p >= threshold, PRESENT).where(~known, observed.to(weak.dtype))


class PLC(Criterion):
    """Pseudo labels of the weak view for the strong one, beside assume negative (Xie et al., NeurIPS 2022, stage 1).

    Both views are one batch of 2B images for the network: BatchNorm normalises them together. The weak view is
    `batch.images`, the strong one `batch.second_view`. It holds no state. `modified` are unknown labels that are
    learned as present. Logged: `an` and `plc`, the two terms; `pseudo_present` and `pseudo_absent`, unknown labels per
    image that the strong view learns.

    Raises: UserError unless some labels are known to be present and some are unknown.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"second_view"})
    corrects_from_present: ClassVar[bool] = True
    config: PLCConfig

    def __init__(self, config: PLCConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        for code, words in ((PRESENT, "known to be present"), (UNKNOWN, "unknown")):
            require(
                int(info.observed.counts(code).sum()) > 0,
                f"plc: no label is {words}, so there is nothing to learn from another view; take --labels single",
            )

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: weak view (B, 3, H, W), strong view as second view, observed labels (B, C)."""
        assert batch.second_view is not None
        logits = at_least_float32(model(torch.cat([batch.images, batch.second_view])).logits)
        weak, strong = logits.chunk(2)
        labels = sure_labels(weak, batch.observed, self.config.pseudo_threshold)
        an, plc = view_losses(weak, strong, labels, batch)
        total = an + self.config.plc_weight * plc
        guessed = batch.observed == UNKNOWN
        parts = {"an": an.detach(), "plc": plc.detach(), **guess_counts(labels, guessed)}
        return LossOutput(total, weak.detach(), parts, guessed & (labels == PRESENT))


def view_losses(weak: Tensor, strong: Tensor, labels: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Scalars: assume negative on the weak view, and BCE of the strong one, the mean over its labels of all processes.

    Args:
        weak: (B, C) logits.
        strong: (B, C) logits.
        labels: (B, C) codes that the strong view learns; without any its loss is 0.
        batch: the rows, and what is observed of them.
    """
    an = assume_negative_losses(weak, batch.observed).mean()
    (plc,) = known_means([known_losses(strong, labels)], [labels], batch, "batch")
    return an, plc


def guess_counts(labels: Tensor, guessed: Tensor) -> dict[str, Tensor]:
    """Numbers per image of present and absent ones among the labels (B, C) that are `guessed`, (B, C) bool."""
    return {
        name: (guessed & (labels == code)).sum(dim=1).float().mean()
        for name, code in (("pseudo_present", PRESENT), ("pseudo_absent", ABSENT))
    }
