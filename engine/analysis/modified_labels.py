"""Training images with their modified labels: epoch of modification, truth, and score of the trained model.

N images, C classes. After Kim et al., "Large Loss Matters" (CVPR 2022), Figure 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.build import Data, DatasetConfig, build_data
from data.labels.regime import Regime
from data.loading.loader import LoaderConfig
from data.subsets.splits import TrainingSplitConfig
from engine.analysis.finished_runs import FinishedRun, ReportConfig, ReportFiles, write_table
from engine.core.distributed import Runtime
from engine.core.scoring import evaluation_loader, require_finite, score
from engine.training.config import RunConfig
from utils.checks import require
from utils.image_plots import Card, Mark, plot_contact_sheet
from utils.label_dynamics import LAST_MODIFIED
from utils.options import option
from utils.plots import RIGHT, WRONG
from utils.types import ABSENT, PRESENT, UNKNOWN, Index, LabelTable

MARKS = {
    "given": Mark("\u2022", "black", "given as present"),
    "right": Mark("\u2713", RIGHT, "modified, truly present"),
    "wrong": Mark("\u2717", WRONG, "modified, truly absent"),
    "open": Mark("?", "#707070", "modified, truth unknown"),
}

_KINDS = {PRESENT: "right", ABSENT: "wrong", UNKNOWN: "open"}
_BLOCK = 4096  # rows whose truth is read at a time


@dataclass(frozen=True, kw_only=True)
class ModifiedConfig(ReportConfig):
    """Images of the figure, and the device of the model."""

    images: int = option(
        12, "training images in the figure, drawn by chance of those with a modified label", aliases=("pictures",)
    )
    draw_seed: int = option(0, "seed of that draw")
    path_images: Path | None = option(None, "folder of the dataset, where it is another than in training")
    device: Literal["auto", "cpu", "cuda"] = option("auto", "device of the computation")

    def __post_init__(self) -> None:
        require(1 <= self.images <= 200, f"--images {self.images}: must be in 1 .. 200")
        require(self.draw_seed >= 0, f"--draw_seed {self.draw_seed}: must not be negative")


class Counts(NamedTuple):
    """Numbers of modified labels, of images with one, and of modified labels that are present and absent."""

    labels: int
    images: int
    present: int
    absent: int


def modified(runs: Sequence[FinishedRun], config: ModifiedConfig, report: ReportFiles) -> str:
    """Figure 3: plot training images with their modified labels. Return a line about all modified labels.

    Raises:
        UserError: the run recorded no modified labels, or its dataset is missing or has changed.
    """
    (run,) = runs
    first = run.recorded("first_modified", "modification")
    data = training_data(run, config.path_images)
    require(
        first.shape == (len(data.train), len(data.train.classes)) and first.dtype == np.uint8,
        f"{run.path}: recorded {first.dtype} {first.shape}, but its dataset now has {len(data.train)} training "
        f"images and {len(data.train.classes)} classes; give the dataset it was trained on",
    )
    counts = count(first, data.train.truth)
    require(counts.labels > 0, f"{run.path}: {run.method} modified no label in its epochs")
    rows = draw_rows(first, config.images, config.draw_seed)
    scores = final_scores(run, data, rows, config.device)
    write_table(report.table, _table(first, data, rows, scores))
    cards = _cards(first, data, rows, scores)
    plot_contact_sheet(cards, report.figure, marks=MARKS, columns=1)
    return (
        f"{run.label}: {counts.labels:,} labels of {counts.images:,} of {len(data.train):,} training images were "
        f"modified, {truly_present(counts)}; {len(rows)} images drawn"
    )


def truly_present(counts: Counts) -> str:
    """The share of the modified labels that are truly present, of those whose truth is known."""
    known = counts.present + counts.absent
    if not known:
        return "the truth of none of them is known"
    whom = "them" if known == counts.labels else f"the {known:,} whose truth is known"
    return f"{100 * counts.present / known:.1f} % of {whom} are truly present"


def training_data(run: FinishedRun, path_images: Path | None) -> Data:
    """Read the training data of the run.

    Raises: UserError when it is missing, its labels have changed, or the run saw no image.
    """
    run.require_images()
    config = run.config(DatasetConfig, path_images=path_images)
    data = build_data(config, run.config(Regime), run.config(TrainingSplitConfig), run.config(RunConfig).seed)
    require(
        data.labels.label_hash == run.result.get("label_hash"),
        f"{run.path}: was trained on other labels than its settings now give (hash {data.labels.label_hash[:12]}); "
        "put back the dataset and the label file it was trained on",
    )
    return data


def count(first: NDArray[np.uint8], truth: LabelTable) -> Counts:
    """Count the modified labels of `first` (N, C), the epochs of modification, 0 for never."""
    total = np.zeros(4, dtype=np.int64)
    for start in range(0, len(first), _BLOCK):
        part = slice(start, start + _BLOCK)
        codes, changed = truth.rows(part), first[part] > 0
        groups = (changed, changed.any(axis=1), changed & (codes == PRESENT), changed & (codes == ABSENT))
        total += [int(each.sum()) for each in groups]
    return Counts(*total.tolist())


def draw_rows(first: NDArray[np.uint8], number: int, seed: int) -> Index:
    """Draw up to `number` rows (sorted) with a modified label, uniformly."""
    rows = np.flatnonzero(first.any(axis=1))
    return np.sort(np.random.default_rng(seed).permutation(rows)[:number])


def final_scores(run: FinishedRun, data: Data, rows: Index, device: str) -> NDArray[np.float64]:
    """Probabilities (K, C) of the training images `rows` by the model of the selected epoch."""
    runtime = Runtime(device, "fp32")
    try:
        shown = data.train.take(rows)
        loader = evaluation_loader(shown, run.config(LoaderConfig), runtime, num_workers=0)
        logits = score(runtime.to_device(run.model(data.train)), loader, len(rows), runtime)
    finally:
        runtime.close()
    require_finite(bool(np.isfinite(logits).all()), "scoring")
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64))))  # the sigmoid, which never overflows


def _modified_classes(first: NDArray[np.uint8], row: int) -> list[int]:
    """Modified classes of an image, in order of their epochs."""
    classes = np.flatnonzero(first[row])
    return [int(k) for k in classes[np.argsort(first[row, classes], kind="stable")]]


def _table(first: NDArray[np.uint8], data: Data, rows: Index, scores: NDArray[np.float64]) -> list[dict[str, Any]]:
    """One row per modified label of the images drawn."""
    truth = data.train.truth.rows(rows)
    return [
        {
            "image": data.train.ids[row],
            "class": data.train.classes[k],
            "first_modified": int(first[row, k]),
            "truth": int(truth[drawn, k]),
            "score": float(scores[drawn, k]),
        }
        for drawn, row in enumerate(rows.tolist())
        for k in _modified_classes(first, row)
    ]


def _cards(first: NDArray[np.uint8], data: Data, rows: Index, scores: NDArray[np.float64]) -> list[Card]:
    """Cards of the drawn images, each with its given and its modified labels."""
    truth, observed, names = data.train.truth.rows(rows), data.observed.rows(rows), data.train.classes
    cards = []
    for drawn, row in enumerate(rows.tolist()):
        labels = [(names[k], "given") for k in np.flatnonzero(observed[drawn] == PRESENT)]
        for k in _modified_classes(first, row):
            text = f"epoch {epoch_text(int(first[row, k]))}, score {scores[drawn, k]:.2f}: {names[k]}"
            labels.append((text, _KINDS[int(truth[drawn, k])]))
        cards.append(Card(data.train.images.open(row), labels, Path(data.train.images.name(row)).name))
    return cards


def epoch_text(epoch: int) -> str:
    """Epoch of a first modification as text; the largest that can be recorded also stands for later ones."""
    return f"{epoch}+" if epoch == LAST_MODIFIED else str(epoch)
