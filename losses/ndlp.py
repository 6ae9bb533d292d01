"""NDLP: long-tailed classes under candidate labels, learnt from pseudo labels that are refined in training.

B batch, C classes, N training images, n images chosen for mixup. Source: NDLP, published code zhongjingyu1/NDLP,
`main/train.py`. Formulas, and all differences from that code: docs/methods/ndlp.md.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from losses.common.base import ScheduledCriterion
from losses.common.candidate_memory import CandidateMemory, ClassTotals, candidate_need
from losses.common.functional import at_least_float32
from losses.common.global_batch import GlobalBatch, beside
from losses.common.memory import MemoryNeed
from losses.common.mixup import draw_mixture, running_statistics_kept
from losses.common.variants import fill_variant_options, variant_options
from losses.distribution_balanced import BalanceConfig, distribution_balanced, logit_bias
from losses.ndlp_confidence import (
    RULES,
    Confidence,
    Repeats,
    bounded_distribution,
    class_shares,
    class_thresholds,
    moved_confidence,
    moved_totals,
    one_per_image,
    pseudo_labels,
    refined_distribution,
    reliable_rows,
    rows_wanted,
)
from losses.reweighted import PositiveCounts, class_frequencies
from utils.checks import require
from utils.collectives import rank, world_size
from utils.console import say
from utils.options import as_text, option
from utils.types import PRESENT, Batch, CriterionInfo, LossOutput, Model

Distribution = Literal["bounded", "reference"]
UpdateLogits = Literal["plain", "biased"]
MixStatistics = Literal["kept", "updated"]
NDLPPrior = Literal["clean", "candidate", "confidence"]
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


class _Labels(NamedTuple):
    """What is believed of the labels of some images, each (B, C)."""

    soft: Tensor  # sharpened confidences
    pseudo: Tensor  # bool, pseudo labels
    in_loss: Tensor  # bool, labels that count in the loss


class _Rows(NamedTuple):
    """What the ranks tell each other of the images of the global batch."""

    losses: Tensor  # (G,) mean of each image
    predicted: Tensor  # (G, C) float64, confidences by the newest logits
    candidates: Tensor  # (G, C) bool


class _Everyone(NamedTuple):
    """The batch of all ranks, G images."""

    batch: GlobalBatch
    confidence: Tensor  # (G, C) before the step
    rows: _Rows
    labels: _Labels


def _exchanged(whole: GlobalBatch, losses: Tensor, predicted: Tensor, candidates: Tensor) -> _Rows:
    """The rows of all ranks, in one exchange. Losses (B,), predicted confidences and candidates (B, C) of this one."""
    rows = whole.rows(torch.cat([losses[:, None].double(), predicted, candidates.double()], dim=1))
    losses, predicted, candidates = torch.split(rows, [1, *[candidates.shape[1]] * 2], dim=1)
    return _Rows(losses.squeeze(1), predicted, candidates.bool())


class NDLP(ScheduledCriterion):
    """NDLP: distribution-balanced loss on pseudo labels, and on mixtures of the images whose pseudo labels are trusted.

    State: `confidence`, float64, which candidate of an image is true; `sums` and `counts` (C), of all confidences,
    brought up to date by each step and taken anew every epoch; `log_distribution` (C), which classes get more images
    chosen, begun anew every epoch; `positives` (C), the class frequencies of the loss; the epoch. Logged:
    `pseudo` and `mix`, the two losses, `pseudo_positives`, their mean number per image, and `chosen`, the share of the
    global batch that was trusted, which from the second epoch on is mixed.
    """

    single_pass = False
    passes_alike = False
    label_memories = frozenset({"confidence"})
    config: NDLPConfig
    sums: Tensor
    counts: Tensor
    log_distribution: Tensor
    positives: Tensor

    def __init__(self, config: NDLPConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        self.options, self.rules = variant_options(config, VARIANTS), RULES[config.confidence]
        self.ramp_epochs = config.ramp_epochs or info.epochs
        classes = info.observed.num_classes
        self.confidence = CandidateMemory(info.observed, torch.float64)
        require(
            self.confidence.widest > 1,
            "ndlp: no image has several candidates, so no label could ever be believed more than another; take "
            "--labels candidate, or another method",
        )
        for name, total in self.confidence.class_totals()._asdict().items():
            self.register_buffer(name, total)
        self.register_buffer("log_distribution", torch.full((classes,), -math.log(classes), dtype=torch.float64))
        self.register_buffer("positives", self._positives())

    @classmethod
    def memory_needs(cls, config: NDLPConfig, info: CriterionInfo) -> list[MemoryNeed]:
        """The confidences."""
        return [candidate_need("confidences", info.observed, torch.float64)]

    def _positives(self) -> Tensor:
        """(C,) float64 class counts by the prior, which is printed where the loss uses more than candidate labels."""
        prior = self.config.prior
        if prior == "confidence":
            if rank() == 0:
                say("--prior confidence: class frequencies are estimated from the candidate labels, anew every epoch")
            return self.sums.clone()
        return class_frequencies(self.info, prior).positives

    @property
    def totals(self) -> ClassTotals:
        """Sums and counts of all confidences."""
        return ClassTotals(self.sums, self.counts)

    def _keep(self, totals: ClassTotals) -> None:
        for kept, total in zip(self.totals, totals, strict=True):
            kept.copy_(total)

    def convert_earlier(self, state: dict[str, Any], prefix: str) -> list[str]:
        """As of any criterion; earlier versions had no sums and counts."""
        earlier = super().convert_earlier(state, prefix)
        if earlier:
            totals = self.confidence.class_totals(state[f"{prefix}confidence.values"])
            state.update({f"{prefix}{name}": total for name, total in totals._asdict().items()})
        return earlier

    @property
    def frequencies(self) -> PositiveCounts:
        """Class frequencies that the loss uses."""
        return PositiveCounts(self.positives, len(self.info.observed))

    def on_epoch_start(self, epoch: int, train_scores: Tensor | None = None) -> None:
        """Reset the distribution, add up all confidences, and take class frequencies if the prior is "confidence"."""
        super().on_epoch_start(epoch, train_scores)
        self._keep(self.confidence.class_totals())  # what rounding has added up in an epoch is left behind
        self.log_distribution.fill_(-math.log(len(self.log_distribution)))
        if self.config.prior == "confidence":
            self.positives.copy_(self.sums)

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch; after it, the distribution and then the confidences are updated from the batch."""
        logits, whole = at_least_float32(model(batch.images).logits), GlobalBatch(batch)
        candidates = batch.observed == PRESENT
        with torch.autocast(logits.device.type, enabled=False):
            confidence, thresholds = self.confidence.rows(whole.index, whole.host_index), self._thresholds()
            _, pseudo, in_loss = self._labels(whole.own(confidence), candidates, thresholds)
            losses = self._losses(logits, pseudo, in_loss)
            rows = _exchanged(whole, losses.mean(dim=1), self._predicted(logits, candidates), candidates)
            everyone = _Everyone(whole, confidence, rows, self._labels(confidence, rows.candidates, thresholds))
            chosen = self._chosen(everyone)
        mix = self._mix_loss(model, batch.images, chosen, everyone)
        with torch.autocast(logits.device.type, enabled=False):
            self._learn(everyone)
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
        return ramp(self.epoch, self.ramp_epochs)

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

    def _thresholds(self) -> Tensor | None:
        """(C,) confidence above which a candidate is a pseudo label; None while every one is."""
        if self.epoch <= self.config.candidate_epochs:
            return None
        return class_thresholds(self.totals)

    def _labels(self, confidence: Tensor, candidates: Tensor, thresholds: Tensor | None) -> _Labels:
        """What is believed of images with these confidences and candidates, (B, C)."""
        if thresholds is None:
            soft, pseudo = candidates.double(), candidates
        else:
            soft = self.rules.sharpened(confidence, self.config.gamma)
            pseudo = pseudo_labels(soft, thresholds)
        ignored = self.config.rejected == "ignored"
        return _Labels(soft, pseudo, pseudo | ~candidates if ignored else torch.ones_like(pseudo))

    def _predicted(self, logits: Tensor, candidates: Tensor) -> Tensor:
        """(B, C) float64 confidences by logits (B, C)."""
        if self.options.update_logits == "biased":
            logits = logits.detach() + logit_bias(self.frequencies, self.config).to(logits)
        return self.rules.predicted(logits, candidates)

    def _chosen(self, everyone: _Everyone) -> Tensor:
        """(G,) bool: the images whose pseudo labels are trusted."""
        distribution = torch.softmax(self.log_distribution, dim=0)  # uniform comes back as exactly 1/C
        wanted = rows_wanted(distribution, everyone.batch.size, self.alpha)
        return reliable_rows(everyone.rows.losses, everyone.labels.pseudo, wanted)

    def _mix_loss(self, model: Model, images: Tensor, chosen: Tensor, everyone: _Everyone) -> Tensor:
        """This rank's addend to the mean loss on mixtures of the chosen images; 0 where there is none.

        The ranks share the mixtures evenly, two or more each, whichever rank the images are from.
        """
        nothing = images.new_zeros(())
        if self.weight == 0:
            return nothing
        # The one wait of a step: how many images pass a second time; several ranks ask each other for single images.
        rows = (chosen if world_size() == 1 else chosen.cpu()).nonzero().squeeze(1)
        sharing = min(world_size(), len(rows) // 2)
        if sharing == 0:  # BatchNorm cannot normalise a single image
            return nothing
        mixture = draw_mixture(len(rows), self.config.mixup_beta, rows.device)
        pairs = torch.stack([rows, rows[mixture.partners]])  # (2, n) places in the global batch
        shares = [pairs[:, start::sharing] if start < sharing else pairs[:, :0] for start in range(world_size())]
        own = everyone.batch.fetch(images, [share.flatten() for share in shares])
        if rank() >= sharing:
            return nothing
        kept = self.options.mix_statistics == "kept"
        with running_statistics_kept(model) if kept else nullcontext():
            logits = at_least_float32(model(mixture.of(*own.chunk(2))).logits)
        with torch.autocast(logits.device.type, enabled=False):
            places = beside(shares[rank()], images.device)
            targets, in_loss = (
                mixture.of(*each[places].double()) for each in (everyone.labels.soft, everyone.labels.in_loss)
            )
            mean = self._losses(logits, targets, in_loss).mean(dim=1).sum() / len(rows)
        # The engine weights a rank's loss by its share of the batch, which is not its share of the mixtures.
        return mean / everyone.batch.share

    @torch.no_grad()
    def _learn(self, everyone: _Everyone) -> None:
        """Update the distribution from the old confidences, then these, and their totals, from the predictions."""
        batch, confidence = everyone.batch, everyone.confidence
        self.log_distribution.copy_(self._next_distribution(class_shares(confidence)))
        predicted = one_per_image(everyone.rows.predicted, batch.index, self.options.repeats)
        moved = moved_confidence(confidence, predicted, self.config.mu)
        self._keep(moved_totals(self.totals, confidence, moved, batch.index))
        self.confidence.store(batch.index, moved, batch.host_index)

    def _next_distribution(self, shares: Tensor) -> Tensor:
        """(C,) logarithm of the distribution after a batch with these class shares (C,)."""
        if self.options.distribution == "reference":
            return refined_distribution(self.log_distribution, shares)
        config = self.config
        return bounded_distribution(
            self.log_distribution, shares, mu=config.distribution_mu, max_ratio=config.max_ratio
        )
