"""Sample selection by two networks: Co-teaching, Co-teaching+, Decoupling and JoCoR, for several labels per image.

B batch, C classes, f and g the networks. Sources: Han et al., NeurIPS 2018 (arXiv 1804.06872), code bhanML/Co-teaching;
Yu et al., ICML 2019 (arXiv 1901.04215); Malach and Shalev-Shwartz, NeurIPS 2017 (arXiv 1706.02613); Wei et al., CVPR
2020 (arXiv 2003.02752), code hongxin001/JoCoR. All are for one label per image; here their loss is replaced by the
binary cross-entropy of all labels, as by Lyu et al. (AAAI 2025): docs/methods/co_teaching.md.
"""

from __future__ import annotations

import math
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
from utils.types import Batch, LossOutput, PeerModels

Disagreement = Literal["sample", "label"]


@dataclass(frozen=True, kw_only=True)
class CoTeachingConfig:
    """Settings of Co-teaching. Raises: UserError for a value that cannot work."""

    forget_rate: float = option(0.2, "share of a batch's images that is left out, those of the largest losses")
    ramp_epochs: int = option(10, "epochs in which that share grows to its full size (T_k)", aliases=("num_gradual",))
    exponent: float = option(1.0, "the share grows towards forget_rate to this power (c)")

    def __post_init__(self) -> None:
        require(0 <= self.forget_rate < 1, f"--forget_rate {self.forget_rate}: must be a share, 0 to below 1")
        require(self.ramp_epochs >= 1, f"--ramp_epochs {self.ramp_epochs}: must be at least 1; published: 10")
        require(0 < self.exponent < math.inf, f"--exponent {self.exponent}: must be above 0; published: 0.5, 1 or 2")


@dataclass(frozen=True, kw_only=True)
class CoTeachingPlusConfig(CoTeachingConfig):
    """Settings of Co-teaching+. Raises: UserError for a value that cannot work."""

    init_epoch: int = option(5, "first epochs, which are plain Co-teaching")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.init_epoch >= 0, f"--init_epoch {self.init_epoch}: must not be negative; published: 5 or 20")


@dataclass(frozen=True, kw_only=True)
class DecouplingConfig:
    """Settings of Decoupling. Raises: UserError for an unknown value."""

    disagreement: Disagreement = option(
        "sample", "learn all labels of an image on which the networks disagree, or only those they disagree on"
    )

    def __post_init__(self) -> None:
        require_choices(self)


@dataclass(frozen=True, kw_only=True)
class JoCoRConfig(CoTeachingConfig):
    """Settings of JoCoR. Raises: UserError for a value that cannot work."""

    agreement: float = option(0.1, "share of the loss that asks the networks to agree (lambda)", aliases=("co_lambda",))

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.agreement <= 1, f"--agreement {self.agreement}: must be a share, 0 to 1; published: 0.1")


def forgotten_share(config: CoTeachingConfig, epoch: int) -> float:
    """Forgotten share r(e): even steps from 0 in epoch 0 to r^c in epoch T_k - 1, then r. The first epoch is 1."""
    if epoch >= config.ramp_epochs:
        return config.forget_rate
    return math.pow(config.forget_rate, config.exponent) * epoch / max(config.ramp_epochs - 1, 1)


def small_losses(losses: Tensor, candidates: Tensor, forgotten: float) -> Tensor:
    """Candidates that remain when the share `forgotten` of the largest losses is left out; all if none would remain.

    Args:
        losses: (G,) of the whole batch.
        candidates: (G,) bool, the images to choose from.
        forgotten: r, in [0, 1).

    Returns:
        (G,) bool.
    """
    size = candidates.sum()
    count = share_count(size, 1 - forgotten)
    return smallest(losses, candidates, torch.where(count == 0, size, count))


def exchanged(losses: PeerPair, candidates: Tensor, forgotten: float) -> PeerPair:
    """Images that each network learns from: those of small loss in the OTHER one. Shapes as `small_losses`."""
    return PeerPair(small_losses(losses.g, candidates, forgotten), small_losses(losses.f, candidates, forgotten))


def disagreements(logits: PeerPair) -> Tensor:
    """(B, C) bool: labels that one network predicts (logit 0 or more) and the other does not."""
    return (logits.f >= 0) != (logits.g >= 0)


def divergence(logits: PeerPair) -> Tensor:
    """(B,) sum over classes of KL(p_f || p_g) + KL(p_g || p_f), Bernoulli, which is (p_f - p_g)(z_f - z_g)."""
    return ((logits.f.sigmoid() - logits.g.sigmoid()) * (logits.f - logits.g)).sum(dim=1)


def joint(losses: PeerPair, divergences: Tensor, agreement: float) -> Tensor:
    """Loss of an image in JoCoR, (1 - lambda)(s_f + s_g) + lambda J; scalars or any equal shapes."""
    return (1 - agreement) * (losses.f + losses.g) + agreement * divergences


class PeerLosses(NamedTuple):
    """Logits and losses of a batch in both networks."""

    logits: PeerPair  # (B, C)
    losses: PeerPair  # (B,) s_f and s_g, the sum over classes of the binary cross-entropy, UNKNOWN read as ABSENT
    whole: GlobalBatch


