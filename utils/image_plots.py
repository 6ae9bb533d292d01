"""Pictures of images: test images with labels, scores and activation maps, and contact sheets of images with labels.

Places are in inches from the upper left corner, so that texts and images of a row stand on common lines.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from numpy.typing import NDArray
from PIL import Image

from utils.plots import RIGHT, WRONG, plain_name, save_figure

_UNSURE, _GREY = "#a05a00", "#707070"
_LETTERS = 40  # in a line of labels of a contact sheet, all columns and signs together
_LABELS = 10  # labels below an image of a contact sheet; the rest is counted
_THUMBNAIL = 264  # pixels, the longer side of an image of a contact sheet
_ACROSS, _CARD, _LINE = 4, 2.6, 0.16  # its cards in a row; inches of a card, and of a line of labels
_EDGE = 0.1  # inches around everything
_KEY_LINE = 0.2  # inches of a line of a legend
_DOWN = 4  # examples above each other, which keeps a page below 1,080 pixels
_PANEL, _PICTURE = 1.75, (1.62, 1.3)  # inches from panel to panel of an example; the box of its image
_ROW, _GAP = 2.17, 0.25  # inches from example to example; between two that stand side by side
_LEAST_WIDTH, _WIDEST = 7.3, 12.0  # inches: a legend of few lines; several examples beside each other as far as that
_TEXT_LINES, _TEXT = 4, 0.14  # lines below the image of a panel; inches of each


class Mark(NamedTuple):
    """Style of a label: a sign and a colour, because not everybody can tell colours apart."""

    sign: str
    colour: str
    meaning: str


MARKS = {
    "right": Mark("\u2713", RIGHT, "present and labelled so"),
    "wrong": Mark("\u2717", WRONG, "labelled present, wrongly"),
    "hidden": Mark("\u25cb", _UNSURE, "present, not labelled so"),
    "unknown": Mark("?", _GREY, "unknown"),
}
"""Labels of a contact sheet."""

PREDICTED = {
    "found": Mark("\u2713", RIGHT, "present, score at least 0.5: right"),
    "rejected": Mark("\u2013", RIGHT, "absent, score below 0.5: right"),
    "wrong": Mark("\u2717", WRONG, "absent, score at least 0.5: wrong"),
    "missed": Mark("\u25cb", WRONG, "present, score below 0.5: wrong"),
    "unknown": Mark("?", _GREY, "not known"),
}
"""Predicted labels of an example."""


_MAP = "bright: where the model sees the class that is named below the image"


class ModelView(NamedTuple):
    """Predictions of one model for one image."""

    labels: tuple[str, ...]  # the highest-scoring classes, best first
    scores: tuple[float, ...]  # their probabilities
    kinds: tuple[str, ...]  # keys of `PREDICTED`
    cam: NDArray[np.float32]  # (h, w) activation map of the first


class Example(NamedTuple):
    """One image, its true labels, and the predictions of each model."""

    image: Image.Image
    truth: tuple[str, ...]
    views: Sequence[ModelView]


class Card(NamedTuple):
    """One image of a contact sheet, its labels (texts, each with its kind, a key of the marks), and its name."""

    image: Image.Image
    labels: Sequence[tuple[str, str]]
    name: str = ""


class _Sheet:
    """A figure whose parts are placed in inches from its upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width, height))
        self._width, self._height = width, height

    def text(
        self, left: float, top: float, text: str, size: float, colour: str = "black", weight: str = "normal"
    ) -> None:
        """Write a line whose middle is at `top`."""
        place = left / self._width, 1 - top / self._height
        self.figure.text(*place, text, fontsize=size, color=colour, va="center", fontweight=weight)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes without frame or ticks, which fill a box."""
        bottom = 1 - (top + height) / self._height
        axes = self.figure.add_axes((left / self._width, bottom, width / self._width, height / self._height))
        axes.set_axis_off()
        return axes


def plot_examples(examples: Sequence[Example], models: Sequence[str], path: Path) -> None:
    """Plot images with their true labels, and beside each the best classes of every model below the map of the best.

    At most four examples stand above each other, so that the figure is at most 1,080 pixels high.
    """
    block = _PANEL * (1 + len(models)) + _GAP
    across = _columns(len(examples), block)
    down = -(-len(examples) // across)
    width = max(_EDGE + across * block - _GAP, _LEAST_WIDTH)
    used = {kind for example in examples for view in example.views for kind in view.kinds}
    shown = [*_explained(PREDICTED, used), (_MAP, "black")]
    key = _key_places([text for text, _ in shown], width)
    top = _EDGE + _KEY_LINE * (key[-1][1] + 1) + 0.25
    sheet = _Sheet(width, top + _ROW * down)
    _draw_key(sheet, shown, key)
    for column in range(across):
        for number, name in enumerate(("truth", *models)):
            left = _EDGE + column * block + number * _PANEL
            sheet.text(left, top - 0.12, plain_name(name, 22), 9, weight="bold")
    for number, example in enumerate(examples):
        _draw_example(sheet, example, _EDGE + number // down * block, top + number % down * _ROW)
    save_figure(sheet.figure, path)


def plot_contact_sheet(
    cards: Sequence[Card], path: Path, *, marks: Mapping[str, Mark] = MARKS, columns: int = 2
) -> None:
    """Plot a grid of images, four in a row, each below its name and above its labels; a key explains colours and signs.

    Args:
        cards: the images, their labels and names.
        path: the file to make.
        marks: style of each kind of label.
        columns: labels per line; the fewer, the longer they may be.
    """
    drawn = [_DrawnCard(card.image, card.name, _label_lines(card.labels, marks, columns)) for card in cards]
    rows = [drawn[start : start + _ACROSS] for start in range(0, len(cards), _ACROSS)]
    used = {kind for card in cards for _, kind in card.labels}
    shown = _explained(marks, used)
    width = _CARD * _ACROSS
    key = _key_places([text for text, _ in shown], width)
    top = _EDGE + _KEY_LINE * (key[-1][1] + 1 if key else 0) + 0.05
    sheet = _Sheet(width, top + sum(map(_card_height, rows)))
    _draw_key(sheet, shown, key)
    for row in rows:
        for column, card in enumerate(row):
            _draw_card(sheet, card, (column * _CARD + _EDGE, top), row, columns)
        top += _card_height(row)
    save_figure(sheet.figure, path)


def heat(cam: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Activation map (h, w) as heat in [0, 1] at (width, height) `size`; negative values become 0."""
    positive = np.maximum(cam, 0)
    top = positive.max()
    scaled = Image.fromarray((positive / top if top > 0 else positive).astype(np.float32))
    resized = np.asarray(scaled.resize(size, Image.Resampling.BILINEAR), dtype=np.float32)
    return np.minimum(np.maximum(resized, 0), 1)


