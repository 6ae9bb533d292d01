"""NDLP: long-tailed classes under candidate labels, learnt from pseudo labels that are refined in training.

B batch, C classes, N training images, n images chosen for mixup. Source: NDLP, published code zhongjingyu1/NDLP,
`main/train.py`. Formulas, and all differences from that code: docs/methods/ndlp.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from losses.common.base import ScheduledCriterion
from losses.common.functional import at_least_float32
from losses.common.memory import MemoryNeed, column_sums, label_memory, read_rows, write_rows
from losses.common.mixup import draw_mixture, running_statistics_kept
from losses.common.variants import fill_variant_options, variant_options
from losses.distribution_balanced import BalanceConfig, distribution_balanced, logit_bias
from losses.ndlp_confidence import (
    Repeats,
    bounded_distribution,
    class_shares,
    class_thresholds,
    initial_confidence,
    moved_confidence,
    one_per_image,
    predicted_confidence,
    predicted_confidence_each,
    pseudo_labels,
    refined_distribution,
    reliable_rows,
    rows_wanted,
    sharpened,
    sharpened_each,
)
from losses.reweighted import PositiveCounts, class_frequencies
from utils.checks import require
from utils.collectives import gather_rows, rank, world_size
from utils.console import say
from utils.options import as_text, option
from utils.types import PRESENT, Batch, CriterionInfo, LossOutput, Model

Distribution = Literal["bounded", "reference"]
UpdateLogits = Literal["plain", "biased"]
MixStatistics = Literal["kept", "updated"]
NDLPPrior = Literal["clean", "candidate", "confidence"]
Confidence = Literal["softmax", "sigmoid"]
Rejected = Literal["absent", "ignored"]


class NDLPVariant(NamedTuple):
    """Options for the steps in which the published code does not do what it should."""

    distribution: Distribution
    update_logits: UpdateLogits
    repeats: Repeats
    mix_statistics: MixStatistics


VARIANTS = {
    "fixed": NDLPVariant("bounded", "plain", "mean", "kept"),
    "reference": NDLPVariant("reference", "biased", "last", "updated"),
}


class _ConfidenceRules(NamedTuple):
    """Functions that sharpen confidences, and that turn logits into confidences."""

    sharpened: Callable[[Tensor, float], Tensor]
    predicted: Callable[[Tensor, Tensor], Tensor]


RULES: Mapping[Confidence, _ConfidenceRules] = {
    "softmax": _ConfidenceRules(sharpened, predicted_confidence),
    "sigmoid": _ConfidenceRules(sharpened_each, predicted_confidence_each),
}


@dataclass(frozen=True, kw_only=True)
class NDLPConfig(BalanceConfig):
    """Settings of NDLP; the defaults are the published voc-lt ones. Options left None follow `variant`.

    Raises: UserError for a value that cannot work.
    """

    gamma: float = option(3.0, "exponent that sharpens an image's label confidences (paper: 3 on voc-lt, else 2)")
    eta: float = option(0.9, "weight of the mixup loss at the end of its ramp")
    alpha_range: tuple[float, ...] = option(
        (0.4, 0.8), "share of a batch that is chosen for mixup: at the ramp's start, at its end"
    )
    ramp_epochs: int | None = option(
        None, "epochs over which both ramps rise, from the first (default: all epochs, so that no end is reached)"
    )
    mu: float = option(0.1, "share of the newest prediction in the moving average of the confidences")
    mixup_beta: float = option(4.0, "both parameters of the Beta distribution that mixup draws its portion from")
    prior: NDLPPrior = option(
        "clean",
        "source of the loss's class frequencies: the clean labels, as published, although candidates hide them; the "
        "candidate labels; or the confidences, anew every epoch",
    )
    confidence: Confidence = option(
        "softmax",
        "the candidates of an image share one unit of confidence, as published, or each has its own",
    )
    rejected: Rejected = option(
        "absent", "candidates that are no pseudo labels count as absent, as published, or not at all"
    )
    candidate_epochs: int = option(0, "first epochs, in which every candidate is a pseudo label (published: none)")
    distribution_mu: float = option(0.1, "distribution bounded: weight of a batch in the running distribution")
    max_ratio: float = option(10.0, "distribution bounded: largest factor by which a batch moves a class from uniform")
    variant: Literal["fixed", "reference"] = option("fixed", "as it should be, or as in the published code")
    distribution: Distribution | None = option(
        None, "which classes get more images chosen: running mean within bounds, or the published growing quotient"
    )
    update_logits: UpdateLogits | None = option(
        None, "confidences follow the logits as in testing, or those with the loss's class bias"
    )
    repeats: Repeats | None = option(
        None, "an image that occurs more than once in a batch moves by the mean of its predictions, or by the last"
    )
    mix_statistics: MixStatistics | None = option(
        None, "BatchNorm's running statistics in the mixup pass: kept as they are, or updated by mixed images"
    )

    def __post_init__(self) -> None:
        fill_variant_options(self, VARIANTS)
        super().__post_init__()
        _check_numbers(self)


def _check_numbers(config: NDLPConfig) -> None:
    shares, text = config.alpha_range, as_text(config.alpha_range)
    require(len(shares) == 2, f"alpha_range must be two shares such as 0.4,0.8, got {text!r}")
    require(
        all(0 <= share <= 1 for share in shares),
        f"alpha_range must hold shares in [0, 1] such as 0.4,0.8, got {text}",
    )
    require(  # a rank may have no mixtures, and then takes no part in a maximum over all ranks
        config.weight_norm != "by_batch", "weight_norm by_batch does not work with ndlp: take none or by_instance"
    )
    require(0 < config.gamma < math.inf, f"gamma must be above 0, got {config.gamma}: the published values are 2 and 3")
    require(0 <= config.eta < math.inf, f"eta must be 0 or more, got {config.eta}: the published value is 0.9")
    for name in ("mu", "distribution_mu"):
        value = getattr(config, name)
        require(0 <= value <= 1, f"{name} must be in [0, 1], got {value}: the default is 0.1")
    require(0 < config.mixup_beta < math.inf, f"mixup_beta must be above 0, got {config.mixup_beta}: published is 4")
    require(
        config.candidate_epochs >= 0,
        f"candidate_epochs must be 0 or more, got {config.candidate_epochs}: 0 is published",
    )
    require(1 <= config.max_ratio < math.inf, f"max_ratio must be 1 or more, got {config.max_ratio}: 10 is the default")
    require(
        config.ramp_epochs is None or config.ramp_epochs >= 1,
        f"ramp_epochs must be 1 or more, got {config.ramp_epochs}: leave it out for all epochs",
    )


def ramp(epoch: int, length: int) -> float:
    """Height of a ramp of `length` epochs in `epoch`, from 1: 0 in the first epoch, 1 after `length` of them."""
    return min((epoch - 1) / length, 1.0)


def own_rows(count: int) -> slice:
    """Positions of this rank's `count` rows among the rows of all ranks."""
    if world_size() == 1:
        return slice(0, count)
    start = int(gather_rows(torch.tensor([count]))[: rank()].sum())
    return slice(start, start + count)


