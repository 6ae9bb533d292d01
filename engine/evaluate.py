"""Scoring a split: every picture once, ranked by float32 logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.loader import LoaderConfig, PictureLoader, build_loader
from data.samplers import OrderedBatches
from data.transforms import normalizer, test_transform
from engine.distributed import Runtime
from utils import collectives
from utils.checks import RunError
from utils.console import Progress
from utils.metrics import KnownScores, Metrics, evaluate_known, evaluate_scores, group_map, known_scores
from utils.types import Annotations, Index, LabelTable


def evaluation_loader(
    annotations: Annotations, config: LoaderConfig, runtime: Runtime, num_workers: int
) -> PictureLoader:
    """The split in order, in its test view, shared out among the processes without padding."""
    batches = OrderedBatches(len(annotations), config.batch_size, rank=runtime.rank, world_size=runtime.world_size)
    return build_loader(
        annotations,
        annotations.truth,
        [test_transform(config.img_size)],
        batches,
        normalizer=normalizer(config.normalize),
        decoder=config.decoder,
        seed=0,
        num_workers=num_workers,
        pin_memory=runtime.device.type == "cuda",
    )


def score(
    model: nn.Module,
    loader: PictureLoader,
    rows: int,
    runtime: Runtime,
    *,
    label: str = "scoring",
    after_batch: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """Logits (N, C) float32 of every row, in row order, on every process."""
    index, logits = [], []
    for place, values in _scored(model, loader, rows, runtime, label, after_batch):
        index.append(place)
        logits.append(values)
    if not index:  # a process without a row still takes part in the gathering
        classes = loader.collate_fn.truth.num_classes  # type: ignore[union-attr]
        index.append(torch.empty(0, dtype=torch.long, device=runtime.device))
        logits.append(torch.empty(0, classes, device=runtime.device))
    order = collectives.gather_rows(torch.cat(index)).cpu().numpy()
    gathered = collectives.gather_rows(torch.cat(logits)).cpu().numpy()
    scores = np.empty_like(gathered)
    scores[order] = gathered
    return scores


def score_known(
    model: nn.Module,
    loader: PictureLoader,
    truth: LabelTable,
    runtime: Runtime,
    *,
    label: str = "scoring",
    after_batch: Callable[[], None] = lambda: None,
) -> KnownScores:
    """The float32 logits at the known entries of `truth` (CSR, unstored entries UNKNOWN), on every process.

    Each batch of logits is reduced to its known entries at once, so that nothing of N x C ever exists.

    Raises:
        RunError: a logit is not finite, whether its entry is known or not.
    """
    nothing = np.empty((0, truth.num_classes), dtype=np.float32)
    parts = [known_scores(nothing, nothing.astype(np.int8))]  # a process without a row takes part all the same
    finite = True
    for place, values in _scored(model, loader, len(truth), runtime, label, after_batch):
        logits = values.cpu().numpy()
        finite = finite and bool(np.isfinite(logits).all())
        parts.append(known_scores(logits, truth.rows(place.cpu().numpy())))
    _require_finite(not runtime.agree(not finite), label)
    classes, present, scores, in_top = (
        collectives.gather_rows(torch.from_numpy(np.concatenate(column))).numpy()
        for column in zip(*(part[:-1] for part in parts), strict=True)
    )
    return KnownScores(classes, present, scores, in_top, truth.num_classes)


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
    if annotations.truth.stores_known_only:
        return evaluate_known(
            score_known(model, loader, annotations.truth, runtime, label=label, after_batch=after_batch)
        )
    scores = score(model, loader, len(annotations), runtime, label=label, after_batch=after_batch)
    _require_finite(bool(np.isfinite(scores).all()), label)
    return evaluate_scores(scores, annotations.truth.dense())


def groups_as_dict(metrics: Metrics, groups: Mapping[str, Index]) -> dict[str, float | None]:
    """Mean average precision of each group of classes by name; None for a group without a class that was judged."""
    means = group_map(metrics.per_class, metrics.known, groups)
    return {name: None if math.isnan(value) else value for name, value in means.items()}


@torch.no_grad()
def _scored(
    model: nn.Module,
    loader: PictureLoader,
    rows: int,
    runtime: Runtime,
    label: str,
    after_batch: Callable[[], None],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows (B,) and float32 logits (B, C) of each batch of this process."""
    model.eval()
    bar = Progress(loader, total=rows, label=label, unit="img", shown=runtime.is_main)
    for batch in bar:
        moved = loader.ready(runtime.to_device(batch))
        yield moved.index, model(moved.images).logits.float()
        bar.advance(len(moved.index) * runtime.world_size)
        after_batch()


def _require_finite(finite: bool, label: str) -> None:
    if not finite:
        raise RunError(f"{label}: the model gives scores that are not finite; train it with a lower --lr or in fp32")
