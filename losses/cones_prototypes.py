"""Class prototypes, the bank that keeps them, and the label correlation refreshed from them (CoNeS).

B batch, C classes, N rows, D feature width, h w feature map, A classes that are refreshed, c clusters. Source: CoNeS,
IEEE TCSVT 2025, doi 10.1109/TCSVT.2025.3629753; published code zhongjingyu1/CoNeS, `main_CoNeS.py`,
`utils/feature_memory.py` and `utils/PML_Confidence.py`. Differences from that code: docs/methods/cones.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from losses.common.functional import at_least_float32
from utils.collectives import all_max, all_sum

Scale = Literal["mask", "all_pixels"]
Axis = Literal["row", "reference"]
Mix = Literal["normalised", "raw"]

KMEANS_SEED = 42
"""The published code's; the only seed it sets."""


class Prototypes(NamedTuple):
    """One feature vector per class, found in one batch."""

    rows: Tensor  # (C, D), zero where inactive
    active: Tensor  # (C,) bool: the class activation map is positive somewhere


@torch.no_grad()
def class_prototypes(
    features: Tensor,
    heatmaps: Tensor,
    tau: float,
    *,
    scale: Scale = "mask",
    candidates: Tensor | None = None,
) -> Prototypes:
    """Features summed over the pixels where a class activation map exceeds `tau` times its peak in the GLOBAL batch.

    Args:
        features: (B, D, h, w).
        heatmaps: (B, C, h, w) class activation maps; negative values count as 0.
        tau: share of the peak, in [0, 1), that a pixel must exceed.
        scale: divide the sum by the size of the mask, or by all B*h*w pixels as the published code does, which makes
            prototypes of small objects short.
        candidates: (B, C) 0/1; if given, a class sees only the images where it is a candidate.

    Returns:
        Prototypes in single precision at least, the same on every rank.
    """
    heat = at_least_float32(heatmaps).flatten(2)
    if candidates is not None:
        heat = heat * candidates[:, :, None]
    peak = all_max(heat.amax(dim=(0, 2)))
    active = peak > 0
    pixels = at_least_float32(features).flatten(2)
    # negative values and those of inactive classes exceed no tau, so they need not be set to 0 first
    mask = (heat / peak.where(active, torch.ones_like(peak))[:, None] > tau).to(pixels)
    sums = torch.bmm(pixels, mask.transpose(1, 2)).sum(dim=0).T  # in this order the features are read contiguously
    masked = mask.sum(dim=(0, 2))
    everything = torch.full_like(masked, mask[:, 0].numel())
    total = all_sum(torch.cat([sums, (masked if scale == "mask" else everything)[:, None]], dim=1))
    return Prototypes(total[:, :-1] / total[:, -1:].clamp(min=1), active)


def mirrored(found: Prototypes) -> Prototypes:
    """Prototypes in which each active class gets that of its mirror image among the active classes.

    The published code puts new prototypes before the old but their class numbers after them, so that of A active
    classes the m-th gets the prototype of number A-1-m. Kept to reproduce its results.
    """
    ascending = torch.argsort(found.active.logical_not().to(torch.uint8), stable=True)  # active classes first
    number = found.active.cumsum(0) - 1
    source = ascending[found.active.sum() - 1 - number]
    return Prototypes(found.rows[source] * found.active[:, None], found.active)


class PrototypeBank(nn.Module):
    """The newest `capacity` prototypes of each class, as a ring that is written without waiting for the device."""

    rows: Tensor
    written: Tensor

    def __init__(self, num_classes: int, capacity: int, width: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(num_classes, capacity, width))
        self.register_buffer("written", torch.zeros(num_classes, dtype=torch.int64))

    @torch.no_grad()
    def push(self, new: Prototypes) -> None:
        """Store one row (D,) for each active class; when the class is full, it replaces the oldest."""
        each = torch.arange(len(self.written), device=self.written.device)
        slot = self.written % self.rows.shape[1]
        self.rows[each, slot] = torch.where(new.active[:, None], new.rows.to(self.rows), self.rows[each, slot])
        self.written += new.active

    def newest_first(self, label: int) -> Tensor:
        """(n, D) prototypes kept of one class, n <= capacity."""
        capacity = self.rows.shape[1]
        total = int(self.written[label])
        number = torch.arange(total - 1, total - 1 - min(total, capacity), -1, device=self.rows.device)
        return self.rows[label, number % capacity]


