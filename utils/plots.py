"""Plots of a run: curves over epochs, and test images with labels, scores and class activation maps.

Plots of a dataset: bars of classes, co-occurrence, labels per image, and contact sheets of images with labels.

Only matplotlib's object interface is used, which has no global state and needs no window system.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray
from PIL import Image

from utils.fonts import fit_fonts
from utils.safe_files import write_atomically

History = Sequence[Mapping[str, float]]

COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860")
RIGHT, WRONG = "#2e7d32", "#c62828"

_NAMED = 40  # classes in one column of bars
_LETTERS = 40  # in a line of labels, all columns and signs together
_LABELS = 10  # labels below an image of a contact sheet; the rest is counted
_THUMBNAIL = 264  # pixels, the longer side of an image of a contact sheet
_ACROSS, _CARD, _LINE, _KEY = 4, 2.6, 0.16, 0.35  # its cards in a row; inches of a card, a line of labels, and the key
_LOG_START = 0.5  # images, where bars on a logarithmic scale start: below 1, so that a 1 is seen


class ModelView(NamedTuple):
    """Predictions of one model for one image."""

    labels: tuple[str, ...]  # the highest-scoring classes, best first
    scores: tuple[float, ...]  # their probabilities
    right: tuple[bool, ...]  # True for those that are present
    cam: NDArray[np.float32]  # (h, w) activation map of the first


class Example(NamedTuple):
    """One image, its true labels, and the predictions of each model."""

    image: Image.Image
    truth: tuple[str, ...]
    views: Sequence[ModelView]


class Mark(NamedTuple):
    """Style of a label on a contact sheet: a sign and a colour, because not everybody can tell colours apart."""

    sign: str
    colour: str
    meaning: str


MARKS = {
    "right": Mark("\u2713", RIGHT, "present and labelled so"),
    "wrong": Mark("\u2717", WRONG, "labelled present, wrongly"),
    "hidden": Mark("\u25cb", "#a05a00", "present, not labelled so"),
    "unknown": Mark("?", "#707070", "unknown"),
}


class Card(NamedTuple):
    """One image of a contact sheet and its labels: texts, each with its kind, a key of the marks."""

    image: Image.Image
    labels: Sequence[tuple[str, str]]


def plot_curves(histories: Mapping[str, History], path: Path) -> None:
    """Plot training loss and mAP (%) over epochs, one line per run; validation mAP solid, test mAP dashed."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for (name, history), colour in zip(histories.items(), _cycle(len(histories)), strict=True):
        _line(losses, history, "loss", 1.0, color=colour, label=name)
        _line(scores, history, "validation_mAP", 100.0, color=colour, label=f"{name}, validation")
        _line(scores, history, "test_mAP", 100.0, color=colour, label=f"{name}, test", linestyle="--")
    values = [value for line in losses.lines for value in line.get_ydata()]
    if values and 0 < 10 * min(values) < max(values):  # methods differ in what they sum over
        losses.set_yscale("log")
    for axes, title in ((losses, "training loss"), (scores, "mAP (%)")):
        axes.set(xlabel="epoch", title=title)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    save_figure(figure, path)


def plot_examples(examples: Sequence[Example], models: Sequence[str], path: Path) -> None:
    """Plot one row per image: the image with its true labels, then each model's best classes over its map."""
    columns = 1 + len(models)
    figure = Figure(figsize=(2.3 * columns, 2.5 * len(examples)), layout="constrained")
    grid = figure.subplots(len(examples), columns, squeeze=False)
    for row, example in zip(grid, examples, strict=True):
        row[0].imshow(example.image, interpolation="nearest")
        row[0].set_title("\n".join(example.truth) or "no label", fontsize=8)
        for axes, view in zip(row[1:], example.views, strict=True):
            _draw_view(axes, example.image, view)
    for axes, name in zip(grid[0], ("truth", *models), strict=True):
        axes.annotate(name, (0.5, 1.42), xycoords="axes fraction", ha="center", fontsize=10, fontweight="bold")
    for axes in grid.flat:
        axes.set_axis_off()
    save_figure(figure, path)


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
        axes.set(xlim=(0, 112), xlabel=xlabel)
        axes.set_xticks(range(0, 101, 20))
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
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)


