"""Heads: feature map (B, D, h, w) in, logits (B, C) and class activation maps (B, C, h, w) out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.checks import require


class Head(nn.Module):
    """What turns a feature map into logits, and into maps that say where each class was seen."""

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, D, h, w) to logits (B, C)."""
        raise NotImplementedError

    def cam(self, features: Tensor) -> Tensor:
        """Features (B, D, h, w) to class activation maps (B, C, h, w), computed without gradient."""
        raise NotImplementedError

    def with_cam(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and maps of the same features, in one pass where that saves work."""
        return self(features), self.cam(features)

    def with_labels(self, features: Tensor, known: Tensor) -> Tensor:
        """Features and labels known beforehand (B, C), PRESENT, ABSENT or UNKNOWN, to logits (B, C).

        Raises: ValueError of a head that does not take labels.
        """
        raise ValueError(f"{type(self).__name__} takes no labels")


class LinearHead(Head):
    """Global average pooling and one linear layer with bias, as in CoNeS and its BCE baseline.

    Its activation map is the linear layer without bias at every place (Zhou et al., CVPR 2016); the mean of the map
    plus the bias is the logit.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C)."""
        logits: Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits

    @torch.no_grad()
    def cam(self, features: Tensor) -> Tensor:
        """Maps (B, C, h, w) by a 1x1 convolution: no (B, C, D, h, w) product is ever held."""
        return F.conv2d(features, self.fc.weight[:, :, None, None])


class BoostedLinearHead(LinearHead):
    """The linear head at every place, with BoostLU before pooling (Kim et al., CVPR 2023).

    Scores A = W x + b at every place; the logit is the mean over places of A' = alpha A where A > 0, else A. Source:
    arXiv 2304.01804; published code youngwk/BridgeGapExplanationPAMC, `models.py`. The parameters are those of
    `LinearHead`, so weights trained with the one fit the other; with alpha 1 both give the same logits up to rounding.
    The activation map is A', bias and boost included: its mean is the logit.
    """

    def __init__(self, width: int, classes: int, alpha: float) -> None:
        super().__init__(width, classes)
        self.alpha = alpha

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C)."""
        return boosted(self.scores(features), self.alpha).mean(dim=(2, 3))

    def scores(self, features: Tensor) -> Tensor:
        """A, the scores (B, C, h, w) before they are boosted."""
        return F.conv2d(features, self.fc.weight[:, :, None, None], self.fc.bias)

    @torch.no_grad()
    def cam(self, features: Tensor) -> Tensor:
        """Maps (B, C, h, w): A', what is averaged."""
        return boosted(self.scores(features), self.alpha)


