"""NDLP: long-tailed classes under candidate labels, learnt from pseudo labels that correct themselves.

B batch, C classes, N training images, n images chosen for mixup. Source: NDLP, published code zhongjingyu1/NDLP,
`main/train.py`. Formulas, and every place where this differs from that code: docs/methods/ndlp.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_type_hints

import torch
from torch import Tensor

from losses.common.base import ScheduledCriterion
from losses.common.functional import at_least_float32
from losses.common.memory import check_memory, write_rows
from losses.common.mixup import draw_mixture, running_statistics_kept
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
from utils.checks import UserError, require
from utils.collectives import gather_rows, rank, world_size
from utils.console import say
from utils.options import converter, option
from utils.types import PRESENT, Batch, CriterionInfo, LossOutput, Model

Distribution = Literal["bounded", "reference"]
UpdateLogits = Literal["plain", "biased"]
MixStatistics = Literal["kept", "updated"]
NDLPPrior = Literal["clean", "candidate", "confidence"]
Confidence = Literal["softmax", "sigmoid"]
Rejected = Literal["absent", "ignored"]


class NDLPVariant(NamedTuple):
    """The places where the published code does not do what it should, and what is done there."""

    distribution: Distribution
    update_logits: UpdateLogits
    repeats: Repeats
    mix_statistics: MixStatistics


VARIANTS = {
    "fixed": NDLPVariant("bounded", "plain", "mean", "kept"),
    "reference": NDLPVariant("reference", "biased", "last", "updated"),
}


class Rules(NamedTuple):
    """How confidences are sharpened and what a prediction says of them."""

    sharpened: Callable[[Tensor, float], Tensor]
    predicted: Callable[[Tensor, Tensor], Tensor]


RULES: Mapping[Confidence, Rules] = {
    "softmax": Rules(sharpened, predicted_confidence),
    "sigmoid": Rules(sharpened_each, predicted_confidence_each),
}


@dataclass(frozen=True, kw_only=True)
class NDLPConfig(BalanceConfig):
    """Settings of NDLP; the defaults are the published voc-lt ones. A member left None is what `variant` says.

    Raises: UserError for a value that cannot work.
    """

    gamma: float = option(3.0, "exponent that sharpens an image's label confidences (paper: 3 on voc-lt, else 2)")
    eta: float = option(0.9, "weight of the mixup loss at the end of its ramp")
    alpha_range: str = option("0.4,0.8", "share of a batch that is chosen for mixup: at the ramp's start, at its end")
    ramp_epochs: int | None = option(
        None, "epochs over which both ramps rise, from the first (default: all epochs, so that no end is reached)"
    )
    mu: float = option(0.1, "share of the newest prediction in the moving average of the confidences")
    mixup_beta: float = option(4.0, "both parameters of the Beta distribution that mixup draws its portion from")
    prior: NDLPPrior = option(
        "clean",
        "where the loss has its class frequencies from: the clean labels, as published, although candidates hide them; "
        "the candidate labels; or the confidences, anew every epoch",
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
    max_ratio: float = option(10.0, "distribution bounded: furthest that a batch moves a class from uniform")
    variant: Literal["fixed", "reference"] = option("fixed", "what works as it should, or what the published code does")
    distribution: Distribution | None = option(
        None, "which classes get more images chosen: running mean within bounds, or the published growing quotient"
    )
    update_logits: UpdateLogits | None = option(
        None, "confidences follow the logits that testing sees, or those with the loss's class bias"
    )
    repeats: Repeats | None = option(
        None, "an image that a batch holds more than once moves by the mean of its predictions, or by the last"
    )
    mix_statistics: MixStatistics | None = option(
        None, "BatchNorm's running statistics in the mixup pass: kept as they are, or updated by mixed images"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.variant in VARIANTS, f"variant must be one of {', '.join(VARIANTS)}, got {self.variant!r}")
        for name, value in self.members()._asdict().items():
            object.__setattr__(self, name, value)
        hints = get_type_hints(NDLPConfig)
        for name in ("prior", "confidence", "rejected", *NDLPVariant._fields):
            value, choices = getattr(self, name), converter(hints[name])[1]
            require(value in choices, f"{name} must be one of {', '.join(choices)}, got {value!r}")
        _check_numbers(self)

    def members(self) -> NDLPVariant:
        """The members in force: each as it was set, or else as `variant` says."""
        said = {name: getattr(self, name) for name in NDLPVariant._fields}
        return VARIANTS[self.variant]._replace(**{name: value for name, value in said.items() if value is not None})

    @property
    def alphas(self) -> tuple[float, float]:
        """The two ends of `alpha_range`."""
        return parse_range(self.alpha_range)


def parse_range(text: str) -> tuple[float, float]:
    """Two shares from a text such as "0.4,0.8". Raises: UserError unless it is two numbers in [0, 1]."""
    try:
        start, end = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"alpha_range must be two shares such as 0.4,0.8, got {text!r}") from None
    require(0 <= start <= 1 and 0 <= end <= 1, f"alpha_range must hold shares in [0, 1] such as 0.4,0.8, got {text}")
    return start, end


def _check_numbers(config: NDLPConfig) -> None:
    parse_range(config.alpha_range)
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
    """How far a ramp of `length` epochs has risen in `epoch`, from 1: 0 in the first, 1 after `length` of them."""
    return min((epoch - 1) / length, 1.0)


def own_rows(count: int) -> slice:
    """Where this rank's `count` rows stand among the rows of all ranks."""
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


