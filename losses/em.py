"""EM and APL: unknown labels are kept undecided, and those that look most absent become soft negatives (ECCV 2022).

B batch, C classes, N training images, p the sigmoid of the logits. Source: Zhou et al., "Acknowledging the Unknown for
Multi-label Learning with Single Positive Labels", arXiv 2203.16219; published code Correr-Zhou/SPML-AckTheUnknown,
`losses.py`, `main.py`. Differences from that code: docs/methods/em.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from losses.assume_negative import ANConfig, LabelCosts, label_costs
from losses.common.base import Criterion
from losses.common.functional import at_least_float32
from losses.common.memory import MemoryNeed, label_memory, read_rows
from utils.checks import require
from utils.options import option
from utils.types import ABSENT, PRESENT, UNKNOWN, Batch, CriterionInfo, LossOutput, Model


@dataclass(frozen=True, kw_only=True)
class EMConfig(ANConfig):
    """Settings of EM; the default is that of COCO. Raises: UserError for a value that cannot work."""

    entropy_weight: float = option(0.1, "alpha: weight of the entropy of an unknown label, which is maximised")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.entropy_weight < math.inf, f"--entropy_weight {self.entropy_weight}: must be above 0")


@dataclass(frozen=True, kw_only=True)
class EMAPLConfig(EMConfig):
    """Settings of EM with APL; defaults are those of COCO. Raises: UserError for a value that cannot work."""

    pseudo_weight: float = option(0.9, "beta: weight of the loss of a soft label")
    neg_proportion: float = option(0.9, "theta: share of the unknown labels of each class that have one in the end")
    apl_warmup: int | None = option(None, "w: epochs before the first soft labels (default: half of --epochs)")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.pseudo_weight < math.inf, f"--pseudo_weight {self.pseudo_weight}: must not be negative")
        require(0 < self.neg_proportion <= 1, f"--neg_proportion {self.neg_proportion}: must be in (0, 1]")
        require(self.apl_warmup is None or self.apl_warmup >= 0, f"--apl_warmup {self.apl_warmup}: must be 0 or more")


def em_losses(logits: Tensor, costs: LabelCosts, observed: Tensor, weight: float) -> Tensor:
    """-log p where PRESENT, -log(1 - p) where ABSENT, less than 0 where UNKNOWN: -weight times the entropy of p.

    Args:
        logits: (B, C) in single precision at least.
        costs: those of the same logits, exact or as published.
        observed: (B, C) label codes.
        weight: alpha, of the entropy in nats.

    Returns:
        (B, C).
    """
    entropy = torch.sigmoid(logits) * costs.present + torch.sigmoid(-logits) * costs.absent
    known = torch.where(observed == PRESENT, costs.present, costs.absent)
    return torch.where(observed == UNKNOWN, -weight * entropy, known)


def soft_losses(costs: LabelCosts, soft: Tensor, weight: float) -> Tensor:
    """(B, C) weight times the cross-entropy of p against soft labels (B, C) in [0, 1]."""
    return weight * (soft * costs.present + (1 - soft) * costs.absent)


def lowest(scores: Tensor, candidates: Tensor, count: int) -> Tensor:
    """(N,) bool, the `count` candidates with the lowest of finite scores; all of them where there are fewer.

    Args:
        scores: (N,), of which equal ones count in the order of the rows.
        candidates: (N,) bool.
        count: 0 or more.
    """
    order = scores.masked_fill(~candidates, math.inf).argsort(stable=True)
    chosen = torch.zeros_like(candidates)
    chosen[order[:count]] = True
    return chosen & candidates


@torch.no_grad()
def add_soft_labels(soft: Tensor, unknown: Tensor, scores: Tensor, counts: list[int]) -> None:
    """One round: in each class the lowest scores of labels that are still open become soft labels for good.

    Class by class, so that sorting takes N entries of memory and not N*C.

    Args:
        soft: (N, C) soft labels, 0 where there is none; changed in place.
        unknown: (N, C) bool on the host, the labels that nothing is observed of.
        scores: (N, C) logits, where `soft` is.
        counts: number of labels that each class gets.
    """
    least = torch.finfo(soft.dtype).tiny  # a probability that is rounded to 0 is a label all the same
    for label, count in enumerate(counts):
        column, logits = soft[:, label], scores[:, label].to(soft.dtype)
        chosen = lowest(logits, unknown[:, label].to(soft.device) & (column == 0), count)
        column.copy_(torch.where(chosen, torch.sigmoid(logits).clamp(min=least), column))


class EM(Criterion):
    """Entropy maximisation (Zhou et al., ECCV 2022): the loss of an unknown label is less the surer the network is not.

    It holds no state. Logged: `positive`, `negative` and `entropy`, the parts of the loss that present, absent and
    unknown labels make up; the last is below 0.

    Raises: UserError unless some labels are unknown and some known to be present.
    """

    method: ClassVar[str] = "em"
    config: EMConfig

    def __init__(self, config: EMConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        for code, words in ((UNKNOWN, "unknown, so there is no entropy"), (PRESENT, "known to be present")):
            require(
                int(info.observed.counts(code).sum()) > 0,
                f"{self.method}: no label is {words}; take --labels single, dropped or known, or --loss bce",
            )

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        logits, config = at_least_float32(model(batch.images).logits), self.config
        costs = label_costs(logits, config.variant)
        losses = em_losses(logits, costs, batch.observed, config.entropy_weight)
        return LossOutput(losses.mean(), logits.detach(), _parts(losses, batch.observed))


class EMAPL(EM):
    """EM with asymmetric pseudo-labelling: low scores become soft labels, high scores never (Zhou et al., ECCV 2022).

    A round precedes every epoch after the first w; all rounds together label the share theta of each class's unknown
    labels. State: `soft` (N, C) float32, 0 where there is no soft label. `modified` are the labels that have one.
    Logged, besides what EM logs: `pseudo`, their part of the loss, and `labelled`, their mean number per image.

    Raises: UserError as EM; if no epoch is left for labels; or if labels are stored sparse because they are too many
    for a number of each.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"train_scores"})
    label_memories = frozenset({"soft"})
    method = "em_apl"
    config: EMAPLConfig
    soft: Tensor

    def __init__(self, config: EMAPLConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        table = info.observed
        require(
            not table.stores_known_only,
            f"em_apl: it scores each of the {len(table)} x {table.num_classes} labels, too many; take --loss em",
        )
        self.warmup = info.epochs // 2 if config.apl_warmup is None else config.apl_warmup
        require(
            self.warmup < info.epochs,
            f"em_apl: --apl_warmup {self.warmup} leaves none of the {info.epochs} --epochs for soft labels; give "
            "fewer, or take --loss em",
        )
        rounds = info.epochs - self.warmup
        self.counts = [int(config.neg_proportion * count / rounds) for count in table.counts(UNKNOWN).tolist()]
        self.register_buffer("soft", torch.zeros(len(table), table.num_classes))

    @classmethod
    def memory_needs(cls, config: EMAPLConfig, info: CriterionInfo) -> list[MemoryNeed]:
        """The soft labels, and the scores of a round."""
        return [label_memory("soft labels", info.observed, 4), label_memory("scores", info.observed, 4)]

    def wants_train_scores(self, epoch: int) -> bool:
        """Return True for the epochs after the first w: a round of labelling precedes each."""
        return epoch > self.warmup

    def on_epoch_start(self, epoch: int, train_scores: Tensor | None = None) -> None:
        """Add soft labels before the epochs that want scores; `train_scores` (N, C) are logits.

        Raises: ValueError if such an epoch comes without scores of that shape.
        """
        if not self.wants_train_scores(epoch):
            return
        scores = self.scores_before(epoch, train_scores)
        unknown = torch.from_numpy(self.info.observed.dense() == UNKNOWN)
        add_soft_labels(self.soft, unknown, scores, self.counts)

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C), rows of the training set (B,)."""
        logits, config = at_least_float32(model(batch.images).logits), self.config
        soft = read_rows(self.soft, batch.index, batch.host_index).to(logits.dtype)
        labelled, costs = soft > 0, label_costs(logits, config.variant)
        losses = torch.where(
            labelled,
            soft_losses(costs, soft, config.pseudo_weight),
            em_losses(logits, costs, batch.observed, config.entropy_weight),
        )
        parts = _parts(losses.detach().masked_fill(labelled, 0), batch.observed)
        parts["pseudo"] = losses.detach().where(labelled, 0).mean()
        parts["labelled"] = labelled.sum(dim=1, dtype=logits.dtype).mean()
        return LossOutput(losses.mean(), logits.detach(), parts, labelled)


def _parts(losses: Tensor, observed: Tensor) -> dict[str, Tensor]:
    """The mean of `losses` (B, C) as three addends, by what is observed (B, C)."""
    codes = {"positive": PRESENT, "negative": ABSENT, "entropy": UNKNOWN}
    return {name: losses.detach().where(observed == code, 0).mean() for name, code in codes.items()}