class CSRAHead(Head):
    """Class-specific residual attention (Zhu and Wu, ICCV 2021; published code, CSRA, pipeline/csra.py).

    Each of the heads scores every place with its own class vectors m of unit length, s = m.x / |m|, and adds the mean
    over places to `lam` times an attention: the mean weighted by softmax(T s), or the maximum for T = infinity.
    Logits are the sum over the heads, the activation map is the sum of their scores. A class vector of zeros, which
    has no direction, scores 0.
    """

    TEMPERATURES: dict[int, tuple[float, ...]] = {  # noqa: RUF012 - never written to
        1: (1.0,),
        2: (1.0, torch.inf),
        4: (1.0, 2.0, 4.0, torch.inf),
        6: (1.0, 2.0, 3.0, 4.0, 5.0, torch.inf),
        8: (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, torch.inf),
    }

    def __init__(self, width: int, classes: int, num_heads: int, lam: float) -> None:
        super().__init__()
        check_num_heads(num_heads)
        self.temperatures = self.TEMPERATURES[num_heads]
        self.lam = lam
        self.weights = nn.ParameterList(torch.empty(classes, width, 1, 1) for _ in range(num_heads))
        for weight in self.weights:
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))  # what a 1x1 convolution of torch starts from

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C)."""
        return self.head_logits(features).sum(dim=0)

    def head_logits(self, features: Tensor) -> Tensor:
        """What each head contributes, (heads, B, C)."""
        scores = self._scores(features).flatten(3)
        attentions = [attention(scores[:, head], temperature) for head, temperature in enumerate(self.temperatures)]
        return scores.mean(dim=3).transpose(0, 1) + self.lam * torch.stack(attentions)

    @torch.no_grad()
    def cam(self, features: Tensor) -> Tensor:
        """Maps (B, C, h, w): the scores of the places, summed over heads."""
        return self._scores(features).sum(dim=1)

    def _scores(self, features: Tensor) -> Tensor:
        """(B, heads, C, h, w) scores of all places, by one convolution for all heads."""
        weight = torch.cat(list(self.weights))
        norm = torch.linalg.vector_norm(weight, dim=1).flatten()
        norm = torch.where(norm > 0, norm, torch.ones_like(norm))
        scores = F.conv2d(features, weight) / norm[:, None, None]
        batch, _, height, width = scores.shape
        return scores.view(batch, len(self.weights), -1, height, width)


class BoostedCSRAHead(CSRAHead):
    """Residual attention on boosted scores: s' = alpha s where s > 0, else s, stands wherever s stood.

    BoostLU was published for the linear head alone. The rule is the same here, boost before anything is pooled: mean,
    attention weights, attention and activation map are all of s'. The parameters are those of `CSRAHead`.
    """

    def __init__(self, width: int, classes: int, num_heads: int, lam: float, alpha: float) -> None:
        super().__init__(width, classes, num_heads, lam)
        self.alpha = alpha

    def _scores(self, features: Tensor) -> Tensor:
        """(B, heads, C, h, w) boosted scores of all places."""
        return boosted(super()._scores(features), self.alpha)


class PFCHead(Head):
    """Mean pooling, a linear neck with BatchNorm and dropout but no ReLU, and a linear layer: PFC and its classifier.

    Wu et al., ECCV 2020, published code wutong16/DistributionBalancedLoss, mllt/models/necks/pfc.py and
    heads/cls_head.py. The neck's second linear layer, which is in published checkpoints and never runs, is left out. A
    single row has no spread to normalise by: in training it takes the running statistics and leaves them as they are,
    where the published head stops.

    Everything behind the mean is affine in evaluation mode, so the activation map is the product of the two matrices
    and the scale between them at every place; its mean is the logit less a constant of the class.
    """

    def __init__(self, width: int, classes: int, neck_width: int, dropout: float) -> None:
        super().__init__()
        self.fc = nn.Linear(width, neck_width)
        self.bn = nn.BatchNorm1d(neck_width)
        self.dropout = nn.Dropout(dropout)
        self.fc_cls = nn.Linear(neck_width, classes)
        nn.init.kaiming_normal_(self.fc.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.fc_cls.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)
        nn.init.zeros_(self.fc_cls.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C)."""
        logits: Tensor = self.fc_cls(self.dropout(self.neck(features)))
        return logits

    def neck(self, features: Tensor) -> Tensor:
        """What is classified, (B, neck width), before dropout."""
        reduced: Tensor = self.fc(features.mean(dim=(2, 3)))
        if self.training and len(reduced) == 1:
            bn = self.bn
            return F.batch_norm(reduced, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)
        normalised: Tensor = self.bn(reduced)
        return normalised

    @torch.no_grad()
    def cam(self, features: Tensor) -> Tensor:
        """Maps (B, C, h, w) by one 1x1 convolution, with the running statistics in training too."""
        assert self.bn.running_var is not None
        scale = self.bn.weight / torch.sqrt(self.bn.running_var + self.bn.eps)
        weight = (self.fc_cls.weight * scale) @ self.fc.weight
        return F.conv2d(features, weight[:, :, None, None])


def boosted(scores: Tensor, alpha: float) -> Tensor:
    """BoostLU: `scores` of any shape, those above 0 times `alpha`; the slope at 0 is 1 (Kim et al., CVPR 2023)."""
    return torch.where(scores > 0, alpha * scores, scores)


def attention(scores: Tensor, temperature: float) -> Tensor:
    """Mean of the scores (B, C, places) weighted by softmax(temperature * scores); (B, C). Infinity: the maximum."""
    if temperature == torch.inf:
        return scores.amax(dim=2)
    return (scores * torch.softmax(temperature * scores, dim=2)).sum(dim=2)


def check_num_heads(num_heads: int) -> None:
    """Raise UserError unless a set of temperatures was published for that many heads."""
    choices = CSRAHead.TEMPERATURES
    require(num_heads in choices, f"--num_heads {num_heads}: choose from {', '.join(map(str, choices))}")
