"""Losses that weigh labels by how hard or how rare they are: focal and class-balanced.

B batch, C classes, N training images, n_j the images that class j is in. Sources: Lin et al., ICCV 2017, arXiv
1708.02002 (focal); Cui et al., CVPR 2019, arXiv 1901.05555 (class-balanced); published code of both for several labels
per image: wutong16/DistributionBalancedLoss, `mllt/models/losses/resample_loss.py`. Formulas, and differences from it:
docs/methods/reweighted.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.assume_negative import split_mean
from losses.common.base import Criterion
from losses.common.functional import at_least_float32, expected_losses, present
from losses.common.variants import require_choices
from utils.checks import UserError, require
from utils.collectives import rank
from utils.console import say
from utils.options import option
from utils.types import PRESENT, Batch, CriterionInfo, LossOutput, Model

FrequencySource = Literal["candidate", "clean"]
CBMode = Literal["by_class", "average_n", "average_w", "min_n"]
CBNorm = Literal["mean", "none"]

LEAST_COUNT = 0.5
"""Smallest count that is used: the weight of a class without training images would else be infinite."""


class PositiveCounts(NamedTuple):
    """Number of training images of each class, and of all."""

    positives: Tensor  # (C,) float64; fractions where images are counted by a confidence
    images: int  # N

    def counted(self, like: Tensor) -> Tensor:
        """n_j (C,), at least half an image, in the dtype and on the device of `like`."""
        return self.positives.clamp(min=LEAST_COUNT).to(like)


def class_frequencies(info: CriterionInfo, prior: FrequencySource) -> PositiveCounts:
    """Class frequencies of the labels that `prior` names.

    Args:
        info: facts about the training set.
        prior: "candidate" counts the PRESENT labels that are trained on; "clean" counts the true ones, and prints that
            it does, because a run normally has no access to them.

    Raises:
        UserError: clean labels are asked for and the training set has none.
    """
    counts = info.class_counts
    if prior == "clean":
        if info.clean_counts is None:
            raise UserError("--prior clean: the training set has no true labels; give --prior candidate")
        counts = info.clean_counts
        if rank() == 0:
            say("--prior clean: class frequencies are counted in the TRUE labels of the training set")
    return PositiveCounts(torch.from_numpy(counts.values).double(), len(info.observed))


def focal_losses(
    logits: Tensor, targets: Tensor, *, gamma: float, balance: float, weight: Tensor | None = None
) -> Tensor:
    """Focal loss: balance * (1 - p_t)^gamma * weight * BCE with p_t = exp(-BCE) (Lin et al., eq. 4).

    The gradient goes through the focusing factor. With gamma 0 and balance 1 it is weighted BCE.

    Args:
        logits: (B, C) in single precision at least.
        targets: (B, C) in [0, 1]; for soft ones p_t is at most exp(-entropy of the target).
        gamma: focusing exponent, 0 or more.
        balance: factor of all losses.
        weight: broadcast to (B, C); all 1 if None. It has no part in p_t.

    Returns:
        (B, C), finite with finite gradients for finite logits.
    """
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    # an exponent between 0 and 1 has an infinite slope at 0
    missing = (-torch.expm1(-losses)).clamp(min=torch.finfo(losses.dtype).tiny)
    focused = balance * missing**gamma * losses
    return focused if weight is None else focused * weight


def effective_number_weights(counts: Tensor, beta: float) -> Tensor:
    """(1 - beta) / (1 - beta^n), one over the effective number of n images (Cui et al., Proposition 1).

    Args:
        counts: n, of any shape, above 0; infinity weighs 1 - beta.
        beta: in [0, 1); 0 weighs all alike, towards 1 the weight becomes 1/n.

    Returns:
        The shape of `counts`.
    """
    if beta == 0:
        return torch.ones_like(counts)
    return (1 - beta) / -torch.expm1(counts * math.log(beta))


def class_balanced_weights(targets: Tensor, frequencies: PositiveCounts, *, beta: float, mode: CBMode) -> Tensor:
    """Weights by effective numbers, of each class or of the labels that an image has.

    Args:
        targets: (B, C) in [0, 1].
        frequencies: of C classes.
        beta: see `effective_number_weights`.
        mode: "by_class" weighs every class by its own n_j; "average_n" an image by the mean n_j of its labels,
            "average_w" by the mean weight of its labels, "min_n" by the n_j of its rarest label, targets above 0
            counting. An image without labels weighs like one of an infinitely frequent class.

    Returns:
        (C,) for "by_class", else (B, 1).
    """
    counts = frequencies.counted(targets)
    if mode == "by_class":
        return effective_number_weights(counts, beta)
    if mode == "min_n":
        rarest = counts.expand_as(targets).masked_fill(targets == 0, math.inf).amin(dim=1, keepdim=True)
        return effective_number_weights(rarest, beta)
    labels = targets.sum(dim=1, keepdim=True)
    if mode == "average_n":
        mean = (targets @ counts).unsqueeze(1) / labels
        return effective_number_weights(torch.where(labels > 0, mean, math.inf), beta)
    mean = (targets @ effective_number_weights(counts, beta)).unsqueeze(1) / labels
    return torch.where(labels > 0, mean, 1 - beta)


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """Choice of the labels in which classes are counted. Raises: UserError for an unknown value."""

    prior: FrequencySource = option(
        "candidate", "count classes in the labels that are trained on (candidate), or in the true ones (clean)"
    )

    def __post_init__(self) -> None:
        require_choices(self)


@dataclass(frozen=True, kw_only=True)
class FocalConfig:
    """Settings of the focal loss. Raises: UserError for a value that cannot work."""

    focal_gamma: float = option(2.0, "focusing exponent; 0: none")
    focal_balance: float = option(2.0, "factor of the loss")

    def __post_init__(self) -> None:
        require_focus(self.focal_gamma, self.focal_balance)


@dataclass(frozen=True, kw_only=True)
class ClassBalancedConfig(PriorConfig):
    """Settings of the class-balanced losses. Raises: UserError for a value that cannot work."""

    cb_beta: float = option(0.999, "0 weighs all classes alike, towards 1 the weight becomes 1/n")
    cb_mode: CBMode = option("by_class", "weigh each class, or each image by its mean n, mean weight or least n")
    cb_norm: CBNorm = option("mean", "divide weights by their mean over classes (the paper), or leave them")
    focal_gamma: float = option(0.0, "focusing exponent; 0: class-balanced BCE")
    focal_balance: float = option(1.0, "factor of the loss")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_focus(self.focal_gamma, self.focal_balance)
        require_effective_number(self.cb_beta)


class Focal(Criterion):
    """Focal loss, UNKNOWN read as ABSENT, mean over B*C.

    It holds no state. Logged: `positive` and `negative`, the parts of the loss that present and other labels make up.
    """

    takes_soft: ClassVar[bool] = True
    config: FocalConfig

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        logits = at_least_float32(model(batch.images).logits)
        config = self.config
        formula = partial(focal_losses, logits, gamma=config.focal_gamma, balance=config.focal_balance)
        losses = expected_losses(formula, batch, logits.dtype)
        return mean_output(losses, logits, batch.observed)


class FrequencyCriterion(Criterion):
    """A criterion whose weights come from class frequencies. They follow from the data and are not part of its state.

    Raises: UserError where `class_frequencies` does.
    """

    config: PriorConfig
    positives: Tensor

    def __init__(self, config: PriorConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        positives, self.images = class_frequencies(info, config.prior)
        self.register_buffer("positives", positives, persistent=False)

    @property
    def frequencies(self) -> PositiveCounts:
        """The class frequencies, on the criterion's device."""
        return PositiveCounts(self.positives, self.images)


