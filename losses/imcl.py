"""IMCL: each image as a combination of a few others, in labels that a learned graph completes and in features.

B batch, C classes, D feature width, n atoms of the dictionary, k atoms of an image. Source: Huynh and Elhamifar,
"Interactive Multi-Label CNN Learning with Partial Labels", CVPR 2020; published code hbdat/cvpr20_IMCL,
`colaborative_loss.py`, `MSCOCO_experiments/`. Formulas, and differences from that code: docs/methods/imcl.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from losses.assume_negative import assume_negative_losses
from losses.common.base import ScheduledCriterion
from losses.common.functional import at_least_float32
from losses.common.global_batch import GlobalBatch
from losses.common.memory import MemoryNeed
from losses.common.variants import require_choices
from losses.imcl_coding import Codes, Space, combined, sparse_codes
from losses.imcl_dictionary import Dictionary, LabelGraph
from losses.single_positive import known_losses
from utils.checks import require
from utils.cooccurrence import cooccurrence
from utils.head_vectors import PooledFeatures
from utils.options import option
from utils.types import ABSENT, PRESENT, UNKNOWN, Batch, CriterionInfo, LossOutput, Model

MEASURED = 10
"""Steps from which the sizes of the losses are known, to which weights are relative; as published."""


@dataclass(frozen=True, kw_only=True)
class IMCLConfig:
    """Settings of IMCL. Raises: UserError for a value that cannot work."""

    unknown_as: Literal["masked", "absent"] = option(
        "masked", "BCE has no term for unknown labels, or reads them as absent, as published for COCO"
    )
    dictionary_size: int = option(10_000, "training images, drawn by lot, that others are combinations of")
    atoms: int = option(3, "k: most images in the combination that stands for one")
    asymmetry: float = option(2.0, "c: an absent label is -1/c where a present one is 1; 1 for COCO")
    collaborative_weight: float = option(0.5, "weight of the collaborative loss, relative to the size of BCE")
    feature_weight: float = option(0.25, "the same of the features, which also count in the choice of atoms; 0: not")
    feature_loss: bool = option(False, "features have a loss too, and do not only count in the choice of atoms")
    graph_neighbours: int = option(5, "most other classes that complete the score of a class; 0: none")
    graph_lr_mult: float = option(1.0, "the graph of labels learns this many times faster than the backbone")
    collaborate_from: int | None = option(
        None, "first epoch with the collaborative loss, before it BCE alone (default: after half of --epochs)"
    )

    def __post_init__(self) -> None:
        require_choices(self)
        for name, published in (("dictionary_size", 10_000), ("atoms", 3)):
            given = getattr(self, name)
            require(given >= 1, f"--{name} {given}: must be at least 1; the published value is {published}")
        require(self.graph_neighbours >= 0, f"--graph_neighbours {self.graph_neighbours}: must be 0 or more")
        first = self.collaborate_from
        require(
            first is None or first >= 2,
            f"--collaborate_from {first}: must be at least 2, for the first epoch fills the dictionary",
        )
        c = self.asymmetry
        require(1 <= c < math.inf, f"--asymmetry {c}: must be 1 or more; the published values are 1 and 2")
        for name in ("collaborative_weight", "graph_lr_mult"):
            given = getattr(self, name)
            require(0 < given < math.inf, f"--{name} {given}: must be above 0")
        weight = self.feature_weight
        require(0 <= weight < math.inf, f"--feature_weight {weight}: must be 0 or more")
        require(weight > 0 or not self.feature_loss, "--feature_loss: has no weight; give --feature_weight above 0")


class Costs(NamedTuple):
    """What a combination leaves of each image, 0 where it has no atom; and how many atoms it has. (B,) each."""

    labels: Tensor
    features: Tensor
    atoms: Tensor


def asym_sigmoid(logits: Tensor, c: float) -> Tensor:
    """Scores between -1/c and 1, 0 where the logit is 0; tanh for c = 1.

    (e^u - e^-u / c) / (e^u + e^-u) with u = z - ln(c) / 2, which is (1 + 1/c) sigmoid(2u) - 1/c.

    Args:
        logits: z, of any shape.
        c: at least 1.
    """
    return (1 + 1 / c) * torch.sigmoid(2 * logits - math.log(c)) - 1 / c


def clamped(scores: Tensor, observed: Tensor, c: float) -> Tensor:
    """Scores (..., C) where a label is UNKNOWN; 1 where it is PRESENT and -1/c where it is ABSENT."""
    return scores.masked_fill(observed == PRESENT, 1).masked_fill(observed == ABSENT, -1 / c)


class IMCL(ScheduledCriterion):
    """IMCL (CVPR 2020): BCE, and the distance of an image's completed labels from a combination of other images'.

    The atoms of the combinations are images of a dictionary, whose features are those that the network last saw. State:
    the epoch; the dictionary; the graph of labels, which is learned; the sizes of the losses in the first steps.
    Logged: `bce`; `seen`, the share of the dictionary that has features; later also `collaborative` and, if it counts,
    `features`, without weights; `atoms` per image; `weight`, that of the collaborative loss.

    Raises: UserError unless some labels are known to be present, some are unknown, and some are known to be absent or
    unknown ones are read so.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"pooled"})
    config: IMCLConfig
    measured: Tensor

    def __init__(self, config: IMCLConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        _require_labels(config, info)
        self.dictionary = Dictionary(info.observed, config.dictionary_size, info.feature_width, info.seed)
        self.graph = LabelGraph(cooccurrence(info.observed), config.graph_neighbours)
        self.first = config.collaborate_from or max(2, info.epochs // 2 + 1)
        self.steps = 0
        self.register_buffer("measured", torch.zeros(3, dtype=torch.float64))

    @classmethod
    def memory_needs(cls, config: IMCLConfig, info: CriterionInfo) -> list[MemoryNeed]:
        """Features and labels of the dictionary."""
        atoms, less = min(config.dictionary_size, len(info.observed)), "a smaller --dictionary_size"
        return [
            MemoryNeed("features of the dictionary", 4 * atoms * info.feature_width, False, remedy=less),
            MemoryNeed("labels of the dictionary", atoms * info.observed.num_classes, False),
        ]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The graph of labels, where it has more than the classes themselves; it does not decay."""
        learned = [each for each in self.graph.parameters() if each.requires_grad]
        return [{"params": learned, "lr_mult": self.config.graph_lr_mult, "weight_decay": 0.0}] if learned else []

    def get_extra_state(self) -> dict[str, int]:
        """Return the epoch, and how many steps the sizes of the losses are known of."""
        return {**super().get_extra_state(), "steps": self.steps}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore both."""
        super().set_extra_state(state)
        self.steps = int(state["steps"])

    def refuses_spliced(self) -> str:
        """It knows images by their rows."""
        return "keeps features of training images, and a spliced image is none of them"

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C), rows of the training set (B,)."""
        output = model(batch.images, want=frozenset({"pooled"}))
        assert output.pooled is not None
        logits = at_least_float32(output.logits)
        with torch.autocast(logits.device.type, enabled=False):
            return self._loss(logits, output.pooled, batch)

    def _loss(self, logits: Tensor, pooled: PooledFeatures, batch: Batch) -> LossOutput:
        config, whole = self.config, GlobalBatch(batch)
        losses = self._losses(logits, batch.observed)
        count = self._refresh(whole, pooled.vectors, batch.observed)
        bce = whole.total(losses, torch.ones(whole.size, 1, dtype=torch.bool, device=losses.device)) / count
        parts = {"bce": bce.detach(), "seen": self.dictionary.seen.to(logits.dtype).mean()}
        if self.epoch < self.first:
            return LossOutput(bce, logits.detach(), parts)
        costs = self._costs(logits, pooled, batch)
        sizes = self._sizes(whole, losses, count, costs).to(logits.dtype)
        terms = {"collaborative": costs.labels.mean()}
        weights = {"collaborative": config.collaborative_weight * sizes[0]}
        if config.feature_loss:
            terms["features"], weights["features"] = costs.features.mean(), config.feature_weight * sizes[1]
        total = bce + torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        parts |= {name: term.detach() for name, term in terms.items()}
        parts |= {"atoms": costs.atoms.mean(), "weight": weights["collaborative"]}
        return LossOutput(total, logits.detach(), parts)

    def _losses(self, logits: Tensor, observed: Tensor) -> Tensor:
        """(B, C) BCE of each label, 0 of those that are masked."""
        if self.config.unknown_as == "absent":
            return assume_negative_losses(logits, observed)
        return known_losses(logits, observed)

    def _refresh(self, whole: GlobalBatch, features: Tensor, observed: Tensor) -> Tensor:
        """Take up the features (B, D) of all processes, in one exchange; returns how many labels have a loss."""
        counted = torch.ones_like(observed) if self.config.unknown_as == "absent" else observed != UNKNOWN
        numbers = counted.sum(dim=1, keepdim=True).to(features.dtype)
        rows = whole.rows(torch.cat([features.detach(), numbers], dim=1))
        self.dictionary.refresh(whole.index, rows[:, :-1])
        return rows[:, -1].sum().clamp(min=1)

    def _costs(self, logits: Tensor, pooled: PooledFeatures, batch: Batch) -> Costs:
        """What the combinations leave, with gradients of the images, of the scores of atoms, and of the graph."""
        targets = clamped(asym_sigmoid(logits, self.config.asymmetry), batch.observed, self.config.asymmetry)
        codes = self._codes(targets.detach(), pooled, batch.index)
        features = self.dictionary.features[codes.atoms].to(targets.dtype)
        scores = self._completed(pooled, features.flatten(0, 1), self.dictionary.codes[codes.atoms].flatten(0, 1))
        left = [targets - combined(codes.shares[0], scores.view(*features.shape[:2], -1))]
        if len(codes.shares) > 1:
            left.append(pooled.vectors - combined(codes.shares[1], features))
        found = [each.square().sum(dim=1).where(codes.taken[:, 0], 0) for each in left]
        atoms = codes.taken.sum(dim=1, dtype=targets.dtype)
        return Costs(found[0], found[1] if len(found) > 1 else torch.zeros_like(found[0]), atoms)

    @torch.no_grad()
    def _codes(self, targets: Tensor, pooled: PooledFeatures, index: Tensor) -> Codes:
        """The combinations for completed labels (B, C) and features (B, D) of images with these rows."""
        features = self.dictionary.features.to(targets.dtype)
        scores = self._completed(pooled, features, self.dictionary.codes)
        spaces = [Space(targets, scores, self.config.collaborative_weight)]
        if self.config.feature_weight > 0:
            spaces.append(Space(pooled.vectors.detach(), features, self.config.feature_weight))
        return sparse_codes(spaces, self.dictionary.others(index), self.config.atoms)

    def _completed(self, pooled: PooledFeatures, features: Tensor, observed: Tensor) -> Tensor:
        """(m, C) labels of atoms with features (m, D): those observed, (m, C) codes, else completed scores."""
        c = self.config.asymmetry
        return clamped(self.graph(asym_sigmoid(pooled.classify(features), c)), observed, c)

    @torch.no_grad()
    def _sizes(self, whole: GlobalBatch, losses: Tensor, count: Tensor, costs: Costs) -> Tensor:
        """(2,) BCE by the size of both costs, of the first steps together; 0 for a cost that is 0.

        These steps exchange the losses of the rows; the steps behind them nothing.
        """
        if self.steps < MEASURED:
            rows = whole.rows(torch.stack([losses.sum(dim=1), costs.labels, costs.features], dim=1)).double()
            bce, *sizes = rows.sum(dim=0)
            self.measured += torch.stack([bce / count, *(size / len(rows) for size in sizes)])
            self.steps += 1
        return torch.where(self.measured[1:] > 0, self.measured[0] / self.measured[1:], 0)


def _require_labels(config: IMCLConfig, info: CriterionInfo) -> None:
    """Raise UserError for labels of which nothing can be learned, or completed."""
    counts = {code: int(info.observed.counts(code).sum()) for code in (PRESENT, ABSENT, UNKNOWN)}
    require(counts[PRESENT] > 0, "imcl: no label is known to be present; take --labels known")
    require(counts[UNKNOWN] > 0, "imcl: no label is unknown, so none is completed; take --loss bce, or --labels known")
    require(
        counts[ABSENT] > 0 or config.unknown_as == "absent",
        "imcl: no label is known to be absent, so it would learn one answer for everything; take --unknown_as absent, "
        "or --labels known",
    )
