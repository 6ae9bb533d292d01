"""NDLP: `main/train.py` of zhongjingyu1/NDLP, its slips included (../shared/spec/ndlp.md, sections 2 to 8).

Within a step: thresholds from all confidences, pseudo labels of the batch, loss, choice of rows, predictions from the
logits that the loss has shifted, from the second epoch on a second forward pass of mixed images, then the distribution,
then the confidences, then the update of the weights. The rate is constant; `--lr` of that code is never used.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tests.equivalence.plain import IMAGENET, Given, Outcome, evaluated_tail, scaled, state_of
from tests.equivalence.transcriptions.distribution_balanced import BalancedLoss, Frequencies, FrozenNet, counted

MU = 0.1
TINY = 1e-8


class Confidences:
    """P (N, C), which candidate of an image is true, and d (C,), which classes get more rows chosen."""

    def __init__(self, candidates: Tensor, gamma: float) -> None:
        self.candidates, self.gamma = candidates, gamma
        self.p = candidates / candidates.sum(dim=1, keepdim=True)
        self.restart()

    def restart(self) -> None:
        """Before an epoch."""
        classes = self.candidates.shape[1]
        self.d = torch.full((classes,), 1 / classes, dtype=torch.float64)

    def state(self) -> dict[str, Tensor]:
        """Both."""
        return {"p": self.p, "d": self.d}

    def sharpened(self, rows: Tensor) -> Tensor:
        """q (B, C)."""
        power = self.p[rows] ** self.gamma
        return power / power.sum(dim=1, keepdim=True)

    def pseudo(self, soft: Tensor) -> Tensor:
        """t (B, C), 1 where q exceeds the mean confidence of its class over all images that have any."""
        threshold = self.p.sum(dim=0) / (self.p != 0).sum(dim=0)
        return (soft > threshold).double()

    def chosen(self, each: Tensor, pseudo: Tensor, alpha: float) -> Tensor:
        """Positions of the reliable rows, ascending."""
        means, found = each.mean(dim=1), set()
        wanted = self.d * len(each) * alpha
        for label in range(pseudo.shape[1]):
            rows = pseudo[:, label].nonzero().flatten()
            if len(rows):
                count = max(1, min(math.ceil(wanted[label].item()), len(rows)))
                found.update(rows[means[rows].argsort(stable=True)[:count]].tolist())
        return torch.tensor(sorted(found), dtype=torch.long)

    def predicted(self, logits: Tensor, rows: Tensor) -> Tensor:
        """(B, C) softmax over all classes, cut to the candidates."""
        p = torch.softmax(logits, dim=1) * self.candidates[rows]
        return p / p.sum(dim=1, keepdim=True)

    def learn(self, predicted: Tensor, rows: Tensor) -> None:
        """The distribution from the old confidences, then the confidences; of a repeated row the last one counts."""
        share = self.p[rows].sum(dim=0) / self.p[rows].sum()
        share = torch.where(share == 0, self.d, share)
        self.d = self.d / (share + TINY)
        self.d = self.d / self.d.sum()
        moved = (1 - MU) * self.p[rows] + MU * predicted
        for row, values in zip(rows, moved, strict=True):
            self.p[row] = values


def train(
    given: Given,
    *,
    epochs: int,
    neck_width: int = 256,
    lr: float = 0.02,
    gamma: float = 3.0,
    eta: float = 0.9,
    alpha: tuple[float, float] = (0.4, 0.8),
) -> Outcome:
    """The whole run; order and mixtures are those that ours drew, the dropout of the neck is 0."""
    net = FrozenNet(given, neck_width)
    clean = counted(torch.from_numpy(given.truth["train"]).double())
    loss = BalancedLoss(Frequencies(clean.positives, clean.images))
    confidences, mixtures = Confidences((given.observed == 1).double(), gamma), iter(given.drawn["mixtures"])
    learning = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=lr, momentum=0.9, weight_decay=1e-4)
    images = {split: scaled(pixels, IMAGENET) for split, pixels in given.pixels.items()}
    losses, states, figures = [], [], []
    for epoch, batches in enumerate(given.order):
        ramp = epoch / epochs
        confidences.restart()
        net.train()
        for rows in batches:
            soft = confidences.sharpened(rows)
            pseudo = confidences.pseudo(soft)
            logits = net(images["train"][rows])
            each = loss.each(logits, pseudo)
            total = each.mean()
            with torch.no_grad():
                chosen = confidences.chosen(each, pseudo, alpha[0] + (alpha[1] - alpha[0]) * ramp)
                predicted = confidences.predicted(logits + loss.bias, rows)
            if epoch > 0 and len(chosen) > 1:  # the release stops at one row alone, in BatchNorm
                portion, partners = next(mixtures)
                mixed, target = images["train"][rows][chosen], soft[chosen]
                mixed = portion * mixed + (1 - portion) * mixed[partners]
                target = portion * target + (1 - portion) * target[partners]
                total = total + eta * ramp * loss.each(net(mixed), target).mean()
            confidences.learn(predicted, rows)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            losses.append(total.item())
            states.append({name: value.clone() for name, value in confidences.state().items()})
        figures.append(evaluated_tail(net, given, images))
    return Outcome(losses, states, state_of(net), figures, len(figures))
