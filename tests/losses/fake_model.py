"""The smallest network with features, a linear head and class activation maps."""

import numpy as np
import torch
from torch import Tensor, nn

from utils.class_facts import ClassCounts
from utils.head_vectors import ClassVectors, PooledFeatures
from utils.prior_scores import PriorScores
from utils.types import PRESENT, Batch, CriterionInfo, LabelTable, ModelOutput


class FakeModel(nn.Module):
    def __init__(self, num_classes: int, width: int = 8, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.features = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.head = nn.Linear(width, num_classes)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.calls: list[frozenset[str]] = []

    def forward(self, images: Tensor, want: frozenset[str] = frozenset()) -> ModelOutput:
        self.calls.append(want)
        features = self.features(images).relu()
        cam = None
        if "cam" in want:
            with torch.no_grad():
                cam = torch.einsum("bdhw,cd->bchw", features, self.head.weight)
        vectors = self._class_vectors(features.flatten(2)) if "class_vectors" in want else None
        mean = features.mean(dim=(2, 3))
        pooled = PooledFeatures(mean, self.head.weight, self.head.bias) if "pooled" in want else None
        return ModelOutput(self.head(mean), features, cam, vectors, pooled=pooled)

    def _class_vectors(self, positions: Tensor) -> ClassVectors:
        attention = torch.softmax(self.head.weight @ positions, dim=2)
        return ClassVectors(attention @ positions.transpose(1, 2), self.head.weight, self.head.bias)


def random_labels(rows: int, classes: int, seed: int = 0, rate: float = 0.4) -> np.ndarray:
    """int8 (N, C) with UNKNOWN entries and no empty row."""
    rng = np.random.default_rng(seed)
    codes = np.where(rng.random((rows, classes)) < rate, 1, rng.integers(-1, 1, (rows, classes)))
    codes[np.arange(rows), rng.integers(0, classes, rows)] = PRESENT
    return codes.astype(np.int8)


def prior_scores(rows: int, classes: int) -> PriorScores:
    values = np.random.default_rng(7).random((rows, classes)).astype(np.float32)
    return PriorScores(values, np.arange(rows), np.arange(classes))


def info_for(codes: np.ndarray, width: int = 8) -> CriterionInfo:
    table = LabelTable(codes)
    return CriterionInfo(
        observed=table,
        classes=[f"class {label}" for label in range(table.num_classes)],
        epochs=4,
        steps_per_epoch=3,
        feature_width=width,
        class_counts=ClassCounts(table.counts(), "observed"),
        seed=0,
        prior_scores=prior_scores(*codes.shape),
        class_vector_width=width,
    )


def batch_of(codes: np.ndarray, index: list[int], size: int = 12) -> Batch:
    """The rows at `index`; an image depends on its row alone."""
    images = [torch.randn(3, size, size, generator=torch.Generator().manual_seed(1000 + row)) for row in index]
    return Batch(torch.stack(images), torch.from_numpy(codes[index]).float(), torch.tensor(index))
