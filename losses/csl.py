"""CSL: unknown labels count as absent, except those of frequent classes and the most likely ones of the batch.

B batch, G rows of the global batch, C classes, p the sigmoid of the logits. Source: Ben-Baruch et al., CVPR 2022, arXiv
2110.10955: class-aware selective loss and partial asymmetric loss (P-ASL). Published code:
Alibaba-MIIL/PartialLabelingCSL, `src/loss_functions/partial_asymmetric_loss.py`. Differences: docs/methods/csl.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.asl import reduced
from losses.common.base import Criterion
from losses.common.class_priors import ClassPriorConfig, chosen_priors
from losses.common.functional import at_least_float32
from losses.common.global_batch import GlobalBatch
from losses.large_loss import kth_largest
from losses.single_positive import require_known
from utils.checks import require
from utils.class_facts import ClassPriors
from utils.collectives import rank
from utils.console import warn
from utils.options import option
from utils.types import ABSENT, PRESENT, UNKNOWN, Batch, CriterionInfo, LossOutput, Model

Mode = Literal["selective", "negative", "ignore", "ignore_normalize_classes"]
Variant = Literal["fixed", "reference"]

GUARD = 1e-8
"""Least argument of a logarithm in the published code."""

_SHOWN = 5  # classes that a message names


class PerKind(NamedTuple):
    """A number for present labels, one for absent and one for unknown ones."""

    present: float
    absent: float
    unknown: float

    def of(self, observed: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, C) the number of each label's kind."""
        numbers = torch.full_like(observed, self.absent, dtype=dtype)
        return numbers.masked_fill(observed == UNKNOWN, self.unknown).masked_fill(observed == PRESENT, self.present)


@dataclass(frozen=True, kw_only=True)
class CSLConfig(ClassPriorConfig):
    """Settings of CSL. Raises: UserError for a value that cannot work."""

    csl_mode: Mode = option(
        "selective",
        "unknown labels count as absent: some of them (selective), all (negative) or none (ignore; "
        "ignore_normalize_classes also weighs images with few known labels more)",
        aliases=("partial_loss_mode",),
    )
    likelihood_topk: int = option(
        5, "selective: so many unknown labels per image, the likeliest of the batch, are left out"
    )
    prior_threshold: float = option(0.5, "selective: unknown labels of classes with a prior above this are left out")
    gamma_pos: float = option(0.0, "focusing exponent of present labels")
    gamma_neg: float = option(1.0, "focusing exponent of labels known to be absent")
    gamma_unknown: float = option(4.0, "focusing exponent of unknown labels", aliases=("gamma_unann",))
    alpha_pos: float = option(1.0, "weight of present labels")
    alpha_neg: float = option(1.0, "weight of labels known to be absent")
    alpha_unknown: float = option(1.0, "weight of unknown labels", aliases=("alpha_unann",))
    clip: float = option(0.0, "margin by which the probability of a label that is not present is lowered; 0: none")
    reduction: Literal["sum", "mean"] = option("sum", "sum over the batch, or mean over B*C")
    variant: Variant = option("fixed", "exact logarithms, or cut off at 1e-8 as in the published code")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gamma_pos", "gamma_neg", "gamma_unknown", "alpha_pos", "alpha_neg", "alpha_unknown"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"--{name} {value}: must be 0 or more")
        require(0 <= self.clip < 1, f"--clip {self.clip}: must be in [0, 1); the published value is 0")
        require(
            self.likelihood_topk >= 0, f"--likelihood_topk {self.likelihood_topk}: must be 0 or more; published is 5"
        )
        require(
            0 <= self.prior_threshold <= 1,
            f"--prior_threshold {self.prior_threshold}: must be in [0, 1]; the published value is 0.5",
        )
        wants = "observed" if self.prior == "observed" else f"{self.prior_file}"
        require(
            self.csl_mode == "selective" or (self.prior == "none" and self.prior_file is None),
            f"--csl_mode {self.csl_mode}: uses no class priors ({wants}); leave them out, or take --csl_mode selective",
        )

    @property
    def gammas(self) -> PerKind:
        """The focusing exponents."""
        return PerKind(self.gamma_pos, self.gamma_neg, self.gamma_unknown)

    @property
    def alphas(self) -> PerKind:
        """The weights."""
        return PerKind(self.alpha_pos, self.alpha_neg, self.alpha_unknown)


def partial_asymmetric_losses(
    logits: Tensor, observed: Tensor, *, gammas: PerKind, alphas: PerKind, clip: float, variant: Variant = "fixed"
) -> Tensor:
    """P-ASL: -alpha (1-p)^gamma log p where present, else -alpha (1-x)^gamma log x with x = min(1, 1 - p + clip).

    Alpha and gamma are those of the label's kind. No gradient goes through the focusing weight.

    Args:
        logits: (B, C) in single precision at least.
        observed: (B, C) label codes.
        gammas: focusing exponents.
        alphas: weights.
        clip: margin, 0 for none.
        variant: "reference" cuts logarithms off at 1e-8, below which there is no gradient.

    Returns:
        (B, C), finite with finite gradients for finite logits.
    """
    is_present = observed == PRESENT
    p, absent = torch.sigmoid(logits), torch.sigmoid(-logits)
    x = (absent + clip).clamp(max=1)
    if variant == "reference":
        logs = torch.where(is_present, p, x).clamp(min=GUARD).log()
    else:
        logs = torch.where(is_present, F.logsigmoid(logits), F.logsigmoid(-logits) if clip == 0 else x.log())
    missing = torch.where(is_present, absent, (p - clip).clamp(min=0)).detach()
    return -alphas.of(observed, logits.dtype) * missing ** gammas.of(observed, logits.dtype) * logs