def text_width(text: str, size: float) -> float:
    """Width in inches of a line in the usual font of a size in points; letters that it lacks are as wide as boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        return float(TextPath((0, 0), text, size=size).get_extents().width) / 72 if text.strip() else 0.0


def _columns(count: int, block: float) -> int:
    """Number of examples beside each other, each `block` inches wide: the most that leave the fewest places empty."""
    least = -(-count // _DOWN)
    most = max(least, min(count, int(_WIDEST / block)))
    return min(range(most, least - 1, -1), key=lambda across: -count % across)


def _draw_example(sheet: _Sheet, example: Example, left: float, top: float) -> None:
    """Draw one example with its panels from `left` on."""
    axes = _picture_axes(sheet, example.image, left, top)
    axes.imshow(example.image, interpolation="nearest", aspect="auto")
    names = [(plain_name(name, 24), "black") for name in example.truth] or [("no label", "black")]
    if len(names) > _TEXT_LINES:
        names = [*names[: _TEXT_LINES - 1], (f"and {len(names) - _TEXT_LINES + 1} more", "black")]
    _draw_lines(sheet, names, left, top)
    for number, view in enumerate(example.views, 1):
        _draw_view(sheet, example.image, view, left + number * _PANEL, top)


def _draw_view(sheet: _Sheet, image: Image.Image, view: ModelView, left: float, top: float) -> None:
    """Draw the map of the best class over an image in grey, its name, and the classes with their scores."""
    warmth = heat(view.cam, image.size)
    grey = np.asarray(image.convert("L"), dtype=np.float32)
    axes = _picture_axes(sheet, image, left, top)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    axes.imshow(warmth, cmap="inferno", alpha=0.65 * warmth, vmin=0, vmax=1, aspect="auto")
    lines = [(f"map: {plain_name(view.labels[0], 20)}", "black")]
    for label, score, kind in zip(view.labels, view.scores, view.kinds, strict=True):
        mark = PREDICTED[kind]
        lines.append((f"{mark.sign} {plain_name(label, 17)} {score:.2f}", mark.colour))
    _draw_lines(sheet, lines, left, top)


def _picture_axes(sheet: _Sheet, image: Image.Image, left: float, top: float) -> Axes:
    """Axes for an image in the lower left corner of the box of a panel, at least a tenth as wide and high."""
    width, height = (max(side, 0.1 * most) for side, most in zip(_fitted(image, _PICTURE), _PICTURE, strict=True))
    return sheet.axes(left, top + _PICTURE[1] - height, width, height)


def _fitted(image: Image.Image, box: tuple[float, float]) -> tuple[float, float]:
    """Width and height of an image scaled to fit a box."""
    scale = min(most / side for side, most in zip(image.size, box, strict=True))
    return scale * image.width, scale * image.height


def _draw_lines(sheet: _Sheet, lines: Sequence[tuple[str, str]], left: float, top: float) -> None:
    """Write the lines below the box of a panel."""
    for number, (text, colour) in enumerate(lines):
        sheet.text(left, top + _PICTURE[1] + _TEXT * (number + 0.7), text, 7, colour)


def _explained(marks: Mapping[str, Mark], used: Set[str]) -> list[tuple[str, str]]:
    """Texts of a legend with their colours, of the marks in use."""
    return [(f"{mark.sign} {mark.meaning}", mark.colour) for kind, mark in marks.items() if kind in used]


def _key_places(texts: Sequence[str], width: float) -> list[tuple[float, int]]:
    """Left end and line of each text of a legend, as many in a line as fit."""
    places: list[tuple[float, int]] = []
    left, line = _EDGE, 0
    for text in texts:
        wide = text_width(text, 8)
        if left > _EDGE and left + wide > width - _EDGE:
            left, line = _EDGE, line + 1
        places.append((left, line))
        left += wide + 0.25
    return places


def _draw_key(sheet: _Sheet, texts: Sequence[tuple[str, str]], places: Sequence[tuple[float, int]]) -> None:
    """Write a legend at the top."""
    for (text, colour), (left, line) in zip(texts, places, strict=True):
        sheet.text(left, _EDGE + _KEY_LINE * (line + 0.5), text, 8, colour)


class _DrawnCard(NamedTuple):
    """An image of a contact sheet, its name, and the lines below it, each a few texts with their colours."""

    image: Image.Image
    name: str
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


def _name_height(row: Sequence[_DrawnCard]) -> float:
    """Height (inches) of the line of names of a row of cards, 0 without any."""
    return _LINE if any(card.name for card in row) else 0.0


def _card_height(row: Sequence[_DrawnCard]) -> float:
    """Height (inches) of a row of cards: names, its highest image, its longest list of labels, and a gap."""
    return _name_height(row) + _image_height(row) + _LINE * max(len(card.lines) for card in row) + 0.25


def _draw_card(
    sheet: _Sheet, card: _DrawnCard, place: tuple[float, float], row: Sequence[_DrawnCard], columns: int
) -> None:
    """Draw a card whose upper left corner is at `place`: name, image and labels on the lines of its row."""
    left, top = place
    if card.name:
        sheet.text(left, top + 0.4 * _LINE, end_of_name(card.name, _LETTERS), 7, _GREY)
    base = top + _name_height(row)
    width, height = _drawn_size(card.image)
    axes = sheet.axes(left, base, width, height)
    axes.imshow(_thumbnail(card.image), interpolation="nearest", aspect="auto")
    for line, texts in enumerate(card.lines):
        y = base + _image_height(row) + 0.05 + _LINE * (line + 0.5)
        for across, (text, colour) in enumerate(texts):
            sheet.text(left + across * _CARD / columns, y, text, 7, colour)


def end_of_name(name: str, longest: int) -> str:
    """The end of the name of a file as one short line; its beginning is often the same in all."""
    text = " ".join(name.split())
    return plain_name(text if len(text) <= longest else "\u2026" + text[len(text) - longest + 1 :], longest)
