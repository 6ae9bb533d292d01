"""Hill and SPLC: losses for labels of which some present ones are missing (Zhang et al., 2021, arXiv 2112.07368).

B batch, C classes, p the sigmoid of the logits. Published code: xinyu1205/robust-loss-mlml,
`src/loss_functions/losses.py`. Where this differs from it: docs/methods/splc.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from losses.asl import reduced
from losses.assume_negative import split_mean
from losses.common.base import Criterion, ScheduledCriterion
from losses.common.functional import at_least_float32, present, soft_targets
from losses.common.variants import require_choices
from losses.reweighted import focal_losses, require_focus
from utils.checks import require
from utils.options import option
from utils.types import PRESENT, UNKNOWN, Batch, CriterionInfo, LossOutput, Model

Reduction = Literal["sum", "mean"]
Population = Literal["unknown", "all"]


@dataclass(frozen=True, kw_only=True)
class MarginConfig:
    """Settings that both losses have. Raises: UserError for a value that cannot work."""

    margin: float = option(1.0, "lowers the logit of an observed positive inside its loss")
    focal_gamma: float = option(2.0, "focusing exponent; 0: none")
    reduction: Reduction = option("sum", "sum over the batch, or mean over B*C")

    def __post_init__(self) -> None:
        require(0 <= self.margin < math.inf, f"--margin {self.margin}: must be 0 or more; the published value is 1")
        require_focus(self.focal_gamma, 1.0)
        require_choices(self)


@dataclass(frozen=True, kw_only=True)
class HillConfig(MarginConfig):
    """Settings of Hill. Raises: UserError for a value that cannot work."""

    hill_lambda: float = option(
        1.5, "height of the loss of a label that is not present; at 1.5 its gradient is 0 where p is 1"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            1 <= self.hill_lambda < math.inf,
            f"--hill_lambda {self.hill_lambda}: must be at least 1; the published value is 1.5",
        )


@dataclass(frozen=True, kw_only=True)
class SPLCConfig(MarginConfig):
    """Settings of SPLC. Raises: UserError for a value that cannot work."""

    tau: float = option(0.6, "a label is corrected to present where its probability is above this")
    start_epoch: int = option(
        2, "first epoch in which labels are corrected; later for a network without pretrained weights"
    )
    population: Population = option(
        "unknown", "only unknown labels are ever corrected, or also those known to be absent, as in the published code"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.tau < 1, f"--tau {self.tau}: must be in (0, 1); the published value is 0.6")
        require(self.start_epoch >= 1, f"--start_epoch {self.start_epoch}: must be at least 1; published is 2")


def hill_losses(logits: Tensor, targets: Tensor, *, hill_lambda: float, margin: float, gamma: float) -> Tensor:
    """Focal loss of the logit less `margin` where present, (hill_lambda - p) p^2 where not.

    With `hill_lambda` 1.5 the gradient of the second is 3 p^2 (1-p)^2, a hill around p = 1/2: what is predicted with
    confidence is left alone, for its label may be missing.

    Args:
        logits: (B, C) in single precision at least.
        targets: (B, C) in [0, 1]; soft ones weigh both losses.
        hill_lambda: at least 1.
        margin: 0 or more.
        gamma: focusing exponent of the first.

    Returns:
        (B, C), finite with finite gradients for finite logits.
    """
    positive = focal_losses(logits - margin, torch.ones_like(logits), gamma=gamma, balance=1.0)
    p = torch.sigmoid(logits)
    return targets * positive + (1 - targets) * (hill_lambda - p) * p.square()


def corrections(logits: Tensor, candidates: Tensor, tau: float) -> Tensor:
    """(B, C) bool: the `candidates` (B, C) bool whose probability is above `tau`; no gradient goes through."""
    return candidates & (torch.sigmoid(logits.detach()) > tau)


def splc_losses(logits: Tensor, targets: Tensor, corrected: Tensor, *, margin: float, gamma: float) -> Tensor:
    """Focal loss on both sides; the logit of an observed positive less `margin`, that of a corrected label as it is.

    Args:
        logits: (B, C) in single precision at least.
        targets: (B, C) 0/1, the observed positives.
        corrected: (B, C) bool, other labels that count as present.
        margin: 0 or more.
        gamma: focusing exponent; the gradient goes through the weight too.

    Returns:
        (B, C), finite with finite gradients for finite logits.
    """
    return focal_losses(logits - margin * targets, targets + corrected.to(targets), gamma=gamma, balance=1.0)


def _total(losses: Tensor, batch: Batch, reduction: Reduction) -> Tensor:
    """Scalar from losses (B, C): their sum over the GLOBAL batch, or their mean."""
    return losses.mean() if reduction == "mean" else reduced(losses, batch, "sum")


class Hill(Criterion):
    """Hill loss, UNKNOWN read as ABSENT.

    It holds no state. Logged: `positive` and `negative`, the parts of the mean over B*C that present and other labels
    make up.
    """

    takes_soft: ClassVar[bool] = True
    config: HillConfig

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        logits, config = at_least_float32(model(batch.images).logits), self.config
        losses = hill_losses(
            logits,
            soft_targets(batch, logits.dtype),
            hill_lambda=config.hill_lambda,
            margin=config.margin,
            gamma=config.focal_gamma,
        )
        parts = split_mean(losses, batch.observed == PRESENT)
        return LossOutput(_total(losses, batch, config.reduction), logits.detach(), parts)


class SPLC(ScheduledCriterion):
    """Self-paced loss correction: UNKNOWN is read as ABSENT, but in this step as present where the network is sure.

    State: the epoch. Logged: `positive` and `negative`, the parts of the mean over B*C that observed positives and
    other labels make up; `modified`, the mean number of labels corrected per image.

    Raises: UserError if no label may ever be corrected.
    """

    corrects_from_present: ClassVar[bool] = True
    config: SPLCConfig

    def __init__(self, config: SPLCConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        require(
            config.population == "all" or int(info.observed.counts(UNKNOWN).sum()) > 0,
            "splc: no label is unknown, so none would be corrected; take --labels single or dropped (--drop_rate 0: "
            "what is not named), --population all to correct labels known to be absent, or --loss hill",
        )

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        logits, config = at_least_float32(model(batch.images).logits), self.config
        corrected = self._corrected(logits, batch.observed)
        targets = present(batch.observed, logits.dtype)
        losses = splc_losses(logits, targets, corrected, margin=config.margin, gamma=config.focal_gamma)
        parts = split_mean(losses, batch.observed == PRESENT)
        parts["modified"] = corrected.sum(dim=1, dtype=losses.dtype).mean()
        return LossOutput(_total(losses, batch, config.reduction), logits.detach(), parts, corrected)

    def _corrected(self, logits: Tensor, observed: Tensor) -> Tensor:
        """(B, C) bool, the labels that count as present in this step besides the observed positives."""
        candidates = observed != PRESENT if self.config.population == "all" else observed == UNKNOWN
        if self.epoch < self.config.start_epoch:
            return torch.zeros_like(candidates)
        return corrections(logits, candidates, self.config.tau)
