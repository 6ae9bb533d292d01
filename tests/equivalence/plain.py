"""What all transcriptions start from: what both sides share, one small network, and figures by plain loops.

B batch, N images, C classes, D feature width, h w feature map.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.oracles import metrics as oracle

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Given(NamedTuple):
    """What a transcription takes over from our run, because it is chance or data and no part of the method."""

    start: Mapping[str, Tensor]
    """Weights and buffers that training starts from."""
    pixels: Mapping[str, Tensor]
    """(N, 3, H, W) uint8 of `train`, `validation` and `test`."""
    truth: Mapping[str, NDArray[np.int8]]
    """(N, C) true labels of the same splits: 1 present, 0 absent, -1 unknown."""
    observed: Tensor
    """(N, C) float64 labels of training: 1 present, 0 absent, -1 unknown."""
    order: Sequence[Sequence[Tensor]]
    """Rows of each batch, epoch by epoch."""
    batch_size: int
    drawn: Mapping[str, Any]
    """Chance of a method: first estimates, second views, mixtures, labels that are given to the network."""


class Outcome(NamedTuple):
    """What is compared."""

    losses: list[float]
    """Of each step."""
    states: list[dict[str, Tensor]]
    """What the method keeps of labels, after each step; empty for a method that keeps nothing."""
    weights: dict[str, Tensor]
    """Parameters and buffers after the last step."""
    figures: list[dict[str, float]]
    """Of each epoch, by the names of the log: `test_mAP`, `validation_CF1` and so on."""
    chosen: int
    """The epoch that is reported."""


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample: nn.Module = nn.Identity()
        if (width, stride) != (out, 1):
            self.downsample = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both ways, rectified."""
        inner = torch.relu(self.bn1(self.conv1(x)))
        both: Tensor = self.bn2(self.conv2(inner)) + self.downsample(x)
        return torch.relu(both)


class Trunk(nn.Module):
    """Images (B, 3, H, W) to features (B, 96, H/8, W/8)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 24, 5, 2, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.layer1, self.layer2, self.layer3 = Block(24, 24, 1), Block(24, 48, 2), Block(48, 96, 2)

    def forward(self, x: Tensor) -> Tensor:
        """The feature map."""
        features: Tensor = self.layer3(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))))
        return features


class Net(nn.Module):
    """The small network under a head, with the weights that both sides start from."""

    def __init__(self, head: nn.Module, start: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.backbone, self.head = Trunk(), head
        self.double()
        self.load_state_dict(dict(start))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C)."""
        logits: Tensor = self.head(self.backbone(images))
        return logits


class LinearHead(nn.Module):
    """Mean over positions, then one linear layer."""

    def __init__(self, classes: int, width: int = 96) -> None:
        super().__init__()
        self.fc = nn.Linear(width, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C)."""
        logits: Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits


def scaled(pixels: Tensor, normalise: tuple[Sequence[float], Sequence[float]] | None) -> Tensor:
    """Pixels (B, 3, H, W) uint8 in [0, 1], less a mean and divided by a deviation of each channel where given."""
    images = pixels.double() / 255
    if normalise is None:
        return images
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in normalise)
    return (images - mean) / std


@torch.no_grad()
def scores(net: nn.Module, images: Tensor, batch_size: int) -> NDArray[np.float64]:
    """Logits (N, C) in evaluation mode."""
    net.eval()
    found: NDArray[np.float64] = torch.cat([net(part) for part in images.split(batch_size)]).numpy()
    return found


def figures(split: str, logits: NDArray[np.float64], truth: NDArray[np.int8]) -> dict[str, float]:
    """All figures of a split by their names in the log, entries of unknown truth left out."""
    each = oracle.known_average_precisions(logits, truth)
    present = (truth == 1).any(axis=0)
    judged = ~present | (truth == 0).any(axis=0)
    names = ("CP", "CR", "CF1", "OP", "OR", "OF1")
    found = {
        "mAP": float(each[judged & present].mean()),
        "mAP_all": float(np.where(present, each, 0)[judged].mean()),
        **dict(zip(names, oracle.precision_recall(logits >= 0, truth), strict=True)),
        **{f"{name}@3": value for name, value in zip(names, _at_three(logits, truth), strict=True)},
    }
    return {f"{split}_{name}": value for name, value in found.items()}


def _at_three(logits: NDArray[np.float64], truth: NDArray[np.int8]) -> Iterable[float]:
    found: Iterable[float] = oracle.precision_recall(oracle.top(logits, 3), truth)
    return found


def evaluated(net: nn.Module, given: Given, images: Mapping[str, Tensor]) -> dict[str, float]:
    """The figures of validation and test, as far as there are such splits."""
    row: dict[str, float] = {}
    for split in ("validation", "test"):
        if split in images:
            row |= figures(split, scores(net, images[split], given.batch_size), given.truth[split])
    return row


def grouped(logits: NDArray[np.float64], truth: NDArray[np.int8], seen: NDArray[np.int64]) -> dict[str, float]:
    """Figures of the test set for classes with at least 100 training images, at least 20, fewer, and for all.

    mAP counts 0 for a class without positives; micro and macro F1 and accuracy are of logits of at least 0.
    """
    members = {"head": seen >= 100, "middle": (seen >= 20) & (seen < 100), "tail": seen < 20, "total": seen >= 0}
    found: dict[str, float] = {}
    for group, chosen in members.items():
        if chosen.any():
            values = _group_figures(logits[:, chosen], truth[:, chosen])
            found |= {f"test_{group}_{name}": value for name, value in values.items()}
    return found


def _group_figures(logits: NDArray[np.float64], truth: NDArray[np.int8]) -> dict[str, float]:
    predicted, present = logits >= 0, truth == 1
    each = []
    for label in range(truth.shape[1]):
        hits = (predicted & present)[:, label].sum()
        either = predicted[:, label].sum() + present[:, label].sum()
        each.append(2 * hits / either if either else 0.0)
    either = predicted.sum() + present.sum()
    return {
        "mAP": float(np.nan_to_num(oracle.known_average_precisions(logits, truth)).mean()),
        "micro_F1": float(2 * (predicted & present).sum() / either) if either else 0.0,
        "macro_F1": float(np.mean(each)),
        "accuracy": float((predicted == present).mean()),
    }


def evaluated_tail(net: nn.Module, given: Given, images: Mapping[str, Tensor]) -> dict[str, float]:
    """The figures of the test set, of groups of classes too."""
    logits, truth = scores(net, images["test"], given.batch_size), given.truth["test"]
    return figures("test", logits, truth) | grouped(logits, truth, given.truth["train"].sum(axis=0))


def state_of(net: nn.Module) -> dict[str, Tensor]:
    """A copy of parameters and buffers."""
    state = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return {name: value.detach().clone() for name, value in state.items()}


def best_epoch(rows: Sequence[Mapping[str, float]]) -> int:
    """The first epoch with the highest validation mAP, counted from 1."""
    values = [row["validation_mAP"] for row in rows]
    return 1 + values.index(max(values))
