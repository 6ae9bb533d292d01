"""Prototypes of SARB and HST: centres of the vectors that each class has where it is observed to be present.

G rows of the batch of all processes, C classes, K centres of a class, D width of a class vector. Source: Pu et al.,
AAAI 2022; published code HCPLab-SYSU/HCP-MLR-PL, `computePrototype`. There the vectors are those of a pass over the
training set, here those of the last steps: docs/methods/sarb.md.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.common.functional import at_least_float32
from losses.common.memory import MemoryNeed
from losses.cones_prototypes import PrototypeBank, Prototypes, class_centroids
from utils.checks import require
from utils.collectives import broadcast, rank
from utils.types import PRESENT, CriterionInfo

SHORTEST = 1e-9
"""Length below which a class vector is not brought to length 1, as published."""


@torch.no_grad()
def present_means(vectors: Tensor, observed: Tensor) -> Prototypes:
    """The mean vector of each class over the images in which it is observed to be present.

    Args:
        vectors: (G, C, D).
        observed: (G, C) label codes.

    Returns:
        Rows (C, D) in single precision at least, zero where a class is observed in none.
    """
    vectors = at_least_float32(vectors)
    present = (observed == PRESENT).to(vectors.dtype)
    sums, counts = (present[:, :, None] * vectors).sum(dim=0), present.sum(dim=0)
    return Prototypes(sums / counts.clamp(min=1)[:, None], counts > 0)


def centres_of(rows: Tensor, number: int) -> Tensor:
    """(K, D) k-means centres of vectors (n, D), n at least 1; of fewer than K each of them, again and again."""
    if len(rows) < number:
        return rows[torch.arange(number, device=rows.device) % len(rows)]
    return class_centroids(rows, number)


class ClassCentres(nn.Module):
    """Centres of each class, from the newest vectors of it, one of each step in which it is observed to be present.

    State: `bank`, the vectors; `centres` (C, K, D), zeros of a class without any; `held` (C,) bool, True of the others.
    """

    centres: Tensor
    held: Tensor

    def __init__(self, num_classes: int, number: int, kept: int, width: int) -> None:
        super().__init__()
        self.bank = PrototypeBank(num_classes, kept, width)
        self.register_buffer("centres", torch.zeros(num_classes, number, width))
        self.register_buffer("held", torch.zeros(num_classes, dtype=torch.bool))

    @classmethod
    def of(cls, method: str, number: int, kept: int, info: CriterionInfo) -> ClassCentres:
        """Those of a run. Raises: UserError for class vectors of unknown width."""
        require(
            info.class_vector_width >= 1,
            f"{method}: give class_vector_width, how many numbers the vector of a class has that the head gives",
        )
        return cls(info.observed.num_classes, number, kept, info.class_vector_width)

    def remember(self, vectors: Tensor, observed: Tensor) -> None:
        """Keep the `present_means` of the batch of all processes; nothing waits for a device."""
        self.bank.push(present_means(vectors, observed))

    @torch.no_grad()
    def refresh(self) -> None:
        """Find the centres of what is kept: rank 0 does and sends them to the others."""
        centres = torch.zeros_like(self.centres)
        if rank() == 0:
            for label in self.bank.written.nonzero()[:, 0].tolist():
                centres[label] = centres_of(self.bank.newest_first(label), centres.shape[1]).to(centres)
        self.centres.copy_(broadcast(centres))
        self.held.copy_(self.bank.written > 0)

    def similarity(self, vectors: Tensor) -> Tensor:
        """(B, C) mean cosine of vectors (B, C, D) with the centres of their class; 0 of a class without any."""
        return mean_cosines(vectors, self.centres)


def mean_cosines(vectors: Tensor, centres: Tensor) -> Tensor:
    """(B, C) cosine of vectors (B, C, D) with centres (C, K, D) of their class, the mean over these.

    A mean of products of unit vectors is the product with their mean, so no (B, C, K, D) is ever formed.
    """
    mean_units = F.normalize(centres.to(vectors.dtype), dim=2, eps=SHORTEST).mean(dim=1)
    return (F.normalize(vectors, dim=2, eps=SHORTEST) * mean_units).sum(dim=2)


def require_prototypes(number: int, every: int, kept: int) -> None:
    """Raise UserError unless settings of prototypes can work."""
    require(every >= 1, f"--prototype_every {every}: must be at least 1 epoch; the published value is 5")
    require(
        kept >= max(number, 1),
        f"--prototype_memory {kept}: must be at least 1, and not below --prototypes ({number})",
    )


def refresh_due(epoch: int, first: int, every: int) -> bool:
    """True of the epochs before which centres are found: the first, and each so many later."""
    return epoch >= first and (epoch - first) % every == 0


def centre_need(number: int, kept: int, info: CriterionInfo) -> MemoryNeed:
    """What `ClassCentres` keep."""
    size = 4 * info.observed.num_classes * (number + kept) * info.class_vector_width
    return MemoryNeed("prototypes", size, False, remedy="a smaller --prototype_memory")
