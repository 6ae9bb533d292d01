"""COMES: the risk of full labels, estimated from all images and those that a class is known to be absent from.

B batch, G rows of the global batch, C classes, S the candidates. Source: ICLR 2026, arXiv 2510.04091, its
first-order method (HL) and its second-order one (RL). No code was to be had; our own choices: docs/methods/comes.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from losses.cdcr import require_candidates
from losses.common.base import Criterion
from losses.common.class_priors import ClassPriorConfig, chosen_priors
from losses.common.functional import at_least_float32
from losses.common.global_batch import GlobalBatch
from losses.common.variants import require_choices
from utils.checks import require
from utils.class_facts import ClassPriors
from utils.collectives import rank
from utils.console import warn
from utils.options import option
from utils.types import ABSENT, Batch, CriterionInfo, LabelTable, LossOutput, Model

_SHOWN = 5  # classes that a message names
_PAIRS = 1 << 24  # pairs of classes, of all images, that are compared at a time


@dataclass(frozen=True, kw_only=True)
class CandidatePriorConfig(ClassPriorConfig):
    """Origin of the class priors of candidate labels. Raises: UserError for a value that cannot work."""

    candidate_rate: float | None = option(
        None, "chance of an absent class to be a candidate, which gives class priors (default: that of --labels)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        rate = self.candidate_rate
        require(rate is None or 0 <= rate < 1, f"--candidate_rate {rate}: must be in [0, 1)")
        require(
            rate is None or (self.prior == "none" and self.prior_file is None),
            f"--candidate_rate {rate}: class priors come from it, --prior or --prior_file; leave out the others",
        )


@dataclass(frozen=True, kw_only=True)
class COMESConfig(CandidatePriorConfig):
    """Settings of COMES-HL. Raises: UserError for a value that cannot work."""

    correction: Literal["absolute", "none"] = option(
        "absolute", "the part of each class's risk that cannot be below 0 counts by its absolute value, or as it is"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choices(self)


@dataclass(frozen=True, kw_only=True)
class COMESRLConfig(CandidatePriorConfig):
    """Settings of COMES-RL. Raises: UserError for a value that cannot work."""

    flood: float = option(0.0, "b of the loss |R - b| + b, below which the risk R of a batch is not lowered; 0: none")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.flood < math.inf, f"--flood {self.flood}: must be 0 or more")


class EntryWeights(NamedTuple):
    """Weights (G, C) of each label's loss if it were present and if it were absent; risks (C,) and where one turned."""

    present: Tensor
    absent: Tensor
    present_risk: Tensor
    turned: Tensor  # bool: the estimate of the risk of present labels is below 0


def absent_shares(absent: Tensor, prior: Tensor) -> Tensor:
    """(G, C) shares of each row in (1 - prior) times the mean over the rows where a class is absent; 0 elsewhere.

    Args:
        absent: (G, C) bool.
        prior: (C,).
    """
    return (1 - prior) * absent / absent.sum(dim=0).clamp(min=1)


