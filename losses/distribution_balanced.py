"""Distribution-balanced loss: long-tailed multi-label data (Wu et al., ECCV 2020, arXiv 2007.09654).

B batch, C classes, N training images, n_j the images that class j is in. Published code:
wutong16/DistributionBalancedLoss, `mllt/models/losses/resample_loss.py`. Formulas, and differences from it:
docs/methods/distribution_balanced.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from losses.common.functional import at_least_float32, present
from losses.common.variants import require_choices
from losses.reweighted import (
    LEAST_COUNT,
    CBMode,
    FrequencyCriterion,
    PositiveCounts,
    PriorConfig,
    class_balanced_weights,
    focal_losses,
    mean_output,
    require_effective_number,
    require_focus,
)
from utils.checks import require
from utils.collectives import all_max
from utils.options import option
from utils.types import Batch, LossOutput, Model

Reweight = Literal["rebalance", "inverse", "sqrt_inverse", "class_balanced", "none"]
WeightNorm = Literal["none", "by_instance", "by_batch"]


@dataclass(frozen=True, kw_only=True)
class BalanceConfig:
    """Settings of the formula; the defaults are those published for VOC-MLT.

    Raises: UserError for a value that cannot work.
    """

    reweight: Reweight = option(
        "rebalance",
        "weight of a label: smoothed share of its class in the image's sampling, N/n or its root, class-balanced, 1",
        synonyms={"inv": "inverse", "sqrt_inv": "sqrt_inverse", "CB": "class_balanced"},
    )
    map_alpha: float = option(0.1, "rebalance: least weight")
    map_beta: float = option(10.0, "rebalance: slope of the smoothing")
    map_gamma: float = option(0.3, "rebalance: share in the middle of the smoothing")
    weight_norm: WeightNorm = option("none", "divide weights by the largest of the image, or of the batch")
    init_bias: float = option(0.05, "scale of the shift of logits by class frequency; 0: no shift")
    neg_scale: float = option(5.0, "factor of the logits of absent labels, and divisor of their weight; 1: none")
    focal_gamma: float = option(2.0, "focusing exponent; 0: none")
    focal_balance: float = option(2.0, "factor of the loss")
    cb_beta: float = option(0.9, "class_balanced: 0 weighs all classes alike, towards 1 the weight becomes 1/n")
    cb_mode: CBMode = option(
        "average_w", "class_balanced: weigh each class, or each image by its mean n, mean weight or least n"
    )

    def __post_init__(self) -> None:
        require_choices(self)
        for name in ("map_alpha", "map_gamma", "init_bias"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"--{name} {value}: must be 0 or more")
        for name in ("map_beta", "neg_scale"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"--{name} {value}: must be above 0")
        require_focus(self.focal_gamma, self.focal_balance)
        require_effective_number(self.cb_beta)


@dataclass(frozen=True, kw_only=True)
class DistributionBalancedConfig(BalanceConfig, PriorConfig):
    """Settings of the method. Raises: UserError for a value that cannot work."""


def rebalance_weights(
    targets: Tensor, frequencies: PositiveCounts, *, alpha: float, beta: float, gamma: float
) -> Tensor:
    """Weights alpha + sigmoid(beta (r_ij - gamma)), r_ij = (1/n_j) / sum_k y_ik / n_k (Wu et al., ECCV 2020).

    r is the rate at which the image is sampled for class j alone, divided by its rate for all its labels, when classes
    are sampled uniformly. Absent labels are weighed by the same formula.

    Args:
        targets: (B, C) y in [0, 1]. Where all are 0, r is infinite and the weight alpha + 1.
        frequencies: of C classes.
        alpha: least weight.
        beta: slope, above 0.
        gamma: r in the middle of the smoothing.

    Returns:
        (B, C) in [alpha, alpha + 1].
    """
    inverse = 1 / frequencies.counted(targets)
    sampled = (targets @ inverse).unsqueeze(1)
    return alpha + torch.sigmoid(beta * (inverse / sampled - gamma))


def logit_bias(frequencies: PositiveCounts, config: BalanceConfig) -> Tensor:
    """v_j = -log(N/n_j - 1) init_bias / neg_scale (Wu et al., ECCV 2020), below 0 for classes in few images.

    Returns:
        (C,) float64, finite: n_j is kept half an image away from 0 and from N.
    """
    images = frequencies.images
    counts = frequencies.positives.clamp(LEAST_COUNT, images - LEAST_COUNT)
    return -torch.log(images / counts - 1) * config.init_bias / config.neg_scale


def label_weights(targets: Tensor, frequencies: PositiveCounts, config: BalanceConfig) -> Tensor:
    """Weight of each label under `config.reweight`, before any normalisation.

    Args:
        targets: (B, C) in [0, 1].
        frequencies: of C classes.
        config: kind of weight and its parameters.

    Returns:
        (B, C), a view where rows or columns are equal.
    """
    if config.reweight == "none":
        return torch.ones_like(targets)
    if config.reweight == "rebalance":
        smoothing = {"alpha": config.map_alpha, "beta": config.map_beta, "gamma": config.map_gamma}
        return rebalance_weights(targets, frequencies, **smoothing)
    if config.reweight == "class_balanced":
        weight = class_balanced_weights(targets, frequencies, beta=config.cb_beta, mode=config.cb_mode)
        return weight.expand_as(targets)
    inverse = frequencies.images / frequencies.counted(targets)
    return (inverse.sqrt() if config.reweight == "sqrt_inverse" else inverse).expand_as(targets)


def normalised(weight: Tensor, how: WeightNorm) -> Tensor:
    """Weights (B, C) divided by the largest of their row, or of the GLOBAL batch: then all ranks must call this."""
    if how == "none":
        return weight
    largest = weight.amax(dim=1, keepdim=True) if how == "by_instance" else all_max(weight.amax())
    return weight / largest.clamp(min=torch.finfo(weight.dtype).tiny)


def distribution_balanced(
    logits: Tensor, targets: Tensor, frequencies: PositiveCounts, config: BalanceConfig
) -> Tensor:
    """The loss of every label: reweighted, negative-tolerant, focal (Wu et al., ECCV 2020).

    A shifted logit z + v and its weight w become k (z + v) and w / k where a label is absent, k = neg_scale; soft
    targets blend both linearly. No argument is changed.

    Args:
        logits: (B, C) in single precision at least.
        targets: (B, C) in [0, 1], hard or soft.
        frequencies: of C classes, on the device of `logits`.
        config: parameters.

    Returns:
        (B, C), finite with finite gradients for finite logits.
    """
    targets, tolerance = targets.to(logits.dtype), config.neg_scale
    weight = normalised(label_weights(targets, frequencies, config), config.weight_norm)
    absent = 1 - targets
    shifted = (logits + logit_bias(frequencies, config).to(logits)) * (absent * tolerance + targets)
    weight = weight * (absent / tolerance + targets)
    return focal_losses(shifted, targets, gamma=config.focal_gamma, balance=config.focal_balance, weight=weight)


class DistributionBalanced(FrequencyCriterion):
    """Distribution-balanced loss, UNKNOWN read as ABSENT, mean over B*C.

    It holds no state: class frequencies follow from the data. Logged: `positive` and `negative`, the parts of the loss
    that present and other labels make up.
    """

    config: DistributionBalancedConfig

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        logits = at_least_float32(model(batch.images).logits)
        losses = distribution_balanced(logits, present(batch.observed, logits.dtype), self.frequencies, self.config)
        return mean_output(losses, logits, batch.observed)
