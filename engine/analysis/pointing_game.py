"""The pointing game of finished runs: their activation maps on the test images against the boxes of the dataset.

B batch, C classes. After Kim et al., "Large Loss Matters" (CVPR 2022), Table 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from data.build import DatasetConfig, load_splits
from data.loading.eval_view import EvalView
from data.loading.loader import LoaderConfig
from engine.analysis.finished_runs import FinishedRun, ReportConfig, ReportFiles, run_labels, write_table
from engine.core.distributed import Runtime
from engine.core.inference import infer, viewed_batches
from engine.core.scoring import require_finite
from engine.training.config import RunConfig
from models.build import ModelConfig
from utils.checks import UserError, require
from utils.localisation import PointingGame, PointingResult, by_image
from utils.options import option
from utils.plots import plot_shares
from utils.types import PRESENT, Annotations, Index


@dataclass(frozen=True, kw_only=True)
class PointingConfig(ReportConfig):
    """Tolerance of a hit, dataset folder, and device of the models."""

    tolerance: float = option(0.0, "pixels that a point may lie beside a box and still hit; the literature has 15 too")
    path_images: Path | None = option(None, "folder of the dataset, where it is another than in training")
    device: Literal["auto", "cpu", "cuda"] = option("auto", "device of the computation")

    def __post_init__(self) -> None:
        require(self.tolerance >= 0, f"--tolerance {self.tolerance}: must not be negative")


def pointing(runs: Sequence[FinishedRun], config: PointingConfig, report: ReportFiles) -> str:
    """Play the game with the model of each run's selected epoch; plot and write the results of each class.

    Raises:
        UserError: a dataset is missing or has no boxes, runs have different classes, or a model has no activation maps.
    """
    labels = run_labels(runs)
    tests = [_boxed_test(run, config.path_images) for run in runs]
    classes = tests[0].classes
    require(
        all(test.classes == classes for test in tests), "these runs were trained on different classes; name them apart"
    )
    runtime = Runtime(config.device, "fp32")
    try:
        results = [play(run, test, runtime, config.tolerance) for run, test in zip(runs, tests, strict=True)]
    finally:
        runtime.close()
    write_table(report.table, _table(labels, classes, results))
    _draw(labels, classes, results, config.tolerance, report.figure)
    return "\n".join(_text(label, result, config.tolerance) for label, result in zip(labels, results, strict=True))


def play(run: FinishedRun, test: Annotations, runtime: Runtime, tolerance: float) -> PointingResult:
    """Result of one run on the images with boxes, in the test view.

    Each image is decoded once; images without a case are not read.
    """
    assert test.boxes is not None
    loader = run.config(LoaderConfig)
    view, boxes, rows = loader.eval_view(), by_image(test.boxes, len(test)), rows_with_cases(test)
    model = runtime.to_device(run.model(test)).eval()
    game = PointingGame(len(test.classes), tolerance)
    for batch in viewed_batches(view, test.images, rows.tolist(), loader.batch_size, "pointing game"):
        maps = _maps(model, [image.pixels for image in batch], view, run)
        truth = test.truth.rows(np.array([image.row for image in batch]))
        for image, each, codes in zip(batch, maps, truth, strict=True):
            visible = view.visible_boxes(boxes[image.row], image.size)
            game.add(each, codes, visible.boxes, visible.size)
    return game.result()


def rows_with_cases(annotations: Annotations) -> Index:
    """Sorted rows (K,) of images with a class that is present and has a box."""
    assert annotations.boxes is not None
    boxes = annotations.boxes
    rows = np.unique(boxes.row)
    codes = annotations.truth.rows(rows)
    known = codes[np.searchsorted(rows, boxes.row), boxes.label] == PRESENT
    return np.unique(boxes.row[known])


def _boxed_test(run: FinishedRun, path_images: Path | None) -> Annotations:
    """Read the test set of a run's dataset. Raises: UserError when it has no boxes, or the run saw no image."""
    run.require_images()
    config = run.config(DatasetConfig, path_images=path_images)
    test = load_splits(config, run.config(RunConfig).seed, need_images=True).test
    test = test.take(config.usable_rows(test, "test"))
    if test.boxes is None or not len(rows_with_cases(test)):
        raise UserError(
            f"{run.path}: --dataset {config.dataset} has no boxes in its test set; the pointing game needs a dataset "
            "with boxes, such as voc07, voc12, coco or digits"
        )
    return test


def _maps(model: nn.Module, pixels: Sequence[Tensor], view: EvalView, run: FinishedRun) -> NDArray[np.float32]:
    """Activation maps (B, C, h, w). Raises: UserError when the model has none."""
    cam = infer(model, pixels, view, want=frozenset({"cam"})).cam
    if cam is None:
        config = run.config(ModelConfig)
        raise UserError(f"{run.path}: its model ({config.model}, {config.head}) has no activation maps")
    maps: NDArray[np.float32] = cam.cpu().numpy()
    require_finite(bool(np.isfinite(maps).all()), "pointing game")
    return maps


def _table(
    labels: Sequence[str], classes: Sequence[str], results: Sequence[PointingResult]
) -> list[dict[str, str | int | float]]:
    """One row per run and class, and one for the mean."""
    rows: list[dict[str, str | int | float]] = []
    for label, result in zip(labels, results, strict=True):
        for name, cases, value in zip(classes, result.cases.tolist(), result.per_class.tolist(), strict=True):
            rows.append({"run": label, "class": name, "cases": cases, "pointing": value})
        rows.append({"run": label, "class": "mean", "cases": int(result.cases.sum()), "pointing": result.mean})
    return rows


def _draw(
    labels: Sequence[str], classes: Sequence[str], results: Sequence[PointingResult], tolerance: float, path: Path
) -> None:
    """Plot a bar per class and run, for classes with a case, ordered by the mean of the runs."""
    values = np.stack([result.per_class for result in results])
    played = np.flatnonzero(np.isfinite(values).any(axis=0))
    order = played[np.argsort(-np.nanmean(values[:, played], axis=0), kind="stable")]
    names = [f"{label}, mean {100 * result.mean:.1f}" for label, result in zip(labels, results, strict=True)]
    series = {name: row[order] for name, row in zip(names, values, strict=True)}
    xlabel = f"pointing game: hits (%), tolerance {tolerance:g} px"
    plot_shares([classes[k] for k in order], series, path, xlabel=xlabel)


def _text(label: str, result: PointingResult, tolerance: float) -> str:
    classes, cases = int((result.cases > 0).sum()), int(result.cases.sum())
    return (
        f"{label}: pointing game {100 * result.mean:.1f} %, the mean over {classes} classes with {cases:,} cases, "
        f"tolerance {tolerance:g} px"
    )
