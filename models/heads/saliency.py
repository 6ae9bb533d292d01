"""Saliency regularisation: the highest scores of spatial positions count once more in a logit (Wang et al., ICCV 2023).

Source: "Saliency Regularization for Self-Training with Partial Annotations", equations 3 to 5. No code was published;
our own choices: docs/saliency.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from models.heads.boostlu import BoostLUConfig
from utils.checks import require
from utils.options import option


class Saliency(NamedTuple):
    """What a head adds to its logits."""

    alpha: float
    """Factor of the saliency."""
    k: int
    """Number of positions that it is the mean of."""
    in_test: bool = True
    """False: logits have it in training alone."""

    def counts(self, training: bool) -> bool:
        """Tell whether the logits of a head in this mode have it."""
        return training or self.in_test


@dataclass(frozen=True, kw_only=True)
class SaliencyConfig(BoostLUConfig):
    """The settings of heads that can boost their scores, or add saliency to their logits."""

    saliency: float = option(
        0.0,
        "linear, csra: saliency regularisation adds to a logit this times the mean of the highest scores of spatial "
        "positions (0.5 in the paper; 0: off)",
        strict=True,
    )
    saliency_k: int = option(5, "saliency: number of these positions; all of a smaller map")
    saliency_test: bool = option(
        True, "saliency: it is part of the logits in validation, test and prediction too; off: in training alone"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 <= self.saliency < math.inf, f"--saliency {self.saliency}: must be 0 or more; the published value is 0.5"
        )
        require(self.saliency_k >= 1, f"--saliency_k {self.saliency_k}: must be at least 1 position")
        require(
            self.saliency == 0 or self.boostlu is None,
            f"--saliency {self.saliency}, --boostlu {self.boostlu}: both change how scores become logits; give one",
        )

    @property
    def linear(self) -> bool:
        """True if logits are linear in the features that are pooled: nothing is boosted, no saliency added."""
        return self.boostlu is None and self.added_saliency is None

    @property
    def added_saliency(self) -> Saliency | None:
        """What the head adds, if anything."""
        return Saliency(self.saliency, self.saliency_k, self.saliency_test) if self.saliency else None


def saliency(scores: Tensor, k: int) -> Tensor:
    """(B, C) mean of the k highest scores (B, C, h, w) of each class, of all where the map has no more than k."""
    flat = scores.flatten(2)
    return flat.topk(min(k, flat.shape[2]), dim=2, sorted=False).values.mean(dim=2)
