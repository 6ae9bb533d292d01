"""CDCR: a warm-up on all candidates, then on those alone that the network is confident of, chosen anew every epoch.

B batch, C classes, N training images. Source: arXiv 2207.02410, curriculum-based disambiguation for candidate labels;
published code milkxie/PML-CDCR, `run_warmup.py`, `run_cdcr.py`, `run_cdcr_diff.py`. Differences: docs/methods/cdcr.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.asl import reduced
from losses.assume_negative import split_mean
from losses.common.base import Criterion
from losses.common.functional import at_least_float32
from losses.common.memory import MemoryNeed, label_memory, read_rows
from losses.common.variants import require_choices
from utils.checks import require
from utils.collectives import rank
from utils.console import warn
from utils.options import option
from utils.types import ABSENT, PRESENT, UNKNOWN, Batch, CriterionInfo, LossOutput, Model

Rule = Literal["confidence", "difficulty"]
Variant = Literal["fixed", "reference"]

GUARD = 1e-8
"""Least argument of a logarithm in the published code."""

_IDLE = 2  # rounds after which a class that keeps no candidate is named
_SHOWN = 5  # classes that a message names


@dataclass(frozen=True, kw_only=True)
class CDCRConfig:
    """Settings of CDCR; the defaults are the published ones. Raises: UserError for a value that cannot work."""

    candidate_threshold: float = option(
        0.6, "alpha: a candidate is learned from where its probability is at least this"
    )
    candidate_threshold_end: float | None = option(
        None, "alpha of the last epoch, reached on a straight line (default: the same throughout)"
    )
    candidate_rule: Rule = option(
        "confidence", "compare probabilities with alpha as they are, or less what is usual for the class (difficulty)"
    )
    cdcr_warmup: int | None = option(
        None, "epochs that learn from all candidates (default: 16 of 57, rounded down, as published)"
    )
    reduction: Literal["sum", "mean"] = option("sum", "sum over the batch, or mean over B*C")
    variant: Variant = option("fixed", "exact logarithms, or cut off at 1e-8 as in the published code")

    def __post_init__(self) -> None:
        require_choices(self)
        for name in ("candidate_threshold", "candidate_threshold_end"):
            value = getattr(self, name)
            require(value is None or 0 < value < 1, f"--{name} {value}: must be in (0, 1); the published value is 0.6")
        require(
            self.cdcr_warmup is None or self.cdcr_warmup >= 0, f"--cdcr_warmup {self.cdcr_warmup}: must be 0 or more"
        )


def candidate_losses(logits: Tensor, candidates: Tensor, variant: Variant = "fixed") -> Tensor:
    """Binary cross-entropy of every entry against "present where a candidate".

    Args:
        logits: (B, C) in single precision at least.
        candidates: (B, C) bool.
        variant: "reference" cuts logarithms off at 1e-8, below which there is no gradient.

    Returns:
        (B, C), finite with finite gradients for finite logits.
    """
    signed = torch.where(candidates, logits, -logits)
    return -(torch.sigmoid(signed).clamp(min=GUARD).log() if variant == "reference" else F.logsigmoid(signed))


def usual_excess(confidence: Tensor, candidates: Tensor) -> Tensor:
    """(C,) mean confidence (N, C) of each class's candidates (N, C) bool, less that of all; a mean of none is 0.

    It is above 0 for classes that are easy to predict. Sums are in float64.
    """
    sums = confidence.where(candidates, 0).sum(dim=0, dtype=torch.float64)
    counts = candidates.sum(dim=0)
    return (sums / counts.clamp(min=1) - sums.sum() / counts.sum().clamp(min=1)).to(confidence.dtype)


def chosen_candidates(confidence: Tensor, candidates: Tensor, alpha: float, rule: Rule = "confidence") -> Tensor:
    """The candidates that are learned from: those whose probability p is high enough.

    Args:
        confidence: (N, C) probabilities.
        candidates: (N, C) bool.
        alpha: threshold.
        rule: "confidence", p >= alpha; "difficulty", p - m_c >= alpha - m with the means m_c of p over the candidates
            of the class and m over all candidates.

    Returns:
        (N, C) bool.
    """
    if rule == "difficulty":
        return candidates & (confidence - usual_excess(confidence, candidates) >= alpha)
    return candidates & (confidence >= alpha)


def alpha_of(epoch: int, first: int, last: int, start: float, end: float) -> float:
    """The threshold of an epoch: `start` in the epoch `first`, `end` in the epoch `last`, a straight line between."""
    share = (epoch - first) / (last - first) if last > first else 0.0
    return start + min(max(share, 0.0), 1.0) * (end - start)


class CDCR(Criterion):
    """Curriculum-based disambiguation (arXiv 2207.02410): after a warm-up, BCE without candidates of low confidence.

    Labels that are no candidates are trusted and always learned from; unknown labels never are. State: `left_out`
    (N, C) int8, 1 for the candidates that the last round dropped, and `idle` (C,), the number of rounds in a row in
    which a class kept none. `modified` are the dropped candidates. Logged: `positive` and `negative`, the parts of the
    mean over B*C that candidates and other labels make up; `chosen`, the share of the batch's candidates that are
    learned from; `negatives_only`, the share of images with candidates that keep none of them.

    Raises: UserError unless some labels are candidates and some are not; if no epoch is left after the warm-up; or if
    labels are stored sparse because they are too many for a dense score of each.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"train_scores"})
    label_memories = frozenset({"left_out"})
    trusts_absent: ClassVar[bool] = True
    config: CDCRConfig
    left_out: Tensor
    idle: Tensor

    def __init__(self, config: CDCRConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        require_candidates("cdcr", info)
        table = info.observed
        self.warmup = 16 * info.epochs // 57 if config.cdcr_warmup is None else config.cdcr_warmup
        require(
            self.warmup < info.epochs,
            f"cdcr: --cdcr_warmup {self.warmup} leaves none of the {info.epochs} --epochs for choosing candidates; "
            "give fewer, or take --loss bce",
        )
        ends = (config.candidate_threshold, config.candidate_threshold_end)
        self.last_epoch = self.warmup + 1 if ends[1] in (None, ends[0]) else info.epochs  # of the line between them
        self.register_buffer("left_out", torch.zeros(len(table), table.num_classes, dtype=torch.int8))
        self.register_buffer("idle", torch.zeros(table.num_classes, dtype=torch.int64))

    @classmethod
    def memory_needs(cls, config: CDCRConfig, info: CriterionInfo) -> list[MemoryNeed]:
        """The dropped candidates, and the scores of a round."""
        return [label_memory("dropped candidates", info.observed, 1), label_memory("scores", info.observed, 4)]

    def wants_train_scores(self, epoch: int) -> bool:
        """Return True for the epochs after the warm-up: candidates are chosen before each."""
        return epoch > self.warmup

    def on_epoch_start(self, epoch: int, train_scores: Tensor | None = None) -> None:
        """Choose candidates before the epochs that want scores; `train_scores` (N, C) are logits.

        Raises: ValueError if such an epoch comes without scores of that shape.
        """
        if not self.wants_train_scores(epoch):
            return
        scores = self.scores_before(epoch, train_scores)
        candidates = torch.from_numpy(self.info.observed.dense() == PRESENT).to(scores.device)
        confidence = torch.sigmoid(at_least_float32(scores))
        chosen = chosen_candidates(confidence, candidates, self.alpha(epoch), self.config.candidate_rule)
        self.left_out.copy_(candidates & ~chosen)
        self._count_idle(candidates, chosen)

    def alpha(self, epoch: int) -> float:
        """The threshold of an epoch after the warm-up."""
        start, end = self.config.candidate_threshold, self.config.candidate_threshold_end
        return alpha_of(epoch, self.warmup + 1, self.last_epoch, start, start if end is None else end)

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C), rows of the training set (B,)."""
        logits, config = at_least_float32(model(batch.images).logits), self.config
        candidates = batch.observed == PRESENT
        dropped = candidates & (read_rows(self.left_out, batch.index, batch.host_index) != 0)
        losses = candidate_losses(logits, candidates, config.variant)
        losses = losses.masked_fill(dropped | (batch.observed == UNKNOWN), 0)
        total = losses.mean() if config.reduction == "mean" else reduced(losses, batch, "sum")
        parts = split_mean(losses, candidates) | _shares(candidates, dropped)
        return LossOutput(total, logits.detach(), parts, dropped)

    def _count_idle(self, candidates: Tensor, chosen: Tensor) -> None:
        """Count the rounds in which a class with candidates (N, C) kept none, and name it after two in a row."""
        none = (candidates.any(dim=0) & ~chosen.any(dim=0)).to(self.idle.device)
        self.idle.copy_((self.idle + 1) * none)
        names = [self.info.classes[label] for label in (self.idle == _IDLE).nonzero().flatten().tolist()]
        if names and rank() == 0:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            warn(
                f"note: cdcr: {', '.join(names[:_SHOWN])}{more}: no candidate kept for {_IDLE} epochs, so that only "
                "being absent is taught; a lower --candidate_threshold, a longer --cdcr_warmup or --candidate_rule "
                "difficulty keeps some"
            )


def require_candidates(method: str, info: CriterionInfo) -> None:
    """Raise UserError unless labels are dense, some of them candidates (PRESENT) and some not (ABSENT)."""
    table = info.observed
    require(
        not table.stores_known_only,
        f"{method}: it is for candidate labels, and of these {len(table)} x {table.num_classes} labels only known ones "
        "are stored; take --loss iu",
    )
    for code, words in ((PRESENT, "a candidate"), (ABSENT, "known to be absent")):
        require(
            int(table.counts(code).sum()) > 0,
            f"{method}: no label is {words}, so it would learn one answer for everything; take --labels candidate",
        )


def _shares(candidates: Tensor, dropped: Tensor) -> dict[str, Tensor]:
    """Share of the candidates (B, C) that are not dropped, and of images with candidates that keep none."""
    held, kept = (each.sum(dim=1, dtype=torch.float32) for each in (candidates, candidates & ~dropped))
    images = (held > 0).sum().clamp(min=1)
    return {"chosen": kept.sum() / held.sum().clamp(min=1), "negatives_only": ((held > 0) & (kept == 0)).sum() / images}
