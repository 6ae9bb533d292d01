"""The baselines that assume negative: every label that is not known to be present counts as absent.

B batch, C classes. `BCE` is the plain one; the others are those of the single-positive papers (Cole et al., CVPR 2021,
arXiv 2106.09708; published code elijahcole/single-positive-multi-label, `losses.py`). Where they differ from that code:
docs/methods/assume_negative.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.common.base import Criterion
from losses.common.functional import at_least_float32, expected_losses, soft_targets, weighted_bce
from losses.common.variants import require_choices
from utils.checks import require
from utils.options import option
from utils.types import PRESENT, UNKNOWN, Batch, CriterionInfo, LossOutput, Model

Variant = Literal["fixed", "reference"]

GUARD = 1e-5
"""Added to a probability before its logarithm by the published code."""


@dataclass(frozen=True, kw_only=True)
class BCEConfig:
    """The baseline has no settings of its own."""


class BCE(Criterion):
    """Mean over B*C of BCE-with-logits, UNKNOWN read as ABSENT (the CoNeS authors' `main_BCE.py`).

    It holds no state. Logged: `bce`, the loss.
    """

    takes_soft: ClassVar[bool] = True
    config: BCEConfig

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        logits = at_least_float32(model(batch.images).logits)
        loss = weighted_bce(logits, soft_targets(batch, logits.dtype))
        return LossOutput(loss, logits.detach(), {"bce": loss.detach()})


class LabelCosts(NamedTuple):
    """Cost of each entry (B, C) if its label is present, -log p, and if it is absent, -log(1 - p)."""

    present: Tensor
    absent: Tensor


def label_costs(logits: Tensor, variant: Variant = "fixed") -> LabelCosts:
    """Both logarithmic costs of every entry, p = sigmoid of the logit.

    Args:
        logits: (B, C) in single precision at least.
        variant: "fixed" is exact for any finite logit. "reference" repeats the published -log(p + 1e-5): at most
            11.5, slightly below 0 where p is 1, and without gradient where p is rounded to 0 or 1.

    Returns:
        Two tensors (B, C).
    """
    if variant == "reference":
        p = torch.sigmoid(logits)
        return LabelCosts(-torch.log(p + GUARD), -torch.log(1 - p + GUARD))
    return LabelCosts(-F.logsigmoid(logits), -F.logsigmoid(-logits))


def assume_negative_losses(
    logits: Tensor,
    observed: Tensor,
    *,
    smoothing: float = 0.0,
    absent_weight: float = 1.0,
    variant: Variant = "fixed",
) -> Tensor:
    """BCE of every entry against "absent unless known to be present".

    Args:
        logits: (B, C) in single precision at least.
        observed: (B, C) label codes.
        smoothing: e in [0, 1]; a target costs (1 - e) times its own cost plus e times the opposite one, for present
            and absent targets alike.
        absent_weight: factor of the entries whose target is absent.
        variant: see `label_costs`.

    Returns:
        (B, C).
    """
    costs = label_costs(logits, variant)
    if smoothing:
        own, e = costs, smoothing
        costs = LabelCosts((1 - e) * own.present + e * own.absent, (1 - e) * own.absent + e * own.present)
    return torch.where(observed == PRESENT, costs.present, absent_weight * costs.absent)


@dataclass(frozen=True, kw_only=True)
class ANConfig:
    """Settings of AN and WAN. Raises: UserError for an unknown variant."""

    variant: Variant = option("fixed", "exact logarithms, or the published -log(p + 1e-5)")

    def __post_init__(self) -> None:
        require_choices(self)


@dataclass(frozen=True, kw_only=True)
class LabelSmoothingConfig(ANConfig):
    """Settings of label smoothing. Raises: UserError for a value that cannot work."""

    ls_coef: float = option(0.1, "share of the opposite label in each target, present and absent alike")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.ls_coef < 0.5, f"--ls_coef {self.ls_coef}: must be in [0, 0.5); the published value is 0.1")


class AN(Criterion):
    """Assume negative (Cole et al., CVPR 2021): BCE with UNKNOWN read as ABSENT, mean over B*C.

    It holds no state. Logged: `positive` and `negative`, the parts of the loss that present and other labels make up.
    """

    takes_soft: ClassVar[bool] = True
    config: ANConfig

    def __init__(self, config: ANConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        self.smoothing = 0.0
        self.absent_weight = 1.0

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        logits = at_least_float32(model(batch.images).logits)
        formula = partial(
            assume_negative_losses,
            logits,
            smoothing=self.smoothing,
            absent_weight=self.absent_weight,
            variant=self.config.variant,
        )
        losses = expected_losses(formula, batch, logits.dtype)
        parts = split_mean(losses, batch.observed == PRESENT)
        return LossOutput(losses.mean(), logits.detach(), parts)


def split_mean(losses: Tensor, positive: Tensor) -> dict[str, Tensor]:
    """The mean of `losses` (B, C) as two addends: of the entries in `positive` (B, C) bool, and of the rest."""
    values = losses.detach()
    return {"positive": values.where(positive, 0).mean(), "negative": values.where(~positive, 0).mean()}


class WAN(AN):
    """AN with all labels that are not known to be present weighted 1/(C-1) (Cole et al., CVPR 2021).

    With one positive per image, both kinds of targets then weigh the same.
    """

    def __init__(self, config: ANConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        classes = info.observed.num_classes
        require(classes > 1, "wan: the weight 1/(C-1) needs two classes or more, there is one; take --loss an")
        self.absent_weight = 1 / (classes - 1)


class LSAN(AN):
    """AN with smoothed labels on both sides (Cole et al., CVPR 2021)."""

    config: LabelSmoothingConfig

    def __init__(self, config: LabelSmoothingConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        self.smoothing = config.ls_coef


class SmoothedBCE(LSAN):
    """BCE with smoothed labels on fully labelled data, the counterpart of LSAN. Raises: UserError if any is UNKNOWN."""

    def __init__(self, config: LabelSmoothingConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        unknown = int(info.observed.counts(UNKNOWN).sum())
        require(
            unknown == 0,
            f"bce_ls: {unknown} labels are unknown, it is for data without any; take --labels full, or --loss an_ls",
        )
