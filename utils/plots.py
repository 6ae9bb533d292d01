"""Plots of a run: curves over epochs, average precision along the tail.

Plots of a dataset: bars of classes, co-occurrence, labels per image.

Only matplotlib's object interface is used, which has no global state and needs no window system.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray

from utils.fonts import fit_fonts
from utils.safe_files import write_atomically

History = Sequence[Mapping[str, float]]

COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860")
RIGHT, WRONG = "#2e7d32", "#c62828"

_NAMED = 40  # classes in one column of bars
_LOG_START = 0.5  # images, where bars on a logarithmic scale start: below 1, so that a 1 is seen


def plot_curves(histories: Mapping[str, History], path: Path) -> None:
    """Plot training loss and mAP (%) over epochs, one line per run; validation mAP solid, test mAP dashed."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for (name, history), colour in zip(histories.items(), _cycle(len(histories)), strict=True):
        _line(losses, history, "loss", 1.0, color=colour, label=name)
        _line(scores, history, "validation_mAP", 100.0, color=colour, label=f"{name}, validation")
        _line(scores, history, "test_mAP", 100.0, color=colour, label=f"{name}, test", linestyle="--")
    values = [value for line in losses.lines for value in line.get_ydata()]
    is_log = bool(values) and 0 < 10 * min(values) < max(values)  # methods differ in what they sum over
    losses.set(ylabel="training loss" + (" (logarithmic scale)" if is_log else ""))
    scores.set(ylabel="mAP (%)")
    if is_log:
        losses.set_yscale("log")
    elif values and min(values) >= 0:
        keep_within(losses, "y", 0, float("inf"))
    keep_within(scores, "y", 0, 100)
    for axes in (losses, scores):
        axes.set(xlabel="epoch")
        whole_epochs(axes)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    save_figure(figure, path)


def whole_epochs(axes: Axes, most: int = 12) -> None:
    """Ticks of the x axis at whole epochs alone; a single epoch stands in the middle."""
    axes.xaxis.set_major_locator(MaxNLocator(most, integer=True, min_n_ticks=1))
    points = [float(point) for line in axes.lines for point in np.asarray(line.get_xdata())]
    if points and min(points) == max(points):
        axes.set_xlim(points[0] - 0.5, points[0] + 0.5)


def keep_within(axes: Axes, axis: Literal["x", "y"], least: float, most: float) -> None:
    """Cut what an axis shows beyond the values that it can have; nothing of an axis where values lie beyond."""
    low, high = axes.get_xlim() if axis == "x" else axes.get_ylim()
    data = axes.dataLim.intervalx if axis == "x" else axes.dataLim.intervaly
    if least <= min(data) and max(data) <= most:
        limits = max(low, least), min(high, most)
        axes.set(**{f"{axis}lim": limits})


def plot_bars(names: Sequence[str], series: Mapping[str, NDArray[np.int64]], path: Path, *, log: bool) -> None:
    """Plot one bar per class and series with its number beside it, the most frequent class first.

    Where there are more classes than can be named, the first and the last 40 are drawn.
    """
    figure, parts = _bar_columns(len(names), len(series), ("most frequent", "least frequent"))
    top = max(1, *(int(values.max(initial=0)) for values in series.values()))
    for axes, rows in parts:
        axes.set(xscale="log" if log else "linear", xlim=(_LOG_START, 3 * top) if log else (0, 1.12 * top))
        axes.set(xlabel="images" + (" (logarithmic scale)" if log else ""))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        _bars(axes, [names[row] for row in rows], {name: values[rows] for name, values in series.items()}, ",")
    _bar_legend(figure, len(series))
    save_figure(figure, path)


def plot_shares(names: Sequence[str], series: Mapping[str, NDArray[np.float64]], path: Path, *, xlabel: str) -> None:
    """Plot one bar per class and series, shares in [0, 1] as percentages, in the given order; no bar for NaN.

    Where there are more classes than can be named, the first and the last 40 are drawn.
    """
    figure, parts = _bar_columns(len(names), len(series), ("highest", "lowest"))
    for axes, rows in parts:
        axes.set(xlim=(0, 100), xlabel=xlabel)
        axes.set_xticks(range(0, 101, 20))
        axes.spines["right"].set_visible(False)  # numbers stand there
        _bars(axes, [names[row] for row in rows], {name: 100 * values[rows] for name, values in series.items()}, ".0f")
    _bar_legend(figure, len(series))
    save_figure(figure, path)


