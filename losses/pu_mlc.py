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
from losses.common.global_batch import GlobalBatch, beside, dealt
from losses.common.variants import require_choices
from utils.checks import require
from utils.collectives import of_first, world_size
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

    def of(self, first: Tensor, second: Tensor) -> Tensor:
        """The mixtures (n, ...) of n images each."""
        portion = self.portion.to(first.dtype)
        return portion * first + (1 - portion) * second

    def on(self, device: torch.device) -> Mixtures:
        """The same on `device`, for which nothing waits."""
        return Mixtures(beside(self.first, device), beside(self.second, device), self.portion)

    def log_targets(self, logs: Tensor) -> Tensor:
        """(n, C) logarithm of the mixed probabilities, of their logarithms (B, C)."""
        portion = self.portion.to(logs.dtype)
        return torch.logaddexp(portion.log() + logs[self.first], (-portion).log1p() + logs[self.second])


def draw_mixtures(images: int, beta: float, device: torch.device) -> Mixtures:
    """Pairs of the first half of a batch, permuted, with the second; the middle one of an odd number has no partner.

    It uses torch's global generator of `device`; rank 0's draw on every rank. Nothing waits for the device.
    """
    parameter = torch.full((), beta, dtype=torch.float64, device=device)
    portion = Beta(parameter, parameter, validate_args=False).sample()  # checking the arguments would wait
    half = images // 2
    drawn = of_first(torch.cat([portion[None], torch.randperm(half, device=device)]))  # float64 holds the numbers
    return Mixtures(drawn[1:].long(), torch.arange(images - half, images, device=device), drawn[0])


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

    Labels known to be absent and unknown ones are alike: unlabelled. Mean, deviation and mixtures are of the batch of
    all processes, which share the mixtures evenly. Mixtures go through the network before the batch, so that this
    counts most in BatchNorm's running statistics. It holds no state. Logged: `vpu` and `mixup`, the two terms, each a
    sum over classes.

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
        config, whole = self.config, GlobalBatch(batch)
        mixtures = self._drawn(batch.images, whole)
        mixed = None if mixtures is None else _mixed(model, batch.images, mixtures, whole)
        logits, observed = at_least_float32(model(batch.images).logits), batch.observed == PRESENT
        rows = whole.rows_with_gradient(torch.cat([logits, observed.to(logits.dtype)], dim=1))
        every, positive = rows[:, : logits.shape[1]], rows[:, logits.shape[1] :].detach() > 0
        scales = logit_scales(every.detach(), config.vpu_scale, config.scale_floor)
        vpu, mixup = vpu_loss(every, positive, scales, config.vpu_power, config.variant), logits.new_zeros(())
        if mixtures is not None and mixed is not None:
            logs = log_probabilities(every, config.variant).masked_fill(positive, 0)
            mixup = mixture_loss(mixed, logs, mixtures.on(logits.device), config.variant)
        parts = {"vpu": vpu.detach(), "mixup": mixup.detach()}
        return LossOutput(vpu + config.mixup_weight * mixup, logits.detach(), parts)

    def _drawn(self, images: Tensor, whole: GlobalBatch) -> Mixtures | None:
        """The mixtures of the global batch; several processes ask each other for images by numbers of the host."""
        if self.config.mixup_weight == 0 or whole.size < 2:
            return None
        device = images.device if world_size() == 1 else torch.device("cpu")
        return draw_mixtures(whole.size, self.config.mixup_beta, device)


def _mixed(model: Model, images: Tensor, mixtures: Mixtures, whole: GlobalBatch) -> Tensor:
    """(n, C) logits of all mixtures, of which this process makes its share of its images (B, 3, H, W) and others'."""
    pairs = torch.stack([mixtures.first, mixtures.second])
    shares = [pairs[:, dealt(pairs.shape[1], process)] for process in range(world_size())]
    first, second = whole.fetch(images, [share.flatten() for share in shares]).chunk(2)
    own = at_least_float32(model(mixtures.of(first, second)).logits)
    return whole.dealt_with_gradient(own, pairs.shape[1])