def counted_rows(index: Tensor) -> Tensor:
    """(B,) float64: 0 for the rows of a global batch that only pad it, so that every rank has one; else 1.

    Args:
        index: (B,) long, the images of the global batch. A batch of more rows than ranks is never padded: an image
            that it holds twice was drawn twice.
    """
    if world_size() == 1 or len(index) > world_size():
        return torch.ones(len(index), dtype=torch.float64, device=index.device)
    same = index[:, None] == index[None, :]
    first = same.to(torch.uint8).argmax(dim=1)  # the first of equal maxima, by argmax's contract
    return (first == torch.arange(len(index), device=index.device)).double()


class _NDLPGlobalBatch(NamedTuple):
    """The batch of all ranks, rank 0's rows first (B is the global batch)."""

    rows: Tensor  # (B,) long, of the training set
    on_host: Tensor | None  # the same on the host, where they are known there
    confidence: Tensor  # (B, C) before the step
    counted: Tensor  # (B,) float64: 1, or 0 for a row that only pads a batch smaller than the number of ranks
    soft: Tensor  # (B, C) sharpened confidences
    pseudo: Tensor  # (B, C) bool
    in_loss: Tensor  # (B, C) bool, the labels that count in the loss
    own: slice  # the rows of this rank


class NDLP(ScheduledCriterion):
    """NDLP: distribution-balanced loss on pseudo labels, and on mixtures of the images whose pseudo labels are trusted.

    State: `confidence` (N, C) float64, which candidate of an image is true; `log_distribution` (C), which classes get
    more images chosen, begun anew every epoch; `positives` (C), the class frequencies of the loss; the epoch. Logged:
    `pseudo` and `mix`, the two losses, `pseudo_positives`, their mean number per image, and `chosen`, the share of the
    global batch that was trusted, which from the second epoch on is mixed.
    """

    single_pass = False
    label_memories = frozenset({"confidence"})
    config: NDLPConfig
    confidence: Tensor
    log_distribution: Tensor
    positives: Tensor

    def __init__(self, config: NDLPConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        self.options, self.rules = variant_options(config, VARIANTS), RULES[config.confidence]
        classes = info.observed.num_classes
        confidence = initial_confidence(info.observed)
        require(
            bool(((confidence > 0) & (confidence < 1)).any()),
            "ndlp: no image has several candidates, so no label could ever be believed more than another; take "
            "--labels candidate, or another method",
        )
        self.register_buffer("confidence", confidence)
        self.register_buffer("log_distribution", torch.full((classes,), -math.log(classes), dtype=torch.float64))
        self.register_buffer("positives", self._positives())

    @classmethod
    def memory_needs(cls, config: NDLPConfig, info: CriterionInfo) -> list[MemoryNeed]:
        """The confidences."""
        return [label_memory("confidences", info.observed, 8)]

    def _positives(self) -> Tensor:
        """(C,) float64 class counts by the prior, which is printed where the loss uses more than candidate labels."""
        prior = self.config.prior
        if prior == "confidence":
            if rank() == 0:
                say("--prior confidence: class frequencies are estimated from the candidate labels, anew every epoch")
            return column_sums(self.confidence)
        return class_frequencies(self.info, prior).positives

    @property
    def frequencies(self) -> PositiveCounts:
        """Class frequencies that the loss uses."""
        return PositiveCounts(self.positives, len(self.info.observed))

    def on_epoch_start(self, epoch: int, train_scores: Tensor | None = None) -> None:
        """Reset the distribution; update the class frequencies from the confidences if the prior is "confidence"."""
        super().on_epoch_start(epoch, train_scores)
        self.log_distribution.fill_(-math.log(len(self.log_distribution)))
        if self.config.prior == "confidence":
            self.positives.copy_(column_sums(self.confidence, self.positives.device))

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch; after it, the distribution and then the confidences are updated from the batch."""
        logits = at_least_float32(model(batch.images).logits)
        candidates = batch.observed == PRESENT
        with torch.autocast(logits.device.type, enabled=False):
            whole = self._global_batch(batch, candidates)
            pseudo = whole.pseudo[whole.own]
            losses = self._losses(logits, pseudo, whole.in_loss[whole.own])
            chosen = self._chosen(losses.mean(dim=1), whole)
        mix = self._mix_loss(model, batch.images, chosen, whole)
        with torch.autocast(logits.device.type, enabled=False):
            self._learn(logits, candidates, whole)
        total = losses.mean() + self.weight * mix
        parts = {
            "pseudo": losses.mean(),
            "mix": mix,
            "pseudo_positives": pseudo.sum(dim=1).double().mean(),
            "chosen": chosen.double().mean(),
        }
        detached = {name: part.detach() for name, part in parts.items()}
        return LossOutput(total, logits.detach(), detached, candidates & ~pseudo)

    @property
    def ramp(self) -> float:
        """Height of the ramps in this epoch."""
        return ramp(self.epoch, self.config.ramp_epochs or self.info.epochs)

    @property
    def weight(self) -> float:
        """Weight of the mixup loss in this epoch."""
        return self.config.eta * self.ramp

    @property
    def alpha(self) -> float:
        """Share of a batch that is to be chosen in this epoch."""
        start, end = self.config.alpha_range
        return start + (end - start) * self.ramp

    def _losses(self, logits: Tensor, targets: Tensor, in_loss: Tensor) -> Tensor:
        """(B, C) distribution-balanced losses against hard or soft targets, weighted by `in_loss` (0 to 1)."""
        losses = distribution_balanced(logits, targets.to(logits.dtype), self.frequencies, self.config)
        return losses * in_loss.to(losses.dtype)

    def _global_batch(self, batch: Batch, candidates: Tensor) -> _NDLPGlobalBatch:
        """The global batch and its pseudo labels; confidences are the same on every rank, so only rows are sent."""
        config, rows, candidates = self.config, gather_rows(batch.index), gather_rows(candidates)
        on_host = batch.host_index if world_size() == 1 else None
        confidence = read_rows(self.confidence, rows, on_host)
        if self.epoch <= config.candidate_epochs:
            soft, pseudo = candidates.double(), candidates
        else:
            soft = self.rules.sharpened(confidence, config.gamma)
            pseudo = pseudo_labels(soft, class_thresholds(self.confidence, rows.device))
        in_loss = pseudo | ~candidates if config.rejected == "ignored" else torch.ones_like(pseudo)
        own = own_rows(len(batch.index))
        return _NDLPGlobalBatch(rows, on_host, confidence, counted_rows(rows), soft, pseudo, in_loss, own)

    def _chosen(self, losses: Tensor, whole: _NDLPGlobalBatch) -> Tensor:
        """(B,) bool of the global batch: the images whose pseudo labels are trusted."""
        distribution = torch.softmax(self.log_distribution, dim=0)  # uniform comes back as exactly 1/C
        wanted = rows_wanted(distribution, whole.counted.sum(), self.alpha)
        pseudo = whole.pseudo & (whole.counted > 0)[:, None]
        return reliable_rows(gather_rows(losses), pseudo, wanted)

    def _mix_loss(self, model: Model, images: Tensor, chosen: Tensor, whole: _NDLPGlobalBatch) -> Tensor:
        """This rank's addend to the mean loss on mixtures of the chosen images; 0 where there is none.

        The ranks share the mixtures evenly, two or more each, whichever rank the images are from.
        """
        nothing = images.new_zeros(())
        if self.weight == 0:
            return nothing
        rows = chosen.nonzero().squeeze(1)  # the one wait of a step: how many images pass a second time
        sharing = min(world_size(), len(rows) // 2)
        if sharing == 0:  # BatchNorm cannot normalise a single image
            return nothing
        mixture = draw_mixture(len(rows), self.config.mixup_beta, images.device)
        mixed = mixture.of(gather_rows(images)[rows])
        if rank() >= sharing:
            return nothing
        mine = slice(rank(), None, sharing)
        targets, in_loss = (mixture.of(each[rows].double())[mine] for each in (whole.soft, whole.in_loss))
        kept = self.options.mix_statistics == "kept"
        with running_statistics_kept(model) if kept else nullcontext():
            logits = at_least_float32(model(mixed[mine]).logits)
        with torch.autocast(logits.device.type, enabled=False):
            mean = self._losses(logits, targets, in_loss).mean(dim=1).sum() / len(rows)
        # The engine weights a rank's loss by its share of the batch, which is not its share of the mixtures.
        return mean * (len(whole.rows) / len(images))

    @torch.no_grad()
    def _learn(self, logits: Tensor, candidates: Tensor, whole: _NDLPGlobalBatch) -> None:
        """Update the distribution from the old confidences, then the confidences from the predictions."""
        if self.options.update_logits == "biased":
            logits = logits + logit_bias(self.frequencies, self.config).to(logits)
        shares = class_shares(whole.confidence * whole.counted[:, None])
        self.log_distribution.copy_(self._next_distribution(shares))
        predicted = gather_rows(self.rules.predicted(logits, candidates))
        predicted = one_per_image(predicted, whole.rows, self.options.repeats)
        moved = moved_confidence(whole.confidence, predicted, self.config.mu)
        write_rows(self.confidence, whole.rows[whole.own], moved[whole.own], whole.on_host)

    def _next_distribution(self, shares: Tensor) -> Tensor:
        """(C,) logarithm of the distribution after a batch with these class shares (C,)."""
        if self.options.distribution == "reference":
            return refined_distribution(self.log_distribution, shares)
        config = self.config
        return bounded_distribution(
            self.log_distribution, shares, mu=config.distribution_mu, max_ratio=config.max_ratio
        )