def outranked(logits: Tensor) -> Tensor:
    """(B, C) sum over the other classes k of sigmoid(z_j - z_k): how far class j is ranked above all others.

    Pairs are compared some classes at a time, and again for the gradient, so that B*C*C numbers are never kept.
    """
    size = max(1, _PAIRS // max(logits.numel(), 1))
    parts = torch.split(logits, size, dim=1)
    if len(parts) == 1:
        return _above(logits, logits)
    return torch.cat([_recomputed(part, logits) for part in parts], dim=1)


def _above(part: Tensor, logits: Tensor) -> Tensor:
    """(B, c) sums of sigmoid(part_j - z_k) over all k but j itself, whose share is always 1/2; part (B, c)."""
    return torch.sigmoid(part.unsqueeze(2) - logits.unsqueeze(1)).sum(dim=2) - 0.5


def _recomputed(part: Tensor, logits: Tensor) -> Tensor:
    """`_above`, of which the pairs are not kept for the gradient."""
    found: Tensor = checkpoint(_above, part, logits, use_reentrant=False, preserve_rng_state=False)
    return found


def entry_weights(costs: Tensor, absent: Tensor, prior: Tensor, *, corrected: bool = True) -> EntryWeights:
    """Weights by which the losses of a batch make up its risk, the sum of weights times losses.

    With means over all rows and over the rows D_j where class j is absent, the risk is the sum over classes of
    1/C { |mean l1 - (1 - pi_j) mean_{D_j} l1| + (1 - pi_j) mean_{D_j} l0 }; l1 and l0 are the losses of a present and
    an absent label. A class that is absent nowhere in the batch is left out.

    Args:
        costs: (G, C) l1, without gradient.
        absent: (G, C) bool, labels known to be absent.
        prior: (C,) pi, of the type of `costs`.
        corrected: True for the absolute value, else the difference counts as it is.
    """
    share = absent_shares(absent, prior)
    difference = (1 / len(costs) - share) * absent.any(dim=0) / costs.shape[1]
    risk = (difference * costs).sum(dim=0)
    turned = risk < 0
    signed = difference * torch.where(turned, -1.0, 1.0) if corrected else difference
    return EntryWeights(signed, share / costs.shape[1], risk.abs() if corrected else risk, turned)


def rate_priors(observed: LabelTable, rates: NDArray[np.float64]) -> ClassPriors:
    """Priors (s - rate) / (1 - rate) of the shares s of images that each class is a candidate of, rates (C,).

    An absent class is a candidate with its rate, so that s = pi + (1 - pi) rate. Cut to [0, 1]; s where the rate is 1.
    """
    shares, spared = candidate_shares(observed), 1 - rates
    priors = np.where(spared > 0, (shares - rates) / np.where(spared > 0, spared, 1), shares)
    return ClassPriors(priors.clip(0, 1), "candidate_rate")


def candidate_shares(observed: LabelTable) -> NDArray[np.float64]:
    """(C,) share of images that each class is not known to be absent from; labels (N, C)."""
    return 1 - observed.counts(ABSENT) / len(observed)


class CandidatePriorCriterion(Criterion):
    """A method that asks where classes are known to be absent, and the class priors, and nothing else of the labels.

    Whatever is not known to be absent is a candidate, unknown labels too. State: the class priors, which a run that
    resumes keeps.

    Raises: UserError unless some labels are candidates and some are not, and class priors can be had.
    """

    trusts_absent: ClassVar[bool] = True
    method: ClassVar[str]
    config: CandidatePriorConfig
    prior: Tensor

    def __init__(self, config: CandidatePriorConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        require_candidates(self.method, info)
        priors = _cut_to_candidates(self.method, _priors(self.method, config, info), info)
        self.register_buffer("prior", torch.tensor(priors.values, dtype=torch.float64))
        self._origin = priors.origin

    def refuses_spliced(self) -> str:
        """Its class priors are those of single images."""
        return "needs the class priors of what it learns from, and those of spliced images are others"

    def class_priors(self) -> ClassPriors:
        """The class priors in use."""
        return ClassPriors(self.prior.cpu().numpy(), self._origin)


class COMES(CandidatePriorCriterion):
    """COMES-HL (ICLR 2026): an unbiased estimate of the BCE of full labels, kept from becoming negative.

    Means are those of the GLOBAL batch. Logged: `present_risk` and `absent_risk`, the two parts of the loss; `turned`,
    the share of classes whose first part was estimated below 0.
    """

    method = "comes"
    config: COMESConfig

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        logits = at_least_float32(model(batch.images).logits)
        present, absent = F.softplus(-logits), F.softplus(logits)
        whole = GlobalBatch(batch)
        known = (batch.observed == ABSENT).to(logits.dtype)
        costs, everyone = whole.rows(torch.cat([present.detach(), known], dim=1)).chunk(2, dim=1)
        corrected, every = self.config.correction == "absolute", torch.ones_like(everyone, dtype=torch.bool)
        weights = entry_weights(costs, everyone > 0, self.prior.to(logits.dtype), corrected=corrected)
        of_absent = whole.own(weights.absent) * absent
        total = whole.total(whole.own(weights.present) * present + of_absent, every)
        parts = {
            "present_risk": weights.present_risk.sum(),
            "absent_risk": whole.total(of_absent.detach(), every),
            "turned": weights.turned.to(logits.dtype).mean(),
        }
        return LossOutput(total, logits.detach(), parts)


class COMESRL(CandidatePriorCriterion):
    """COMES-RL (ICLR 2026): an estimate of the ranking loss of full labels, by sigmoids of differences of logits.

    An image that class j is absent from should rank every other class above it: sum over j of (1 - pi_j) times the mean
    over these images of sum over k of sigmoid(z_j - z_k). Means are those of the GLOBAL batch. Logged: `risk`, the sum.

    Raises: UserError as the other, and for fewer than two classes.
    """

    method = "comes_rl"
    config: COMESRLConfig

    def __init__(self, config: COMESRLConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        require(
            info.observed.num_classes > 1, "comes_rl: it ranks two classes or more, there is one; take --loss comes"
        )

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        logits = at_least_float32(model(batch.images).logits)
        whole = GlobalBatch(batch)
        everyone = whole.rows((batch.observed == ABSENT).to(logits.dtype))
        losses = whole.own(absent_shares(everyone > 0, self.prior.to(logits.dtype))) * outranked(logits)
        total = whole.total(losses, torch.ones_like(everyone, dtype=torch.bool))
        parts = {"risk": total.detach()}
        if self.config.flood > 0:  # the risk of all processes decides its direction
            risk = whole.rows(losses.detach().sum(dim=1, keepdim=True)).sum()
            total = torch.where(risk < self.config.flood, 2 * self.config.flood - total, total)
        return LossOutput(total, logits.detach(), parts)


def _priors(method: str, config: CandidatePriorConfig, info: CriterionInfo) -> ClassPriors:
    """The priors that the settings name, or those of the chance by which candidates were drawn. Raises: UserError."""
    if config.candidate_rate is not None:
        require(info.class_priors is None, "class priors are given: leave out --candidate_rate")
        return rate_priors(info.observed, np.full(info.observed.num_classes, config.candidate_rate))
    priors = chosen_priors(config, info)
    if priors is None and info.candidate_rates is not None:
        priors = rate_priors(info.observed, info.candidate_rates)
    require(
        priors is not None,
        f"{method}: it needs class priors, and the labels do not tell by what chance an absent class is a candidate; "
        "give --candidate_rate, --prior_file, or where some labels are unknown by lot --prior observed",
    )
    assert priors is not None
    return priors


def _cut_to_candidates(method: str, priors: ClassPriors, info: CriterionInfo) -> ClassPriors:
    """Priors no higher than the share of images that a class is a candidate of; names those that were."""
    shares = candidate_shares(info.observed)
    above = [info.classes[label] for label in (priors.values > shares + 1e-9).nonzero()[0].tolist()]
    if above and rank() == 0:
        more = f" and {len(above) - _SHOWN} more" if len(above) > _SHOWN else ""
        warn(
            f"note: {method}: {', '.join(above[:_SHOWN])}{more}: class prior above the share of images that the class "
            "is a candidate of, which is taken instead"
        )
    return ClassPriors(np.minimum(priors.values, shares), priors.origin)
