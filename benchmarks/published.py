"""The published way, in our own words: plain restatements of how the public code does each task.

Written from a description of that code and compared with it; only for timing. Each function keeps the order of cost of
the original: its loops, its repeated fits, its temporaries. Imitated:
zhongjingyu1/CoNeS (commit 7d5ca7a), whose evaluation is that of Kevinz-code/CSRA. N rows, C classes, B batch, D feature
width, h w feature map.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from torch import Tensor

ImageRecord = dict[str, Any]


def initial_correlation(candidates: Tensor) -> Tensor:
    """Label correlation (C, C) from candidates (N, C); utils/PML_Confidence.py.

    For each class the rows that have it are selected, and in each column of them Python's `sum` adds one tensor
    element after the other. Column j is then divided by the sum of row j, and the diagonal set to 1.
    """
    classes = candidates.shape[1]
    rates = torch.zeros(classes, classes)
    for first in range(classes):
        having = candidates[candidates[:, first] == 1]
        for second in range(classes):
            if second != first:
                rates[first, second] = sum(having[:, second]) / len(having)
    return (rates.double() / rates.double().sum(1)).fill_diagonal_(1)


def refreshed_correlation(correlation: Tensor, memory: Sequence[Tensor], clusters: int, gamma: float) -> Tensor:
    """Correlation (C, C) moved towards the cosines of k-means centroids; utils/PML_Confidence.py.

    The clusters of a class are fitted once for its row and again in every other class's row: C * C fits, all with the
    same seed and so with the same outcome.
    """
    result = correlation.clone()
    for row, own_rows in enumerate(memory):
        own = _centroids(own_rows, clusters)
        for column, other_rows in enumerate(memory):
            if column != row:
                cosine = (own @ _centroids(other_rows, clusters).T).mean()
                result[row, column] = gamma * result[row, column] + (1 - gamma) * cosine
    result.fill_diagonal_(0)
    return (result / result.sum(1)).fill_diagonal_(1)


def _centroids(rows: Tensor, clusters: int) -> Tensor:
    """Unit vectors (c, D) along the centroids of the rows (n, D)."""
    fit = KMeans(clusters, random_state=42, n_init="auto").fit(rows.numpy())
    return torch.nn.functional.normalize(torch.from_numpy(fit.cluster_centers_).double(), dim=1)


def prototypes(features: Tensor, heatmaps: Tensor, tau: float) -> tuple[Tensor, list[int]]:
    """Rows (A, D) of the A active classes and their class numbers; the training loop of main_CoNeS.py.

    Class after class: the peak of its map is read (a GPU waits), a boolean mask copies pixels out of the features
    (B, D, h, w), and their sum is divided by the number of all pixels. A new row is put before the old ones, its class
    number after the old numbers.
    """
    rows = features.new_zeros(0, features.shape[1])
    labels = []
    for label in range(heatmaps.shape[1]):
        heat = heatmaps[:, label].relu()
        peak = heat.max()
        if peak != 0:
            mask = heat / peak > tau
            chosen = features.movedim(1, 3)[mask]
            rows = torch.cat([chosen.sum(dim=0, keepdim=True) / mask.numel(), rows])
            labels.append(label)
    return rows, labels


def activation_maps(features: Tensor, weight: Tensor) -> Tensor:
    """Maps (B, C, h, w) from features (B, D, h, w) and weights (C, D); pipeline/resnet_cam.py.

    Every product of a channel and a weight is stored, (B, C, D, h, w) of them, before the channels are summed.
    """
    return (features[:, None] * weight[:, :, None, None]).sum(dim=2)


def candidate_labels(labels: NDArray[np.int64], rng: RandomState, rate: float) -> NDArray[np.int64]:
    """Candidates from true labels (N, C) 0/1, which are overwritten; utils/pml_data.py.

    All draws at once, and a table of the chance of each entry; then per image a comparison, a conversion and a copy.
    """
    result = torch.from_numpy(labels)
    chance = np.where(labels == 1, labels, rate)
    draws = rng.uniform(0, 1, labels.shape)
    for row in range(len(labels)):
        result[row] = torch.from_numpy((draws[row] < chance[row]).astype(np.int64))
    return labels


class Metrics(NamedTuple):
    """Average precision per class (C,), and CP, CR, CF1, OP, OR, OF1."""

    per_class: NDArray[np.float64]
    precision_recall: tuple[float, ...]


def records(batches: Iterable[tuple[Tensor, Sequence[str]]]) -> list[ImageRecord]:
    """One dictionary per image from the batches of logits (B, C) and names: the validation loop of main_CoNeS.py."""
    found = []
    for logits, names in batches:
        probabilities = torch.sigmoid(logits).tolist()
        found += [{"file_name": Path(name).stem, "scores": row} for name, row in zip(names, probabilities, strict=True)]
    return found


def evaluation(found: Sequence[ImageRecord], annotations: Path) -> Metrics:
    """Metrics of the records against the JSON list of image names and targets; utils/evaluation/ of CSRA and CoNeS.

    The annotation file is read at every evaluation. Average precision walks through all images of every class in
    Python: once to collect the class's scores and targets, once more down the ranking.
    """
    truth: list[ImageRecord] = json.loads(annotations.read_text())
    classes = len(truth[0]["target"])
    per_class = np.array([_average_precision(label, found, truth) for label in range(classes)])
    return Metrics(per_class, _precision_recall(found, truth))


def _average_precision(label: int, found: Sequence[ImageRecord], truth: Sequence[ImageRecord]) -> float:
    scores, targets = np.zeros(len(found)), np.zeros(len(found))
    for row, (record, annotation) in enumerate(zip(found, truth, strict=True)):
        scores[row] = record["scores"][label]
        targets[row] = annotation["target"][label]
    ranked = targets[np.argsort(-scores)]
    hits = total = 0.0
    for rank in range(len(ranked)):
        if ranked[rank] == 1:
            hits += 1
            total += hits / (rank + 1)
    return total / hits


def _precision_recall(found: Sequence[ImageRecord], truth: Sequence[ImageRecord]) -> tuple[float, ...]:
    predicted = np.array([record["scores"] for record in found]) >= 0.5
    present = np.array([annotation["target"] for annotation in truth]) == 1
    hits, chosen, positives = (predicted & present).sum(0), np.maximum(predicted.sum(0), 1), present.sum(0)
    by_class = float((hits / chosen).mean()), float((hits / positives).mean())
    pooled = float(hits.sum() / chosen.sum()), float(hits.sum() / positives.sum())
    return (*by_class, _f1(*by_class), *pooled, _f1(*pooled))


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall)
