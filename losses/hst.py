"""HST without words: pseudo labels by classes that go together in an image and by likeness to what a class looks like.

B batch, C classes, D width of a class vector, P pairs of classes, H hidden width, s similarity. Source: Chen et al.,
"Heterogeneous Semantic Transfer for Multi-label Recognition with Partial Labels", arXiv 2205.11131; published code
HCPLab-SYSU/HCP-MLR-PL, loss/HST.py, model/HST.py, HST.py. There word vectors and a graph network make the class
vectors, here the head does; all differences: docs/methods/hst.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from losses.asl import asymmetric_losses
from losses.common.base import ScheduledCriterion
from losses.common.functional import at_least_float32, present
from losses.common.memory import MemoryNeed
from losses.consistency import known_means
from losses.sarb import contrast, of_all
from losses.sarb_prototypes import ClassCentres, centre_need, refresh_due, require_prototypes
from losses.single_positive import known_losses, require_known
from utils.checks import require
from utils.collectives import of_first
from utils.options import option
from utils.seeding import derive_seed
from utils.types import PRESENT, UNKNOWN, Batch, CriterionInfo, LossOutput, Model

KINDS = ("intra", "inter")
"""Similarities: of an image's classes among each other, and of images of a class."""


@dataclass(frozen=True, kw_only=True)
class HSTConfig:
    """Settings of HST. Raises: UserError for a value that cannot work."""

    pseudo_from: int = option(6, "first epoch in which unknown labels are learned as present by their similarities")
    intra_margin: float = option(0.95, "similarity to the image's present classes above which they are, at the start")
    inter_margin: float = option(0.95, "similarity to the prototypes of the class above which they are, at the start")
    margins_learned: bool = option(True, "both margins are learned; off: they stay")
    margin_weight: float = option(0.1, "weight of the losses that margins learn by")
    cooccurrence_weight: float = option(10.0, "weight of the loss of pairs of classes; it grows in the first epoch")
    cooccurrence_width: int = option(512, "hidden numbers of each pair of classes")
    contrast_weight: float = option(0.05, "weight of the contrast of class vectors; it grows in the first epoch")
    prototype_weight: float = option(0.05, "weight of the contrast of class vectors and prototypes")
    prototypes: int = option(10, "prototypes of each class: centres of its vectors")
    prototype_every: int = option(5, "epochs after which prototypes are found anew")
    prototype_memory: int = option(100, "vectors of each class that they are centres of, one per step")

    def __post_init__(self) -> None:
        require(self.pseudo_from >= 1, f"--pseudo_from {self.pseudo_from}: must be at least 1")
        for name in ("intra_margin", "inter_margin"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"--{name} {value}: must be in [0, 1]")
        for name in ("margin_weight", "cooccurrence_weight", "contrast_weight", "prototype_weight"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"--{name} {value}: must be 0 or more")
        width = self.cooccurrence_width
        require(width >= 1, f"--cooccurrence_width {width}: must be at least 1")
        require(self.prototypes >= 1, f"--prototypes {self.prototypes}: must be at least 1; the published value is 10")
        require_prototypes(self.prototypes, self.prototype_every, self.prototype_memory)


def class_pairs(classes: int, device: torch.device) -> Tensor:
    """(2, P) both classes of each pair, the first below the second, in order."""
    return torch.triu_indices(classes, classes, 1, device=device)


