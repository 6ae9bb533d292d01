"""Small images of glyphs on coloured ground: the renderer that `digits` and `letters` share.

N scenes, M objects, S side of a scene in pixels, C classes. An object is a glyph: 8 x 8 values in [0, 1], the opacity
of its ink. All random numbers are from the generator passed in, and no class label depends on the rendered image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from data.images.files import ArrayImages
from utils.types import ABSENT, PRESENT, Annotations, Boxes, Index, LabelTable

Floats = NDArray[np.float32]

SIDE = 40
"""S, pixels."""
GLYPH = 8
"""Side of a glyph before it is enlarged, pixels."""
LABEL_COUNTS = (0.5, 0.3, 0.15, 0.05)
"""Probabilities of 1, 2, 3, 4 objects in a scene, each of another class."""
ANY_INK, WARM, COOL = 0, 1, 2

_TRIES = 12
_MOST_OVERLAP = 0.105
_CONTRAST = 0.245
_INK_SHARE = 0.45
_GREEN_CAP = 0.8
"""Largest green value as a share of the leading channel: with more green, warm and cool inks look alike."""
_BLOCK = 500
"""Scenes painted at a time, few enough for the processor cache."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """Difficulty of the scenes."""

    sides: tuple[int, int]
    """Smallest and largest side of an object, pixels."""
    clutter: int
    """Largest number of fragments of other objects in a scene; 0 to this number are equally likely."""
    noise: float
    """Standard deviation of the pixel noise; pixels are in [0, 1]."""
    background: float
    """Brightest value of the ground."""
    bright: float
    """Least value of the leading channel of an ink."""


class Objects(NamedTuple):
    """Objects of all scenes in the order of painting, scene by scene."""

    scene: Index
    """(M,) its scene."""
    position: Index
    """(M,) 0 for the first object of its scene, 1 for the next."""
    label: Index
    """(M,) its class."""


class SceneSplit(NamedTuple):
    """Distributions of classes, glyphs and inks that the scenes of one split are drawn from."""

    weights: Callable[[Generator, int], NDArray[np.float64]]
    """Class weights (N, C) of N scenes, not normalized."""
    pick: Callable[[Generator, Index], Floats]
    """Glyphs (M, 8, 8) for labels (M,)."""
    tint: Callable[[Index], Index]
    """Inks (M,) for labels (M,): any, warm or cool."""
    bank: Floats
    """All glyphs (G, 8, 8) of this split, for the clutter."""


def build_scenes(
    rng: Generator, split: SceneSplit, style: Style, classes: tuple[str, ...], number: int, prefix: str
) -> Annotations:
    """Generate `number` scenes with all labels and boxes.

    Ids are `<prefix>-0000`, `<prefix>-0001`, ...; boxes are the squares of the objects, first and last pixel.
    """
    objects = draw_objects(rng, split.weights(rng, number))
    pixels, corners = render(rng, split.pick(rng, objects.label), split.tint(objects.label), objects, split.bank, style)
    codes = np.full((number, len(classes)), ABSENT, dtype=np.int8)
    codes[objects.scene, objects.label] = PRESENT
    ids = tuple(f"{prefix}-{row:04d}" for row in range(number))
    boxes = Boxes(objects.scene, objects.label, corners)
    return Annotations(ArrayImages(pixels, ids), ids, classes, LabelTable(codes), boxes)


def draw_objects(rng: Generator, weights: NDArray[np.float64]) -> Objects:
    """Draw 1 to 4 objects for each of N scenes, classes without replacement in proportion to `weights` (N, C).

    The classes with the smallest exponential waiting times, weights being the rates, are a draw without replacement.
    """
    counts = 1 + rng.choice(len(LABEL_COUNTS), size=len(weights), p=LABEL_COUNTS)
    waiting = rng.exponential(size=weights.shape) / weights
    first = np.argsort(waiting, axis=1, kind="stable")[:, : len(LABEL_COUNTS)]
    scene, position = np.nonzero(np.arange(len(LABEL_COUNTS)) < counts[:, None])
    return Objects(scene, position, first[scene, position])


def render(
    rng: Generator, glyphs: Floats, tints: Index, objects: Objects, bank: Floats, style: Style
) -> tuple[NDArray[np.uint8], Floats]:
    """Paint the scenes.

    Args:
        rng: generator of all draws.
        glyphs: (M, 8, 8), one per object.
        tints: (M,) inks.
        objects: scene of each object; every scene has at least one.
        bank: (G, 8, 8) glyphs that clutter is cut from.
        style: difficulty of the scenes.

    Returns:
        Images (N, S, S, 3) uint8, and corners (M, 4) of the objects, x1 y1 x2 y2, the last pixel included.
    """
    squares = place_objects(rng, objects, style.sides)
    number = int(objects.scene[-1]) + 1
    pixels = np.empty((number, SIDE, SIDE, 3), dtype=np.uint8)
    for start in range(0, number, _BLOCK):
        canvas = backgrounds(rng, min(_BLOCK, number - start)) * np.float32(style.background)
        _add_clutter(rng, canvas, bank, style)
        block = slice(*np.searchsorted(objects.scene, [start, start + _BLOCK]))
        scene = objects.scene[block] - start
        inks = draw_inks(rng, tints[block], canvas.mean(axis=(1, 2))[scene], style.bright)
        for row, glyph, (x, y, side), ink in zip(scene, glyphs[block], squares[block], inks, strict=True):
            _paint(canvas[row], enlarge(glyph, side), x, y, ink)
        canvas += np.float32(style.noise) * rng.standard_normal(canvas.shape, dtype=np.float32)
        pixels[start : start + _BLOCK] = np.rint(canvas.clip(0, 1) * 255)
    first, side = squares[:, :2], squares[:, 2:]
    return pixels, np.concatenate([first, first + side - 1], axis=1).astype(np.float32)


def place_objects(rng: Generator, objects: Objects, sides: tuple[int, int]) -> Index:
    """Draw squares (M, 3), left top side, that hardly overlap within a scene.

    Each object is tried at up to 12 positions against the earlier objects of its scene; the first position with an
    overlap of at most a tenth of the smaller square is taken, else the one with the least overlap.
    """
    side = rng.integers(sides[0], sides[1] + 1, size=len(objects.scene))
    free = (SIDE + 1 - side)[:, None, None]
    tries = (rng.random((len(side), _TRIES, 2)) * free).astype(np.int64)
    squares = np.concatenate([tries[:, 0], side[:, None]], axis=1)
    for position in range(1, len(LABEL_COUNTS)):
        rows = np.flatnonzero(objects.position == position)
        worst = np.zeros((len(rows), _TRIES))
        for back in range(1, position + 1):
            worst = np.maximum(worst, overlap(tries[rows], side[rows, None], squares[rows - back, None]))
        allowed = worst <= _MOST_OVERLAP
        chosen = np.where(allowed.any(axis=1), allowed.argmax(axis=1), worst.argmin(axis=1))
        squares[rows, :2] = tries[rows, chosen]
    return squares


def overlap(corner: Index, side: Index, other: Index) -> NDArray[np.float64]:
    """Common area of squares, corners (..., 2) and sides (...), and squares (..., 3), as a share of the smaller one."""
    first = np.maximum(corner, other[..., :2])
    last = np.minimum(corner + side[..., None], other[..., :2] + other[..., 2:])
    common = (last - first).clip(0).prod(axis=-1)
    shares: NDArray[np.float64] = common / np.minimum(side, other[..., 2]) ** 2
    return shares


def draw_inks(rng: Generator, tints: Index, ground: Floats, bright: float) -> Floats:
    """Draw colours (M, 3) that contrast with the ground.

    Args:
        rng: generator of the draws.
        tints: (M,) red is the leading channel of warm inks, which have little blue; cool inks are the opposite.
        ground: (M, 3) mean colour of each object's scene; colours closer to it than .245 on average are redrawn.
        bright: the leading channel is between this and 1.
    """
    inks = np.empty((len(tints), 3), dtype=np.float32)
    todo = np.arange(len(tints))
    while len(todo):
        colour, lead = rng.random((len(todo), 3), dtype=np.float32), rng.random((len(todo), 1), dtype=np.float32)
        for tint, leading, weak in ((WARM, 0, 2), (COOL, 2, 0)):
            tinted = tints[todo] == tint
            colour[tinted, weak] *= _INK_SHARE * colour[tinted, leading]
            colour[tinted, 1] = np.minimum(colour[tinted, 1], _GREEN_CAP * colour[tinted, leading])
        inks[todo] = colour / colour.max(axis=1, keepdims=True) * (bright + (1 - bright) * lead)
        todo = todo[np.abs(inks[todo] - ground[todo]).mean(axis=1) <= _CONTRAST]
    return inks


def backgrounds(rng: Generator, number: int) -> Floats:
    """Draw soft coloured ground (number, S, S, 3) in [0, 1]: coarse noise and less of a finer noise."""
    ground = np.zeros((number, SIDE, SIDE, 3), dtype=np.float32)
    for cells, share, kind in ((4, 0.6, Image.Resampling.BICUBIC), (12, 0.4, Image.Resampling.BILINEAR)):
        noise = rng.random((number, 3, cells, cells), dtype=np.float32)
        matrix = _interpolation(cells, SIDE, kind)
        ground += np.float32(share) * (matrix @ noise @ matrix.T).transpose(0, 2, 3, 1)
    return ground.clip(0, 1)


def enlarge(glyph: Floats, side: int) -> Floats:
    """Enlarge a glyph (8, 8) to (side, side), bicubic, in [0, 1]."""
    matrix = _interpolation(GLYPH, int(side), Image.Resampling.BICUBIC)
    return (matrix @ glyph @ matrix.T).clip(0, 1)


@cache
def _interpolation(cells: int, length: int, kind: Image.Resampling) -> Floats:
    """Matrix (length, cells) of Pillow's interpolation along a line, from the columns of the identity."""
    identity = Image.fromarray(np.eye(cells, dtype=np.float32))
    return np.array(identity.resize((cells, length), kind), dtype=np.float32)


