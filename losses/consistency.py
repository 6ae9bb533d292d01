"""Partial BCE by the number of known labels, and pseudo labels of one view that train another (Wang et al., ICCV 2023).

B batch, C classes. Source: "Saliency Regularization for Self-Training with Partial Annotations", sections 3.4 and 3.5.
No code was published; our own choices: docs/methods/consistency.md. The saliency itself belongs to the head:
`models/heads/saliency.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from losses.common.base import Criterion
from losses.common.functional import at_least_float32
from losses.common.global_batch import GlobalBatch
from losses.common.variants import require_choices
from losses.single_positive import known_losses, require_known
from utils.checks import require
from utils.options import option
from utils.types import ABSENT, PRESENT, UNKNOWN, Batch, CriterionInfo, LossOutput, Model

MeanOver = Literal["batch", "image"]


@dataclass(frozen=True, kw_only=True)
class PartialBCEConfig:
    """The setting of partial BCE. Raises: UserError for a value that cannot work."""

    mean_over: MeanOver = option(
        "batch", "a loss is the mean over the known labels of the batch, or over those of each image, then over images"
    )

    def __post_init__(self) -> None:
        require_choices(self)


@dataclass(frozen=True, kw_only=True)
class ConsistencyConfig(PartialBCEConfig):
    """Settings of consistency. Raises: UserError for a value that cannot work."""

    pseudo_threshold: float = option(
        0.6, "an unknown label is present, or absent, where the probability of that in the first view is this or more"
    )
    known_view: Literal["both", "weak", "strong"] = option(
        "both", "the loss of known labels is the mean of that of both views, or of the first or second alone"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0.5 <= self.pseudo_threshold < 1,
            f"--pseudo_threshold {self.pseudo_threshold}: must be in [0.5, 1); the published value is 0.6",
        )


def confident_labels(logits: Tensor, observed: Tensor, threshold: float) -> Tensor:
    """Pseudo labels of unknown labels: those whose probability or its complement reaches a threshold.

    Args:
        logits: (B, C) in single precision at least; p is their sigmoid.
        observed: (B, C) label codes.
        threshold: tau in [0.5, 1).

    Returns:
        (B, C) of the type of the logits: PRESENT where p >= tau, ABSENT where 1 - p >= tau; UNKNOWN in between, where
        both hold (p = tau = 1/2), and where the label is known.
    """
    bound = math.log(threshold / (1 - threshold))
    present, absent, unknown = logits >= bound, logits <= -bound, observed == UNKNOWN
    labels = torch.full_like(logits, UNKNOWN)
    return labels.masked_fill(unknown & present & ~absent, PRESENT).masked_fill(unknown & absent & ~present, ABSENT)


def known_means(losses: Sequence[Tensor], labels: Sequence[Tensor], batch: Batch, over: MeanOver) -> list[Tensor]:
    """The mean of each term over the labels that it has.

    Args:
        losses: (B, C) of each term, 0 where it has no label.
        labels: (B, C) codes of each term, UNKNOWN where it has none.
        batch: the rows.
        over: "batch": over all labels of the global batch, in one exchange for all terms. "image": over the labels of
            each image, and then over all images, also those without a label.

    Returns:
        Scalars, of which the mean over processes, weighted by the rows of each, is that of the global batch. A term
        without any label is 0, with a gradient of zeros.
    """
    counts = torch.stack([(codes != UNKNOWN).sum(dim=1) for codes in labels], dim=1)  # (B, terms)
    if over == "image":
        return [(each.sum(dim=1) / own.clamp(min=1)).mean() for each, own in zip(losses, counts.unbind(1), strict=True)]
    whole = GlobalBatch(batch)
    totals = whole.rows(counts).sum(dim=0).clamp(min=1)
    every = torch.ones(whole.size, 1, dtype=torch.bool, device=totals.device)
    return [whole.total(each, every) / total for each, total in zip(losses, totals.unbind(), strict=True)]


class PartialBCE(Criterion):
    """BCE of the known labels, divided by their number: the baseline of Wang et al. ("BN-BCE").

    A batch in which nothing is known has loss 0. It holds no state. Logged: `bce`, the loss.

    Raises: UserError unless labels of both kinds are known.
    """

    config: PartialBCEConfig

    def __init__(self, config: PartialBCEConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        require_known("partial_bce", info)

    @property
    def estimates_priors(self) -> bool:
        """True: unknown labels have no part in it."""
        return True

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        logits = at_least_float32(model(batch.images).logits)
        losses = known_losses(logits, batch.observed)
        (loss,) = known_means([losses], [batch.observed], batch, self.config.mean_over)
        return LossOutput(loss, logits.detach(), {"bce": loss.detach()})


class Consistency(Criterion):
    """Partial BCE, and BCE of unknown labels of which another view of the image is sure (Wang et al., ICCV 2023).

    The model is called for the strong view, `batch.second_view`, then for the weak one, `batch.images`: the last pass
    counts most in BatchNorm's running statistics, and tests see no strong view. Where the weak view is sure of an
    unknown label, the strong one learns it; each of the two terms is the mean over its own labels, and the loss is
    their sum. It holds no state. `modified` are unknown labels that the weak view takes for present. Logged: `known`
    and `pseudo`, the two terms; `pseudo_present` and `pseudo_absent`, labels added per image.

    Raises: UserError unless labels of both kinds are known and some are unknown.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"second_view"})
    config: ConsistencyConfig

    def __init__(self, config: ConsistencyConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        require_known("consistency", info)
        require(
            int(info.observed.counts(UNKNOWN).sum()) > 0,
            "consistency: no label is unknown, so there is nothing to add; take --loss partial_bce, or --labels known",
        )

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: weak view (B, 3, H, W), strong view as second view, observed labels (B, C)."""
        assert batch.second_view is not None
        strong = at_least_float32(model(batch.second_view).logits)
        with self._weak_gradient():
            weak = at_least_float32(model(batch.images).logits)
        found = confident_labels(weak.detach(), batch.observed, self.config.pseudo_threshold)
        losses = [self._known(weak, strong, batch.observed), known_losses(strong, found)]
        known, pseudo = known_means(losses, [batch.observed, found], batch, self.config.mean_over)
        parts = {
            "known": known.detach(),
            "pseudo": pseudo.detach(),
            "pseudo_present": (found == PRESENT).sum(dim=1).float().mean(),
            "pseudo_absent": (found == ABSENT).sum(dim=1).float().mean(),
        }
        return LossOutput(known + pseudo, weak.detach(), parts, found == PRESENT)

    def _weak_gradient(self) -> AbstractContextManager[object]:
        """A context without gradient where nothing is learned from the weak view."""
        return torch.no_grad() if self.config.known_view == "strong" else nullcontext()

    def _known(self, weak: Tensor, strong: Tensor, observed: Tensor) -> Tensor:
        """(B, C) losses of the known labels, in the views that learn them."""
        if self.config.known_view == "both":
            return (known_losses(weak, observed) + known_losses(strong, observed)) / 2
        return known_losses(weak if self.config.known_view == "weak" else strong, observed)