def plot_tail(
    names: Sequence[str],
    counts: NDArray[np.int64],
    precision: NDArray[np.float64],
    groups: Mapping[str, NDArray[np.int64]],
    path: Path,
) -> None:
    """Plot average precision per class above its number of training images, the most frequent class first.

    Args:
        names: C class names.
        counts: (C,) training images of each class.
        precision: (C,) average precision in [0, 1], drawn as a percentage; no bar for NaN.
        groups: the classes of each group; each has a colour, and a dashed line at the mean of its bars.
        path: the file to make.
    """
    order = np.argsort(-counts, kind="stable")
    position = np.argsort(order)
    figure = Figure(figsize=(min(max(6.0, 1.5 + 0.16 * len(names)), 40.0), 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for (name, classes), colour in zip(groups.items(), _cycle(len(groups)), strict=True):
        at, values = position[classes], 100 * precision[classes]
        label = f"{name}, {len(classes)} classes"
        if np.isfinite(values).any():
            label, mean = f"{label}, mean {np.nanmean(values):.1f}", np.nanmean(values)
            upper.plot([at.min() - 0.5, at.max() + 0.5], [mean, mean], color=colour, linestyle="--", linewidth=1)
        upper.bar(at, values, width=0.8, color=colour, label=label)
        lower.bar(at, np.maximum(counts[classes] - _LOG_START, 0), width=0.8, bottom=_LOG_START, color=colour)
    upper.set(ylabel="average precision (%)", ylim=(0, 100), xlim=(-1, len(names)))
    lower.set(ylabel="training images", yscale="log", ylim=(_LOG_START, 2.0 * max(1, int(counts.max(initial=0)))))
    shown = [plain_name(names[row], 16) for row in order] if len(names) <= 2 * _NAMED + 1 else []
    lower.set_xticks(np.arange(len(shown)), shown, rotation=90, fontsize=7)
    for axes in (upper, lower):
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    spacing = {"columnspacing": 1.2, "handlelength": 1.2}
    handles = upper.get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=len(groups), fontsize=7.5, **spacing)
    save_figure(figure, path)


def plot_heat_map(names: Sequence[str], values: NDArray[np.float64], path: Path, *, title: str) -> None:
    """Plot a square of shares in [0, 1] (K, K), row by column, without the diagonal; small shares are spread out."""
    side = max(5.0, 3.2 + 0.17 * len(names))
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    axes = figure.subplots()
    shown = np.ma.masked_array(values, np.eye(len(names), dtype=bool))
    drawn = axes.imshow(shown, cmap="BuPu", norm=PowerNorm(0.5, 0.0, 1.0), interpolation="nearest")
    axes.set_facecolor("#d0d0d0")
    ticks, texts = np.arange(len(names)), [plain_name(name) for name in names]
    axes.set_xticks(ticks, texts, rotation=90, fontsize=7)
    axes.set_yticks(ticks, texts, fontsize=7)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.set_title(title, fontsize=9)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.6, ticks=(0, 0.05, 0.2, 0.5, 1.0))
    bar.ax.tick_params(labelsize=7)
    save_figure(figure, path)


def plot_counts(series: Mapping[str, NDArray[np.int64]], path: Path, *, xlabel: str) -> None:
    """Plot shares (%) of images with 0, 1, 2, ... of something; shares, so that series of any size compare."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for (name, counts), colour in zip(series.items(), _cycle(len(series)), strict=True):
        shares = 100 * counts / max(int(counts.sum()), 1)
        axes.stairs(shares, np.arange(len(counts) + 1) - 0.5, color=colour, alpha=0.2, fill=True)
        axes.stairs(shares, np.arange(len(counts) + 1) - 0.5, color=colour, linewidth=1.6, label=name)
    axes.xaxis.set_major_locator(MaxNLocator(16, integer=True))
    axes.set(xlabel=xlabel, ylabel="images (%)", ylim=(0, None))
    keep_within(axes, "y", 0, 100)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)


def _bar_columns(count: int, series: int, ends: tuple[str, str]) -> tuple[Figure, list[tuple[Axes, NDArray[np.int64]]]]:
    """Figure for bars, and its one or two columns with the rows of their classes; `ends` names the two columns."""
    rows = np.arange(count)
    length = count if count <= _NAMED else min(-(-count // 2), _NAMED)
    columns = [rows] if length == count else [rows[:length], rows[max(length, count - _NAMED) :]]
    figure = Figure(figsize=(7 * len(columns), 1.2 + 0.11 * (1 + series) * length), layout="constrained")
    every = figure.subplots(1, len(columns), squeeze=False)[0]
    for axes in every:
        axes.set_ylim(length - 0.4, -0.6)
    if count > 2 * _NAMED:
        for axes, text in zip(every, ends, strict=True):
            axes.set_title(f"the {_NAMED} {text} of {count} classes", fontsize=9)
    return figure, list(zip(every, columns, strict=True))


def _bar_legend(figure: Figure, series: int) -> None:
    columns = series if series <= 3 else 2
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=columns, fontsize=9)


def _bars(axes: Axes, names: Sequence[str], series: Mapping[str, NDArray[Any]], form: str) -> None:
    """Draw horizontal bars from the top down, those of one class together, each with its value in the format `form`."""
    thickness = 0.84 / len(series)
    for number, ((label, values), colour) in enumerate(zip(series.items(), _cycle(len(series)), strict=True)):
        heights = np.arange(len(names)) + thickness * (number - (len(series) - 1) / 2)
        axes.barh(heights, values, height=thickness, color=colour, label=label)
        for height, value in zip(heights, values.tolist(), strict=True):
            if value == value:
                end = (max(value, axes.get_xlim()[0]), height)
                axes.annotate(f"{value:{form}}", end, (2, 0), textcoords="offset points", fontsize=6, va="center")
    axes.set_yticks(np.arange(len(names)), [plain_name(name) for name in names], fontsize=8)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def plain_name(name: str, longest: int = 28) -> str:
    """Class name as one short line that matplotlib does not read as a formula."""
    text = " ".join(name.split())
    text = text if len(text) <= longest else text[: longest - 1] + "\u2026"
    return text.replace("$", r"\$")


def _line(axes: object, history: History, name: str, scale: float, **style: object) -> None:
    points = [(row["epoch"], scale * row[name]) for row in history if name in row]
    if points:
        axes.plot(*zip(*points, strict=True), marker=".", **style)  # type: ignore[attr-defined]


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    fit_fonts(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # letters that the font lacks become boxes, which is said
        write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))
