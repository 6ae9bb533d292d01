"""Class-specific residual attention (Zhu and Wu, ICCV 2021). B batch, C classes, D feature width, h w feature map."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.heads.base import Head, LabelInfo, outside_autocast
from models.heads.boostlu import boosted
from models.heads.saliency import Saliency, SaliencyConfig, saliency
from utils.checks import require
from utils.head_vectors import ClassVectors
from utils.options import option

TEMPERATURES: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    2: (1.0, torch.inf),
    4: (1.0, 2.0, 4.0, torch.inf),
    6: (1.0, 2.0, 3.0, 4.0, 5.0, torch.inf),
    8: (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, torch.inf),
}
"""The published temperatures of the attention heads, by their number."""


@dataclass(frozen=True, kw_only=True)
class CSRAConfig(SaliencyConfig):
    """Class-specific residual attention."""

    num_heads: int = option(1, "attention heads of CSRA: 1, 2, 4, 6 or 8")
    lam: float = option(0.1, "weight of CSRA's attention beside the mean")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_num_heads(self.num_heads)
        require(math.isfinite(self.lam) and self.lam >= 0, f"--lam {self.lam}: a number of at least 0 is needed")


class CSRAHead(Head):
    """Class-specific residual attention (published code, CSRA, pipeline/csra.py).

    Each of the heads scores every position with its own class vectors m of unit length, s = m.x / |m|, and adds the
    mean over positions to `lam` times an attention: the mean weighted by softmax(T s), or the maximum for T = infinity.
    Logits are the sum over the heads, the activation map is the sum of their scores. A class vector of zeros, which
    has no direction, scores 0.
    """

    def __init__(self, width: int, classes: int, num_heads: int, lam: float) -> None:
        super().__init__()
        check_num_heads(num_heads)
        self.temperatures = TEMPERATURES[num_heads]
        self.lam = lam
        self.weights = nn.ParameterList(torch.empty(classes, width, 1, 1) for _ in range(num_heads))
        for weight in self.weights:
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))  # as torch initialises a 1x1 convolution

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C)."""
        return self._logits(self._scores(features))

    def head_logits(self, features: Tensor) -> Tensor:
        """The contribution of each head, (heads, B, C)."""
        return self._pooled(self._scores(features))

    def _logits(self, scores: Tensor) -> Tensor:
        """(B, C) of the scores (B, heads, C, h, w)."""
        return self._pooled(scores).sum(dim=0)

    def _pooled(self, scores: Tensor) -> Tensor:
        """(heads, B, C) of the scores (B, heads, C, h, w)."""
        scores = scores.flatten(3)
        attentions = [attention(scores[:, head], temperature) for head, temperature in enumerate(self.temperatures)]
        return scores.mean(dim=3).transpose(0, 1) + self.lam * torch.stack(attentions)

    @torch.no_grad()
    def cam(self, features: Tensor) -> Tensor:
        """Maps (B, C, h, w): the scores of all positions, summed over heads."""
        return self._scores(features).sum(dim=1)

    def with_cam(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and maps of the same scores."""
        scores = self._scores(features)
        return self._logits(scores), scores.detach().sum(dim=1)

    def class_vectors(self, features: Tensor) -> ClassVectors:
        """What each attention head sees of each class, one behind the other, (B, C, heads * D).

        The mean of all positions and `lam` times their attention: the class vectors of unit length give the logit.
        """
        return self._seen(features, self._scores(features))

    def with_class_vectors(self, features: Tensor) -> tuple[Tensor, ClassVectors]:
        """Logits and class vectors of the same scores."""
        scores = self._scores(features)
        return self._logits(scores), self._seen(features, scores)

    def _seen(self, features: Tensor, scores: Tensor) -> ClassVectors:
        """The class vectors of features (B, D, h, w) with scores (B, heads, C, h, w)."""
        scores = scores.flatten(3)
        shares = [position_shares(scores[:, head], each) for head, each in enumerate(self.temperatures)]
        with outside_autocast(features):
            weight = torch.stack(list(self.weights), dim=1).flatten(2)  # (C, heads, D)
            positions = features.to(weight.dtype).flatten(2).transpose(1, 2)
            attended = torch.stack([share @ positions for share in shares], dim=2)  # (B, C, heads, D)
            seen = positions.mean(dim=1)[:, None, None] + self.lam * attended
        units = weight / _length(weight.flatten(0, 1)).view(*weight.shape[:2], 1)
        return ClassVectors(seen.flatten(2), units.flatten(1))

    def _scores(self, features: Tensor) -> Tensor:
        """(B, heads, C, h, w) scores of all positions, by one convolution for all heads."""
        weight = torch.cat(list(self.weights))
        with outside_autocast(features):
            scores = F.conv2d(features.to(weight.dtype), weight) / _length(weight)[:, None, None]
        batch, _, height, width = scores.shape
        return scores.view(batch, len(self.weights), -1, height, width)


class BoostedCSRAHead(CSRAHead):
    """Residual attention on boosted scores: s' = alpha s where s > 0, else s, is used instead of s everywhere.

    BoostLU was published for the linear head alone. The rule is the same here, boost before anything is pooled: mean,
    attention weights, attention and activation map are all of s'. The parameters are those of `CSRAHead`.
    """

    def __init__(self, width: int, classes: int, num_heads: int, lam: float, alpha: float) -> None:
        super().__init__(width, classes, num_heads, lam)
        self.alpha = alpha

    def _scores(self, features: Tensor) -> Tensor:
        """(B, heads, C, h, w) boosted scores of all positions."""
        return boosted(super()._scores(features), self.alpha)

    def _seen(self, features: Tensor, scores: Tensor) -> ClassVectors:
        """Refused: no weights give these logits."""
        return Head.class_vectors(self, features)


class SaliencyCSRAHead(CSRAHead):
    """Residual attention with saliency: alpha times the mean of the k highest values of the map is added to the logit.

    It was published for the linear head alone. The map is that of `CSRAHead`, the sum of the scores of all its heads.
    """

    needs_maps = True

    def __init__(self, width: int, classes: int, num_heads: int, lam: float, added: Saliency) -> None:
        super().__init__(width, classes, num_heads, lam)
        self.added = added

    def _logits(self, scores: Tensor) -> Tensor:
        """(B, C) of the scores (B, heads, C, h, w), with saliency where it counts."""
        logits = super()._logits(scores)
        if not self.added.counts(self.training):
            return logits
        return logits + self.added.alpha * saliency(scores.sum(dim=1), self.added.k)

    def _seen(self, features: Tensor, scores: Tensor) -> ClassVectors:
        """Refused: no weights give these logits."""
        return Head.class_vectors(self, features)


def attention(scores: Tensor, temperature: float) -> Tensor:
    """Mean of the scores (B, C, h * w) weighted by softmax(temperature * scores); (B, C). Infinity: the maximum."""
    if temperature == torch.inf:
        return scores.amax(dim=2)
    return (scores * torch.softmax(temperature * scores, dim=2)).sum(dim=2)


def position_shares(scores: Tensor, temperature: float) -> Tensor:
    """(B, C, h * w) the weights by which `attention` takes the mean of scores (B, C, h * w); infinity: the maximum."""
    if temperature == torch.inf:
        first = scores.argmax(dim=2, keepdim=True)
        return torch.zeros_like(scores).scatter(2, first, 1.0)
    return torch.softmax(temperature * scores, dim=2)


def _length(vectors: Tensor) -> Tensor:
    """(M,) lengths of vectors (M, D) or (M, D, 1, 1), 1 where one is of zeros and has no direction."""
    norm = torch.linalg.vector_norm(vectors, dim=1).flatten()
    return torch.where(norm > 0, norm, torch.ones_like(norm))


def check_num_heads(num_heads: int) -> None:
    """Raise UserError unless temperatures were published for that many heads."""
    require(num_heads in TEMPERATURES, f"--num_heads {num_heads}: choose from {', '.join(map(str, TEMPERATURES))}")


def build_csra(width: int, classes: int, config: CSRAConfig, label_info: LabelInfo | None) -> Head:
    """The residual attention of a config, boosted or with saliency if so set."""
    if (added := config.added_saliency) is not None:
        return SaliencyCSRAHead(width, classes, config.num_heads, config.lam, added)
    if config.boostlu is None:
        return CSRAHead(width, classes, config.num_heads, config.lam)
    return BoostedCSRAHead(width, classes, config.num_heads, config.lam, config.boostlu)