def conditional(counts: Tensor) -> Tensor:
    """(C, C) float64 P(j present | i present) from co-occurrence counts, diagonal 0, rows of absent classes 0."""
    counts = counts.double()
    rates = counts / counts.diagonal().clamp(min=1)[:, None]
    return rates.fill_diagonal_(0)


def initial_correlation(counts: Tensor, *, axis: Axis = "row") -> Tensor:
    """(C, C) float64 label correlation from co-occurrence counts: normalised conditionals with a diagonal of 1.

    Axis "row" makes the off-diagonal part of each row sum to 1. "reference" repeats the published code, which divides
    column j by the sum of row j, of conditionals in single precision. A class that occurs with no other has only its 1.
    """
    rates = conditional(counts)
    if axis == "reference":
        rates = rates.float().double()
    return _normalised(rates, axis).fill_diagonal_(1)


def class_centroids(rows: Tensor, clusters: int) -> Tensor:
    """(c, D) float64 k-means centroids of the rows (n, D), n >= clusters; the same rows give the same centroids."""
    from sklearn.cluster import KMeans  # here, because it takes longer to import than all of our own code

    fit = KMeans(clusters, random_state=KMEANS_SEED, n_init="auto").fit(rows.cpu().numpy())
    return torch.from_numpy(fit.cluster_centers_).double()


def mean_cosine(centroids: Tensor) -> Tensor:
    """(A, A) float64 from centroids (A, c, D): cosine averaged over all c*c pairs of two classes' centroids.

    An average of products of unit vectors is the product of their averages, so no pair is ever formed.
    """
    mean_unit = nn.functional.normalize(centroids.double(), dim=-1).mean(dim=1)
    return mean_unit @ mean_unit.T


def refresh_correlation(
    correlation: Tensor,
    memory: Sequence[Tensor],
    *,
    clusters: int,
    gamma: float,
    axis: Axis = "row",
    mix: Mix = "normalised",
) -> Tensor:
    """Label correlation moved towards the similarity of the classes' prototypes; one k-means fit per class.

    Args:
        correlation: (C, C) float64, diagonal 1.
        memory: for each class its prototypes (n, D), newest first; a class with n < clusters keeps row and column.
        clusters: centroids per class.
        gamma: share of the old correlation, in [0, 1].
        axis: see `initial_correlation`.
        mix: average with the cosines brought to the same sums first ("normalised", negative cosines as 0), or with
            the cosines as they are ("raw", the published code), where they weigh 10 to 40 times their share.

    Returns:
        (C, C) float64 on the CPU, diagonal 1, a new tensor.
    """
    result = correlation.cpu().double().clone()
    known = torch.tensor([label for label, rows in enumerate(memory) if len(rows) >= clusters], dtype=torch.int64)
    if len(known) < 2:
        return result
    cosine = mean_cosine(torch.stack([class_centroids(memory[int(label)], clusters) for label in known]))
    old = result.clone().fill_diagonal_(0)
    block = old[known][:, known]
    share = _share(block.sum(dim=1), old[known].sum(dim=1))
    cosine.fill_diagonal_(0)
    if mix == "normalised":
        cosine = _normalised(cosine.clamp(min=0), axis, share)
    mixed = _normalised(gamma * block + (1 - gamma) * cosine, axis, share)
    result[known[:, None], known] = mixed.fill_diagonal_(1)
    return result


def _share(refreshed: Tensor, total: Tensor) -> Tensor:
    """(A,) share of a row in the refreshed columns: the rest is kept as it is, so only this share is distributed."""
    return torch.where(total > 0, refreshed / total, 1.0)


def _normalised(matrix: Tensor, axis: Axis, share: Tensor | None = None) -> Tensor:
    """`matrix` with zero diagonal divided by its row sums along `axis`, times `share`; rows that sum to 0 give 0."""
    sums = matrix.sum(dim=1)
    scale = torch.where(sums > 0, (1 if share is None else share) / sums, 0)
    return matrix * (scale[:, None] if axis == "row" else scale[None, :])