def largest(scores: Tensor, count: int) -> Tensor:
    """Bool of the shape of `scores`: the `count` largest of those above -inf, or all; of equal ones the first.

    Nothing waits for the device.
    """
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = kth_largest(scores, count)
    above = scores > threshold
    equal = (scores == threshold) & (scores > -math.inf)
    before = equal.flatten().cumsum(dim=0).reshape(scores.shape)
    return above | (equal & (before <= count - above.sum()))


def known_weights(observed: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 1) weight 1 + 1 / (1 + k) of an image with k known labels, of labels (B, C)."""
    known = (observed != UNKNOWN).sum(dim=1, keepdim=True)
    return 1 + 1 / (1 + known.to(dtype))


class CSL(Criterion):
    """Class-aware selective loss with P-ASL (CVPR 2022).

    The likeliest unknown labels are those of the GLOBAL batch. State: none but the class priors, where it has them,
    which a run that resumes keeps. Logged: `positive`, `negative` and `unknown`, the parts of the mean over B*C that
    labels of each kind make up; `dropped`, the mean number of unknown labels per image that are left out.

    Raises: UserError if labels are not known as the mode needs it, or classes would only ever be taught to be present.
    """

    config: CSLConfig
    prior: Tensor | None

    def __init__(self, config: CSLConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        _require_labels(config, info)
        priors = chosen_priors(config, info)
        if priors is not None:
            _check_frequent(config, info, priors)
        self.register_buffer("prior", None if priors is None else torch.tensor(priors.values, dtype=torch.float64))
        self._origin = "" if priors is None else priors.origin

    @property
    def estimates_priors(self) -> bool:
        """True in the modes of ignore: unknown labels have no part in them."""
        return self.config.csl_mode in ("ignore", "ignore_normalize_classes")

    def class_priors(self) -> ClassPriors | None:
        """Those by which unknown labels of frequent classes are left out."""
        return None if self.prior is None else ClassPriors(self.prior.cpu().numpy(), self._origin)

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        logits, config, observed = at_least_float32(model(batch.images).logits), self.config, batch.observed
        dropped = self._dropped(logits.detach(), batch)
        losses = partial_asymmetric_losses(
            logits, observed, gammas=config.gammas, alphas=config.alphas, clip=config.clip, variant=config.variant
        ).masked_fill(dropped, 0)
        if config.csl_mode == "ignore_normalize_classes":
            losses = losses * known_weights(observed, logits.dtype)
        kinds = {"positive": PRESENT, "negative": ABSENT, "unknown": UNKNOWN}
        parts = {name: losses.detach().where(observed == code, 0).mean() for name, code in kinds.items()}
        parts["dropped"] = dropped.sum(dim=1, dtype=logits.dtype).mean()
        total = losses.mean() if config.reduction == "mean" else reduced(losses, batch, "sum")
        return LossOutput(total, logits.detach(), parts, dropped if config.csl_mode == "selective" else None)

    def _dropped(self, logits: Tensor, batch: Batch) -> Tensor:
        """(B, C) bool, the unknown labels that are left out."""
        unknown, config = batch.observed == UNKNOWN, self.config
        if config.csl_mode != "selective":
            return unknown if self.estimates_priors else torch.zeros_like(unknown)
        dropped = self._likeliest(logits.masked_fill(~unknown, -math.inf), batch)
        if self.prior is not None:
            dropped = dropped | (unknown & (self.prior > config.prior_threshold))
        return dropped

    def _likeliest(self, scores: Tensor, batch: Batch) -> Tensor:
        """(B, C) bool, those of this process among the K*G largest scores of the global batch; scores (B, C)."""
        if self.config.likelihood_topk == 0:
            return torch.zeros_like(scores, dtype=torch.bool)
        whole = GlobalBatch(batch)
        return whole.own(largest(whole.rows(scores), self.config.likelihood_topk * whole.size))


def _require_labels(config: CSLConfig, info: CriterionInfo) -> None:
    """Raise UserError unless there are labels of the kinds that the mode needs."""
    if config.csl_mode in ("ignore", "ignore_normalize_classes"):
        require_known(f"csl in mode {config.csl_mode}", info)
    require(
        int(info.observed.counts(PRESENT).sum()) > 0,
        "csl: no label is known to be present, so it would learn that nothing is; take labels with some positives",
    )
    require(
        config.csl_mode != "selective" or int(info.observed.counts(UNKNOWN).sum()) > 0,
        "csl: no label is unknown, so there is nothing to select; take --labels known, rps or fpc, or --csl_mode "
        "negative, which is an asymmetric loss then",
    )


def _check_frequent(config: CSLConfig, info: CriterionInfo, priors: ClassPriors) -> None:
    """Warn of classes that would only ever be taught to be present; refuse if there is no known negative at all.

    Raises: UserError.
    """
    absent = info.observed.counts(ABSENT)
    frequent = priors.values > config.prior_threshold
    alone = [info.classes[label] for label in (frequent & (absent == 0)).nonzero()[0]]
    if not alone:
        return
    more = f" and {len(alone) - _SHOWN} more" if len(alone) > _SHOWN else ""
    said = (
        f"csl: {', '.join(alone[:_SHOWN])}{more}: prior above --prior_threshold {config.prior_threshold} and no label "
        "known to be absent, so that only being present would ever be taught"
    )
    require(int(absent.sum()) > 0, f"{said}; take labels of which some are known to be absent, or no class priors")
    if rank() == 0:
        warn(f"note: {said}; a higher threshold spares them")
