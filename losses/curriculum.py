"""Curriculum labelling: partial BCE, and rounds in which confident predictions become labels.

B batch, C classes, N training images. Source: Durand, Mehrasa and Mori, CVPR 2019, arXiv 1902.09720: its partial BCE
and its score threshold strategy. No code was published; our own choices: docs/methods/curriculum.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from losses.common.base import Criterion
from losses.common.functional import at_least_float32
from losses.common.memory import MemoryNeed, label_memory, read_rows
from losses.single_positive import known_losses, require_known
from utils.checks import require
from utils.options import option
from utils.types import ABSENT, PRESENT, UNKNOWN, Batch, CriterionInfo, LossOutput, Model


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig:
    """Settings of curriculum labelling. Raises: UserError for a value that cannot work."""

    share_slope: float = option(-4.45, "a of an image's weight a * rho^g + b, rho the share of its labels in use")
    share_bias: float = option(5.45, "b of that weight")
    share_power: float = option(1.0, "g of that weight")
    relabel_every: int = option(5, "epochs between two rounds of labelling, and before the first round")
    score_threshold: float = option(
        2.0, "an unknown label is taken from a score (logit) above this, or below its minus"
    )

    def __post_init__(self) -> None:
        require(0 < self.share_power < math.inf, f"--share_power {self.share_power}: must be above 0")
        least = min(self.share_bias, self.share_bias + self.share_slope)
        require(
            0 < least < math.inf,
            f"--share_slope {self.share_slope}, --share_bias {self.share_bias}: a weight would be {least:.4g}, it must "
            "stay above 0; the published values are -4.45 and 5.45",
        )
        require(self.relabel_every >= 1, f"--relabel_every {self.relabel_every}: must be at least 1 epoch")
        require(0 <= self.score_threshold < math.inf, f"--score_threshold {self.score_threshold}: must not be negative")


def share_weights(labels: Tensor, slope: float, bias: float, power: float) -> Tensor:
    """(B, 1) weight slope * rho^power + bias of each image, rho the known share of its labels (B, C)."""
    share = at_least_float32((labels != UNKNOWN).to(labels.dtype)).mean(dim=1, keepdim=True)
    return slope * share**power + bias


def partial_bce(logits: Tensor, labels: Tensor, *, slope: float, bias: float, power: float) -> Tensor:
    """Mean over images of the weighted sum of BCE over known labels, divided by C (Durand et al.).

    Args:
        logits: (B, C) in single precision at least.
        labels: (B, C) label codes.
        slope: see `share_weights`.
        bias: see `share_weights`.
        power: see `share_weights`.

    Returns:
        Scalar, 0 where nothing is known.
    """
    return (share_weights(labels.to(logits.dtype), slope, bias, power) * known_losses(logits, labels)).mean()


def score_labels(scores: Tensor, threshold: float) -> Tensor:
    """Labels (N, C) int8 of scores (N, C): PRESENT above `threshold`, ABSENT below its minus, else UNKNOWN."""
    labels = torch.full_like(scores, UNKNOWN, dtype=torch.int8)
    return labels.masked_fill(scores > threshold, PRESENT).masked_fill(scores < -threshold, ABSENT)


class CurriculumLabelling(Criterion):
    """Partial BCE on the known labels and on those that confident scores have added (Durand et al., CVPR 2019).

    Every round decides anew about every unknown label; known labels stay. State: `pseudo` (N, C) int8, the labels of
    the last round. Logged: `bce`, the loss; `pseudo_present` and `pseudo_absent`, labels added per image.

    Raises: UserError unless labels of both kinds are known and some are unknown, or if labels are stored sparse because
    they are too many for a dense score of each.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"train_scores"})
    label_memories = frozenset({"pseudo"})
    config: CurriculumConfig
    pseudo: Tensor

    def __init__(self, config: CurriculumConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        table = info.observed
        require(
            not table.stores_known_only,
            f"curriculum: it scores each of the {len(table)} x {table.num_classes} labels, too many; take --loss iu",
        )
        require_known("curriculum", info)
        require(
            int(table.counts(UNKNOWN).sum()) > 0,
            "curriculum: no label is unknown, so there is nothing to add; take --loss bce, or --labels known",
        )
        self.register_buffer("pseudo", torch.full((len(table), table.num_classes), UNKNOWN, dtype=torch.int8))

    @classmethod
    def memory_needs(cls, config: CurriculumConfig, info: CriterionInfo) -> list[MemoryNeed]:
        """The added labels, and the scores of a round."""
        return [label_memory("labels", info.observed, 1), label_memory("scores", info.observed, 4)]

    def wants_train_scores(self, epoch: int) -> bool:
        """Return True for every `relabel_every`-th epoch after the first: a round of labelling precedes it."""
        return epoch > 1 and (epoch - 1) % self.config.relabel_every == 0

    def on_epoch_start(self, epoch: int, train_scores: Tensor | None = None) -> None:
        """Relabel before the epochs that want scores; `train_scores` (N, C) are logits.

        Raises: ValueError if such an epoch comes without scores of that shape.
        """
        if not self.wants_train_scores(epoch):
            return
        self.pseudo.copy_(score_labels(self.scores_before(epoch, train_scores), self.config.score_threshold))

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C), rows of the training set (B,)."""
        logits, config = at_least_float32(model(batch.images).logits), self.config
        unknown = batch.observed == UNKNOWN
        added = read_rows(self.pseudo, batch.index, batch.host_index).to(batch.observed)
        loss = partial_bce(
            logits,
            torch.where(unknown, added, batch.observed),
            slope=config.share_slope,
            bias=config.share_bias,
            power=config.share_power,
        )
        found = unknown & (added == PRESENT)
        parts = {
            "bce": loss.detach(),
            "pseudo_present": found.sum(dim=1).float().mean(),
            "pseudo_absent": (unknown & (added == ABSENT)).sum(dim=1).float().mean(),
        }
        return LossOutput(loss, logits.detach(), parts, found)
