"""SARB without words: class vectors of other images blended into unknown labels, and a contrast of class vectors.

B batch, C classes, D width of a class vector, P pairs of images. Source: Pu et al., AAAI 2022, arXiv 2203.02172;
published code HCPLab-SYSU/HCP-MLR-PL, loss/SARB.py, model/SARB.py, SARB.py. There word vectors and a graph network
make the class vectors, here the head does; all differences: docs/methods/sarb.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.common.base import ScheduledCriterion
from losses.common.functional import at_least_float32
from losses.common.global_batch import GlobalBatch
from losses.common.memory import MemoryNeed
from losses.common.small_loss import smallest
from losses.consistency import known_means
from losses.sarb_prototypes import SHORTEST, ClassCentres, centre_need, refresh_due, require_prototypes
from losses.single_positive import known_losses, require_known
from utils.checks import require
from utils.collectives import of_first, world_size
from utils.head_vectors import ClassVectors
from utils.options import option
from utils.types import ABSENT, PRESENT, UNKNOWN, Batch, CriterionInfo, LossOutput, Model


@dataclass(frozen=True, kw_only=True)
class SARBConfig:
    """Settings of SARB. Raises: UserError for a value that cannot work."""

    blend_from: int = option(6, "first epoch in which class vectors are blended")
    blend_share: float = option(0.5, "share of its own vector that a blended one has at the start")
    blend_learned: bool = option(True, "that share is learned; off: it stays")
    contrast_weight: float = option(0.05, "weight of the contrast of class vectors; it grows in the first epoch")
    prototypes: int = option(
        0,
        "centres of the vectors of each class, which are blended in too from --blend_from on (published: 10); 0: none",
    )
    prototype_every: int = option(5, "epochs after which these centres are found anew")
    prototype_memory: int = option(100, "vectors of each class that they are centres of, one per step")

    def __post_init__(self) -> None:
        require(self.blend_from >= 1, f"--blend_from {self.blend_from}: must be at least 1")
        require(0 <= self.blend_share <= 1, f"--blend_share {self.blend_share}: must be in [0, 1]")
        require(0 <= self.contrast_weight < math.inf, f"--contrast_weight {self.contrast_weight}: must be 0 or more")
        require(self.prototypes >= 0, f"--prototypes {self.prototypes}: must be 0 or more; the published value is 10")
        require_prototypes(self.prototypes, self.prototype_every, self.prototype_memory)


class Blend(NamedTuple):
    """Class vectors and labels of a batch, some of them blended with those of another image."""

    vectors: Tensor  # (B, C, D)
    targets: Tensor  # (B, C) in [0, 1], UNKNOWN where nothing is known
    taken: Tensor  # (B, C) bool, those that are blended


def blended(vectors: Tensor, observed: Tensor, share: Tensor) -> Blend:
    """Unknown labels take up what the image at the other end of the batch has of a class that is present there.

    Row b goes with row B - 1 - b. A vector f becomes share f + (1 - share) f', its target 1 - share; a share of 1 takes
    nothing up, and the label stays unknown.

    Args:
        vectors: (B, C, D).
        observed: (B, C) label codes.
        share: scalar in [0, 1], which has a gradient through vectors and targets.
    """
    taken = (observed == UNKNOWN) & (observed.flip(0) == PRESENT)
    return _mixed(vectors, vectors.flip(0), taken, observed, share)


def blended_with_centres(
    vectors: Tensor, observed: Tensor, centres: Tensor, held: Tensor, draws: Tensor, share: Tensor
) -> Blend:
    """One unknown label of each image takes up a centre of its class, as `blended` does a vector of another image.

    Args:
        vectors: (B, C, D).
        observed: (B, C) label codes.
        centres: (C, D), one of each class.
        held: (C,) bool; False of a class without a centre, of which nothing is taken up.
        draws: (B, C), the lots: of an image's unknown labels the highest is taken; an image without any stays.
        share: scalar in [0, 1], which has a gradient through vectors and targets.
    """
    free = (observed == UNKNOWN) & held
    first = draws.masked_fill(~free, -math.inf).argmax(dim=1, keepdim=True)
    taken = torch.zeros_like(free).scatter(1, first, True) & free
    return _mixed(vectors, centres, taken, observed, share)


def _mixed(vectors: Tensor, others: Tensor, taken: Tensor, observed: Tensor, share: Tensor) -> Blend:
    """Vectors (B, C, D) blended with others of that shape where they are `taken`, (B, C) bool."""
    mixed = share * vectors + (1 - share) * others
    targets = torch.where(taken & (share < 1), 1 - share, observed.to(vectors.dtype))
    return Blend(torch.where(taken[:, :, None], mixed, vectors), targets, taken)


def cosines(vectors: Tensor) -> Tensor:
    """(P, C) cosines of the vectors (B, C, D) of a class in two images, for every pair of images, in order."""
    units = F.normalize(vectors, dim=2, eps=SHORTEST).transpose(0, 1)
    first, second = torch.triu_indices(len(vectors), len(vectors), 1, device=vectors.device)
    return (units @ units.transpose(1, 2))[:, first, second].T


def contrast(vectors: Tensor, observed: Tensor, draws: Tensor) -> Tensor:
    """Vectors of a class shall agree where it is present in both images, and differ elsewhere.

    The cost of a pair of images and a class is 1 - d where it is present in both, 1 + d where it is absent from one or
    both, d the cosine; unknown labels have none. Of the n pairs with both present all count; of those with one present,
    and of those with none, 2n by lot and the n of highest cost, twice where they are both. Where n is 0 all count.

    Args:
        vectors: (B, C, D) with gradient.
        observed: (B, C) label codes.
        draws: (P, C), the lots: lower ones come first.

    Returns:
        Scalar, the mean over what counts; 0, with a gradient of zeros, where nothing does. Nothing waits for a device.
    """
    first, second = torch.triu_indices(len(observed), len(observed), 1, device=observed.device)
    one, other = observed[first], observed[second]
    both, neither = (one == PRESENT) & (other == PRESENT), (one == ABSENT) & (other == ABSENT)
    either = ((one == PRESENT) & (other == ABSENT)) | ((one == ABSENT) & (other == PRESENT))
    alike = cosines(vectors)
    costs, count = torch.where(both, 1 - alike, 1 + alike), both.sum()

    def thinned(kind: Tensor) -> Tensor:
        drawn, dearest = smallest(draws, kind, 2 * count), smallest(-costs.detach(), kind, count)
        return torch.where(count > 0, drawn.to(costs.dtype) + dearest.to(costs.dtype), kind.to(costs.dtype))

    weights = both.to(costs.dtype) + thinned(either) + thinned(neither)
    return (weights * costs).sum() / weights.sum().clamp(min=1)


class SARB(ScheduledCriterion):
    """Semantic-aware representation blending (AAAI 2022) with class vectors of the head.

    Partial BCE, from some epoch on the same of class vectors that are blended with those of another image, and if so
    set of those blended with centres of their class, and the contrast of class vectors. An image is blended and
    compared with those of the GLOBAL batch, over which means are taken too: every process has all class vectors. State:
    the epoch, the number of steps, and `share`, a parameter; with centres also `centre_share`, another, and
    `prototypes`. Logged: `known`, `blended`, `centred` and `contrast`, the parts of the loss without weights; `taken`,
    labels blended with other images, per image; `share` and `centre_share`.

    Raises: UserError unless labels of both kinds are known and some are unknown.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"class_vectors"})
    config: SARBConfig
    steps: Tensor

    def __init__(self, config: SARBConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        require_known("sarb", info)
        require(
            int(info.observed.counts(UNKNOWN).sum()) > 0,
            "sarb: no label is unknown, so nothing could be blended in; take --loss partial_bce, or --labels known",
        )
        self.share = nn.Parameter(torch.tensor(config.blend_share), requires_grad=config.blend_learned)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.prototypes: ClassCentres | None = None
        if config.prototypes:
            self.prototypes = ClassCentres.of("sarb", config.prototypes, config.prototype_memory, info)
            self.centre_share = nn.Parameter(torch.tensor(config.blend_share), requires_grad=config.blend_learned)

    @classmethod
    def memory_needs(cls, config: SARBConfig, info: CriterionInfo) -> list[MemoryNeed]:
        """The prototypes, where there are any."""
        return [centre_need(config.prototypes, config.prototype_memory, info)] if config.prototypes else []

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The shares, where they are learned; they do not decay."""
        return [{"params": list(self.parameters()), "weight_decay": 0.0}] if self.config.blend_learned else []

    def on_epoch_start(self, epoch: int, train_scores: Tensor | None = None) -> None:
        """Keep the epoch, and find prototypes anew where that is due."""
        super().on_epoch_start(epoch, train_scores)
        if self.prototypes is not None and refresh_due(epoch, self.config.blend_from, self.config.prototype_every):
            self.prototypes.refresh()

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        output = model(batch.images, want=frozenset({"class_vectors"}))
        logits, found = at_least_float32(output.logits), output.class_vectors
        assert found is not None
        (known,) = known_means([known_losses(logits, batch.observed)], [batch.observed], batch, "batch")
        means, parts = {"known": known}, {}
        everyone, observed = of_all(found, batch)
        if self.prototypes is not None:
            self.prototypes.remember(everyone.vectors.detach(), observed)
        if self.epoch >= self.config.blend_from:
            blends = self._blends(everyone.vectors, observed)
            means |= {name: _blend_loss(everyone, blend) for name, blend in blends.items()}
            parts = {"taken": blends["blended"].taken.sum(dim=1, dtype=logits.dtype).mean()}
            parts |= {name: share.detach().clone() for name, share in self.named_parameters()}
        compared = self._contrast(everyone.vectors, observed)
        total = torch.stack(list(means.values())).sum() + self._weight().to(logits.dtype) * compared
        parts |= {name: value.detach() for name, value in (means | {"contrast": compared}).items()}
        return LossOutput(total, logits.detach(), parts)

    def _blends(self, vectors: Tensor, observed: Tensor) -> dict[str, Blend]:
        """Vectors (G, C, D) blended, by the name of their term; shares are brought back into [0, 1] first."""
        with torch.no_grad():
            for share in self.parameters():
                share.clamp_(0, 1)
        blends = {"blended": blended(vectors, observed, self.share.to(vectors.dtype))}
        if self.prototypes is not None:
            lots = of_first(torch.rand(len(observed) + 1, observed.shape[1], device=vectors.device))
            number = (lots[-1, :1] * self.config.prototypes).long()  # one centre for the whole batch
            centres = self.prototypes.centres.index_select(1, number)[:, 0].to(vectors.dtype)
            held, own = self.prototypes.held, self.centre_share.to(vectors.dtype)
            blends["centred"] = blended_with_centres(vectors, observed, centres, held, lots[:-1], own)
        return blends

    def _contrast(self, vectors: Tensor, observed: Tensor) -> Tensor:
        """The contrast of these images, by lots that are drawn for all processes; without a weight 0, at no cost."""
        if self.config.contrast_weight == 0:
            return vectors.new_zeros(())
        pairs = len(vectors) * (len(vectors) - 1) // 2
        draws = of_first(torch.rand(pairs, observed.shape[1], device=vectors.device))
        return contrast(vectors, observed, draws)

    def _weight(self) -> Tensor:
        """The weight of the contrast in this step, which is counted: from 0 on it grows linearly for one epoch."""
        grown = (self.steps.double() / self.info.steps_per_epoch).clamp(max=1)
        self.steps += 1
        return self.config.contrast_weight * grown


def _blend_loss(found: ClassVectors, blend: Blend) -> Tensor:
    """Scalar: BCE of blended vectors of the global batch, the mean over their labels."""
    costs = known_losses(found.classify(blend.vectors), blend.targets)
    return costs.sum() / (blend.targets != UNKNOWN).sum().clamp(min=1)


def of_all(found: ClassVectors, batch: Batch) -> tuple[ClassVectors, Tensor]:
    """Class vectors of the global batch, as every process has them, with gradient; and its label codes (G, C)."""
    if world_size() == 1:
        return found, batch.observed
    codes = batch.observed.to(found.vectors)[:, :, None]
    rows = GlobalBatch(batch).rows_with_gradient(torch.cat([found.vectors, codes], dim=2))
    return found._replace(vectors=rows[:, :, :-1]), rows[:, :, -1].detach().to(batch.observed)
