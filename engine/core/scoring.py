"""Scores and metrics of a split: every image once, in float32; in float64 under `--precision fp64`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn

from data.loading.loader import ImageLoader, LoaderConfig, build_loader
from data.loading.samplers import OrderedBatches
from engine.core.distributed import Runtime
from engine.core.gpu_memory import gpu_memory_told, remedies_in_scoring
from losses.common.functional import at_least_float32
from losses.common.memory import gib
from models.peers import Peers
from utils import collectives
from utils.checks import RunError, require
from utils.console import Progress
from utils.long_tail import group_figures
from utils.metrics import (
    KnownScores,
    Metrics,
    Scores,
    calibration_error,
    defined,
    evaluate_known,
    evaluate_scores,
    f1_at,
    group_map,
    known_scores,
)
from utils.published_metrics import full_row_figures, published_figures
from utils.thresholds import best_threshold, class_thresholds
from utils.types import PRESENT, UNKNOWN, Annotations, Batch, Index, LabelTable

_HELD = 1 << 28
"""Bytes of results that stay on the device before they move to the host."""

MetricsBy = Literal["ours", "published", "full_rows"]
"""Whose definitions figures follow; others stand beside ours, never in their place."""


_PER_SCORE, _PER_FIGURE = 12, 66
"""Bytes per score of a split of which all are kept, at most: while they are gathered, for each network and the ensemble
of two; and while calibration and thresholds are found, in double precision."""
_PER_KNOWN_SCORE, _PER_KNOWN_FIGURE = 28, 16
"""The same per known entry, where truth stores known entries only."""


class BatchLoader(Protocol):
    """Source of batches for training and scoring: `ImageLoader`, or a loader of features."""

    num_classes: int

    def __iter__(self) -> Iterator[Any]: ...

    def to_batch(self, raw: Any, device: torch.device) -> Batch:
        """Turn an item of the iteration into the input of a criterion on `device`; the truth is not moved."""
        ...


class EvalResult(NamedTuple):
    """The metrics of a model on a split."""

    metrics: Metrics
    beside: Mapping[str, Metrics]
    """For a pair of networks, of which f is the one reported: the metrics of `g` and of the `ensemble`; else empty."""
    scores: Scores | None
    """Logits (N, C) behind `metrics`, rows in order; None if the truth stores known entries only."""


def evaluation_loader(
    annotations: Annotations, config: LoaderConfig, runtime: Runtime, num_workers: int
) -> ImageLoader:
    """Return a loader of the split in order, in the test view, divided among the processes without padding."""
    view = config.eval_view()
    size = config.scoring_batch(on_gpu=runtime.device.type == "cuda")
    batches = OrderedBatches(len(annotations), size, rank=runtime.rank, world_size=runtime.world_size)
    return build_loader(
        annotations,
        annotations.truth,
        [view.transform],
        batches,
        normalizer=view.normalizer,
        decoder=view.decoder,
        seed=0,
        num_workers=num_workers,
        pin_memory=runtime.device.type == "cuda",
        dtype=runtime.dtype,
    )


def require_room_to_score(split: str, truth: LabelTable, networks: int, free: int, remedy: str) -> None:
    """Raise UserError unless `free` bytes hold the scores of a split, and what is computed of them at its end.

    Args:
        split: its name.
        truth: its labels; where only known entries are stored, only these are scored.
        networks: 1, or 2 for a pair, whose ensemble is scored too.
        free: bytes that this process may take.
        remedy: what makes the split smaller, as the end of a sentence.
    """
    views = 1 if networks == 1 else networks + 1
    if truth.stores_known_only:
        entries = len(truth.codes.data)
        what, size = f"{entries:,} known labels", entries * (views * _PER_KNOWN_SCORE + _PER_KNOWN_FIGURE)
    else:
        what = f"{len(truth):,} images x {truth.num_classes:,} classes"
        size = len(truth) * truth.num_classes * (views * _PER_SCORE + _PER_FIGURE)
    require(
        size <= free,
        f"{split}: the scores of {what}, with the figures of them, take {gib(size)} GiB in memory, of which "
        f"{gib(free)} GiB are free; {remedy}",
    )


def score(
    model: nn.Module,
    loader: BatchLoader,
    rows: int,
    runtime: Runtime,
    *,
    label: str = "scoring",
    after_batch: Callable[[], None] = lambda: None,
) -> Scores:
    """Logits (N, C) of every row, in row order, on every process."""
    model.eval()
    return rows_in_order(
        lambda images: model(images).logits,
        loader.num_classes,
        loader,
        rows,
        runtime,
        label=label,
        after_batch=after_batch,
    )


def rows_in_order(
    compute: Callable[[Tensor], Tensor],
    width: int,
    loader: BatchLoader,
    rows: int,
    runtime: Runtime,
    *,
    label: str,
    after_batch: Callable[[], None] = lambda: None,
) -> Scores:
    """Results (N, width) of `compute`, which gives (B, width) per batch, in row order, on every process."""
    # A process without rows still takes part in the gathering.
    index = _Collected(torch.empty(0, dtype=torch.long, device=runtime.device))
    values = _Collected(torch.empty(0, width, device=runtime.device, dtype=runtime.dtype))
    for batch_index, computed in computed_batches(compute, loader, rows, runtime, label, after_batch):
        index.add(batch_index)
        values.add(computed)
    order = collectives.gather_rows(index.all()).cpu().numpy()
    gathered = collectives.gather_rows(values.all()).cpu().numpy()
    result: Scores = np.empty_like(gathered)
    result[order] = gathered
    return result


class _Collected:
    """Rows of one batch after the other: on the device, and once they are many, on the host."""

    def __init__(self, nothing: Tensor) -> None:
        self._newest, self._bytes, self._nothing = [nothing], 0, nothing
        self._on_host: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        """Add the rows of a batch."""
        self._newest.append(rows)
        self._bytes += rows.nbytes
        if self._bytes >= _HELD:
            self._on_host.append(torch.cat(self._newest).cpu())
            self._newest, self._bytes = [self._nothing], 0

    def all(self) -> Tensor:
        """All rows, on the host where some are there."""
        newest = torch.cat(self._newest)
        return torch.cat([*self._on_host, newest.cpu()]) if self._on_host else newest


def score_known(
    compute: Callable[[Tensor], Tensor],
    views: int,
    loader: BatchLoader,
    truth: LabelTable,
    runtime: Runtime,
    *,
    label: str = "scoring",
    after_batch: Callable[[], None] = lambda: None,
) -> list[KnownScores]:
    """Logits at the known entries of `truth` (CSR, unstored entries UNKNOWN), on every process.

    Each batch of logits, (B, views * C) as `compute` makes them of images, is reduced to its known entries at once, so
    that no array of size N x C ever exists.

    Returns:
        The scored entries of each view: one per network, and one of the ensemble.

    Raises:
        RunError: a logit is not finite, of a known entry or not.
    """
    nothing = np.empty((0, truth.num_classes), dtype=np.float32)
    # A process without rows takes part all the same.
    parts = [[known_scores(nothing, nothing.astype(np.int8))] for _ in range(views)]
    finite = True
    for index, values in computed_batches(compute, loader, len(truth), runtime, label, after_batch):
        logits = values.cpu().numpy()
        finite = finite and bool(np.isfinite(logits).all())
        codes = truth.rows(index.cpu().numpy())
        for view, columns in zip(parts, np.split(logits, views, axis=1), strict=True):
            view.append(known_scores(columns, codes))
    require_finite(not runtime.agree(not finite), label)
    return [_gathered(view, truth.num_classes) for view in parts]


def _gathered(parts: list[KnownScores], num_classes: int) -> KnownScores:
    """Known entries of all batches of all processes."""
    classes, present, scores, in_top = (
        collectives.gather_rows(torch.from_numpy(np.concatenate(column))).numpy()
        for column in zip(*(part[:-1] for part in parts), strict=True)
    )
    return KnownScores(classes, present, scores, in_top, num_classes)


def evaluate(
    model: nn.Module,
    annotations: Annotations,
    config: LoaderConfig,
    runtime: Runtime,
    num_workers: int,
    *,
    label: str = "scoring",
    after_batch: Callable[[], None] = lambda: None,
) -> EvalResult:
    """Metrics of a split; UNKNOWN truth is left out class by class. Raises: RunError when scores are not finite."""
    loader = evaluation_loader(annotations, config, runtime, num_workers)
    return measure(model, loader, annotations.truth, runtime, label=label, after_batch=after_batch)


def measure(
    model: nn.Module,
    loader: BatchLoader,
    truth: LabelTable,
    runtime: Runtime,
    *,
    label: str = "scoring",
    after_batch: Callable[[], None] = lambda: None,
) -> EvalResult:
    """Metrics of the images of `loader` against `truth`, otherwise as `evaluate`; one forward pass per image."""
    names = ("f", "g", "ensemble") if isinstance(model, Peers) else ("f",)
    metrics: list[Metrics] = []
    model.eval()
    first: Scores | None = None
    if truth.stores_known_only:
        compute = _all_views(model)
        known = score_known(compute, len(names), loader, truth, runtime, label=label, after_batch=after_batch)
        metrics = [evaluate_known(scores) for scores in known]
    else:
        width = len(names) * truth.num_classes
        scores = rows_in_order(
            _all_views(model), width, loader, len(truth), runtime, label=label, after_batch=after_batch
        )
        require_finite(bool(np.isfinite(scores).all()), label)
        views, codes = np.split(scores, len(names), axis=1), truth.dense()
        first = views[0]
        metrics = [evaluate_scores(view, codes) for view in views]
    return EvalResult(metrics[0], dict(zip(names[1:], metrics[1:], strict=True)), first)


def bce_per_image(logits: Scores, truth: LabelTable) -> float:
    """Mean over images of the BCE of logits (N, C) summed over the labels whose truth is known."""
    codes = truth.dense()
    values = logits.astype(np.float64)
    losses = np.logaddexp(0, values) - values * (codes == PRESENT)
    return float((losses * (codes != UNKNOWN)).sum(axis=1).mean())


def _all_views(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the function from images to logits (B, C); for a pair of networks (B, 3 C): f, g and ensemble."""
    if isinstance(model, Peers):
        return lambda images: torch.cat(list(model.views(images).values()), dim=1)
    return lambda images: model(images).logits


