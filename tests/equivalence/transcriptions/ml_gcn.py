"""ML-GCN: `engine.py`, `models.py`, `util.py` and `demo_*_gcn.py` of megvii-research/ML-GCN.

Multi-label soft-margin loss, a mean over B and K; gradients cut at a norm of all parameters together; SGD, of which the
backbone gets a tenth of the rate; rates fall at the start of an epoch; the test set is scored after each epoch, and the
best of these is kept, where ours reports the last and names the best beside it. The graph is kept in single precision,
and no gradient reaches it. Left out: multi-scale crops. As in ours, difficult objects of VOC train as absent, not as
present, and a class without any image stands alone, where the release divides by 0.
B batch, K classes, E word vector.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.equivalence.plain import IMAGENET, Given, Net, Outcome, evaluated, scaled, state_of


def label_matrix(labels: Tensor, threshold: float) -> Tensor:
    """(K, K) A of labels (N, K): a label itself, and .25 shared out in each column among those it goes with."""
    together = labels.T @ labels
    alone = together.diagonal().clone()
    share = together.fill_diagonal_(0) / alone.clamp(min=1)[:, None]
    goes_with = (share >= threshold).double()
    return goes_with * 0.25 / (goes_with.sum(dim=0, keepdim=True) + 1e-6) + torch.eye(len(alone), dtype=torch.float64)


def propagation(matrix: Tensor) -> Tensor:
    """(A D)^T D with D the inverse roots of the row sums of A (K, K)."""
    root = torch.diag(matrix.sum(dim=1) ** -0.5)
    return (matrix @ root).T @ root


class GraphHead(nn.Module):
    """Classifiers out of word vectors by two graph convolutions; the maximum of each channel of the feature map."""

    def __init__(self, classes: int, word: int, hidden: int, width: int = 96) -> None:
        super().__init__()
        self.graph = nn.Module()
        self.graph.register_buffer("vectors", torch.zeros(classes, word))
        self.graph.register_buffer("adjacency", torch.zeros(classes, classes))
        for name, shape in (("gc1", (word, hidden)), ("gc2", (hidden, width))):
            self.add_module(name, nn.ParameterDict({"weight": torch.zeros(shape)}))

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, K)."""
        adjacency = self.graph.adjacency
        hidden = adjacency @ (self.graph.vectors @ self.gc1["weight"])
        hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
        classifiers = adjacency @ (hidden @ self.gc2["weight"])
        logits: Tensor = features.flatten(2).max(dim=2).values @ classifiers.T
        return logits


def train(
    given: Given,
    *,
    word_width: int = 300,
    gcn_width: int = 1024,
    lr: float = 0.1,
    lrp: float = 0.1,
    step_size: int = 40,
    clip_grad: float = 10,
) -> Outcome:
    """The whole run; `lr` is of the head, of which the backbone has `lrp` times as much."""
    labels = (given.observed == 1).double()
    net = Net(GraphHead(labels.shape[1], word_width, gcn_width), given.start)
    net.head.graph.adjacency = propagation(label_matrix(labels, threshold=0.4)).float().double()
    groups = [
        {"params": net.backbone.parameters(), "lr": lr * lrp},
        {"params": net.head.gc1.parameters(), "lr": lr},
        {"params": net.head.gc2.parameters(), "lr": lr},
    ]
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=1e-4)
    images = {split: scaled(pixels, IMAGENET) for split, pixels in given.pixels.items()}
    losses, figures = [], []
    for epoch, batches in enumerate(given.order):
        for group in optimizer.param_groups:
            group["lr"] *= 0.1 if epoch and epoch % step_size == 0 else 1.0
        net.train()
        for rows in batches:
            loss = F.multilabel_soft_margin_loss(net(images["train"][rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), clip_grad)
            optimizer.step()
            losses.append(loss.item())
        figures.append(evaluated(net, given, images))
    return Outcome(losses, [{} for _ in losses], state_of(net), figures, len(figures))
