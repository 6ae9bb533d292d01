"""MIME: unknown labels that scores are sure of become present for good, beside a variational bottleneck of the head.

B batch, C classes, N training images. Source: Liu et al., ICML 2023; published code palm-biaoliu/mime, train_mime.py,
utils/losses.py. Formulas, and differences from that code: docs/methods/mime.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from losses.assume_negative import Variant, assume_negative_losses
from losses.common.base import ScheduledCriterion
from losses.common.functional import at_least_float32
from losses.common.memory import BLOCK, MemoryNeed, label_memory, read_rows
from losses.common.variants import require_choices
from losses.large_loss import packed, unpacked
from utils.checks import require
from utils.options import option
from utils.types import PRESENT, UNKNOWN, Batch, CriterionInfo, LabelTable, LossOutput, Model


@dataclass(frozen=True, kw_only=True)
class MIMEConfig:
    """Settings of MIME. Raises: UserError for a value that cannot work."""

    pseudo_threshold: float = option(0.95, "an unknown label becomes present where its probability is above this")
    mime_warmup: int = option(2, "epochs before the first in which labels have been added")
    divergence_weight: float = option(1e-4, "weight of the divergence of what the head draws, such as --bottleneck 256")
    loss_temperature: float = option(1.0, "logits are divided by this inside the loss")
    variant: Variant = option("fixed", "logarithms as they are, or as in the published code")

    def __post_init__(self) -> None:
        require_choices(self)
        threshold = self.pseudo_threshold
        require(0 < threshold < 1, f"--pseudo_threshold {threshold}: must be in (0, 1); the published value is 0.95")
        require(self.mime_warmup >= 1, f"--mime_warmup {self.mime_warmup}: must be at least 1")
        weight = self.divergence_weight
        require(0 <= weight < math.inf, f"--divergence_weight {weight}: must be 0 or more")
        require(0 < self.loss_temperature < math.inf, f"--loss_temperature {self.loss_temperature}: must be above 0")


@torch.no_grad()
def add_sure_labels(found: Tensor, scores: Tensor, threshold: float) -> None:
    """Add to packed labels (N, ceil(C/8)), in place, those whose probability is above a threshold.

    Args:
        found: see `losses.large_loss.packed`.
        scores: (N, C) logits, where the labels are.
        threshold: in (0, 1).
    """
    bound, size = math.log(threshold / (1 - threshold)), max(1, BLOCK // max(scores.shape[1], 1))
    for start in range(0, len(scores), size):
        found[start : start + size] |= packed(scores[start : start + size] > bound)


class MIME(ScheduledCriterion):
    """MIME (ICML 2023): assume negative, but for labels that earlier scores were sure of, and a divergence.

    State: the epoch, and `found` (N, ceil(C/8)), the labels that were added, one bit each; observed ones stay whatever
    it says. Logged: `bce`; `divergence`, without its weight, where the head has one; `pseudo_present`, labels added per
    image.

    Raises: UserError if no label is unknown, or if labels are stored sparse because they are too many for a score of
    each.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"train_scores"})
    corrects_from_present: ClassVar[bool] = True
    label_memories = frozenset({"found"})
    config: MIMEConfig
    found: Tensor

    def __init__(self, config: MIMEConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        table = info.observed
        require(
            not table.stores_known_only,
            f"mime: it scores each of the {len(table)} x {table.num_classes} labels, too many; take --loss iu",
        )
        require(
            int(table.counts(UNKNOWN).sum()) > 0,
            "mime: no label is unknown, so none would be added; take --loss bce, or --labels single or "
            "dropped (--drop_rate 0: what is not named)",
        )
        self.register_buffer("found", torch.zeros(len(table), -(-table.num_classes // 8), dtype=torch.uint8))

    @classmethod
    def memory_needs(cls, config: MIMEConfig, info: CriterionInfo) -> list[MemoryNeed]:
        """The added labels, and the scores of a round."""
        size = len(info.observed) * -(-info.observed.num_classes // 8)
        return [MemoryNeed("labels", size), label_memory("scores", info.observed, 4)]

    def wants_train_scores(self, epoch: int) -> bool:
        """Return True for every epoch after the warm-up: labels are added before it."""
        return epoch > self.config.mime_warmup

    def on_epoch_start(self, epoch: int, train_scores: Tensor | None = None) -> None:
        """Add labels before the epochs that want scores; `train_scores` (N, C) are logits.

        Raises: ValueError if such an epoch comes without scores of that shape.
        """
        super().on_epoch_start(epoch, train_scores)
        if self.wants_train_scores(epoch):
            add_sure_labels(self.found, self.scores_before(epoch, train_scores), self.config.pseudo_threshold)

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C), rows of the training set (B,)."""
        config = self.config
        output = model(batch.images, want=frozenset({"divergence"} if config.divergence_weight else ()))
        logits = at_least_float32(output.logits)
        rows = read_rows(self.found, batch.index, batch.host_index)
        added = unpacked(rows, logits.shape[1]) & (batch.observed == UNKNOWN)
        labels = batch.observed.masked_fill(added, PRESENT)
        total = bce = assume_negative_losses(logits / config.loss_temperature, labels, variant=config.variant).mean()
        parts = {"bce": bce.detach(), "pseudo_present": added.sum(dim=1, dtype=logits.dtype).mean()}
        if output.divergence is not None:
            divergence = output.divergence.mean()
            total, parts["divergence"] = bce + config.divergence_weight * divergence, divergence.detach()
        return LossOutput(total, logits.detach(), parts, added)

    @property
    def corrects_for_good(self) -> bool:
        """True: labels that were added stay."""
        return True

    def corrected_labels(self) -> LabelTable:
        """The observed labels with those PRESENT that were added."""
        self.settle_memories()
        codes = self.info.observed.dense()
        added = unpacked(self.found.cpu(), self.info.observed.num_classes).numpy()
        codes[added & (codes == UNKNOWN)] = PRESENT
        return LabelTable(codes)
