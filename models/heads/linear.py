"""Pooling and one linear layer, with BoostLU or saliency. B batch, C classes, D feature width, h w feature map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.heads.base import Head, LabelInfo, outside_autocast
from models.heads.boostlu import boosted
from models.heads.saliency import Saliency, SaliencyConfig, saliency
from utils.checks import require
from utils.head_vectors import ClassVectors, PooledFeatures
from utils.options import option


@dataclass(frozen=True, kw_only=True)
class LinearConfig(SaliencyConfig):
    """Mean pooling and one linear layer."""

    pool: Literal["mean", "max"] = option(
        "mean", "linear: features are pooled over positions by their mean, or by their maximum (SpliceMix)", strict=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.pool in ("mean", "max"), f"--pool {self.pool}: choose from mean, max")
        require(
            self.pool == "mean" or self.linear,
            f"--pool {self.pool}: BoostLU and saliency are of averaged scores; leave --boostlu and --saliency out",
        )


class LinearHead(Head):
    """Global average pooling and one linear layer with bias, as in CoNeS and its BCE baseline.

    Its activation map is the linear layer without bias at every position (Zhou et al., CVPR 2016); the mean of the map
    plus the bias is the logit.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C)."""
        with outside_autocast(features):
            logits: Tensor = self.fc(self.pooled(features))
        return logits

    def pooled(self, features: Tensor) -> Tensor:
        """The mean over positions (B, D), of the type of the layer."""
        return features.to(self.fc.weight.dtype).mean(dim=(2, 3))

    def with_pooled(self, features: Tensor) -> tuple[Tensor, PooledFeatures]:
        """Logits (B, C), and what the layer makes them of."""
        with outside_autocast(features):
            pooled = self.pooled(features)
            return self.fc(pooled), PooledFeatures(pooled, self.fc.weight, self.fc.bias)

    def scores(self, features: Tensor) -> Tensor:
        """A, the scores (B, C, h, w) of all positions, bias included; their mean is the logit."""
        with outside_autocast(features):
            weight = self.fc.weight[:, :, None, None]
            return F.conv2d(features.to(weight.dtype), weight, self.fc.bias)

    @torch.no_grad()
    def cam(self, features: Tensor) -> Tensor:
        """Maps (B, C, h, w) by a 1x1 convolution: no (B, C, D, h, w) product is ever in memory."""
        return F.conv2d(features, self.fc.weight[:, :, None, None])

    def class_vectors(self, features: Tensor) -> ClassVectors:
        """The features of all positions, weighted for each class by the softmax of its scores.

        Weights and bias are those of the head, whose logit is that of the plain mean, or of the maxima.
        """
        with outside_autocast(features):
            weight = self.fc.weight
            positions = features.to(weight.dtype).flatten(2)
            attention = torch.softmax(weight @ positions, dim=2)
            return ClassVectors(attention @ positions.transpose(1, 2), weight, self.fc.bias)


class MaxLinearHead(LinearHead):
    """The linear head on the maximum of each feature over positions, as SpliceMix was published with.

    Parameters and activation map are those of `LinearHead`, but the mean of the map is not the logit. Equal maxima
    share the gradient.
    """

    needs_maps = True

    def pooled(self, features: Tensor) -> Tensor:
        """The maximum over positions (B, D), of the type of the layer."""
        return features.to(self.fc.weight.dtype).amax(dim=(2, 3))


class BoostedLinearHead(LinearHead):
    """The linear head at every position, with BoostLU before pooling (Kim et al., CVPR 2023).

    Scores A = W x + b at every position; the logit is the mean over positions of A' = alpha A where A > 0, else A.
    Source: arXiv 2304.01804; published code youngwk/BridgeGapExplanationPAMC, `models.py`. The parameters are those of
    `LinearHead`, so weights trained with the one fit the other; with alpha 1 both give the same logits up to rounding.
    The activation map is A', bias and boost included: its mean is the logit.
    """

    class_vectors = Head.class_vectors  # refused: no weights give these logits
    with_pooled = Head.with_pooled  # refused: nor of one vector

    def __init__(self, width: int, classes: int, alpha: float) -> None:
        super().__init__(width, classes)
        self.alpha = alpha

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C)."""
        return boosted(self.scores(features), self.alpha).mean(dim=(2, 3))

    @torch.no_grad()
    def cam(self, features: Tensor) -> Tensor:
        """Maps (B, C, h, w): A', which is averaged."""
        return boosted(self.scores(features), self.alpha)


class SaliencyLinearHead(LinearHead):
    """The linear head with saliency regularisation (Wang et al., ICCV 2023).

    The logit is a + alpha s: a that of `LinearHead`, s the mean of the k highest of the scores A = W x + b of all
    positions. The parameters are those of `LinearHead`. The activation map is A: its mean is a.
    """

    needs_maps = True
    class_vectors = Head.class_vectors  # refused: no weights give these logits
    with_pooled = Head.with_pooled  # refused: nor of one vector

    def __init__(self, width: int, classes: int, added: Saliency) -> None:
        super().__init__(width, classes)
        self.added = added

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C)."""
        logits = super().forward(features)
        if not self.added.counts(self.training):
            return logits
        return logits + self.added.alpha * saliency(self.scores(features), self.added.k)

    @torch.no_grad()
    def cam(self, features: Tensor) -> Tensor:
        """Maps (B, C, h, w): A, of which the highest values count once more."""
        return self.scores(features)


def build_linear(width: int, classes: int, config: LinearConfig, label_info: LabelInfo | None) -> Head:
    """The linear head of a config, of maxima, boosted or with saliency if so set."""
    if config.pool == "max":
        return MaxLinearHead(width, classes)
    if (added := config.added_saliency) is not None:
        return SaliencyLinearHead(width, classes, added)
    if config.boostlu is None:
        return LinearHead(width, classes)
    return BoostedLinearHead(width, classes, config.boostlu)
