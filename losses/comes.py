"""COMES-HL: the risk of full labels, estimated from all images and those that a class is known to be absent from.

B batch, G rows of the global batch, C classes, S the candidates. Source: ICLR 2026, arXiv 2510.04091, its first-order
method. No code was to be had; our own choices: docs/methods/comes.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from losses.cdcr import require_candidates
from losses.common.base import Criterion
from losses.common.class_priors import ClassPriorConfig, chosen_priors
from losses.common.functional import at_least_float32
from losses.common.global_batch import GlobalBatch
from utils.checks import require
from utils.collectives import rank
from utils.console import warn
from utils.options import option
from utils.types import ABSENT, Batch, ClassPriors, CriterionInfo, LabelTable, LossOutput, Model

_SHOWN = 5  # classes that a message names


@dataclass(frozen=True, kw_only=True)
class COMESConfig(ClassPriorConfig):
    """Settings of COMES. Raises: UserError for a value that cannot work."""

    candidate_rate: float | None = option(
        None, "chance of an absent class to be a candidate, which gives class priors (default: that of --labels)"
    )
    correction: Literal["absolute", "none"] = option(
        "absolute", "the part of each class's risk that cannot be below 0 counts by its absolute value, or as it is"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        rate = self.candidate_rate
        require(rate is None or 0 <= rate < 1, f"--candidate_rate {rate}: must be in [0, 1)")
        require(
            rate is None or (self.prior == "none" and self.prior_file is None),
            f"--candidate_rate {rate}: class priors come from it, --prior or --prior_file; leave out the others",
        )


class EntryWeights(NamedTuple):
    """Weights (G, C) of each label's loss if it were present and if it were absent; risks (C,) and where one turned."""

    present: Tensor
    absent: Tensor
    present_risk: Tensor
    turned: Tensor  # bool: the estimate of the risk of present labels is below 0


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
    rows = absent.sum(dim=0)
    share = (1 - prior) * absent / rows.clamp(min=1)  # (G, C)
    difference = (1 / len(costs) - share) * (rows > 0) / costs.shape[1]
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


class COMES(Criterion):
    """COMES-HL (ICLR 2026): an unbiased estimate of the risk of full labels, kept from becoming negative.

    Whatever is not known to be absent is a candidate, unknown labels too: present ones and the chance of others are
    known by the class priors alone. Means are those of the GLOBAL batch. State: the class priors, which a run that
    resumes keeps. Logged: `present_risk` and `absent_risk`, the two parts of the loss; `turned`, the share of classes
    whose first part was estimated below 0.

    Raises: UserError unless some labels are candidates and some are not, and class priors can be had.
    """

    trusts_absent: ClassVar[bool] = True
    config: COMESConfig
    prior: Tensor

    def __init__(self, config: COMESConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        require_candidates("comes", info)
        priors = _cut_to_candidates(_priors(config, info), info)
        self.register_buffer("prior", torch.tensor(priors.values, dtype=torch.float64))
        self._origin = priors.origin

    def class_priors(self) -> ClassPriors:
        """The class priors in use."""
        return ClassPriors(self.prior.cpu().numpy(), self._origin)

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        logits = at_least_float32(model(batch.images).logits)
        present, absent = F.softplus(-logits), F.softplus(logits)
        whole = GlobalBatch(batch)
        known = (batch.observed == ABSENT).to(logits.dtype)
        costs, everyone = whole.rows(torch.cat([present.detach(), known], dim=1)).chunk(2, dim=1)
        weights = entry_weights(
            costs, everyone > 0, self.prior.to(logits.dtype), corrected=self.config.correction == "absolute"
        )
        losses = whole.own(weights.present) * present + whole.own(weights.absent) * absent
        total = whole.total(losses, torch.ones_like(everyone, dtype=torch.bool))
        parts = {"present_risk": weights.present_risk.sum(), "turned": weights.turned.to(logits.dtype).mean()}
        parts["absent_risk"] = whole.total(
            whole.own(weights.absent) * absent.detach(), torch.ones_like(everyone, dtype=torch.bool)
        )
        return LossOutput(total, logits.detach(), parts)


def _priors(config: COMESConfig, info: CriterionInfo) -> ClassPriors:
    """The priors that the settings name, or those of the chance by which candidates were drawn. Raises: UserError."""
    if config.candidate_rate is not None:
        require(info.class_priors is None, "class priors are given: leave out --candidate_rate")
        return rate_priors(info.observed, np.full(info.observed.num_classes, config.candidate_rate))
    priors = chosen_priors(config, info)
    if priors is None and info.candidate_rates is not None:
        priors = rate_priors(info.observed, info.candidate_rates)
    require(
        priors is not None,
        "comes: it needs class priors, and the labels do not tell by what chance an absent class is a candidate; give "
        "--candidate_rate, --prior_file, or where some labels are unknown by lot --prior observed",
    )
    assert priors is not None
    return priors


def _cut_to_candidates(priors: ClassPriors, info: CriterionInfo) -> ClassPriors:
    """Priors no higher than the share of images that a class is a candidate of; names those that were."""
    shares = candidate_shares(info.observed)
    above = [info.classes[label] for label in (priors.values > shares + 1e-9).nonzero()[0].tolist()]
    if above and rank() == 0:
        more = f" and {len(above) - _SHOWN} more" if len(above) > _SHOWN else ""
        warn(
            f"note: comes: {', '.join(above[:_SHOWN])}{more}: class prior above the share of images that the class is "
            "a candidate of, which is taken instead"
        )
    return ClassPriors(np.minimum(priors.values, shares), priors.origin)
