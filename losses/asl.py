"""Asymmetric loss: easy negatives count little, very easy ones not at all (Ridnik et al., ICCV 2021, arXiv 2009.14119).

B batch, C classes, p the sigmoid of the logits. Published code: Alibaba-MIIL/ASL, `src/loss_functions/losses.py`;
SlongLiu/query2labels, `lib/models/aslloss.py`. Where this differs from it: docs/methods/asl.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from losses.assume_negative import split_mean
from losses.common.base import Criterion
from losses.common.functional import at_least_float32, expected_losses
from losses.common.global_batch import rows_of_all
from losses.common.variants import require_choices
from utils.checks import require
from utils.options import option
from utils.types import PRESENT, Batch, LossOutput, Model

ASLReduction = Literal["sum", "query2label"]


def asymmetric_losses(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma_neg: float,
    gamma_pos: float,
    clip: float,
    eps: float,
    constant_weight: bool,
) -> Tensor:
    """-(1-p)^gamma_pos log p where present, -(1-n)^gamma_neg log n where absent, n = min(1 - p + clip, 1).

    Logarithms are of values cut to `eps` from below. Soft targets y blend exponents, bases and logarithms linearly.
    With both exponents and the margin 0 it is BCE, up to `eps`.

    Args:
        logits: (B, C) in single precision at least.
        targets: (B, C) in [0, 1].
        gamma_neg: focusing exponent of absent labels.
        gamma_pos: focusing exponent of present labels.
        clip: margin by which the probability of an absent label is lowered.
        eps: least argument of a logarithm; below it there is no gradient.
        constant_weight: True if no gradient goes through the focusing weight.

    Returns:
        (B, C), finite with finite gradients for finite logits.
    """
    p, n = torch.sigmoid(logits), (torch.sigmoid(-logits) + clip).clamp(max=1)
    logs = targets * p.clamp(min=eps).log() + (1 - targets) * n.clamp(min=eps).log()
    # an exponent between 0 and 1 has an infinite slope at 0
    base = (1 - p * targets - n * (1 - targets)).clamp(min=torch.finfo(logits.dtype).tiny)
    weight = base ** (gamma_pos * targets + gamma_neg * (1 - targets))
    return -(weight.detach() if constant_weight else weight) * logs


def reduced(losses: Tensor, batch: Batch, reduction: ASLReduction) -> Tensor:
    """Scalar from losses (B, C): their sum over the GLOBAL batch, or 1000 times their mean as in Query2Label.

    With several ranks each returns its part scaled to the global batch, so that the mean over ranks, weighted by the
    rows of each, is the sum over all rows.
    """
    if reduction == "query2label":
        return 1000 * losses.mean()
    return losses.sum() / len(losses) * rows_of_all(batch)


@dataclass(frozen=True, kw_only=True)
class ASLConfig:
    """Settings of ASL; the defaults are the published class's. Raises: UserError for a value that cannot work."""

    gamma_neg: float = option(4.0, "focusing exponent of absent labels")
    gamma_pos: float = option(1.0, "focusing exponent of present labels")
    clip: float = option(0.05, "margin by which the probability of an absent label is lowered; 0: none")
    eps: float = option(1e-8, "least argument of a logarithm")
    disable_torch_grad_focal_loss: bool = option(True, "no gradient goes through the focusing weight")
    reduction: ASLReduction = option("sum", "sum over the batch, or 1000 times the mean over B*C, as in Query2Label")

    def __post_init__(self) -> None:
        for name in ("gamma_neg", "gamma_pos"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"--{name} {value}: must be 0 or more")
        require(0 <= self.clip < 1, f"--clip {self.clip}: must be in [0, 1); the published value is 0.05")
        require(0 < self.eps < 1, f"--eps {self.eps}: must be above 0 and below 1; the published value is 1e-8")
        require_choices(self)


class ASL(Criterion):
    """Asymmetric loss, UNKNOWN read as ABSENT.

    It holds no state. Logged: `positive` and `negative`, the parts of the mean over B*C that present and other labels
    make up.
    """

    takes_soft: ClassVar[bool] = True
    config: ASLConfig

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        logits, config = at_least_float32(model(batch.images).logits), self.config
        formula = partial(
            asymmetric_losses,
            logits,
            gamma_neg=config.gamma_neg,
            gamma_pos=config.gamma_pos,
            clip=config.clip,
            eps=config.eps,
            constant_weight=config.disable_torch_grad_focal_loss,
        )
        losses = expected_losses(formula, batch, logits.dtype)
        parts = split_mean(losses, batch.observed == PRESENT)
        return LossOutput(reduced(losses, batch, config.reduction), logits.detach(), parts)