def plot_contact_sheet(
    cards: Sequence[Card], path: Path, *, marks: Mapping[str, Mark] = MARKS, columns: int = 2
) -> None:
    """Plot a grid of images, four in a row, each above its labels; a key explains the colours and signs.

    Args:
        cards: the images and their labels.
        path: the file to make.
        marks: style of each kind of label.
        columns: labels per line; the fewer, the longer they may be.
    """
    drawn = [_DrawnCard(card.image, _label_lines(card.labels, marks, columns)) for card in cards]
    rows = [drawn[start : start + _ACROSS] for start in range(0, len(cards), _ACROSS)]
    heights = [_card_height(row) for row in rows]
    figure = Figure(figsize=(_CARD * _ACROSS, sum(heights) + _KEY))
    top = figure.get_figheight() - _KEY
    used = {kind for card in cards for _, kind in card.labels}
    _draw_key(figure, {kind: mark for kind, mark in marks.items() if kind in used})
    for row, height in zip(rows, heights, strict=True):
        for column, card in enumerate(row):
            _draw_card(figure, card, column * _CARD + 0.1, top - _image_height(row), columns)
        top -= height
    save_figure(figure, path)


def heat(cam: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Activation map (h, w) as heat in [0, 1] at (width, height) `size`; negative values become 0."""
    positive = np.maximum(cam, 0)
    top = positive.max()
    scaled = Image.fromarray((positive / top if top > 0 else positive).astype(np.float32))
    resized = np.asarray(scaled.resize(size, Image.Resampling.BILINEAR), dtype=np.float32)
    return np.minimum(np.maximum(resized, 0), 1)


def _draw_view(axes: object, image: Image.Image, view: ModelView) -> None:
    warmth = heat(view.cam, image.size)
    grey = np.asarray(image.convert("L"), dtype=np.float32)
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


class _DrawnCard(NamedTuple):
    """An image of a contact sheet and the lines below it, each a few texts with their colours."""

    image: Image.Image
    lines: list[list[tuple[str, str]]]


def _label_lines(
    labels: Sequence[tuple[str, str]], marks: Mapping[str, Mark], columns: int
) -> list[list[tuple[str, str]]]:
    """Lines of up to `columns` labels each, as texts with colours; labels that do not fit are counted."""
    longest = _LETTERS // columns - 3
    shown = [(f"{marks[kind].sign} {plain_name(text, longest)}", marks[kind].colour) for text, kind in labels]
    if len(shown) > _LABELS:
        shown = [*shown[: _LABELS - 1], (f"and {len(shown) - _LABELS + 1} more", "black")]
    shown = shown or [("no label", "black")]
    return [shown[start : start + columns] for start in range(0, len(shown), columns)]


def _thumbnail(image: Image.Image) -> Image.Image:
    small = image.copy()
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return small


def _drawn_size(image: Image.Image) -> tuple[float, float]:
    """Width and height in inches on a contact sheet, at least a tenth of the card."""
    scale = (_CARD - 0.2) / max(image.size)
    width, height = (max(scale * side, 0.1 * _CARD) for side in image.size)
    return width, height


def _image_height(row: Sequence[_DrawnCard]) -> float:
    """Height (inches) of the highest image of a row of cards."""
    return max(_drawn_size(card.image)[1] for card in row)


def _card_height(row: Sequence[_DrawnCard]) -> float:
    """Height (inches) of a row of cards: its highest image, its longest list of labels, and a gap."""
    return _image_height(row) + _LINE * max(len(card.lines) for card in row) + 0.25


def _draw_card(figure: Figure, card: _DrawnCard, left: float, base: float, columns: int) -> None:
    """Draw an image at (left, base), in inches from the lower left corner, and its labels below."""
    wide, high = figure.get_size_inches()
    width, height = _drawn_size(card.image)
    axes = figure.add_axes((left / wide, base / high, width / wide, height / high))
    axes.imshow(_thumbnail(card.image), interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for line, texts in enumerate(card.lines):
        y = (base - 0.05 - _LINE * (line + 0.5)) / high
        for across, (text, colour) in enumerate(texts):
            figure.text((left + across * _CARD / columns) / wide, y, text, fontsize=7, color=colour, va="center")


def _draw_key(figure: Figure, marks: Mapping[str, Mark]) -> None:
    """Draw one line at the top that explains the signs in use."""
    wide, high = figure.get_size_inches()
    left = 0.1
    for mark in marks.values():
        text = f"{mark.sign} {mark.meaning}"
        figure.text(left / wide, 1 - 0.5 * _KEY / high, text, fontsize=8, color=mark.colour, va="center")
        left += 0.075 * len(text) + 0.25


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
