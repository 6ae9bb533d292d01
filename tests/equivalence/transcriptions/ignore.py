"""IGNORE: `train_resnet.py` and `losses.py` of gyeong-ryeol-song/SPML-IGNORE, its slips included.

../shared/spec/ignore.md, sections 2 to 6, and ../shared/spec/equivalence.md, section 4. A step passes the weak view,
the strong one and the masked image, in this order and all in training mode: BatchNorm's running statistics tell.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.equivalence.plain import Given, LinearHead, Net, Outcome
from tests.equivalence.transcriptions import validated

GUARD = 1e-5


def minus_log(p: Tensor) -> Tensor:
    """-log of a probability, with the published guard."""
    return -torch.log(p + GUARD)


class Thresholds:
    """G, the mean gap of observed positives, and V, the mean logit of each class; both moved before they are used."""

    def __init__(self, classes: int, gap_lambda: float, avg_lambda: float) -> None:
        self.gap, self.average = torch.zeros((), dtype=torch.float64), torch.zeros(classes, dtype=torch.float64)
        self.gap_lambda, self.avg_lambda = gap_lambda, avg_lambda

    def move(self, gap: Tensor, logits: Tensor, positive: Tensor) -> None:
        """After the passes of a batch."""
        self.gap = self.gap_lambda * self.gap + (1 - self.gap_lambda) * gap[positive].mean()
        self.average = self.avg_lambda * self.average + (1 - self.avg_lambda) * logits.mean(dim=0)


def masked(images: Tensor, maps: Tensor, observed: Tensor, threshold: float) -> Tensor:
    """Images (B, 3, H, W) of which only the pixels stay whose map of the positive, scaled over the BATCH, is high."""
    labelled = observed.sum(dim=1) == 1
    own = maps[labelled, observed[labelled].argmax(dim=1)]
    own = (own - own.min(dim=0).values) / own.max(dim=0).values
    large = F.interpolate(own[:, None], images.shape[2:], mode="bilinear", align_corners=False)
    kept = torch.ones_like(images[:, :1])
    kept[labelled] = (large > threshold).double()
    return images * kept


def train(
    given: Given,
    *,
    lr: float = 1e-5,
    spbc_weight: float = 0.1,
    ignore_weight: float = 1.0,
    reg_weight: float = 0.5,
    gap_lambda: float = 0.999,
    avg_lambda: float = 0.999,
    cam_threshold: float = 0.8,
    reject_after: int = 3,
) -> Outcome:
    """The whole run of `train_resnet`; the strong views are those that ours drew."""
    net = Net(LinearHead(given.observed.shape[1]), given.start)
    thresholds = Thresholds(given.observed.shape[1], gap_lambda, avg_lambda)
    positives, strong_views = (given.observed == 1).double(), iter(given.drawn["second_views"])

    def loss_of(images: Tensor, rows: Tensor, epoch: int) -> Tensor:
        observed = positives[rows]
        features = net.backbone(images)
        weak = net.head(features)
        maps = torch.einsum("bdhw,kd->bkhw", features, net.head.fc.weight) + net.head.fc.bias[:, None, None]
        strong = net(next(strong_views))
        with torch.no_grad():
            gap = (weak - net(masked(images, maps, observed, cam_threshold))).abs()
            thresholds.move(gap, weak, observed == 1)
            rejected = (gap > thresholds.gap) & (weak > thresholds.average) & (observed == 0)
        kept = torch.ones_like(rejected) if epoch <= reject_after else ~rejected
        p = torch.sigmoid(strong)
        each = torch.where(observed == 1, minus_log(p), minus_log(1 - p))
        spbc = minus_log(torch.sigmoid(weak))[observed == 1].mean()
        return spbc_weight * spbc + ignore_weight * each[kept].mean() + reg_weight * (strong - weak).square().mean()

    return validated.run(
        given,
        net,
        validated.two_rates(net, lr, 10),
        loss_of,
        state=lambda: {"gap": thresholds.gap, "average": thresholds.average},
    )
