"""The normalised neck and classifier of Wu et al., ECCV 2020. B batch, C classes, D feature width, h w feature map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.heads.base import Head, LabelInfo, outside_autocast
from utils.checks import require
from utils.options import option


@dataclass(frozen=True, kw_only=True)
class PFCConfig:
    """A normalised neck and one linear layer."""

    neck_width: int = option(256, "features between the two layers of PFC")
    neck_dropout: float = option(0.5, "dropout of these features")

    def __post_init__(self) -> None:
        require(self.neck_width >= 1, f"--neck_width {self.neck_width}: must be at least 1")
        require(0 <= self.neck_dropout < 1, f"--neck_dropout {self.neck_dropout}: must be in [0, 1)")


class PFCHead(Head):
    """Mean pooling, a linear neck with BatchNorm and dropout but no ReLU, and a linear layer: PFC and its classifier.

    Wu et al., ECCV 2020, published code wutong16/DistributionBalancedLoss, mllt/models/necks/pfc.py and
    heads/cls_head.py. The neck's second linear layer, which is in published checkpoints and never runs, is left out. A
    single row has no spread to normalise by: in training it takes the running statistics and leaves them as they are,
    where the published head stops.

    Everything behind the mean is affine in evaluation mode, so the activation map is the product of the two matrices
    and the scale between them at every position; its mean is the logit less a constant of the class.
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
        neck = self.dropout(self.neck(features))
        with outside_autocast(features):
            logits: Tensor = self.fc_cls(neck.to(self.fc_cls.weight.dtype))
        return logits

    def neck(self, features: Tensor) -> Tensor:
        """Normalised features (B, neck width), before dropout and classifier."""
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


def build_pfc(width: int, classes: int, config: PFCConfig, label_info: LabelInfo | None) -> Head:
    """The neck and classifier of a config."""
    return PFCHead(width, classes, config.neck_width, config.neck_dropout)
