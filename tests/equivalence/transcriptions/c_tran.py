"""C-Tran with label masks: `main.py`, `run_epoch.py` and `models/` of QData/C-Tran (`--use_lmt`).

Some labels of an image are given to the network, BCE is summed over the others and over the batch; one Adam without
weight decay; the rate falls when no epoch has been better for too long. The masks are those that ours drew. As in ours,
what is watched is the loss on the validation split, where the release has that on the test set, and the first of equal
epochs is kept, not the last. Left out: crops at other scales, gradients added up over two batches (VOC).
B batch, K classes, d width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.equivalence.plain import IMAGENET, Given, Net, Outcome, best_epoch, evaluated, scaled, scores, state_of
from tests.equivalence.transcriptions.query2label import Layer

NOT_GIVEN, LARGEST_SHARE = -1, 0.75


class LabelTokens(nn.Module):
    """Positions and labels as tokens that all look at all; a label's own row of a linear layer gives its logit."""

    def __init__(self, classes: int, layers: int, inner: int, heads: int, width: int = 96) -> None:
        super().__init__()
        self.label_lt, self.known_label_lt = nn.Embedding(classes, width), nn.Embedding(3, width, padding_idx=0)
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(width, classes)
        self.layers = nn.ModuleList(Layer(width, inner, heads, False) for _ in range(layers))

    def forward(self, features: Tensor, known: Tensor | None = None) -> Tensor:
        """Logits (B, K) beside labels `known` (B, K): 1, 0, or -1 for those that are not given; none by default."""
        classes = self.fc.out_features
        if known is None:
            known = torch.full((len(features), classes), NOT_GIVEN)
        labels = self.label_lt.weight + self.known_label_lt(known.long() + 1)
        tokens = self.norm(torch.cat([features.flatten(2).transpose(1, 2), labels], dim=1))
        nowhere = torch.zeros_like(tokens)
        for layer in self.layers:
            tokens = layer(tokens, tokens, tokens, nowhere)
        every: Tensor = self.fc(tokens[:, -classes:])
        return every.diagonal(dim1=1, dim2=2)


def require_mask(known: Tensor, labels: Tensor) -> None:
    """What is given is true, and at most three quarters of the labels of an image."""
    given = known != NOT_GIVEN
    assert torch.equal(known[given].double(), labels[given])
    assert given.sum(dim=1).max() <= int(LARGEST_SHARE * labels.shape[1])


def loss_per_image(net: nn.Module, given: Given, images: Tensor) -> float:
    """Mean over the images of the validation split of the summed loss of all labels, of which none is given."""
    logits, truth = scores(net, images, given.batch_size), given.truth["validation"]
    return float(
        F.binary_cross_entropy_with_logits(*map(torch.from_numpy, (logits, truth.astype(float))), reduction="sum")
    ) / len(truth)


def train(
    given: Given,
    *,
    enc_layers: int = 3,
    dim_feedforward: int = 2048,
    nheads: int = 4,
    lr: float = 1e-5,
    patience: int = 5,
) -> Outcome:
    """The whole run; dropout is 0."""
    labels = (given.observed == 1).double()
    net = Net(LabelTokens(labels.shape[1], enc_layers, dim_feedforward, nheads), given.start)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    rate = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="min", factor=0.1, patience=patience)
    images = {split: scaled(pixels, IMAGENET) for split, pixels in given.pixels.items()}
    losses, figures, masks = [], [], iter(given.drawn["known"])
    for batches in given.order:
        net.train()
        for rows in batches:
            known = next(masks)
            require_mask(known, labels[rows])
            logits = net.head(net.backbone(images["train"][rows]), known)
            each = F.binary_cross_entropy_with_logits(logits, labels[rows], reduction="none")
            loss = each[known == NOT_GIVEN].sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        figures.append(evaluated(net, given, images))
        rate.step(loss_per_image(net, given, images["validation"]))
    return Outcome(losses, [{} for _ in losses], state_of(net), figures, best_epoch(figures))