def groups_as_dict(metrics: Metrics, groups: Mapping[str, Index]) -> dict[str, float | None]:
    """Mean average precision of each group of classes by name; None for a group without an evaluated class."""
    means = group_map(metrics.per_class, metrics.known, groups)
    return {name: defined(value) for name, value in means.items()}


def group_figures_as_dict(metrics: Metrics, groups: Mapping[str, Index]) -> dict[str, dict[str, float | None]]:
    """All metrics of each group of classes and, under `total`, of all classes; None where nothing is known."""
    by_group = group_figures(metrics.per_class, metrics.tally, groups)
    return {
        group: {name: defined(value) for name, value in values._asdict().items()} for group, values in by_group.items()
    }


def group_columns(part: str, metrics: Metrics, groups: Mapping[str, Index]) -> dict[str, float]:
    """The known metrics of groups by names such as `test_tail_mAP`; empty if there are no groups."""
    by_group = group_figures_as_dict(metrics, groups) if groups else {}
    return {
        f"{part}_{group}_{name}": value
        for group, values in by_group.items()
        for name, value in values.items()
        if value is not None
    }


def calibration_figures(
    test: EvalResult, truth: LabelTable, held_out: EvalResult | None, held_out_truth: LabelTable | None
) -> dict[str, float]:
    """How far the scores of a test set are from probabilities, and its F1 at thresholds chosen elsewhere.

    Args:
        test: the model on the test set.
        truth: the test set's.
        held_out: the model on the validation split, whose labels may be as noisy as those of training; None without.
        held_out_truth: the validation split's.

    Returns:
        `ECE` over all entries and `ECE_class`, the mean over classes; with a validation split `CF1_tuned` and
        `OF1_tuned` at the one threshold that is best there, `CF1_per_class` and `OF1_per_class` at that of each class.
        Empty for truth that stores known entries only; what is not defined is left out.
    """
    if test.scores is None:
        return {}
    codes = truth.dense()
    pooled, per_class = calibration_error(expit(test.scores.astype(np.float64)), codes)
    found = {"ECE": pooled, "ECE_class": per_class}
    if held_out is not None and held_out.scores is not None and held_out_truth is not None:
        seen = held_out_truth.dense()
        one = best_threshold(held_out.scores.ravel(), seen.ravel())
        found["CF1_tuned"], found["OF1_tuned"] = f1_at(test.scores, codes, one)
        each = class_thresholds(held_out.scores, seen)
        found["CF1_per_class"], found["OF1_per_class"] = f1_at(test.scores, codes, each)
    return {name: value for name, value in found.items() if not math.isnan(value)}