class Everyone(NamedTuple):
    """A batch as all ranks see it: the rows of all of them, rank 0's first (B is the global batch)."""

    rows: Tensor  # (B,) long, of the training set
    counted: Tensor  # (B,) float64: 1, or 0 for a row that only pads a batch smaller than the number of ranks
    soft: Tensor  # (B, C) sharpened confidences
    pseudo: Tensor  # (B, C) bool
    judged: Tensor  # (B, C) bool, the labels that count in the loss
    own: slice  # the rows of this rank


class NDLP(ScheduledCriterion):
    """NDLP: distribution-balanced loss on pseudo labels, and on mixtures of the images whose pseudo labels are trusted.

    State: `confidence` (N, C) float64, which candidate of an image is true; `log_distribution` (C), which classes get
    more images chosen, begun anew every epoch; `positives` (C), the class frequencies of the loss; the epoch. Logged:
    `pseudo` and `mix`, the two losses, `pseudo_positives`, their mean number an image, and `chosen`, the share of the
    global batch that was trusted, which from the second epoch on is mixed.
    """

    single_pass = False
    config: NDLPConfig
    confidence: Tensor
    log_distribution: Tensor
    positives: Tensor

    def __init__(self, config: NDLPConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        self.members, self.rules = config.members(), RULES[config.confidence]
        classes = info.observed.num_classes
        check_memory(info.observed, 8, "NDLP keeps a confidence")
        confidence = initial_confidence(info.observed)
        require(
            bool(((confidence > 0) & (confidence < 1)).any()),
            "ndlp: no image has several candidates, so no label could ever be believed more than another; take "
            "--labels candidate, or another method",
        )
        self.register_buffer("confidence", confidence)
        self.register_buffer("log_distribution", torch.full((classes,), -math.log(classes), dtype=torch.float64))
        self.register_buffer("positives", self._positives())

    def _positives(self) -> Tensor:
        """(C,) float64 by the prior, which is said, for it matters what the loss may know."""
        prior = self.config.prior
        if prior == "confidence":
            if rank() == 0:
                say("--prior confidence: class frequencies are estimated from the candidate labels, anew every epoch")
            return self.confidence.sum(dim=0)
        return class_frequencies(self.info, prior).positives

    @property
    def frequencies(self) -> PositiveCounts:
        """What the loss knows of how often the classes occur."""
        return PositiveCounts(self.positives, len(self.info.observed))

    def on_epoch_start(self, epoch: int, train_scores: Tensor | None = None) -> None:
        """The distribution begins anew; the class frequencies follow the confidences if the prior says so."""
        super().on_epoch_start(epoch, train_scores)
        self.log_distribution.fill_(-math.log(len(self.log_distribution)))
        if self.config.prior == "confidence":
            self.positives.copy_(self.confidence.sum(dim=0))

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch; after it, the distribution and then the confidences take in what the batch says."""
        logits = at_least_float32(model(batch.images).logits)
        candidates = batch.observed == PRESENT
        with torch.autocast(logits.device.type, enabled=False):
            everyone = self._everyone(batch.index, candidates)
            pseudo = everyone.pseudo[everyone.own]
            losses = self._losses(logits, pseudo, everyone.judged[everyone.own])
            chosen = self._chosen(losses.detach().mean(dim=1), everyone)
        mix = self._mix_loss(model, batch.images, chosen, everyone)
        with torch.autocast(logits.device.type, enabled=False):
            self._learn(logits.detach(), candidates, everyone)
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
        """How far the ramps have risen in this epoch."""
        return ramp(self.epoch, self.config.ramp_epochs or self.info.epochs)

    @property
    def weight(self) -> float:
        """Of the mixup loss in this epoch."""
        return self.config.eta * self.ramp

    @property
    def alpha(self) -> float:
        """Share of a batch that is to be chosen in this epoch."""
        start, end = self.config.alphas
        return start + (end - start) * self.ramp

    def _losses(self, logits: Tensor, targets: Tensor, judged: Tensor) -> Tensor:
        """(B, C) distribution-balanced losses against hard or soft targets, as far (0 to 1) as a label is judged."""
        losses = distribution_balanced(logits, targets.to(logits.dtype), self.frequencies, self.config)
        return losses * judged.to(losses.dtype)

    def _everyone(self, index: Tensor, candidates: Tensor) -> Everyone:
        """The global batch and its pseudo labels; confidences are the same on every rank, so only rows are told."""
        config, rows, candidates = self.config, gather_rows(index), gather_rows(candidates)
        if self.epoch <= config.candidate_epochs:
            soft, pseudo = candidates.double(), candidates
        else:
            soft = self.rules.sharpened(self.confidence[rows], config.gamma)
            pseudo = pseudo_labels(soft, class_thresholds(self.confidence))
        judged = pseudo | ~candidates if config.rejected == "ignored" else torch.ones_like(pseudo)
        return Everyone(rows, counted_rows(rows), soft, pseudo, judged, own_rows(len(index)))

    def _chosen(self, losses: Tensor, everyone: Everyone) -> Tensor:
        """(B,) bool of the global batch: the images whose pseudo labels are trusted."""
        distribution = torch.softmax(self.log_distribution, dim=0)  # uniform comes back as exactly 1/C
        wanted = rows_wanted(distribution, everyone.counted.sum(), self.alpha)
        pseudo = everyone.pseudo & (everyone.counted > 0)[:, None]
        return reliable_rows(gather_rows(losses), pseudo, wanted)

    def _mix_loss(self, model: Model, images: Tensor, chosen: Tensor, everyone: Everyone) -> Tensor:
        """This rank's addend to the mean loss on mixtures of the chosen images; 0 where there is none.

        The ranks share the mixtures evenly, two or more each, whoever's images they are made of.
        """
        nothing = images.new_zeros(())
        if self.weight == 0:
            return nothing
        rows = chosen.nonzero().squeeze(1)  # the one wait of a step: how many images pass a second time
        sharing = min(world_size(), len(rows) // 2)
        if sharing == 0:  # BatchNorm cannot normalise a single image
            return nothing
        mixture = draw_mixture(len(rows), self.config.mixup_beta, images.device)
        pictures = mixture.of(gather_rows(images)[rows])
        if rank() >= sharing:
            return nothing
        mine = slice(rank(), None, sharing)
        targets, judged = (mixture.of(each[rows].double())[mine] for each in (everyone.soft, everyone.judged))
        kept = self.members.mix_statistics == "kept"
        with running_statistics_kept(model) if kept else nullcontext():
            logits = at_least_float32(model(pictures[mine]).logits)
        with torch.autocast(logits.device.type, enabled=False):
            mean = self._losses(logits, targets, judged).mean(dim=1).sum() / len(rows)
        # The engine weights a rank's loss by its share of the batch, which says nothing of its share of the mixtures.
        return mean * (len(everyone.rows) / len(images))

    @torch.no_grad()
    def _learn(self, logits: Tensor, candidates: Tensor, everyone: Everyone) -> None:
        """Move the distribution by the confidences as they were, then the confidences by the predictions."""
        if self.members.update_logits == "biased":
            logits = logits + logit_bias(self.frequencies, self.config).to(logits)
        confidence = self.confidence[everyone.rows]
        self.log_distribution.copy_(self._next_distribution(class_shares(confidence * everyone.counted[:, None])))
        predicted = gather_rows(self.rules.predicted(logits, candidates))
        predicted = one_per_image(predicted, everyone.rows, self.members.repeats)
        moved = moved_confidence(confidence, predicted, self.config.mu)
        write_rows(self.confidence, everyone.rows[everyone.own], moved[everyone.own])

    def _next_distribution(self, shares: Tensor) -> Tensor:
        """(C,) its logarithm after a batch with these class shares (C,)."""
        if self.members.distribution == "reference":
            return refined_distribution(self.log_distribution, shares)
        config = self.config
        return bounded_distribution(
            self.log_distribution, shares, mu=config.distribution_mu, max_ratio=config.max_ratio
        )
