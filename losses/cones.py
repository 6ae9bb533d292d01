"""CoNeS: training on candidate labels (a superset of the true ones) with negatives suppressed by their own loss.

B batch, C classes, N training images, D feature width, h w feature map, r the exponent. Source: CoNeS, IEEE TCSVT 2025,
doi 10.1109/TCSVT.2025.3629753; published code zhongjingyu1/CoNeS, `main_CoNeS.py` and `utils/PML_Confidence.py`.
Formulas, and all differences from that code: docs/methods/cones.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.common.base import Criterion
from losses.common.candidate_memory import CandidateMemory, candidate_need
from losses.common.functional import at_least_float32, present, weighted_bce
from losses.common.memory import MemoryNeed
from losses.common.variants import fill_variant_options, require_choices, variant_options
from losses.cones_prototypes import (
    Axis,
    Mix,
    PrototypeBank,
    Scale,
    class_prototypes,
    initial_correlation,
    mirrored,
    refresh_correlation,
)
from utils.checks import UserError, require
from utils.collectives import broadcast, rank
from utils.cooccurrence import cooccurrence
from utils.options import option
from utils.types import Batch, CriterionInfo, LossOutput, Model, ModelOutput

PhiNorm = Literal["simplex", "reference"]
Order = Literal["correct", "reversed"]
PseudoRule = Literal["keep_single", "strict"]
PrototypeImages = Literal["all", "candidates"]

EPS = 1e-8
"""The published code's guard against division by 0."""


class CoNeSVariant(NamedTuple):
    """Options for the steps in which the published code differs from its formulas."""

    phi_norm: PhiNorm
    prototype_order: Order
    pseudo_rule: PseudoRule
    correlation_axis: Axis
    correlation_mix: Mix
    prototype_scale: Scale
    prototype_images: PrototypeImages


VARIANTS = {
    "fixed": CoNeSVariant("simplex", "correct", "keep_single", "row", "normalised", "mask", "all"),
    "reference": CoNeSVariant("reference", "reversed", "strict", "reference", "raw", "all_pixels", "all"),
}


@dataclass(frozen=True, kw_only=True)
class CoNeSConfig:
    """Settings of CoNeS; the defaults are the published VOC 2007 ones. Options left None follow `variant`.

    Raises: UserError for a value that cannot work.
    """

    tau: float = option(0.1, "share of the peak of a class activation map that a pixel of a prototype exceeds")
    clusters: int = option(5, "k-means centroids per class when the label correlation is refreshed")
    beta: float = option(0.1, "weight of the loss on pseudo labels; 0 is plain BCE")
    r_ws: float = option(3.0, "exponent r > 1 of the weights of negatives (paper: 3 on voc07 and nuswide, 2 on coco)")
    mu: float = option(0.99, "share of the old label confidence in its moving average")
    gamma: float = option(0.99, "share of the old label correlation in its moving average, once an epoch")
    memory_per_class: int = option(256, "prototypes kept per class, one per step")
    pseudo_threshold: float = option(
        1.0,
        "a candidate is a pseudo positive when its confidence exceeds this times its image's mean over candidates "
        "(paper: 1); below 1, more candidates of one image are marked",
    )
    variant: Literal["fixed", "reference"] = option("fixed", "as in the formulas, or as in the published code")
    phi_norm: PhiNorm | None = option(None, "weights of an image's negatives sum to 1/n, or the published denominator")
    prototype_order: Order | None = option(None, "prototypes go to their own class, or to its mirror image")
    pseudo_rule: PseudoRule | None = option(None, "an image's only candidate is a pseudo positive, or never is")
    correlation_axis: Axis | None = option(None, "correlation divided by its own row's sum, or by the column's class's")
    correlation_mix: Mix | None = option(None, "cosines normalised like the correlation before mixing, or raw")
    prototype_scale: Scale | None = option(None, "prototype divided by the size of its mask, or by all pixels")
    prototype_images: PrototypeImages | None = option(
        None, "prototypes from all images of the batch (both variants), or from those where the class is a candidate"
    )

    def __post_init__(self) -> None:
        _check_numbers(self)
        fill_variant_options(self, VARIANTS)
        require_choices(self)


def _check_numbers(config: CoNeSConfig) -> None:
    require(0 <= config.tau < 1, f"tau must be in [0, 1), got {config.tau}: the published value is 0.1")
    require(config.clusters >= 1, f"clusters must be 1 or more, got {config.clusters}: the published value is 5")
    require(0 <= config.beta < math.inf, f"beta must be 0 or more, got {config.beta}: the published value is 0.1")
    require(1 < config.r_ws < math.inf, f"r_ws must be above 1, got {config.r_ws}: the published values are 2 and 3")
    for name in ("mu", "gamma"):
        value = getattr(config, name)
        require(0 <= value <= 1, f"{name} must be in [0, 1], got {value}: the published value is 0.99")
    require(
        config.memory_per_class >= config.clusters,
        f"memory_per_class ({config.memory_per_class}) must not be below clusters ({config.clusters}): raise it",
    )
    factor = config.pseudo_threshold
    require(0 < factor < math.inf, f"pseudo_threshold must be above 0, got {factor}: the paper's value is 1")


