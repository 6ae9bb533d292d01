"""Scoring a split: every picture once, ranked by float32 logits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader

from data.loader import LoaderConfig, build_loader
from data.samplers import OrderedBatches
from data.transforms import test_transform
from engine.distributed import Runtime
from utils import collectives
from utils.checks import RunError
from utils.console import Progress
from utils.metrics import Metrics, evaluate_scores
from utils.types import Annotations, Batch


def evaluation_loader(
    annotations: Annotations, config: LoaderConfig, runtime: Runtime, num_workers: int
) -> DataLoader[Batch]:
    """The split in order, in its test view, shared out among the processes without padding."""
    batches = OrderedBatches(len(annotations), config.batch_size, rank=runtime.rank, world_size=runtime.world_size)
    view = test_transform(config.normalize, config.img_size)
    return build_loader(
        annotations,
        annotations.truth,
        [view],
        batches,
        seed=0,
        num_workers=num_workers,
        pin_memory=runtime.device.type == "cuda",
    )


@torch.no_grad()
def score(
    model: nn.Module,
    loader: DataLoader[Batch],
    rows: int,
    runtime: Runtime,
    *,
    label: str = "scoring",
    after_batch: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """Logits (N, C) float32 of every row, in row order, on every process."""
    model.eval()
    index, logits = [], []
    bar = Progress(loader, total=rows, label=label, unit="img", shown=runtime.is_main)
    for batch in bar:
        moved = runtime.to_device(batch)
        logits.append(model(moved.images).logits.float())
        index.append(moved.index)
        bar.advance(len(moved.index) * runtime.world_size)
        after_batch()
    if not index:  # a process without a row still takes part in the gathering
        classes = loader.collate_fn.truth.num_classes  # type: ignore[union-attr]
        index, logits = (
            [torch.empty(0, dtype=torch.long, device=runtime.device)],
            [torch.empty(0, classes, device=runtime.device)],
        )
    place = collectives.gather_rows(torch.cat(index)).cpu().numpy()
    values = collectives.gather_rows(torch.cat(logits)).cpu().numpy()
    scores = np.empty_like(values)
    scores[place] = values
    return scores


def evaluate(
    model: nn.Module,
    annotations: Annotations,
    config: LoaderConfig,
    runtime: Runtime,
    num_workers: int,
    *,
    label: str = "scoring",
    after_batch: Callable[[], None] = lambda: None,
) -> Metrics:
    """The metrics of a split; UNKNOWN truth is left out class by class. Raises: RunError when scores are not finite."""
    loader = evaluation_loader(annotations, config, runtime, num_workers)
    scores = score(model, loader, len(annotations), runtime, label=label, after_batch=after_batch)
    if not np.isfinite(scores).all():
        raise RunError(f"{label}: the model gives scores that are not finite; train it with a lower --lr or in fp32")
    return evaluate_scores(scores, annotations.truth.dense())
