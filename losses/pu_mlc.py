"""PU-MLC: present labels against all images, without any label that says absent (Yuan et al., ICME 2024).

B batch, G rows of the global batch, C classes. Source: arXiv 2306.16016, on the variational loss of VPU (NeurIPS 2020);
published code TAKELAMAG/PU-MLC, `src/loss_functions/vpu_loss.py`. Differences from it: docs/methods/pu_mlc.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Beta
from torch.nn import functional as F

from losses.common.base import Criterion
from losses.common.functional import at_least_float32
from losses.common.global_batch import GlobalBatch
from losses.common.variants import require_choices
from utils.checks import require
from utils.options import option
from utils.types import PRESENT, Batch, CriterionInfo, LossOutput, Model

Variant = Literal["fixed", "reference"]

GUARD = 2e-10
"""Added to a probability before its logarithm by the published code, in two halves."""


@dataclass(frozen=True, kw_only=True)
class PUMLCConfig:
    """Settings of PU-MLC; the defaults are those of COCO. Raises: UserError for a value that cannot work."""

    vpu_scale: float = option(
        1.0, "alpha: logits of a class are divided by alpha times their deviation in the batch where that is below 1"
    )
    vpu_power: float = option(0.55, "gamma: the term of all images of a class weighs their mean probability to this")
    scale_floor: float = option(1e-6, "least divisor of logits; 0.1 spares a network that has just begun")
    mixup_beta: float = option(0.3, "both parameters of the Beta distribution of the portion of an image in a mixture")
    mixup_weight: float = option(1.0, "weight of the loss of mixtures; 0: none, and one forward pass less")
    variant: Variant = option("fixed", "exact logarithms, or the published log(p + 2e-10)")

    def __post_init__(self) -> None:
        for name, value in (("vpu_scale", 1.0), ("mixup_beta", 0.3)):
            given = getattr(self, name)
            require(0 < given < math.inf, f"--{name} {given}: must be above 0; the published value is {value}")
        for name in ("vpu_power", "mixup_weight"):
            require(0 <= getattr(self, name) < math.inf, f"--{name} {getattr(self, name)}: must be 0 or more")
        require(0 < self.scale_floor <= 1, f"--scale_floor {self.scale_floor}: must be above 0 and at most 1")
        require_choices(self)


class Mixtures(NamedTuple):
    """Images that are mixed, and what of each."""

    first: Tensor  # (n,) long, rows of the batch
    second: Tensor  # (n,) long
    portion: Tensor  # scalar in [0, 1], of the first

    def images(self, images: Tensor) -> Tensor:
        """The mixtures (n, ...) of images (B, ...)."""
        portion = self.portion.to(images.dtype)
        return portion * images[self.first] + (1 - portion) * images[self.second]

    def log_targets(self, logs: Tensor) -> Tensor:
        """(n, C) logarithm of the mixed probabilities, of their logarithms (B, C)."""
        portion = self.portion.to(logs.dtype)
        return torch.logaddexp(portion.log() + logs[self.first], (-portion).log1p() + logs[self.second])


def draw_mixtures(images: int, beta: float, device: torch.device) -> Mixtures:
    """Pairs of the first half of a batch, permuted, with the second; the middle one of an odd number has no partner.

    It uses torch's global generator of `device`, and nothing waits for the device.
    """
    parameter = torch.full((), beta, dtype=torch.float64, device=device)
    portion = Beta(parameter, parameter, validate_args=False).sample()  # checking the arguments would wait
    half = images // 2
    return Mixtures(torch.randperm(half, device=device), torch.arange(images - half, images, device=device), portion)


@torch.no_grad()
def logit_scales(logits: Tensor, factor: float, floor: float) -> Tensor:
    """(C,) divisors of logits (G, C): `factor` times their deviation over the rows, within `floor` and 1."""
    return (factor * logits.std(dim=0, correction=0)).clamp(floor, 1)


def log_probabilities(logits: Tensor, variant: Variant) -> Tensor:
    """Log p of logits of any shape, p their sigmoid; "reference" adds 2e-10 to p."""
    return F.logsigmoid(logits) if variant == "fixed" else (torch.sigmoid(logits) + GUARD).log()


def vpu_loss(logits: Tensor, positive: Tensor, scales: Tensor, power: float, variant: Variant = "fixed") -> Tensor:
    """Variational loss of positive and unlabelled images, summed over classes.

    With q the sigmoid of the scaled logit and m its mean over all rows, the loss of a class is m^power log m, of which
    the factor has no gradient, minus the mean of log q over its positive rows, if there are any.

    Args:
        logits: (G, C) in single precision at least.
        positive: (G, C) bool.
        scales: (C,) divisors of the logits.
        power: of the factor.
        variant: see `log_probabilities`.

    Returns:
        Scalar, of any sign.
    """
    scaled = logits / scales
    logs = log_probabilities(scaled, variant)
    if variant == "fixed":
        log_mean = logs.logsumexp(dim=0) - math.log(len(logs))
    else:
        log_mean = (torch.sigmoid(scaled).mean(dim=0) + GUARD).log()
    weight = (power * log_mean.detach()).exp()
    of_positive = logs.where(positive, 0).sum(dim=0) / positive.sum(dim=0).clamp(min=1)
    return (weight * log_mean - of_positive).sum()


def mixture_loss(mixed: Tensor, logs: Tensor, mixtures: Mixtures, variant: Variant = "fixed") -> Tensor:
    """Squared difference of log p of mixtures and the log of mixed p: mean over mixtures, sum over classes.

    Args:
        mixed: (n, C) logits of the mixtures.
        logs: (B, C) log-probabilities of the images, 0 where a label is present; with gradient.
        mixtures: which images.
        variant: see `log_probabilities`.

    Returns:
        Scalar.
    """
    difference = mixtures.log_targets(logs) - log_probabilities(mixed, variant)
    return difference.square().mean(dim=0).sum()


class PUMLC(Criterion):
    """Positive and unlabelled learning for each class (Yuan et al., ICME 2024), with consistency of mixtures.

    Labels known to be absent and unknown ones are alike: unlabelled. Mean and deviation are over the batch of all
    processes; each process mixes its own images. Mixtures go through the network before the batch, so that this counts
    most in BatchNorm's running statistics. It holds no state. Logged: `vpu` and `mixup`, the two terms, each a sum over
    classes.

    Raises: UserError if no label is known to be present.
    """

    single_pass: ClassVar[bool] = False
    corrects_from_present: ClassVar[bool] = True
    config: PUMLCConfig

    def __init__(self, config: PUMLCConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        require(
            int(info.observed.counts().sum()) > 0,
            "pu_mlc: no label is known to be present, and it learns from these alone; take --labels single",
        )

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        config, mixtures, mixed = self.config, None, None
        if config.mixup_weight > 0 and len(batch.images) > 1:
            mixtures = draw_mixtures(len(batch.images), config.mixup_beta, batch.images.device)
            mixed = at_least_float32(model(mixtures.images(batch.images)).logits)
        logits, positive = at_least_float32(model(batch.images).logits), batch.observed == PRESENT
        vpu = self._vpu(logits, positive, batch)
        mixup = logits.new_zeros(())
        if mixtures is not None and mixed is not None:
            logs = log_probabilities(logits, config.variant).masked_fill(positive, 0)
            mixup = mixture_loss(mixed, logs, mixtures, config.variant)
        parts = {"vpu": vpu.detach(), "mixup": mixup.detach()}
        return LossOutput(vpu + config.mixup_weight * mixup, logits.detach(), parts)

    def _vpu(self, logits: Tensor, positive: Tensor, batch: Batch) -> Tensor:
        """The variational loss of the global batch, alike on every process."""
        whole, config = GlobalBatch(batch), self.config
        rows = whole.rows_with_gradient(torch.cat([logits, positive.to(logits.dtype)], dim=1))
        every, is_positive = rows.chunk(2, dim=1)
        scales = logit_scales(every.detach(), config.vpu_scale, config.scale_floor)
        return vpu_loss(every, is_positive > 0, scales, config.vpu_power, config.variant)