@torch.no_grad()
def negative_weights(logits: Tensor, candidates: Tensor, r: float, *, norm: PhiNorm = "simplex") -> Tensor:
    """Weights phi of the non-candidates: small where their own loss is large, as for a missed positive.

    With l = -log(1 - p), phi minimises sum phi^r l over weights that sum to 1/n, n the number of non-candidates:
    phi_j = (1/n) l_j^(-1/(r-1)) / sum_m l_m^(-1/(r-1)). Computed from logarithms in float64.

    Args:
        logits: (B, C) any finite values, any float type.
        candidates: (B, C) 0/1.
        r: exponent above 1.
        norm: "simplex" is the formula. "reference" repeats the published code: its rounding of 1 - p, its guards, and
            the power of the sum for the sum of powers; an image's weights then sum to up to sqrt(n) times too much.

    Returns:
        (B, C) without gradient, 0 on candidates; a row of candidates only is all 0.
    """
    logits = at_least_float32(logits)
    taken = candidates > 0
    negatives = taken.logical_not().sum(dim=1, keepdim=True).clamp(min=1)
    power = 1 / (r - 1)
    if norm == "simplex":
        weights = torch.softmax((-power * _log_softplus(logits.double())).masked_fill(taken, -math.inf), dim=1)
    else:
        loss = -torch.log(1 - torch.sigmoid(logits)).double()
        log_inverse = (-torch.log(r * loss + EPS)).masked_fill(taken, -math.inf)
        log_sum = power * torch.logsumexp(log_inverse, dim=1, keepdim=True)
        weights = torch.exp(power * log_inverse - torch.logaddexp(log_sum, torch.full_like(log_sum, math.log(EPS))))
    return (weights / negatives).masked_fill(taken, 0).to(logits.dtype)


def _log_softplus(x: Tensor) -> Tensor:
    """log(log(1 + e^x)) in float64; x below -40, where the inner logarithm is e^x."""
    return torch.where(x < -40, x, torch.log(F.softplus(x.clamp(min=-40))))


@torch.no_grad()
def pseudo_labels(
    confidence: Tensor, candidates: Tensor, *, threshold: float = 1.0, rule: PseudoRule = "keep_single"
) -> Tensor:
    """(B, C) 1 where a candidate's confidence exceeds threshold/|S|, |S| the number of its image's candidates.

    Args:
        confidence: (B, C) float32, 0 outside the candidates.
        candidates: (B, C) 0/1, of the float type to compute and return in.
        threshold: factor of the mean 1/|S|; the paper's is 1.
        rule: under "strict", as in the published code, the only candidate of an image has confidence 1, which does not
            exceed 1: the one label that is certainly true becomes a negative. "keep_single" keeps it.
    """
    sizes = candidates.sum(dim=1, keepdim=True).to(confidence.dtype)  # in which 1 does not exceed 1 / (1 + EPS)
    marked = confidence > threshold / (sizes + EPS)
    if rule == "keep_single":
        marked = torch.where(sizes == 1, candidates > 0, marked)
    return marked.to(candidates.dtype)


@torch.no_grad()
def update_confidence(confidence: Tensor, logits: Tensor, candidates: Tensor, correlation: Tensor, mu: float) -> Tensor:
    """Moving average of the confidences with the predictions, spread over correlated labels.

    a = (p R) * Y, divided by its sum over an image; the result is mu*confidence + (1-mu)*a.

    Args:
        confidence: (B, C) current rows.
        logits: (B, C).
        candidates: (B, C) 0/1, Y.
        correlation: (C, C), R.
        mu: share kept, in [0, 1].

    Returns:
        (B, C) of the type of `confidence`; a row without candidates stays as it was.
    """
    support = (torch.sigmoid(at_least_float32(logits)).double() @ correlation.double()) * candidates
    total = support.sum(dim=1, keepdim=True)
    moved = mu * confidence.double() + (1 - mu) * support / total
    return torch.where(total > 0, moved.to(confidence.dtype), confidence)


class ConesLoss(NamedTuple):
    """Loss of one batch and its parts."""

    total: Tensor  # bce + beta * pml
    bce: Tensor  # mean BCE against the candidates
    pml: Tensor  # mean BCE against the pseudo labels, weighted
    weights: Tensor  # (B, C): 1 on candidates, phi elsewhere
    targets: Tensor  # (B, C) pseudo labels


