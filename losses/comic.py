"""COMIC: labels that are corrected, weighted and focused for long tails of which positives are missing.

B batch, G rows of the global batch, C classes, p the sigmoid of the logits. Source: Zhang et al., ICCV 2023; published
code wannature/COMIC, loss/ReflectiveLabelCorrectorLoss.py, loss/PriorFocalModifierLoss.py. What of the paper is here,
and where this differs from that code: docs/methods/comic.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.asl import reduced
from losses.common.base import ScheduledCriterion
from losses.common.functional import at_least_float32, present
from losses.common.global_batch import GlobalBatch, rows_of_all
from losses.common.variants import require_choices
from losses.reweighted import LEAST_COUNT
from losses.splc import Population, Reduction
from utils.checks import require
from utils.cooccurrence import cooccurrence
from utils.options import option
from utils.types import PRESENT, UNKNOWN, Batch, CriterionInfo, LabelTable, LossOutput, Model

CLIP = 0.05
"""What the probability of an absent label is lowered by, as published."""
FOCAL_POWER, CORRECTOR_POWER = 1 / 3, 1 / 6
"""Powers of the class weights of both losses, as published."""
_LEAST_SHARE = 1e-8  # of an observed class that no other goes with; it changes values, and no gradient


@dataclass(frozen=True, kw_only=True)
class COMICConfig:
    """Settings of COMIC. Raises: UserError for a value that cannot work."""

    prior_weight: float = option(4 / 3, "weight of the prior-focal loss, of observed labels")
    corrector_weight: float = option(0.2, "weight of the loss of corrected labels; 0: none is corrected")
    tau: float = option(0.7, "a label is corrected to present where its probability is above this")
    margin: float = option(1.0, "lowers the logit of an observed positive inside the loss of corrected labels")
    start_epoch: int = option(
        1, "first epoch in which labels are corrected; later for a network without pretrained weights"
    )
    focal_gamma: float = option(3.0, "focusing exponent of absent labels, to which the class weight is added")
    related_factor: float = option(
        1.2, "1 - p of an absent label that goes with observed ones of the image is multiplied by this"
    )
    population: Population = option(
        "unknown", "only unknown labels are ever corrected, or also those known to be absent"
    )
    reduction: Reduction = option("sum", "sum over the batch, or that divided by B*C")

    def __post_init__(self) -> None:
        require_choices(self)
        for name in ("prior_weight", "corrector_weight", "margin", "focal_gamma"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"--{name} {value}: must be 0 or more")
        require(0 < self.tau < 1, f"--tau {self.tau}: must be in (0, 1); the published value is 0.7")
        require(self.start_epoch >= 1, f"--start_epoch {self.start_epoch}: must be at least 1")
        require(
            1 <= self.related_factor < math.inf,
            f"--related_factor {self.related_factor}: must be at least 1; the published value is 1.2",
        )


def class_weights(counts: Tensor, power: float) -> Tensor:
    """(C,) weights (1 - ln(n / max n))^power of classes with n positives (C,), at least half a one each."""
    counts = counts.clamp(min=LEAST_COUNT)
    return (1 - (counts / counts.max()).log()) ** power


def related_shares(observed: LabelTable) -> Tensor:
    """(C, C) float32: column j has the share of each class in what class j is observed with, itself included.

    A class that is never observed has zeros.
    """
    together = torch.from_numpy(cooccurrence(observed)).double()
    return (together / together.sum(dim=0).clamp(min=1)).float()


def relations(targets: Tensor, shares: Tensor) -> Tensor:
    """(B, C) how much each class goes with the observed ones of an image; the sum is 1, or 0 where none is observed.

    Args:
        targets: (B, C) 1 where a label is observed PRESENT, else 0.
        shares: (C, C), see `related_shares`; the rows of the observed classes are added up.
    """
    found = targets @ shares
    total = found.sum(dim=1, keepdim=True)
    return found / torch.where(total > 0, total, 1)


def one_sided_losses(
    logits: Tensor, targets: Tensor, weights: Tensor, gamma: float, related: Tensor | None = None, factor: float = 1.0
) -> Tensor:
    """-w ln(p (1 - a)) where present, -w (1 - n)^(gamma + w) ln n where absent, n = min(1, 1 - p + 0.05).

    n is multiplied by `factor`, up to 1, where a is not 0. No gradient goes through the focusing weight.

    Args:
        logits: (B, C) in single precision at least.
        targets: (B, C) 0 or 1.
        weights: w (C,).
        gamma: focusing exponent.
        related: a (B, C), see `relations`; None: 0.
        factor: at least 1.

    Returns:
        (B, C), finite with finite gradients for finite logits.
    """
    log_present, absent = F.logsigmoid(logits), (torch.sigmoid(-logits) + CLIP).clamp(max=1)
    if related is not None:
        log_present = log_present + (1 - related).clamp(min=_LEAST_SHARE).log()
        absent = torch.where(related > 0, absent * factor, absent).clamp(max=1)
    focus = (1 - absent).detach() ** (gamma + weights)
    return -weights * (targets * log_present + (1 - targets) * focus * absent.log())


class Correction(NamedTuple):
    """Labels that are corrected in a step, and the loss of all labels with them."""

    corrected: Tensor  # (B, C) bool
    loss: Tensor  # scalar: the sum over the batch, times its rows, divided by its present labels


class COMIC(ScheduledCriterion):
    """COMIC (ICCV 2023) on one network: the prior-focal loss of observed labels and the loss of corrected ones.

    UNKNOWN is read as ABSENT; in the second loss as present where the network is surer than the threshold and than on
    the mean of the GLOBAL batch. State: the epoch, and `added` (C,), the labels corrected in it, by which the second
    loss weighs its classes. Logged: `prior` and `corrector`, the two losses per label without weights; `modified`, the
    mean number of labels corrected per image.

    Raises: UserError if labels are to be corrected and none may be.
    """

    corrects_from_present: ClassVar[bool] = True
    config: COMICConfig
    positives: Tensor
    shares: Tensor
    added: Tensor

    def __init__(self, config: COMICConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        require(
            config.corrector_weight == 0 or config.population == "all" or int(info.observed.counts(UNKNOWN).sum()) > 0,
            "comic: no label is unknown, so none would be corrected; take --labels dropped (--drop_rate 0: what is "
            "not named), --population all to correct labels known to be absent, or --corrector_weight 0",
        )
        positives = torch.from_numpy(info.observed.counts()).double()
        self.register_buffer("positives", positives, persistent=False)
        self.register_buffer("shares", related_shares(info.observed), persistent=False)
        self.register_buffer("added", torch.zeros_like(positives))

    def on_epoch_start(self, epoch: int, train_scores: Tensor | None = None) -> None:
        """Forget which labels were corrected in the last epoch."""
        super().on_epoch_start(epoch, train_scores)
        self.added.zero_()

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        logits, config = at_least_float32(model(batch.images).logits), self.config
        targets = present(batch.observed, logits.dtype)
        weights = class_weights(self.positives, FOCAL_POWER).to(logits.dtype)
        related = relations(targets, self.shares.to(logits.dtype))
        losses = one_sided_losses(logits, targets, weights, config.focal_gamma, related, config.related_factor)
        prior, correction = reduced(losses, batch, "sum"), self._corrector(logits, targets, batch)
        total, labels = config.prior_weight * prior + config.corrector_weight * correction.loss, self._labels(batch)
        total = total if config.reduction == "sum" else total / labels
        parts = {
            "prior": losses.detach().mean(),
            "corrector": correction.loss.detach() / labels,
            "modified": correction.corrected.sum(dim=1, dtype=losses.dtype).mean(),
        }
        return LossOutput(total, logits.detach(), parts, correction.corrected)

    def _labels(self, batch: Batch) -> float | Tensor:
        """Number of labels of the global batch."""
        return rows_of_all(batch) * self.info.observed.num_classes

    def _corrector(self, logits: Tensor, targets: Tensor, batch: Batch) -> Correction:
        """The loss of corrected labels; 0 before its first epoch, and without a weight."""
        config = self.config
        if config.corrector_weight == 0 or self.epoch < config.start_epoch:
            return Correction(torch.zeros_like(targets, dtype=torch.bool), logits.new_zeros(()))
        lowered, whole = logits - config.margin * targets, GlobalBatch(batch)
        found, everyone = self._corrected(lowered, batch.observed, whole)
        self.added += found.sum(dim=0)
        weights = class_weights(self.positives + self.added, CORRECTOR_POWER).to(logits.dtype)
        corrected = whole.own(found)
        losses = one_sided_losses(lowered, targets + corrected.to(targets), weights, config.focal_gamma)
        every = torch.ones_like(found)
        counted = (everyone | found).sum().clamp(min=1)
        return Correction(corrected, whole.total(losses, every) * whole.size / counted)

    @torch.no_grad()
    def _corrected(self, lowered: Tensor, observed: Tensor, whole: GlobalBatch) -> tuple[Tensor, Tensor]:
        """(G, C) bool: labels corrected in the global batch, and its observed positives."""
        p, codes = whole.rows(torch.stack([torch.sigmoid(lowered), observed.to(lowered)], dim=1)).unbind(dim=1)
        may = codes != PRESENT if self.config.population == "all" else codes == UNKNOWN
        return may & (p > self.config.tau) & (p > p.mean(dim=0)), codes == PRESENT
