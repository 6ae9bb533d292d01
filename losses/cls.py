"""Co-Label Selection: two networks remove false ones of each other's assumed negatives (Lyu et al., AAAI 2025).

B batch, C classes, f and g the networks. Source: Lyu, Sun, Deng, Feng, "Addressing Multi-Label Learning with Partial
Labels: From Sample Selection to Label Selection"; equations are numbered as there. There is no published code. What the
paper leaves open: docs/methods/cls.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from losses.assume_negative import assume_negative_losses
from losses.common.base import PeerCriterion, PeerPair, peer_logits
from losses.common.global_batch import GlobalBatch
from losses.common.small_loss import share_count, smallest
from losses.common.variants import require_choices
from utils.checks import require
from utils.options import option
from utils.types import PRESENT, UNKNOWN, Batch, CriterionInfo, LossOutput, PeerModels

Ablation = Literal["none", "CLS-H", "CLS-L", "CLC"]
Judge = Literal["peer", "self"]
CLSReduction = Literal["sum_over_labels", "mean_kept", "mean_all"]


@dataclass(frozen=True, kw_only=True)
class CLSConfig:
    """Settings of CLS; tau_h and tau_l are the paper's for COCO at 25 % of the positives left.

    Raises: UserError for a value that cannot work.
    """

    tau_h: float = option(0.012, "share of the assumed negatives that a network's peer removes for their high loss")
    tau_l: float = option(0.06, "share of the rest that the network itself removes for their low loss")
    ramp_epochs: int = option(10, "epochs in which both shares grow from 0 to their full size (E_k)")
    schedule_lag: int = option(0, "epochs by which that begins later: 0, or 1 as the pseudo-code may be read")
    ablation: Ablation = option(
        "none",
        "CLS-H: no removal of high losses; CLS-L: none of low ones; CLC: high losses are corrected, not removed",
        synonyms={"cls-h": "CLS-H", "cls-l": "CLS-L", "clc": "CLC"},
    )
    judge: Judge = option(
        "peer", "whose losses decide which labels are removed as too high: the other network's, or each network's own"
    )
    reduction: CLSReduction = option(
        "sum_over_labels", "the sum over kept labels divided by the images, by the kept labels, or by all labels"
    )

    def __post_init__(self) -> None:
        for name in ("tau_h", "tau_l"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"--{name} {value}: must be a share, 0 to 1")
        require(self.ramp_epochs >= 1, f"--ramp_epochs {self.ramp_epochs}: must be at least 1; the paper's value is 10")
        require(self.schedule_lag in (0, 1), f"--schedule_lag {self.schedule_lag}: must be 0 or 1")
        require_choices(self)

    @property
    def selects(self) -> bool:
        """True if any label is ever removed or corrected."""
        return (self.tau_h > 0 and self.ablation != "CLS-H") or (self.tau_l > 0 and self.ablation != "CLS-L")


class KeptShares(NamedTuple):
    """Shares that are kept, each in [0, 1]."""

    high: float  # R_h, of the assumed negatives
    low: float  # R_l, of those that remain


def kept_share(tau: float, epoch: int, ramp_epochs: int, lag: int = 0) -> float:
    """R(e) = 1 - min(e / E_k * tau, tau), the schedule of R_h and of R_l alike.

    Args:
        tau: share that is removed in the end, in [0, 1].
        epoch: e, from 1; `lag` is taken off it.
        ramp_epochs: E_k.
        lag: 0 or 1.
    """
    return 1 - min((epoch - lag) / ramp_epochs * tau, tau)


class RemovedLabels(NamedTuple):
    """(B, C) bool: assumed negatives that are not kept. No label is in both."""

    high: Tensor  # N_f left N: the peer takes them for false negatives
    low: Tensor  # N_f' left N_f: the network has nothing to learn from them


def select(own: Tensor, peer: Tensor, negatives: Tensor, rates: KeptShares) -> RemovedLabels:
    """Select labels by equations (1) and (3) for f with g as its peer, or by (2) and (4) for g with f as its peer.

    Sets are pooled over the whole batch. Of equal losses the first, image by image, is kept.

    Args:
        own: (B, C) losses of the network that learns.
        peer: (B, C) losses of the other one.
        negatives: N, (B, C) bool, the assumed negatives.
        rates: shares that are kept.
    """
    credible = smallest(peer, negatives, share_count(negatives.sum(), rates.high))
    informative = smallest(-own, credible, share_count(credible.sum(), rates.low))
    return RemovedLabels(negatives & ~credible, credible & ~informative)


def divisor(kept: Tensor, reduction: CLSReduction) -> Tensor | int:
    """Divisor of the sum over kept labels, at least 1. `kept`: (B, C) bool, the whole batch."""
    if reduction == "mean_kept":
        return kept.sum().clamp(min=1)
    return len(kept) if reduction == "sum_over_labels" else kept.numel()


class CLS(PeerCriterion):
    """CLS and its ablations CLS-H, CLS-L and CLC (AAAI 2025).

    Known labels always count: only UNKNOWN ones, which are assumed negative, are removed. `modified` are those that g
    removed from f's labels, or with CLC corrected. Logged: `loss_f`, `loss_g`; `removed_high` and `removed_low`, the
    mean numbers of labels removed per image, which are the same for both networks.

    Raises: UserError if no label is UNKNOWN, unless nothing is to be removed.
    """

    config: CLSConfig

    def __init__(self, config: CLSConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        require(
            not config.selects or int(info.observed.counts(UNKNOWN).sum()) > 0,
            "cls: no label is unknown, so none may be removed; take --labels dropped (--drop_rate 0: "
            "what is not named) or single, or --tau_h 0 --tau_l 0 for two plain networks",
        )

    @property
    def rates(self) -> KeptShares:
        """R_h and R_l in this epoch."""
        config = self.config
        high, low = (
            kept_share(tau, self.epoch, config.ramp_epochs, config.schedule_lag) for tau in (config.tau_h, config.tau_l)
        )
        return KeptShares(1.0 if config.ablation == "CLS-H" else high, 1.0 if config.ablation == "CLS-L" else low)

    def forward(self, model: PeerModels, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        logits, whole = peer_logits(model, batch.images), GlobalBatch(batch)
        losses = [assume_negative_losses(each, batch.observed) for each in logits]
        f, g, negatives = whole.rows(torch.stack([*losses, batch.observed == UNKNOWN], dim=1)).unbind(dim=1)
        judges = (g, f) if self.config.judge == "peer" else (f, g)
        removed_f, removed_g = (
            select(own, judge, negatives.bool(), self.rates) for own, judge in zip((f, g), judges, strict=True)
        )
        loss = PeerPair(
            self._loss(logits.f, batch.observed, removed_f, whole),
            self._loss(logits.g, batch.observed, removed_g, whole),
        )
        parts = {"loss_f": loss.f.detach(), "loss_g": loss.g.detach()}
        parts |= {f"removed_{name}": each.sum() / whole.size for name, each in removed_f._asdict().items()}
        return LossOutput(loss.f + loss.g, logits.f.detach(), parts, whole.own(removed_f.high))

    def _loss(self, logits: Tensor, observed: Tensor, removed: RemovedLabels, whole: GlobalBatch) -> Tensor:
        """Equation (7) for f, (8) for g: the loss over S, the kept negatives and all known labels, (5) and (6)."""
        kept = ~(removed.high | removed.low)
        if self.config.ablation == "CLC":
            observed = observed.masked_fill(whole.own(removed.high), PRESENT)
            kept = ~removed.low
        losses = assume_negative_losses(logits, observed)
        return whole.total(losses, kept) / divisor(kept, self.config.reduction)