def cones_loss(
    logits: Tensor,
    candidates: Tensor,
    confidence: Tensor,
    *,
    r: float,
    beta: float,
    norm: PhiNorm = "simplex",
    rule: PseudoRule = "keep_single",
    threshold: float = 1.0,
) -> ConesLoss:
    """Mean BCE against the candidates + beta * mean (phi + Y) * BCE against the pseudo labels, both over B*C.

    Args:
        logits: (B, C).
        candidates: (B, C) 0/1, Y.
        confidence: (B, C) of these images, just updated.
        r: see `negative_weights`.
        beta: weight of the second term.
        norm: see `negative_weights`.
        rule: see `pseudo_labels`.
        threshold: see `pseudo_labels`.

    Returns:
        The loss, finite for finite logits; no gradient goes through weights or pseudo labels.
    """
    logits = at_least_float32(logits)
    candidates = candidates.to(logits.dtype)
    weights = negative_weights(logits, candidates, r, norm=norm) + candidates
    targets = pseudo_labels(confidence, candidates, threshold=threshold, rule=rule)
    bce = weighted_bce(logits, candidates)
    pml = weighted_bce(logits, targets, weights)
    return ConesLoss(bce + beta * pml, bce, pml, weights, targets)


class CoNeS(Criterion):
    """CoNeS (IEEE TCSVT 2025): BCE, plus BCE against pseudo labels with self-weighted negatives.

    State: `confidence`, float32, which candidate of an image is true; `correlation` (C, C), which labels go together;
    `bank`, recent prototypes. Logged: `bce`, `pml` and `pseudo_positives`, their mean number per image.
    """

    needs = frozenset({"cam", "features"})
    float32_state = frozenset({"confidence"})
    label_memories = frozenset({"confidence"})
    config: CoNeSConfig
    correlation: Tensor

    def __init__(self, config: CoNeSConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        self.options = variant_options(config, VARIANTS)
        counts = torch.from_numpy(cooccurrence(info.observed))
        self.bank = PrototypeBank(info.observed.num_classes, config.memory_per_class, info.feature_width)
        self.confidence = CandidateMemory(info.observed)
        self.register_buffer("correlation", initial_correlation(counts, axis=self.options.correlation_axis))

    @classmethod
    def memory_needs(cls, config: CoNeSConfig, info: CriterionInfo) -> list[MemoryNeed]:
        """The confidences, and the bank of prototypes."""
        bank = info.observed.num_classes * config.memory_per_class * info.feature_width * 4
        return [
            candidate_need("confidences", info.observed, torch.float32),
            MemoryNeed("prototypes", bank, False, remedy="a smaller --memory_per_class"),
        ]

    def on_epoch_start(self, epoch: int, train_scores: Tensor | None = None) -> None:
        """From epoch 2 on, refresh the label correlation: rank 0 clusters and sends the result to the others."""
        if epoch < 2:
            return
        refreshed = self._refreshed() if rank() == 0 else self.correlation
        self.correlation.copy_(broadcast(refreshed.to(self.correlation)))

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch; before it, the bank and then the confidence are updated with the model's output."""
        out = model(batch.images, want=frozenset({"cam"}))
        with torch.autocast(out.logits.device.type, enabled=False):
            logits = at_least_float32(out.logits)
            candidates = present(batch.observed, logits.dtype)
            self._remember_prototypes(out, candidates)
            confidence = self._moved_confidence(logits, candidates, batch)
            config, options = self.config, self.options
            loss = cones_loss(
                logits,
                candidates,
                confidence,
                r=config.r_ws,
                beta=config.beta,
                norm=options.phi_norm,
                rule=options.pseudo_rule,
                threshold=config.pseudo_threshold,
            )
        parts = {"bce": loss.bce, "pml": loss.pml, "pseudo_positives": loss.targets.sum(dim=1).mean()}
        return LossOutput(loss.total, logits.detach(), {name: part.detach() for name, part in parts.items()})

    def _remember_prototypes(self, out: ModelOutput, candidates: Tensor) -> None:
        if out.features is None or out.cam is None:
            raise UserError("CoNeS needs a model that gives class activation maps: choose another --model or --head")
        found = class_prototypes(
            out.features,
            out.cam,
            self.config.tau,
            scale=self.options.prototype_scale,
            candidates=candidates if self.options.prototype_images == "candidates" else None,
        )
        self.bank.push(mirrored(found) if self.options.prototype_order == "reversed" else found)

    def _moved_confidence(self, logits: Tensor, candidates: Tensor, batch: Batch) -> Tensor:
        """(B, C) confidence of these images after its update, which all ranks store."""
        rows = self.confidence.rows(batch.index, batch.host_index)
        moved = update_confidence(rows, logits, candidates, self.correlation, self.config.mu)
        return self.confidence.write(batch, moved)

    def _refreshed(self) -> Tensor:
        return refresh_correlation(
            self.correlation,
            [self.bank.newest_first(label) for label in range(len(self.correlation))],
            clusters=self.config.clusters,
            gamma=self.config.gamma,
            axis=self.options.correlation_axis,
            mix=self.options.correlation_mix,
        )
