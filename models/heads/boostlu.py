"""BoostLU: positive scores of spatial positions raised before pooling (Kim et al., CVPR 2023, arXiv 2304.01804)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.checks import require
from utils.options import option


@dataclass(frozen=True, kw_only=True)
class BoostLUConfig:
    """The setting of heads that can boost their scores."""

    boostlu: float | None = option(
        None,
        "linear, csra: BoostLU multiplies positive scores of spatial positions by this before pooling (5 in the paper; "
        "default: off)",
        aliases=("alpha",),
        strict=True,
    )

    def __post_init__(self) -> None:
        require(
            self.boostlu is None or (math.isfinite(self.boostlu) and self.boostlu > 0),
            f"--boostlu {self.boostlu}: a number above 0 is needed; leave it out for no boost",
        )


def boosted(scores: Tensor, alpha: float) -> Tensor:
    """BoostLU: `scores` of any shape, those above 0 times `alpha`; the slope at 0 is 1."""
    return torch.where(scores > 0, alpha * scores, scores)
