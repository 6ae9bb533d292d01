"""ML-GCN: classifiers computed from word vectors over a graph of labels (Chen et al., CVPR 2019, arXiv 1904.03582).

B batch, C classes, D backbone width, E word vector, H hidden width, h w feature map. Published code
https://github.com/megvii-research/ML-GCN, models.py and util.py. Settings, and all differences from that code:
docs/models.md.

Keys of a published checkpoint: `gc1.weight` and `gc2.weight` are those of this head under `head.`; `A` is the
matrix that `normalised` turns into `head.graph.adjacency`; word vectors are not in it; `features.0`, `.1`, `.4` to `.7`
are conv1, bn1 and layer1 to layer4 of the ResNet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from models.heads.base import Head, LabelInfo, outside_autocast
from models.heads.word_vectors import class_vectors, vector_width
from utils.checks import require
from utils.cooccurrence import cooccurrence
from utils.head_vectors import PooledFeatures
from utils.options import option
from utils.types import LabelTable

Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class GCNConfig:
    """ML-GCN."""

    word_vectors: str = option(
        "random", "gcn: vectors of the class names: random, one-hot, a GloVe text file, or a .npy with a row per class"
    )
    word_width: int = option(300, "gcn: numbers of a word vector; a file must have as many")
    gcn_width: int = option(1024, "gcn: width between the two graph convolutions")
    gcn_threshold: float = option(0.4, "gcn: share P(j|i) from which label j goes with label i", aliases=("gcn_t",))
    gcn_p: float = option(0.2, "gcn: weight of the labels that go with a label, beside itself; p/(1-p) is 0.25")

    def __post_init__(self) -> None:
        require(bool(self.word_vectors), "--word_vectors is empty: give random, one-hot or a path")
        for name in ("word_width", "gcn_width"):
            require(getattr(self, name) >= 1, f"--{name} {getattr(self, name)}: must be at least 1")
        require(0 < self.gcn_threshold <= 1, f"--gcn_threshold {self.gcn_threshold}: must be above 0, at most 1")
        require(0 <= self.gcn_p < 1, f"--gcn_p {self.gcn_p}: must be in [0, 1)")


def adjacency(together: NDArray[np.int64], alone: NDArray[np.int64], threshold: float, p: float) -> Matrix:
    """A = I + p/(1-p) b_ij / (sum over i of b_ij + 1e-6), b_ij = 1 where P(j|i) >= threshold, else 0.

    Equations (7) and (8) of the paper divided by 1 - p, as its code has it: there 0.25 stands for p = 0.2. A class
    never observed goes with none.

    Args:
        together: (C, C), diagonal 0.
        alone: (C,).
        threshold: tau, above 0.
        p: weight of the other labels beside a label itself, in [0, 1).

    Returns:
        (C, C), which is not symmetric.
    """
    share = together / np.maximum(alone, 1)[:, None]
    binary = (share >= threshold).astype(np.float64)
    others: Matrix = p / (1 - p) * binary / (binary.sum(axis=0) + 1e-6)
    return others + np.eye(len(others))


def normalised(matrix: Matrix) -> Matrix:
    """D^-1/2 A^T D^-1/2 with D the row sums of A (C, C): transposed, as the published `gen_adj` has it."""
    scale = 1 / np.sqrt(matrix.sum(axis=1))
    result: Matrix = scale[:, None] * matrix.T * scale
    return result


def label_graph(observed: LabelTable, threshold: float, p: float) -> Tensor:
    """(C, C) float32: the normalised adjacency of observed labels. With one label per image it is the identity."""
    together = cooccurrence(observed)
    alone = together.diagonal().copy()
    np.fill_diagonal(together, 0)
    return torch.from_numpy(normalised(adjacency(together, alone, threshold, p)).astype(np.float32))


class LabelGraph(nn.Module):
    """Fixed information on the labels: word vectors (C, E), and the adjacency of labels that go together (C, C).

    It stays in evaluation mode, by which the engine knows that nothing here changes.
    """

    vectors: Tensor
    adjacency: Tensor

    def __init__(self, vectors: Tensor, graph: Tensor) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors)
        self.register_buffer("adjacency", graph)
        self.eval()

    def train(self, mode: bool = True) -> LabelGraph:
        """Stay in evaluation mode."""
        return super().train(False)


class GraphConvolution(nn.Module):
    """A (x W), without bias: each label takes up its neighbours' features; W (in, out) starts within 1/sqrt(out)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(out)
        self.weight = nn.Parameter(torch.empty(width, out).uniform_(-bound, bound))

    def forward(self, labels: Tensor, graph: Tensor) -> Tensor:
        """Labels (C, in) and graph (C, C) to labels (C, out)."""
        output: Tensor = graph @ (labels @ self.weight)
        return output


class GCNHead(Head):
    """ML-GCN on a feature map of any size: z = f G^T, f the maximum over positions of each channel.

    G (C, D) is computed from the word vectors by two graph convolutions with LeakyReLU 0.2 between them. The activation
    map is G at every position, (B, C, h, w); no position need reach the logit, for each channel takes its own maximum.

    Args:
        width: D.
        graph: vectors and adjacency.
        hidden: H.
    """

    def __init__(self, width: int, graph: LabelGraph, hidden: int) -> None:
        super().__init__()
        self.graph = graph
        self.gc1 = GraphConvolution(graph.vectors.shape[1], hidden)
        self.gc2 = GraphConvolution(hidden, width)

    def classifiers(self) -> Tensor:
        """G (C, D)."""
        graph = self.graph
        hidden = F.leaky_relu(self.gc1(graph.vectors, graph.adjacency), 0.2)
        classifiers: Tensor = self.gc2(hidden, graph.adjacency)
        return classifiers

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C)."""
        return self.with_pooled(features)[0]

    def with_pooled(self, features: Tensor) -> tuple[Tensor, PooledFeatures]:
        """Logits (B, C), and the maxima over positions that they are made of."""
        with outside_autocast(features):
            classifiers = self.classifiers()
            pooled = features.amax(dim=(2, 3)).to(classifiers.dtype)
            return pooled @ classifiers.T, PooledFeatures(pooled, classifiers)

    @torch.no_grad()
    def cam(self, features: Tensor) -> Tensor:
        """Maps (B, C, h, w): each class's classifier at every position."""
        return F.conv2d(features, self.classifiers()[:, :, None, None])


def build_gcn(width: int, classes: int, config: GCNConfig, label_info: LabelInfo | None) -> Head:
    """The ML-GCN head of a config; without label info, vectors and graph are zeros that a checkpoint replaces."""
    size = vector_width(config.word_vectors, classes, config.word_width)
    if label_info is None:
        return GCNHead(width, LabelGraph(torch.zeros(classes, size), torch.zeros(classes, classes)), config.gcn_width)
    vectors = class_vectors(config.word_vectors, label_info.classes, size)
    graph = label_graph(label_info.observed, config.gcn_threshold, config.gcn_p)
    return GCNHead(width, LabelGraph(vectors, graph), config.gcn_width)
