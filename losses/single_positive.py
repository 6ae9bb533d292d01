"""Losses that treat unknown labels as unknown: EPR, IU and PR (Cole et al., CVPR 2021, arXiv 2106.09708).

B batch, C classes, p the sigmoid of the logits. Published code: elijahcole/single-positive-multi-label, `losses.py`.
Differences from it: docs/methods/single_positive.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from losses.assume_negative import ANConfig, Variant, label_costs, split_mean
from losses.common.base import Criterion
from losses.common.functional import at_least_float32
from utils.checks import require
from utils.collectives import all_sum
from utils.options import option
from utils.types import ABSENT, PRESENT, UNKNOWN, Batch, CriterionInfo, LossOutput, Model


def known_losses(logits: Tensor, observed: Tensor, variant: Variant = "fixed") -> Tensor:
    """BCE of every known entry, 0 where the label is UNKNOWN.

    Args:
        logits: (B, C) in single precision at least.
        observed: (B, C) label codes, or targets in [0, 1] with UNKNOWN where nothing is known.
        variant: see `losses.assume_negative.label_costs`.

    Returns:
        (B, C), with a gradient (of 0) even where nothing is known.
    """
    costs, targets = label_costs(logits, variant), observed.clamp(min=0).to(logits.dtype)
    return costs.present * targets + costs.absent * (1 - targets) * (observed != UNKNOWN)


def positive_losses(logits: Tensor, observed: Tensor, variant: Variant = "fixed") -> Tensor:
    """(B, C) -log p where the label is PRESENT, else 0. Arguments as `known_losses`."""
    return label_costs(logits, variant).present * (observed == PRESENT)


def count_penalties(estimates: Sequence[Tensor], expected: float) -> list[Tensor]:
    """Penalties on the difference of predicted and expected positives per image: ((mean_b sum_c p) - k)^2 / C^2.

    The mean is over the GLOBAL batch (Cole et al.). The value is the same on every rank; the gradient is that of
    this rank's part of the mean, so that the ranks' gradients, averaged by their shares of the batch, are the
    gradient of the global penalty. One exchange for all.

    Args:
        estimates: probabilities p, (B, C) each.
        expected: k.

    Returns:
        A scalar for each of them.
    """
    first = estimates[0]
    totals = all_sum(torch.stack([*(p.sum() for p in estimates), first.new_full((), len(first))]))
    own = [p.sum() / len(p) for p in estimates]
    means = [mean + (total / totals[-1] - mean).detach() for mean, total in zip(own, totals[:-1], strict=True)]
    return [((mean - expected) / first.shape[1]).square() for mean in means]


def count_penalty(p: Tensor, expected: float) -> Tensor:
    """The one penalty of `count_penalties`, for probabilities (B, C)."""
    return count_penalties([p], expected)[0]


def ranking_losses(logits: Tensor, observed: Tensor) -> Tensor:
    """Pairwise ranking: for every present label i the sum over all others j of max(0, 1 - p_i + p_j).

    Probabilities differ by at most 1, so the maximum is never active and the sum over pairs is
    n (1 - p_i) + sum_j p_j, n the number of others: no pair is ever formed.

    Args:
        logits: (B, C) in single precision at least.
        observed: (B, C) label codes; every label that is not PRESENT is ranked below.

    Returns:
        (B, C), 0 where the label is not PRESENT.
    """
    positive = (observed == PRESENT).to(logits.dtype)
    below = torch.sigmoid(logits) * (1 - positive)
    others = (1 - positive).sum(dim=1, keepdim=True)
    return positive * (others * torch.sigmoid(-logits) + below.sum(dim=1, keepdim=True))


@dataclass(frozen=True, kw_only=True)
class EPRConfig(ANConfig):
    """Settings of EPR. Raises: UserError for a value that cannot work, or that is missing."""

    expected_num_pos: float | None = option(
        None, "labels per image on average; must be given where the dataset's settings do not"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_expected(self.expected_num_pos)


def require_expected(number: float | None) -> None:
    """Raise UserError unless an expected number of positives per image is given and above 0."""
    require(
        number is not None,
        "--expected_num_pos is missing: give the number of labels per image on average "
        "(published: 1.5 for pascal, 2.9 for coco, 1.9 for nuswide, 31.4 for cub)",
    )
    require(number is not None and 0 < number < math.inf, f"--expected_num_pos {number}: must be above 0")


def expected_count(given: float | None, info: CriterionInfo) -> float:
    """Expected number of positives per image. Raises: UserError if there are fewer classes than that."""
    number, classes = given or 0.0, info.observed.num_classes
    require(number <= classes, f"--expected_num_pos {number}: there are only {classes} classes")
    return number


class EPR(Criterion):
    """Expected positive regularisation (Cole et al., CVPR 2021).

    Only present labels have a loss; the known average number of labels per image keeps the others from being predicted
    too. It holds no state. Logged: `positive`, the loss of present labels; `penalty`; `predicted`, the number of labels
    predicted per image.

    Raises: UserError if a label is known to be absent, for which there is no term.
    """

    config: EPRConfig

    def __init__(self, config: EPRConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        self.expected = expected_count(config.expected_num_pos, info)
        absent = int(info.observed.counts(ABSENT).sum())
        require(
            absent == 0,
            f"epr: {absent} labels are known to be absent, for which it has no term; take --labels single or dropped, "
            "or --loss role",
        )

    def refuses_spliced(self) -> str:
        """It knows how many labels an image has."""
        return "expects as many labels of every image, and a spliced image has those of several"

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        logits = at_least_float32(model(batch.images).logits)
        positive = positive_losses(logits, batch.observed, self.config.variant).mean()
        p = torch.sigmoid(logits)
        penalty = count_penalty(p, self.expected)
        parts = {"positive": positive, "penalty": penalty, "predicted": p.sum(dim=1).mean()}
        return LossOutput(positive + penalty, logits.detach(), {name: value.detach() for name, value in parts.items()})


def require_known(method: str, info: CriterionInfo) -> None:
    """Raise UserError unless some labels are known to be present and some to be absent."""
    for code, word in ((PRESENT, "present"), (ABSENT, "absent")):
        require(
            int(info.observed.counts(code).sum()) > 0,
            f"{method}: no label is known to be {word}, so it would learn one answer for everything; take --labels "
            "known, or --labels observed with --num_pos and --num_neg",
        )


@dataclass(frozen=True, kw_only=True)
class IUConfig(ANConfig):
    """Settings of IU. Raises: UserError for an unknown variant."""


class IU(Criterion):
    """Ignore unobserved: BCE of the known labels, divided by B*C (Cole et al., CVPR 2021).

    A batch in which nothing is known has loss 0. It holds no state. Logged: `positive` and `negative`, the parts of
    the loss that present and absent labels make up.

    Raises: UserError unless labels of both kinds are known.
    """

    takes_soft: ClassVar[bool] = True
    config: IUConfig

    def __init__(self, config: IUConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        require_known("iu", info)

    @property
    def estimates_priors(self) -> bool:
        """True: unknown labels have no part in it."""
        return True

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        logits = at_least_float32(model(batch.images).logits)
        targets = batch.observed if batch.soft is None else batch.soft
        losses = known_losses(logits, targets, self.config.variant)
        return LossOutput(losses.mean(), logits.detach(), split_mean(losses, batch.observed == PRESENT))


@dataclass(frozen=True, kw_only=True)
class PRConfig:
    """Pairwise ranking has no settings."""


class PR(Criterion):
    """Pairwise ranking: each present label above each other one, summed over pairs, divided by B*C.

    A batch without a present label has loss 0. It holds no state. Logged: `ranking`, the loss.
    """

    config: PRConfig

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        logits = at_least_float32(model(batch.images).logits)
        loss = ranking_losses(logits, batch.observed).mean()
        return LossOutput(loss, logits.detach(), {"ranking": loss.detach()})