def _add_clutter(rng: Generator, canvas: Floats, bank: Floats, style: Style) -> None:
    """Paint fragments of glyphs, a third to half as wide as objects, in any colour, into (N, S, S, 3)."""
    counts = rng.integers(0, style.clutter + 1, size=len(canvas))
    rows = np.repeat(np.arange(len(canvas)), counts)
    glyphs = bank[rng.integers(len(bank), size=len(rows))]
    sides = rng.integers(style.sides[0], style.sides[1] + 1, size=len(rows))
    colours = rng.random((len(rows), 3), dtype=np.float32)
    chances = rng.random((len(rows), 5))
    for row, glyph, side, colour, chance in zip(rows, glyphs, sides, colours, chances, strict=True):
        width = round(side / 3 + chance[0] * (side / 2 - side / 3))
        left, top = (chance[1:3] * (side - width + 1)).astype(int)
        x, y = (chance[3:] * (SIDE - width + 1)).astype(int)
        _paint(canvas[row], enlarge(glyph, side)[top : top + width, left : left + width], x, y, colour)


def _paint(canvas: Floats, cover: Floats, x: int, y: int, ink: Floats) -> None:
    """Blend `ink` (3,) with opacity `cover` (h, w) into a scene (S, S, 3) at column x, row y."""
    part = canvas[y : y + cover.shape[0], x : x + cover.shape[1]]
    part += cover[..., None] * (ink - part)