def pair_targets(observed: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, P) 1 where both classes of a pair are PRESENT in codes (B, C), else 0: UNKNOWN is read as ABSENT."""
    first, second = class_pairs(observed.shape[1], observed.device)
    labels = present(observed, dtype)
    return labels[:, first] * labels[:, second]


def intra_similarity(pairs: Tensor, observed: Tensor) -> Tensor:
    """(B, C) mean probability of a class to be with the classes that are PRESENT; 0 of an image without any.

    A class is with itself for certain.

    Args:
        pairs: (B, P) logits of both classes of a pair to be in the image.
        observed: (B, C) label codes.
    """
    labels = present(observed, pairs.dtype)
    first, second = class_pairs(labels.shape[1], pairs.device)
    together = pairs.new_zeros(*labels.shape, labels.shape[1])
    together[:, first, second] = torch.sigmoid(pairs)
    together = together + together.transpose(1, 2)
    sums = labels + (together * labels[:, None]).sum(dim=2)
    return sums / labels.sum(dim=1, keepdim=True).clamp(min=1)


def above_margin(similarity: Tensor, margin: Tensor) -> Tensor:
    """(B, C) by how much a similarity (B, C) is above a margin, a scalar; without a gradient where it is not above."""
    return torch.relu(similarity - margin)


def pseudo_labels(above: Tensor, observed: Tensor) -> Tensor:
    """(B, C) codes: those known, PRESENT where an unknown label is `above_margin`, else UNKNOWN. No gradient."""
    added = (observed == UNKNOWN) & (above.detach() > 0)
    return observed.masked_fill(added, PRESENT)


def prototype_contrast(similarity: Tensor, observed: Tensor) -> Tensor:
    """Mean over B*C of 1 - s where a class is PRESENT, 1 + s where it is ABSENT, and 1 where it is UNKNOWN.

    The published code has the opposite sign of s, by which vectors leave the prototypes of their class.

    Args:
        similarity: (B, C) mean cosine with the prototypes of the class.
        observed: (B, C) label codes.
    """
    signs = (2 * observed.to(similarity.dtype) - 1).masked_fill(observed == UNKNOWN, 0)
    return (1 - similarity * signs).mean()


class PairScores(nn.Module):
    """Logits of both classes of a pair to be in an image: v_ij . relu(U f_i + W f_j + c) + b_ij, f the class vectors.

    Published are two linear layers before the ReLU and two behind it; linear layers in a row are one.

    Args:
        width: D.
        classes: C.
        hidden: H.
        seed: of the initial weights, which are alike on every process.
    """

    def __init__(self, width: int, classes: int, hidden: int, seed: int) -> None:
        super().__init__()
        count = classes * (classes - 1) // 2
        self.layer = nn.Linear(width, 2 * hidden)
        self.weights, self.bias = nn.Parameter(torch.empty(count, hidden)), nn.Parameter(torch.empty(count))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter, fan in zip(self.parameters(), (hidden, hidden, width, width), strict=True):
                parameter.uniform_(-1, 1, generator=generator).div_(math.sqrt(fan))

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, P) of class vectors (B, C, D)."""
        one, other = self.layer(vectors).to(self.weights.dtype).chunk(2, dim=2)
        scores: Tensor = _PairSums.apply(one, other, self.weights)
        return scores + self.bias


