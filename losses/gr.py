"""GR loss: unknown labels have soft pseudo labels and robust losses, by schedules (Chen et al., IJCAI 2024).

B batch, C classes, p the sigmoid of the logits. Source: "Boosting Single Positive Multi-label Classification with
Generalized Robust Loss", arXiv 2405.03501; published code yan4xi1/GRLoss, `losses.py`, `models.py`, `train.py`.
Formulas, and differences from that code: docs/methods/gr.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.assume_negative import Variant
from losses.common.base import ScheduledCriterion
from losses.common.functional import at_least_float32
from losses.common.variants import require_choices
from utils.checks import require
from utils.options import as_text, option
from utils.types import ABSENT, PRESENT, UNKNOWN, Batch, CriterionInfo, LossOutput, Model

GUARD = 1e-7
"""Added to a probability before its logarithm by the published code."""
NO_POWER = 1e-9
"""Below this exponent the robust loss and the logarithm that it tends to differ by less than single precision shows."""
MOST, LEAST_STD = 1000, 0.001
"""Bounds far from any use, within which single precision is finite."""


@dataclass(frozen=True, kw_only=True)
class GRConfig:
    """Settings of the GR loss; the defaults are the published ones for VOC 2012.

    Raises: UserError for a value that cannot work.
    """

    pseudo_slope: tuple[float, ...] = option(
        (0.0, 2.0), "w of the pseudo label sigmoid(w p + b) of an unknown label: at the start, at the end"
    )
    pseudo_bias: tuple[float, ...] = option((-2.0, -2.0), "b of that pseudo label: at the start, at the end")
    weight_mean: tuple[float, ...] = option(
        (0.5, 0.8), "m of the weight exp(-(p - m)^2 / (2 s^2)) of an unknown label: at the start, at the end"
    )
    weight_std: tuple[float, ...] = option((2.0, 0.5), "s of that weight: at the start, at the end")
    present_power: float = option(
        0.01, "q of the loss (1 - p^q) / q by which an unknown label counts as present; 0: -log p"
    )
    absent_power: float = option(
        1.0, "q of the loss (1 - (1-p)^q) / q by which an unknown label counts as absent; 0: -log(1-p)"
    )
    variant: Variant = option("fixed", "exact logarithms, or the published -log(p + 1e-7) of observed positives")

    def __post_init__(self) -> None:
        for name in ("pseudo_slope", "pseudo_bias", "weight_mean", "weight_std"):
            values = getattr(self, name)
            require(
                len(values) == 2 and all(abs(value) <= MOST for value in values),
                f"--{name} {as_text(values)}: must be two numbers from -{MOST} to {MOST}, at the start and at the end",
            )
        require(
            min(self.weight_std) >= LEAST_STD,
            f"--weight_std {as_text(self.weight_std)}: both must be {LEAST_STD} or more",
        )
        for name in ("present_power", "absent_power"):
            value = getattr(self, name)
            require(0 <= value <= 10, f"--{name} {value}: must be in [0, 10]")
        require_choices(self)


class GRSchedule(NamedTuple):
    """The numbers of one epoch."""

    slope: float
    bias: float
    mean: float
    std: float


def gr_schedule(config: GRConfig, epoch: int, epochs: int, frozen: int = 0) -> GRSchedule:
    """The numbers of an epoch, on straight lines from their start to their end value.

    As in the published code pseudo labels are at their start in the first epoch in which the whole network learns and
    one step short of their end in the last, while weights are one step ahead of them and reach it.

    Args:
        config: both ends of each line.
        epoch: from 1.
        epochs: of the run, the frozen ones among them.
        frozen: epochs, from the first on, with a frozen backbone, in which all is at its start; if these are all
            epochs, the head is the network that learns, and they count as none.
    """
    begun = 0 if frozen >= epochs else frozen
    length = epochs - begun
    of_label, of_weight = (min(max(epoch - begun - late, 0) / length, 1.0) for late in (1, 0))
    return GRSchedule(
        _between(config.pseudo_slope, of_label),
        _between(config.pseudo_bias, of_label),
        _between(config.weight_mean, of_weight),
        _between(config.weight_std, of_weight),
    )


def _between(ends: tuple[float, ...], share: float) -> float:
    start, end = ends
    return start + (end - start) * share


def pseudo_labels(p: Tensor, now: GRSchedule) -> Tensor:
    """(B, C) k = sigmoid(w p + b), how likely an unknown label of probability p (B, C) is present."""
    return torch.sigmoid(now.slope * p + now.bias)


def entry_weights(p: Tensor, now: GRSchedule) -> Tensor:
    """(B, C) v = exp(-(p - m)^2 / (2 s^2)) of probabilities p (B, C)."""
    return torch.exp(-(p - now.mean).square() / (2 * now.std**2))


def robust_losses(log_probabilities: Tensor, power: float) -> Tensor:
    """Generalised cross-entropy (1 - p^q) / q; for q = 0 it is -log p, for q = 1 it is 1 - p.

    Args:
        log_probabilities: log p, of any shape; from these loss and gradient are finite however small p is.
        power: q, 0 or more.

    Returns:
        The shape of `log_probabilities`.
    """
    if power < NO_POWER:
        return -log_probabilities
    return -torch.expm1(power * log_probabilities) / power


def gr_losses(
    logits: Tensor,
    observed: Tensor,
    pseudo: Tensor,
    weights: Tensor,
    *,
    present_power: float,
    absent_power: float,
    variant: Variant = "fixed",
) -> Tensor:
    """Loss of every entry: of unknown ones v (k l1 + (1-k) l2), of known ones the logarithmic loss.

    Args:
        logits: (B, C) in single precision at least.
        observed: (B, C) label codes.
        pseudo: k (B, C), see `pseudo_labels`, through which no gradient goes.
        weights: v (B, C), see `entry_weights`, through which none goes either.
        present_power: q of l1, see `robust_losses`.
        absent_power: q of l2.
        variant: "fixed" is exact for any finite logit; "reference" repeats the published -log(p + 1e-7) of present
            labels, whose gradient is lost where p is small.

    Returns:
        (B, C), finite with finite gradients for finite logits.
    """
    log_present, log_absent = F.logsigmoid(logits), F.logsigmoid(-logits)
    present = -torch.log(torch.sigmoid(logits) + GUARD) if variant == "reference" else -log_present
    as_present, as_absent = robust_losses(log_present, present_power), robust_losses(log_absent, absent_power)
    unknown = weights * (pseudo * as_present + (1 - pseudo) * as_absent)
    return torch.where(observed == PRESENT, present, torch.where(observed == UNKNOWN, unknown, -log_absent))


class GR(ScheduledCriterion):
    """GR loss (Chen et al., IJCAI 2024): mean over B*C of `gr_losses`, known absent labels as in BCE.

    State: the epoch. Logged: `positive`, `negative` and `unknown`, the parts of the loss that labels of each kind make
    up; `pseudo_present`, the sum of the pseudo labels per image; `modified`, unknown labels that are more likely
    present than absent (k above 1/2) per image.

    Raises: UserError if no label is unknown.
    """

    config: GRConfig

    def __init__(self, config: GRConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        self.epochs, self.frozen_epochs = info.epochs, info.frozen_epochs
        require(
            int(info.observed.counts(UNKNOWN).sum()) > 0,
            "gr: no label is unknown, so it would be plain BCE; take --loss bce, or --labels single, known or dropped "
            "(--drop_rate 0: what is not named)",
        )

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        logits, config = at_least_float32(model(batch.images).logits), self.config
        p, now = torch.sigmoid(logits.detach()), self.schedule()
        pseudo = pseudo_labels(p, now)
        losses = gr_losses(
            logits,
            batch.observed,
            pseudo,
            entry_weights(p, now),
            present_power=config.present_power,
            absent_power=config.absent_power,
            variant=config.variant,
        )
        modified = (batch.observed == UNKNOWN) & (pseudo > 0.5)
        parts = self._parts(losses.detach(), batch.observed, pseudo, modified)
        return LossOutput(losses.mean(), logits.detach(), parts, modified)

    def schedule(self) -> GRSchedule:
        """The numbers of the epoch."""
        return gr_schedule(self.config, self.epoch, self.epochs, self.frozen_epochs)

    def _parts(self, losses: Tensor, observed: Tensor, pseudo: Tensor, modified: Tensor) -> dict[str, Tensor]:
        kinds = {"positive": PRESENT, "negative": ABSENT, "unknown": UNKNOWN}
        parts = {name: losses.where(observed == code, 0).mean() for name, code in kinds.items()}
        parts["pseudo_present"] = pseudo.where(observed == UNKNOWN, 0).sum(dim=1).mean()
        parts["modified"] = modified.sum(dim=1, dtype=losses.dtype).mean()
        return parts
