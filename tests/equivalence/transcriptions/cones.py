"""CoNeS: `main_CoNeS.py` of zhongjingyu1/CoNeS, its slips included (../shared/spec/cones.md, sections 3, 4 and 9).

Within a step: forward with maps, prototypes into the banks, confidences moved by this batch's logits, then the loss.
From the second epoch on the correlation is refreshed from the banks before the first batch.
B batch, K classes, M training images, D feature width.
"""

from __future__ import annotations

import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional as F

from tests.equivalence.plain import Given, LinearHead, Net, Outcome
from tests.equivalence.transcriptions.cones_bce import SgdLoop, candidate_bce

TINY = 1e-8


class Labels:
    """Confidences Q (M, K) float32, correlation R (K, K) float64, and a bank of prototypes per class, newest first."""

    def __init__(self, given: Given, *, clusters: int, memory: int, gamma: float, mu: float) -> None:
        self.clusters, self.memory, self.gamma, self.mu = clusters, memory, gamma, mu
        self.candidates = (given.observed == 1).double()
        together = self.candidates.T @ self.candidates
        conditional = (together / together.diagonal().clamp(min=1)[:, None]).float().double().fill_diagonal_(0)
        self.correlation = _divided(conditional)
        self.confidence = (self.candidates / self.candidates.sum(dim=1, keepdim=True)).float()
        self.banks: list[list[Tensor]] = [[] for _ in range(self.candidates.shape[1])]

    def state(self) -> dict[str, Tensor]:
        """All of it; banks filled up with rows of zeros."""
        width = next(len(bank[0]) for bank in self.banks if bank)
        banks = torch.zeros(len(self.banks), self.memory, width, dtype=torch.float64)
        for label, bank in enumerate(self.banks):
            if bank:
                banks[label, : len(bank)] = torch.stack(bank)
        return {"confidence": self.confidence, "correlation": self.correlation, "banks": banks}

    def remember(self, features: Tensor, weight: Tensor, tau: float) -> None:
        """One prototype of each active class; the release gives them to the classes in reverse."""
        heat = torch.relu(torch.einsum("bdhw,kd->bkhw", features, weight))
        active, found = [], []
        for label in range(heat.shape[1]):
            peak = heat[:, label].max()
            if peak != 0:
                mask = (heat[:, label] / peak > tau).double()
                active.append(label)
                found.append((features * mask[:, None]).sum(dim=(0, 2, 3)) / mask.numel())
        for label, prototype in zip(active, reversed(found), strict=True):
            self.banks[label] = [prototype, *self.banks[label]][: self.memory]

    def move(self, logits: Tensor, rows: Tensor) -> None:
        """The confidences of a batch."""
        support = (torch.sigmoid(logits) @ self.correlation) * self.candidates[rows]
        support = support / support.sum(dim=1, keepdim=True)
        self.confidence[rows] = (self.mu * self.confidence[rows].double() + (1 - self.mu) * support).float()

    def refresh(self) -> None:
        """The correlation, by the mean cosine of the classes' centroids.

        The release stops where a class has fewer prototypes than centroids. Here, as in ours, such a class keeps its
        row and column, and the others share out what they had among themselves.
        """
        known = [label for label, bank in enumerate(self.banks) if len(bank) >= self.clusters]
        centroids = [self._centroids(self.banks[label]) for label in known]
        cosine = torch.tensor(
            [[_mean_cosine(one, other) for other in centroids] for one in centroids], dtype=torch.float64
        )
        old = self.correlation.clone().fill_diagonal_(0)
        block = old[known][:, known]
        mixed = (self.gamma * block + (1 - self.gamma) * cosine).fill_diagonal_(0)
        whole = old[known].sum(dim=1)
        share = torch.where(whole > 0, block.sum(dim=1) / whole, 1.0)
        self.correlation[torch.tensor(known)[:, None], known] = _divided(mixed, share)

    def _centroids(self, bank: list[Tensor]) -> Tensor:
        fit = KMeans(self.clusters, random_state=42, n_init="auto").fit(torch.stack(bank).numpy())
        return torch.from_numpy(fit.cluster_centers_).double()


def _mean_cosine(one: Tensor, other: Tensor) -> float:
    return F.cosine_similarity(one[:, None], other[None], dim=2).mean().item()


def _divided(matrix: Tensor, share: Tensor | float = 1.0) -> Tensor:
    """Column j divided by the sum of row j, as in the release; then a diagonal of 1.

    A class beside which there never is another one has 0 elsewhere, where the release goes on with no number at all.
    """
    sums = matrix.sum(dim=1)
    return (matrix * (share / sums.where(sums != 0, 1))).fill_diagonal_(1)


def negative_weights(logits: Tensor, candidates: Tensor, r: float) -> Tensor:
    """phi (B, K) of what is no candidate: the release takes the power of the sum for the sum of powers."""
    negative = 1 - candidates
    inverse = negative / (r * -torch.log(1 - torch.sigmoid(logits)) + TINY)
    share = 1 / negative.sum(dim=1, keepdim=True)
    power = 1 / (r - 1)
    return share * inverse**power / (inverse.sum(dim=1, keepdim=True) ** power + TINY)


def loss_of(logits: Tensor, candidates: Tensor, confidence: Tensor, *, r: float, beta: float) -> Tensor:
    """BCE on candidates, and weighted on pseudo labels; an only candidate never exceeds its own mean."""
    size = candidates.sum(dim=1, keepdim=True).float()
    pseudo = (confidence > 1 / (size + TINY)).double()
    with torch.no_grad():
        weights = negative_weights(logits, candidates, r) + candidates
    each = F.binary_cross_entropy_with_logits(logits, pseudo, reduction="none")
    return candidate_bce(logits, candidates) + beta * (weights * each).mean()


def train(
    given: Given,
    *,
    lr: float = 0.01,
    step_size: int = 4,
    clusters: int = 5,
    memory_per_class: int = 256,
    tau: float = 0.1,
    r_ws: float = 3.0,
    beta: float = 0.1,
    mu: float = 0.99,
    gamma: float = 0.99,
) -> Outcome:
    """The whole run."""
    net = Net(LinearHead(given.observed.shape[1]), given.start)
    labels = Labels(given, clusters=clusters, memory=memory_per_class, gamma=gamma, mu=mu)

    def step(net: nn.Module, images: Tensor, rows: Tensor) -> Tensor:
        features = net.backbone(images)
        logits: Tensor = net.head(features)
        with torch.no_grad():
            labels.remember(features, net.head.fc.weight, tau)
            labels.move(logits, rows)
        return loss_of(logits, labels.candidates[rows], labels.confidence[rows], r=r_ws, beta=beta)

    def before(epoch: int) -> None:
        if epoch >= 2:
            labels.refresh()

    loop = SgdLoop(given, net, lr=lr, head_times=1, warmup_epoch=2, step_size=step_size)
    return loop.run(step, before, labels.state)
