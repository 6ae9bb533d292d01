"""Pictures of a run: curves over epochs, and test pictures with labels, scores and class activation maps.

matplotlib's object interface only, so that nothing global is touched and no window system is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from utils.safe_files import write_atomically

History = Sequence[Mapping[str, float]]

COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860")
RIGHT, WRONG = "#2e7d32", "#c62828"


class View(NamedTuple):
    """What one model sees in one picture."""

    labels: tuple[str, ...]  # the highest-scoring classes, best first
    scores: tuple[float, ...]  # their probabilities
    right: tuple[bool, ...]  # whether they are true
    cam: NDArray[np.float32]  # (h, w) activation map of the first


class Example(NamedTuple):
    """One picture, what is true of it, and what each model sees in it."""

    picture: Image.Image
    truth: tuple[str, ...]
    views: Sequence[View]


def plot_curves(histories: Mapping[str, History], path: Path) -> None:
    """Training loss and mAP (%) over epochs, a line a run; validation mAP drawn through, test mAP dashed."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for (name, history), colour in zip(histories.items(), _cycle(len(histories)), strict=True):
        _line(losses, history, "loss", 1.0, color=colour, label=name)
        _line(scores, history, "validation_mAP", 100.0, color=colour, label=f"{name}, validation")
        _line(scores, history, "test_mAP", 100.0, color=colour, label=f"{name}, test", linestyle="--")
    for axes, title in ((losses, "training loss"), (scores, "mAP (%)")):
        axes.set(xlabel="epoch", title=title)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    _save(figure, path)


def plot_examples(examples: Sequence[Example], models: Sequence[str], path: Path) -> None:
    """A row a picture: the picture with its true labels, then each model's best classes over its activation map."""
    columns = 1 + len(models)
    figure = Figure(figsize=(2.3 * columns, 2.5 * len(examples)), layout="constrained")
    grid = figure.subplots(len(examples), columns, squeeze=False)
    for row, example in zip(grid, examples, strict=True):
        row[0].imshow(example.picture, interpolation="nearest")
        row[0].set_title("\n".join(example.truth) or "no label", fontsize=8)
        for axes, view in zip(row[1:], example.views, strict=True):
            _draw_view(axes, example.picture, view)
    for axes, name in zip(grid[0], ("truth", *models), strict=True):
        axes.annotate(name, (0.5, 1.42), xycoords="axes fraction", ha="center", fontsize=10, fontweight="bold")
    for axes in grid.flat:
        axes.set_axis_off()
    _save(figure, path)


def heat(cam: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """An activation map (h, w) as heat in [0, 1] at (width, height) `size`: negative evidence is no heat."""
    positive = np.maximum(cam, 0)
    top = positive.max()
    scaled = Image.fromarray((positive / top if top > 0 else positive).astype(np.float32))
    resized = np.asarray(scaled.resize(size, Image.Resampling.BILINEAR), dtype=np.float32)
    return np.minimum(np.maximum(resized, 0), 1)


def _draw_view(axes: object, picture: Image.Image, view: View) -> None:
    warmth = heat(view.cam, picture.size)
    grey = np.asarray(picture.convert("L"), dtype=np.float32)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation="nearest")  # type: ignore[attr-defined]
    axes.imshow(warmth, cmap="inferno", alpha=0.65 * warmth, vmin=0, vmax=1)  # type: ignore[attr-defined]
    for line, (label, score, right) in enumerate(zip(view.labels, view.scores, view.right, strict=True)):
        axes.annotate(  # type: ignore[attr-defined]
            f"{label} {score:.2f}",
            (0.5, 1.03 + 0.11 * (len(view.labels) - 1 - line)),
            xycoords="axes fraction",
            ha="center",
            fontsize=8,
            color=RIGHT if right else WRONG,
        )


def _line(axes: object, history: History, name: str, scale: float, **style: object) -> None:
    points = [(row["epoch"], scale * row[name]) for row in history if name in row]
    if points:
        axes.plot(*zip(*points, strict=True), marker=".", **style)  # type: ignore[attr-defined]


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))
