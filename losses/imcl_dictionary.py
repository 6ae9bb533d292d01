"""What IMCL keeps: a dictionary of training images, and a learned graph of labels.

N training images, n atoms of the dictionary, G rows of the global batch, C classes, D feature width, K sources of a
class. Differences from the published code: docs/methods/imcl.md.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from utils.seeding import derive_seed
from utils.types import Index, LabelTable


def drawn_rows(images: int, size: int, seed: int) -> Index:
    """(n,) ascending rows of the training set that are atoms: `size` of N by lot, all where there are no more."""
    generator = np.random.default_rng(derive_seed(seed, "dictionary"))
    return np.sort(generator.choice(images, min(size, images), replace=False)).astype(np.int64)


class Dictionary(nn.Module):
    """Atoms: some training images, what is observed of them, and their features as the network last saw them.

    Args:
        observed: (N, C).
        size: most atoms.
        width: D.
        seed: of the draw of the images.
    """

    rows: Tensor
    codes: Tensor
    features: Tensor
    seen: Tensor

    def __init__(self, observed: LabelTable, size: int, width: int, seed: int) -> None:
        super().__init__()
        rows = drawn_rows(len(observed), size, seed)
        self.register_buffer("rows", torch.from_numpy(rows), persistent=False)
        self.register_buffer("codes", torch.from_numpy(observed.rows(rows)), persistent=False)
        self.register_buffer("features", torch.zeros(len(rows), width))
        self.register_buffer("seen", torch.zeros(len(rows), dtype=torch.bool))

    @torch.no_grad()
    def refresh(self, index: Tensor, features: Tensor) -> None:
        """Take up the features of those images that are atoms; of one that comes twice the first ones.

        Nothing waits for the device: what is no atom rewrites what stands where it would stand.

        Args:
            index: (G,) long, rows of the training set, alike on every process.
            features: (G, D).
        """
        place = torch.searchsorted(self.rows, index).clamp(max=len(self.rows) - 1)
        here = (place[:, None] == place) & (self.rows[place] == index)
        is_new, first = here.any(dim=1), here.to(torch.uint8).argmax(dim=1)  # the first of equal maxima, as promised
        kept = torch.where(is_new[:, None], features[first].to(self.features), self.features[place])
        self.features[place] = kept
        self.seen[place] = self.seen[place] | is_new

    def others(self, index: Tensor) -> Tensor:
        """(B, n) bool: atoms that have features and are not the image itself, for images `index` (B,) long."""
        return self.seen & (self.rows != index[:, None])


class LabelGraph(nn.Module):
    """Which labels the score of a class is completed by: itself, and those that it is most often present with.

    The weights of a class are the softmax of what is learned, over these sources: they are not negative, sum to 1, and
    are alike at the start.

    Args:
        counts: (C, C) images in which two classes are both present.
        neighbours: most sources of a class besides itself; classes that are never present with it are none.
    """

    sources: Tensor
    linked: Tensor

    def __init__(self, counts: Index, neighbours: int) -> None:
        super().__init__()
        ranked = counts.copy()
        np.fill_diagonal(ranked, counts.max(initial=0) + 1)
        sources = np.argsort(-ranked, axis=1, kind="stable")[:, : neighbours + 1]
        linked = np.take_along_axis(ranked, sources, axis=1) > 0
        self.register_buffer("sources", torch.from_numpy(sources.astype(np.int64)), persistent=False)
        self.register_buffer("linked", torch.from_numpy(linked), persistent=False)
        self.strengths = nn.Parameter(torch.zeros(sources.shape), requires_grad=sources.shape[1] > 1)

    def weights(self) -> Tensor:
        """(C, K) weights of the sources of each class, 0 of those that are none."""
        return torch.softmax(self.strengths.masked_fill(~self.linked, -math.inf), dim=1)

    def forward(self, scores: Tensor) -> Tensor:
        """(m, C) scores (m, C), each completed by those of its sources; no (C, C) matrix is ever in memory."""
        weights = self.weights().to(scores.dtype)
        found = torch.zeros_like(scores)
        for weight, source in zip(weights.T, self.sources.T, strict=True):
            found = found + weight * scores.index_select(1, source)
        return found