def peer_losses(model: PeerModels, batch: Batch) -> PeerLosses:
    """One forward pass of each network: images (B, 3, H, W), observed labels (B, C)."""
    logits = peer_logits(model, batch.images)
    losses = PeerPair(*(assume_negative_losses(each, batch.observed).sum(dim=1) for each in logits))
    return PeerLosses(logits, losses, GlobalBatch(batch))


def mean_over(chosen: Tensor, values: Tensor, whole: GlobalBatch) -> Tensor:
    """Mean of values (B,) over the chosen images (G,) bool; 0, with a gradient of zeros, if none is chosen."""
    return whole.total(values, chosen) / chosen.sum().clamp(min=1)


def output(logits: PeerPair, loss: PeerPair, parts: dict[str, Tensor]) -> LossOutput:
    """Both losses added up, beside `parts` for the log."""
    logged = {"loss_f": loss.f.detach(), "loss_g": loss.g.detach(), **parts}
    return LossOutput(loss.f + loss.g, logits.f.detach(), logged)


def no_step_without(chosen: Tensor, output: LossOutput) -> LossOutput:
    """`output`, whose total has no gradient if no image of the global batch is chosen: then there is no step.

    All processes must decide alike, so this waits for the device, the only time in these methods.
    """
    return output if bool(chosen.any()) else output._replace(total=output.total.detach())


def _differing(both: PeerLosses) -> Tensor:
    """(B,) 1 for an image on which the networks disagree, else 0; of the type of its losses."""
    return disagreements(both.logits).any(dim=1).to(both.losses.f.dtype)


class CoTeaching(PeerCriterion):
    """Co-teaching (NeurIPS 2018): each network learns from the images whose loss is small in the other one.

    Logged: `loss_f`, `loss_g`; `kept`, the share of the images that each learns from.
    """

    config: CoTeachingConfig

    def forward(self, model: PeerModels, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        both = peer_losses(model, batch)
        everyone = PeerPair(*both.whole.rows(torch.stack(both.losses, dim=1)).unbind(dim=1))
        return self.teach(both, everyone, torch.ones_like(everyone.f, dtype=torch.bool))

    def teach(self, both: PeerLosses, everyone: PeerPair, candidates: Tensor) -> LossOutput:
        """Losses after an exchange among the candidates, images (G,) bool; `everyone` are the losses (G,) of all."""
        losses, whole = both.losses, both.whole
        chosen = exchanged(everyone, candidates, forgotten_share(self.config, self.epoch))
        loss = PeerPair(mean_over(chosen.f, losses.f, whole), mean_over(chosen.g, losses.g, whole))
        return output(both.logits, loss, {"kept": chosen.f.sum() / whole.size})


class CoTeachingPlus(CoTeaching):
    """Co-teaching+ (ICML 2019): Co-teaching among the images on which the networks disagree, after a warm-up.

    No step where they agree on all. Logged: as Co-teaching, and `disagreeing`, the share of such images.
    """

    config: CoTeachingPlusConfig

    def forward(self, model: PeerModels, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        both = peer_losses(model, batch)
        f, g, apart = both.whole.rows(torch.stack([*both.losses, _differing(both)], dim=1)).unbind(dim=1)
        differing, warming = apart.bool(), self.epoch <= self.config.init_epoch
        taught = self.teach(both, PeerPair(f, g), torch.ones_like(differing) if warming else differing)
        taught.parts["disagreeing"] = differing.sum() / both.whole.size
        return taught if warming else no_step_without(differing, taught)


class Decoupling(PeerCriterion):
    """Decoupling (NeurIPS 2017): both networks learn from the images on which they disagree, each its own loss.

    No step where they agree on all. Logged: `loss_f`, `loss_g`; `disagreeing`, the share of such images.
    """

    config: DecouplingConfig

    def forward(self, model: PeerModels, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        logits, losses, whole = peer_losses(model, batch)
        differing = disagreements(logits)
        if self.config.disagreement == "label":
            labels = (assume_negative_losses(each, batch.observed) for each in logits)
            losses = PeerPair(*(each.where(differing, 0).sum(dim=1) for each in labels))
        chosen = whole.rows(differing.any(dim=1))
        loss = PeerPair(mean_over(chosen, losses.f, whole), mean_over(chosen, losses.g, whole))
        return no_step_without(chosen, output(logits, loss, {"disagreeing": chosen.sum() / whole.size}))


class JoCoR(PeerCriterion):
    """JoCoR (CVPR 2020): both networks learn from the images whose joint loss is small, and to agree on them.

    Logged, means over these images: `loss_f`, `loss_g` and `divergence`, before they are weighted; `kept`, the share of
    the images that is chosen.
    """

    config: JoCoRConfig

    def forward(self, model: PeerModels, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C). It joins both networks in one loss."""
        logits, losses, whole = peer_losses(model, batch)
        divergences = divergence(logits)
        everyone = whole.rows(joint(losses, divergences, self.config.agreement))
        candidates = torch.ones_like(everyone, dtype=torch.bool)
        chosen = small_losses(everyone, candidates, forgotten_share(self.config, self.epoch))
        loss = PeerPair(mean_over(chosen, losses.f, whole), mean_over(chosen, losses.g, whole))
        apart = mean_over(chosen, divergences, whole)
        parts = {"divergence": apart.detach(), "kept": chosen.sum() / whole.size}
        return output(logits, loss, parts)._replace(total=joint(loss, apart, self.config.agreement))
