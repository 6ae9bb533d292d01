"""Information gap of IGNORE: masks, what labels lose by masking, and the thresholds above which they are rejected.

B images of a batch, C classes, h w size of a map, H W of an image. Source: Song et al., ECCV 2024, published code
gyeong-ryeol-song/SPML-IGNORE (`functions.py`, `losses.py`, `train_resnet.py`). No function here holds state.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.common.functional import at_least_float32
from utils.collectives import all_max
from utils.types import ModelOutput

Map = Literal["activation", "attention"]
Norm = Literal["spatial", "release", "batch_minmax"]


def class_maps(output: ModelOutput, kind: Map) -> Tensor:
    """Maps of the classes, (B, C, h, w), without gradient.

    Args:
        output: logits, features and class activation or attention maps.
        kind: "activation": the activation map, shifted so that its mean over positions is the logit, which adds the
            bias of a linear head. "attention": the attention map times the mean over channels of the feature map.
    """
    assert output.cam is not None
    cam = at_least_float32(output.cam.detach())
    if kind == "activation":
        return cam + (at_least_float32(output.logits.detach()) - cam.mean(dim=(2, 3)))[:, :, None, None]
    assert output.features is not None
    return cam * at_least_float32(output.features.detach()).mean(dim=1, keepdim=True)


def normalised(maps: Tensor, shown: Tensor, kind: Norm) -> Tensor:
    """Maps scaled so that they can be compared with the threshold.

    Args:
        maps: (B, P, h, w), one for each of P classes of an image.
        shown: (B, P) bool, which of them are of observed positives.
        kind: "spatial": (M - min) / (max - min), extremes of each map. "batch_minmax": the same with the extremes, at
            each position, of the shown maps of the GLOBAL batch. "release": these, but (M - min) / max.

    Returns:
        (B, P, h, w); maps that are not shown may have any values. A constant map is 0 everywhere.
    """
    tiny = torch.finfo(maps.dtype).tiny
    if kind == "spatial":
        low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
        return (maps - low) / (high - low + tiny)
    hidden = ~shown[:, :, None, None]
    low = -all_max((-maps).masked_fill(hidden, -math.inf).amax(dim=(0, 1)))
    high = all_max(maps.masked_fill(hidden, -math.inf).amax(dim=(0, 1)))
    return (maps - low) / (high if kind == "release" else high - low + tiny)


def kept_pixels(scaled: Tensor, shown: Tensor, threshold: float, size: tuple[int, int]) -> Tensor:
    """Pixels that stay in the masked image: those whose map of an observed positive exceeds the threshold.

    Args:
        scaled: (B, P, h, w) normalised maps.
        shown: (B, P) bool, which of them are of observed positives; the highest counts where there are several.
        threshold: strictly exceeded by the pixels that stay.
        size: H and W; maps are resized to it bilinearly, corners not aligned.

    Returns:
        (B, H, W) bool, True everywhere in an image without observed positive.
    """
    highest = scaled.masked_fill(~shown[:, :, None, None], -math.inf).amax(dim=1, keepdim=True)
    seen: Tensor = F.interpolate(highest, size, mode="bilinear", align_corners=False)[:, 0] > threshold
    return seen | ~shown.any(dim=1)[:, None, None]


class IgnoreThresholds(NamedTuple):
    """Values that a label must exceed to be rejected."""

    gap: Tensor  # scalar G: moving mean of the information gap of observed positives
    average: Tensor  # (C,) V: moving mean logit of each class


def updated_thresholds(
    thresholds: IgnoreThresholds, gap: Tensor, logits: Tensor, shown: Tensor, keep: tuple[float, float]
) -> IgnoreThresholds:
    """Thresholds after another batch; both start from 0, without bias correction.

    Values that the batch leaves undefined or infinite stay: G where no label is shown, both where logits overflowed.

    Args:
        thresholds: those before the batch.
        gap: (B, C) information gap.
        logits: (B, C) of the weak view.
        shown: (B, C) bool, observed positives.
        keep: gap_lambda and avg_lambda.
    """
    fresh = IgnoreThresholds(gap.where(shown, 0).sum() / shown.sum(), logits.mean(dim=0))
    return IgnoreThresholds(
        *(
            torch.where(new.isfinite(), share * old + (1 - share) * new, old)
            for old, new, share in zip(thresholds, fresh, keep, strict=True)
        )
    )


def rejected(gap: Tensor, logits: Tensor, unknown: Tensor, thresholds: IgnoreThresholds, *, lat: bool) -> Tensor:
    """(B, C) bool: assumed negatives that lose more than G when the rest of the image is masked, and score above V.

    Args:
        gap: (B, C) information gap.
        logits: (B, C) of the weak view.
        unknown: (B, C) bool, the assumed negatives.
        thresholds: G and V.
        lat: True if V counts.
    """
    lost = unknown & (gap > thresholds.gap)
    return lost & (logits > thresholds.average) if lat else lost