class _PairSums(torch.autograd.Function):
    """s_ij = v_ij . relu(a_i + b_j) of all pairs i < j, in the order of `class_pairs`, class i after class.

    All hidden numbers at once, (B, P, H), and the copies that autograd keeps of them would take gigabytes with hundreds
    of classes; here none is kept, and (B, C, H) are made at a time, in both directions.
    """

    @staticmethod
    def forward(ctx: Any, one: Tensor, other: Tensor, weights: Tensor) -> Tensor:
        """(B, P) of a and b (B, C, H) and v (P, H)."""
        ctx.save_for_backward(one, other, weights)
        parts = torch.split(weights, list(range(one.shape[1] - 1, 0, -1)))
        return torch.cat([_hidden(one, other, i).mul_(part).sum(dim=2) for i, part in enumerate(parts)], dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of all three."""
        one, other, weights = ctx.saved_tensors
        sizes = list(range(one.shape[1] - 1, 0, -1))
        to_one, to_other, to_weights = torch.zeros_like(one), torch.zeros_like(other), torch.empty_like(weights)
        parts = zip(
            *(torch.split(*each) for each in ((grads[0], sizes, 1), (weights, sizes), (to_weights, sizes))), strict=True
        )
        for i, (grad, part, to_part) in enumerate(parts):
            hidden, grad = _hidden(one, other, i), grad[:, :, None]
            through = (grad * part).mul_(hidden > 0)
            to_part.copy_(hidden.mul_(grad).sum(dim=0))
            to_one[:, i] = through.sum(dim=1)
            to_other[:, i + 1 :] += through
        return to_one, to_other, to_weights


def _hidden(one: Tensor, other: Tensor, i: int) -> Tensor:
    """(B, C - 1 - i, H) relu(a_i + b_j) for the classes j behind class i."""
    return torch.relu_(one[:, i : i + 1] + other[:, i + 1 :])


def pair_loss(scores: Tensor, observed: Tensor) -> Tensor:
    """Scalar: the asymmetric loss of pairs of classes, mean over B * P, as published with exponents 2 and 1.

    Args:
        scores: (B, P) logits.
        observed: (B, C) label codes.
    """
    targets = pair_targets(observed, scores.dtype)
    losses = asymmetric_losses(
        scores, targets, gamma_neg=2.0, gamma_pos=1.0, clip=0.05, eps=1e-8, constant_weight=False
    )
    return losses.mean()


class Term(NamedTuple):
    """Scores (B, C) and the labels (B, C) that they learn, UNKNOWN where there is none."""

    scores: Tensor
    labels: Tensor


class HST(ScheduledCriterion):
    """Heterogeneous semantic transfer (Chen et al., 2022) with class vectors of the head.

    Partial BCE; a network of pairs of classes and the contrast of class vectors beside it; from some epoch on BCE of
    the labels that each similarity adds, the losses by which its margin learns, and the contrast with prototypes.
    Images are compared with those of the GLOBAL batch, over which means are taken, and prototypes, too. State: the
    epoch, the number of steps, `margins` and `pairs`, which are parameters, and `centres`. `modified` are labels
    that a similarity adds. Logged: the parts of the loss without weights (`known`, `pairs`, `contrast`, and later
    `intra`, `inter`, `intra_fit`, `inter_fit`, `prototype`), labels added per image, `intra_added` and `inter_added`,
    and both margins.

    Raises: UserError unless labels of both kinds are known and some are unknown, of two classes or more.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"class_vectors"})
    corrects_from_present: ClassVar[bool] = True
    config: HSTConfig
    steps: Tensor

    def __init__(self, config: HSTConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        require_known("hst", info)
        require(
            int(info.observed.counts(UNKNOWN).sum()) > 0,
            "hst: no label is unknown, so there is none to add; take --loss partial_bce, or --labels known",
        )
        classes = info.observed.num_classes
        require(classes > 1, "hst: there is one class, which goes with no other; take --loss partial_bce")
        self.centres = ClassCentres.of("hst", config.prototypes, config.prototype_memory, info)
        seed = derive_seed(info.seed, "pairs of classes")
        self.pairs = PairScores(info.class_vector_width, classes, config.cooccurrence_width, seed)
        margins = torch.tensor([config.intra_margin, config.inter_margin])
        self.margins = nn.Parameter(margins, requires_grad=config.margins_learned)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @classmethod
    def memory_needs(cls, config: HSTConfig, info: CriterionInfo) -> list[MemoryNeed]:
        """The prototypes, and the weights of each pair of classes."""
        classes = info.observed.num_classes
        pairs = 2 * classes * (classes - 1) * config.cooccurrence_width
        need = MemoryNeed("pairs of classes", pairs, False, learned=True, remedy="a smaller --cooccurrence_width")
        return [centre_need(config.prototypes, config.prototype_memory, info), need]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The network of pairs, and the margins where they are learned, which do not decay."""
        margins = [{"params": [self.margins], "weight_decay": 0.0}] if self.config.margins_learned else []
        return [{"params": list(self.pairs.parameters())}, *margins]

    def on_epoch_start(self, epoch: int, train_scores: Tensor | None = None) -> None:
        """Keep the epoch, and find prototypes anew where that is due."""
        super().on_epoch_start(epoch, train_scores)
        if refresh_due(epoch, self.config.pseudo_from, self.config.prototype_every):
            self.centres.refresh()

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        output = model(batch.images, want=frozenset({"class_vectors"}))
        assert output.class_vectors is not None
        logits, vectors = at_least_float32(output.logits), at_least_float32(output.class_vectors.vectors)
        everyone, observed = of_all(output.class_vectors._replace(vectors=vectors), batch)
        self.centres.remember(everyone.vectors.detach(), observed)
        scores = self.pairs(vectors)
        early = {"pairs": pair_loss(scores, batch.observed), "contrast": self._contrast(everyone.vectors, observed)}
        if self.epoch < self.config.pseudo_from:
            return self._summed(logits, {"known": Term(logits, batch.observed)}, early, batch)
        similarities = {
            "intra": intra_similarity(scores, batch.observed),
            "inter": self.centres.similarity(vectors),
        }
        means = early | {"prototype": prototype_contrast(similarities["inter"], batch.observed)}
        return self._summed(logits, self._terms(logits, similarities, batch.observed), means, batch)

    def _terms(self, logits: Tensor, similarities: dict[str, Tensor], observed: Tensor) -> dict[str, Term]:
        """The terms of known labels, and for each similarity those of what it adds and of its margin.

        Margins are brought back into [0, 1] first.
        """
        with torch.no_grad():
            self.margins.clamp_(0, 1)
        terms = {"known": Term(logits, observed)}
        for margin, (kind, similarity) in zip(self.margins.to(logits.dtype), similarities.items(), strict=True):
            above = above_margin(similarity, margin)
            terms |= {kind: Term(logits, pseudo_labels(above, observed)), f"{kind}_fit": Term(above, observed)}
        return terms

    def _summed(self, logits: Tensor, terms: dict[str, Term], means: dict[str, Tensor], batch: Batch) -> LossOutput:
        """The loss of terms, means over labels, and of others that are means already; the step is counted."""
        losses, labels = [known_losses(*term) for term in terms.values()], [term.labels for term in terms.values()]
        means = dict(zip(terms, known_means(losses, labels, batch, "batch"), strict=True)) | means
        weights = self._weights()
        total = torch.stack([(weights.get(name, 1.0) * value).to(logits.dtype) for name, value in means.items()]).sum()
        self.steps += 1
        parts = {name: value.detach() for name, value in means.items()}
        modified = torch.zeros_like(batch.observed, dtype=torch.bool)
        for at, kind in enumerate(each for each in KINDS if each in terms):
            added = terms[kind].labels != batch.observed
            parts |= {f"{kind}_added": added.sum(dim=1, dtype=logits.dtype).mean()}
            parts |= {f"{kind}_margin": self.margins[at].detach().clone()}
            modified = modified | added
        return LossOutput(total, logits.detach(), parts, modified)

    def _contrast(self, vectors: Tensor, observed: Tensor) -> Tensor:
        """The contrast of these images, as of SARB; without a weight 0, at no cost."""
        if self.config.contrast_weight == 0:
            return vectors.new_zeros(())
        count = len(vectors) * (len(vectors) - 1) // 2
        return contrast(vectors, observed, of_first(torch.rand(count, observed.shape[1], device=vectors.device)))

    def _weights(self) -> dict[str, float | Tensor]:
        """The weights of parts of the loss in this step, of all others 1; some grow linearly from 0 for one epoch."""
        config, grown = self.config, (self.steps.double() / self.info.steps_per_epoch).clamp(max=1)
        return {
            "pairs": config.cooccurrence_weight * grown,
            "contrast": config.contrast_weight * grown,
            "intra_fit": config.margin_weight,
            "inter_fit": config.margin_weight,
            "prototype": config.prototype_weight,
        }
