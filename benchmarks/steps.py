"""Batches, stand-ins and training steps for benchmarks of a whole training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from engine.training.optim import OptimConfig, build_optimizer
from models.classifier import Classifier
from utils.class_facts import ClassCounts
from utils.types import Batch, CriterionInfo, LabelTable, ModelOutput

Step = Callable[[], None]


class FixedLogits(nn.Module):
    """Network whose logits (B, C) are given, so that only the method takes time."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: Tensor, want: frozenset[str] = frozenset()) -> ModelOutput:
        """Return as many rows of the logits as there are images."""
        return ModelOutput(self.logits if len(images) == len(self.logits) else self.logits[: len(images)])


def criterion_info(observed: LabelTable, counts: str, *, epochs: int, batch_size: int) -> CriterionInfo:
    """Information about a training set with these labels, for a criterion of a ResNet-50; `counts`: their origin."""
    return CriterionInfo(
        observed=observed,
        classes=[str(label) for label in range(observed.num_classes)],
        epochs=epochs,
        steps_per_epoch=-(-len(observed) // batch_size),
        feature_width=2048,
        class_counts=ClassCounts(observed.counts(), counts),
        seed=0,
    )


def noise_batch(labels: LabelTable, size: int, side: int) -> Batch:
    """Batch of noise images (B, 3, side, side), with the labels of rows drawn at random."""
    index = np.random.default_rng(1).choice(len(labels), size, replace=False)
    observed = torch.from_numpy(labels.rows(index)).float()
    return Batch(torch.rand(size, 3, side, side), observed, torch.from_numpy(index))


def head_times_ten(model: Classifier) -> Optimizer:
    """Optimiser of `main_llm.py` and `main_ignore.py`: Adam, with a learning rate ten times as high for the head."""
    groups: list[dict[str, Any]] = [
        {"params": model.backbone_parameters()},
        {"params": model.head_parameters(), "lr_mult": 10},
    ]
    return build_optimizer(OptimConfig(optimizer="adam", lr=1e-5, w_d=0), groups)


def training_step(loss: Callable[[], Tensor], optimizer: Optimizer) -> Step:
    """Training step as the engine takes it: forward, loss, backward, update."""

    def step() -> None:
        """Take one step."""
        total = loss()
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step
