"""Plots of an analysis: lines over epochs or over the values of a setting, when labels are memorised, and rankings.

Bars and contact sheets are those of `utils.plots`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from utils.metrics import Reliability
from utils.plots import COLOURS, keep_within, plain_name, save_figure, whole_epochs

_LEAST = 2.0  # height of an axis of percentages, in points
_EVEN = 3.0  # points up to which colours change evenly, and less beyond


class Line(NamedTuple):
    """A line of a plot."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False


def plot_lines(
    lines: Sequence[Line], path: Path, *, title: str, xlabel: str, ylabel: str, ticks: Sequence[str] = ()
) -> None:
    """Plot percentages over epochs; or over `ticks`, whose texts are at 0, 1, 2, ..."""
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(plain_name(title, 80), fontsize=10)
    _draw_lines(axes, lines)
    low, high = axes.get_ylim()
    if high - low < _LEAST:  # a difference that means nothing should not fill the figure
        axes.set_ylim((low + high - _LEAST) / 2, (low + high + _LEAST) / 2)
    keep_within(axes, "y", 0, 100)
    if ticks:
        turned = 90 if sum(map(len, ticks)) > 70 else 0
        axes.set_xticks(range(len(ticks)), [plain_name(tick) for tick in ticks], rotation=turned)
    save_figure(figure, path)


def plot_reliability(series: Mapping[str, Reliability], path: Path) -> None:
    """Plot the share of present entries over their probability, one line per kind of probability, and the diagonal.

    Below it stands how many entries each bin has, on a logarithmic scale.
    """
    figure = Figure(figsize=(5.2, 6.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot((0, 100), (0, 100), color="#909090", linewidth=1, label="perfect")
    for number, (label, bins) in enumerate(series.items()):
        style = {"color": COLOURS[number % len(COLOURS)], "marker": "."}
        upper.plot(100 * bins.probability, 100 * bins.present, label=plain_name(label, 40), **style)
        lower.plot(100 * bins.probability, bins.entries, **style)
    upper.set(xlim=(0, 100), ylim=(0, 100), ylabel="present (%)")
    lower.set(xlabel="probability (%)", ylabel="entries", yscale="log")
    upper.legend(fontsize=8)
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    save_figure(figure, path)


def plot_memorisation(lines: Sequence[Line], first: Mapping[str, float], path: Path) -> None:
    """Plot mean losses over epochs, and the share of each group of labels with its highest loss in the first epoch."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, shares = figure.subplots(1, 2)
    losses.set(xlabel="epoch", title="mean loss, unknown labels as absent")
    _draw_lines(losses, lines)
    losses.set_ylim(bottom=0)
    early = 100 * np.array(list(first.values()))
    shares.barh(list(first), early, color=COLOURS[0], label="in epoch 1")
    shares.barh(list(first), 100 - early, left=early, color="#d0d0d0", label="later")
    for bar, value in enumerate(early.tolist()):
        inside = value > 15  # a shorter bar has no space for the number
        left, colour = (2.0, "white") if inside else (value + 2, "black")
        shares.annotate(f"{value:.1f}", (left, bar), va="center", color=colour, fontweight="bold")
    shares.set(xlim=(0, 100), xlabel="labels (%)", title="highest loss of a label")
    shares.invert_yaxis()
    figure.legend(*shares.get_legend_handles_labels(), loc="outside lower right", ncols=2, fontsize=8)
    save_figure(figure, path)


class Ranked(NamedTuple):
    """A place in a ranking."""

    name: str
    mean: float
    deviation: float
    is_baseline: bool


def plot_gains(
    rows: Sequence[str], columns: Sequence[str], values: NDArray[np.float64], path: Path, *, title: str
) -> None:
    """Plot gains in points (R, G) as a heat map with their numbers, blue above 0 and red below; NaN stays grey."""
    figure = Figure(figsize=(2.2 + 0.62 * len(columns), 1.9 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    reach = max(1.0, float(np.nanmax(np.abs(values))))
    shade = SymLogNorm(_EVEN, vmin=-reach, vmax=reach)
    axes.imshow(np.ma.masked_invalid(values), cmap="RdBu", norm=shade, aspect="auto")
    axes.set_facecolor("#e0e0e0")
    for row, column in np.argwhere(~np.isnan(values)):
        value = float(values[row, column])
        colour = "white" if abs(float(shade(value)) - 0.5) > 0.28 else "black"
        axes.annotate(f"{value:+.1f}", (column, row), ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(columns)), [plain_name(name) for name in columns], rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(rows)), [plain_name(name) for name in rows], fontsize=8)
    axes.tick_params(length=0)
    letters = int(14 * figure.get_figwidth())  # in a line
    figure.suptitle("\n".join(textwrap.wrap(plain_name(title, 110), letters)), fontsize=9)
    save_figure(figure, path)


def plot_rankings(panels: Mapping[str, Sequence[Ranked]], path: Path, *, figure: str) -> None:
    """Plot one panel for each ranking, the first place on top: means with their standard deviation."""
    across = min(3, len(panels))
    lengths = list(map(len, panels.values()))
    heights = [0.8 + 0.19 * max(lengths[first : first + across]) for first in range(0, len(lengths), across)]
    drawn = Figure(figsize=(4.2 * across, sum(heights) + 0.4), layout="constrained")
    every = drawn.subplots(len(heights), across, squeeze=False, height_ratios=heights).ravel()
    for axes, (name, ranked) in zip(every, panels.items(), strict=False):
        places = range(len(ranked))
        for place, each in zip(places, ranked, strict=True):
            colour = COLOURS[1] if each.is_baseline else COLOURS[0]
            axes.errorbar(each.mean, place, xerr=each.deviation, fmt="o", color=colour, markersize=4, capsize=2)
        axes.set_yticks(places, [plain_name(each.name) for each in ranked], fontsize=7)
        axes.invert_yaxis()
        axes.tick_params(axis="x", labelsize=7)
        keep_within(axes, "x", 0, 100)
        axes.grid(axis="x", alpha=0.3)
        axes.set_title(plain_name(name, 60), fontsize=9)
    for axes in every[len(panels) :]:
        axes.set_visible(False)
    drawn.supxlabel(f"{figure} (%), mean and standard deviation over seeds; the baseline in orange", fontsize=9)
    save_figure(drawn, path)


def _draw_lines(axes: Axes, lines: Sequence[Line]) -> None:
    """Draw lines with a mark at each point and ticks at whole numbers; with a legend if there are any lines."""
    for line in lines:
        style = {"linestyle": "--", "linewidth": 1.2} if line.dashed else {"marker": "."}
        axes.plot(*zip(*line.points, strict=True), color=line.colour, label=plain_name(line.label, 60), **style)
    whole_epochs(axes)
    axes.grid(alpha=0.3)
    if lines:
        axes.legend(fontsize=8)