def beside_as_dict(measured: EvalResult) -> dict[str, dict[str, float]]:
    """For a pair of networks: metrics of `g`, of the `ensemble`, and the `mean` of each metric of f and g."""
    found = {name: metrics.as_dict() for name, metrics in measured.beside.items()}
    if "g" in found:
        f = measured.metrics.as_dict()
        found["mean"] = {name: (f[name] + value) / 2 for name, value in found["g"].items()}
    return found


@torch.no_grad()
def computed_batches(
    compute: Callable[[Tensor], Tensor],
    loader: BatchLoader,
    rows: int,
    runtime: Runtime,
    label: str,
    after_batch: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows (B,) and values (B, ...), in single precision at least, of each batch of this process."""
    bar = Progress(loader, total=rows, label=label, unit="img", shown=runtime.is_main)
    remedies = remedies_in_scoring(runtime.precision)
    for raw in bar:
        with gpu_memory_told("scoring", remedies):
            batch = loader.to_batch(raw, runtime.device)
            computed = at_least_float32(compute(batch.images))
        yield batch.index, computed
        bar.advance(len(batch.index) * runtime.world_size)
        after_batch()


def published_metrics(measured: EvalResult, truth: LabelTable) -> dict[str, float] | None:
    """The figures of a split by the published evaluators; None where only few labels per image are known."""
    return None if measured.scores is None else published_figures(measured.scores, truth.dense())


def full_row_metrics(measured: EvalResult, truth: LabelTable) -> dict[str, float] | None:
    """The mAP of the images of a split that have no unknown label; None where there are none, or few are known."""
    return None if measured.scores is None else full_row_figures(measured.scores, truth.dense())


def require_finite(finite: bool, label: str) -> None:
    """Raise RunError unless the scores of the split `label` are `finite`."""
    if not finite:
        raise RunError(f"{label}: the model gives scores that are not finite; train it with a lower --lr or in fp32")