class ClassBalanced(FrequencyCriterion):
    """Class-balanced BCE or focal loss (Cui et al., CVPR 2019), UNKNOWN read as ABSENT, mean over B*C.

    It holds no state. Logged: `positive` and `negative`, the parts of the loss that present and other labels make up.
    """

    config: ClassBalancedConfig

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        config, logits = self.config, at_least_float32(model(batch.images).logits)
        targets = present(batch.observed, logits.dtype)
        weight = class_balanced_weights(targets, self.frequencies, beta=config.cb_beta, mode=config.cb_mode)
        if config.cb_norm == "mean":
            weight = weight / effective_number_weights(self.frequencies.counted(logits), config.cb_beta).mean()
        losses = focal_losses(logits, targets, gamma=config.focal_gamma, balance=config.focal_balance, weight=weight)
        return mean_output(losses, logits, batch.observed)


def mean_output(losses: Tensor, logits: Tensor, observed: Tensor) -> LossOutput:
    """Mean of `losses` (B, C), and its parts from PRESENT and from other labels (B, C)."""
    return LossOutput(losses.mean(), logits.detach(), split_mean(losses, observed == PRESENT))


def require_focus(gamma: float, balance: float) -> None:
    """Raise UserError unless a focusing exponent and factor can work."""
    require(0 <= gamma < math.inf, f"--focal_gamma {gamma}: must be 0 or more; the published value is 2")
    require(0 < balance < math.inf, f"--focal_balance {balance}: must be above 0; the published value is 2")


def require_effective_number(beta: float) -> None:
    """Raise UserError unless the parameter of class-balanced weights can work."""
    require(0 <= beta < 1, f"--cb_beta {beta}: must be in [0, 1), such as 0.9, 0.99 or 0.999")
