"""Small pictures of handwriting on coloured ground: the renderer that `digits` and `letters` share.

N scenes, M objects, S side of a scene in pixels, C classes. An object is a glyph, 8 x 8 values in [0, 1] that say how
much of its ink covers the ground. Everything random comes from the generator handed in, and no class label depends
on how a picture came out.
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
"""Chance of a scene to hold 1, 2, 3, 4 objects, each of another class."""
ANY_INK, WARM, COOL = 0, 1, 2

_TRIES = 12
_OVERLAP = 0.105
_CONTRAST = 0.245
_INK_SHARE = 0.45
_GREEN_CAP = 0.8
"""Green at most this share of the leading channel: beside stronger green nobody can tell a warm ink from a cool one."""
_BLOCK = 500
"""Scenes painted at a time: few enough for a processor's cache."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """How hard the scenes are to read."""

    sides: tuple[int, int]
    """Smallest and largest side of an object, pixels."""
    clutter: int
    """Most fragments of other objects in a scene; from 0 on, all equally likely."""
    noise: float
    """Standard deviation of the pixel noise; pixels are in [0, 1]."""
    background: float
    """Brightest value of the ground."""
    bright: float
    """Least value of the leading channel of an ink."""


class Objects(NamedTuple):
    """What stands in the scenes, in the order of painting: scenes in order, each one's objects together."""

    scene: Index
    """(M,) which scene."""
    place: Index
    """(M,) 0 for the first object of its scene, 1 for the next."""
    label: Index
    """(M,) its class."""


class SceneSplit(NamedTuple):
    """One split of an alphabet: what its scenes are drawn from."""

    weights: Callable[[Generator, int], NDArray[np.float64]]
    """Chances (N, C) of the classes in N scenes, up to a factor a row."""
    pick: Callable[[Generator, Index], Floats]
    """Glyphs (M, 8, 8) for labels (M,)."""
    tint: Callable[[Index], Index]
    """Inks (M,) for labels (M,): any, warm or cool."""
    bank: Floats
    """All glyphs (G, 8, 8) of this split, for the clutter."""


def build_scenes(
    rng: Generator, split: SceneSplit, style: Style, classes: tuple[str, ...], number: int, prefix: str
) -> Annotations:
    """`number` scenes with all their labels and boxes known.

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
    """1 to 4 objects for each of N scenes, their classes drawn without replacement in proportion to `weights` (N, C).

    The classes whose exponential clocks ring first, weights being the rates, are a draw without replacement.
    """
    counts = 1 + rng.choice(len(LABEL_COUNTS), size=len(weights), p=LABEL_COUNTS)
    rings = rng.exponential(size=weights.shape) / weights
    first = np.argsort(rings, axis=1, kind="stable")[:, : len(LABEL_COUNTS)]
    scene, place = np.nonzero(np.arange(len(LABEL_COUNTS)) < counts[:, None])
    return Objects(scene, place, first[scene, place])


def render(
    rng: Generator, glyphs: Floats, tints: Index, objects: Objects, bank: Floats, style: Style
) -> tuple[NDArray[np.uint8], Floats]:
    """Paint the scenes.

    Args:
        rng: where all draws come from.
        glyphs: (M, 8, 8), one an object.
        tints: (M,) inks.
        objects: where the objects belong; every scene has at least one.
        bank: (G, 8, 8) glyphs that clutter is cut from.
        style: how hard to read.

    Returns:
        Pictures (N, S, S, 3) uint8, and the objects' corners (M, 4), x1 y1 x2 y2, the last pixel included.
    """
    squares = place_objects(rng, objects, style.sides)
    number = int(objects.scene[-1]) + 1
    pixels = np.empty((number, SIDE, SIDE, 3), dtype=np.uint8)
    for start in range(0, number, _BLOCK):
        canvas = backgrounds(rng, min(_BLOCK, number - start)) * np.float32(style.background)
        _add_clutter(rng, canvas, bank, style)
        mine = slice(*np.searchsorted(objects.scene, [start, start + _BLOCK]))
        scene = objects.scene[mine] - start
        inks = draw_inks(rng, tints[mine], canvas.mean(axis=(1, 2))[scene], style.bright)
        for row, glyph, (x, y, side), ink in zip(scene, glyphs[mine], squares[mine], inks, strict=True):
            _paint(canvas[row], enlarge(glyph, side), x, y, ink)
        canvas += np.float32(style.noise) * rng.standard_normal(canvas.shape, dtype=np.float32)
        pixels[start : start + _BLOCK] = np.rint(canvas.clip(0, 1) * 255)
    first, side = squares[:, :2], squares[:, 2:]
    return pixels, np.concatenate([first, first + side - 1], axis=1).astype(np.float32)


def place_objects(rng: Generator, objects: Objects, sides: tuple[int, int]) -> Index:
    """Squares (M, 3), left top side, that hardly overlap within a scene.

    Each object is tried at up to 12 places, against those of its scene that stand already; the first place whose
    overlap is at most a tenth of the smaller square is taken, else the one with the least overlap.
    """
    side = rng.integers(sides[0], sides[1] + 1, size=len(objects.scene))
    room = (SIDE + 1 - side)[:, None, None]
    tries = (rng.random((len(side), _TRIES, 2)) * room).astype(np.int64)
    squares = np.concatenate([tries[:, 0], side[:, None]], axis=1)
    for place in range(1, len(LABEL_COUNTS)):
        mine = np.flatnonzero(objects.place == place)
        worst = np.zeros((len(mine), _TRIES))
        for back in range(1, place + 1):
            worst = np.maximum(worst, overlap(tries[mine], side[mine, None], squares[mine - back, None]))
        free = worst <= _OVERLAP
        chosen = np.where(free.any(axis=1), free.argmax(axis=1), worst.argmin(axis=1))
        squares[mine, :2] = tries[mine, chosen]
    return squares


def overlap(corner: Index, side: Index, other: Index) -> NDArray[np.float64]:
    """Common area of squares, corners (..., 2) and sides (...), with squares (..., 3): share of the smaller one."""
    first = np.maximum(corner, other[..., :2])
    last = np.minimum(corner + side[..., None], other[..., :2] + other[..., 2:])
    common = (last - first).clip(0).prod(axis=-1)
    shares: NDArray[np.float64] = common / np.minimum(side, other[..., 2]) ** 2
    return shares


def draw_inks(rng: Generator, tints: Index, ground: Floats, bright: float) -> Floats:
    """Colours (M, 3) that stand out.

    Args:
        rng: where the draws come from.
        tints: (M,) warm inks are led by red and have little blue, cool ones are led by blue and have little red.
        ground: (M, 3) mean colour of each object's scene; colours nearer to it than .245 on average are redrawn.
        bright: the leading channel lies between this and 1.
    """
    inks = np.empty((len(tints), 3), dtype=np.float32)
    todo = np.arange(len(tints))
    while len(todo):
        colour, lead = rng.random((len(todo), 3), dtype=np.float32), rng.random((len(todo), 1), dtype=np.float32)
        for tint, leading, weak in ((WARM, 0, 2), (COOL, 2, 0)):
            mine = tints[todo] == tint
            colour[mine, weak] *= _INK_SHARE * colour[mine, leading]
            colour[mine, 1] = np.minimum(colour[mine, 1], _GREEN_CAP * colour[mine, leading])
        inks[todo] = colour / colour.max(axis=1, keepdims=True) * (bright + (1 - bright) * lead)
        todo = todo[np.abs(inks[todo] - ground[todo]).mean(axis=1) <= _CONTRAST]
    return inks


def backgrounds(rng: Generator, number: int) -> Floats:
    """(number, S, S, 3) soft coloured ground in [0, 1]: coarse noise and less of a finer one."""
    ground = np.zeros((number, SIDE, SIDE, 3), dtype=np.float32)
    for cells, share, kind in ((4, 0.6, Image.Resampling.BICUBIC), (12, 0.4, Image.Resampling.BILINEAR)):
        noise = rng.random((number, 3, cells, cells), dtype=np.float32)
        matrix = _interpolation(cells, SIDE, kind)
        ground += np.float32(share) * (matrix @ noise @ matrix.T).transpose(0, 2, 3, 1)
    return ground.clip(0, 1)


def enlarge(glyph: Floats, side: int) -> Floats:
    """A glyph (8, 8) as (side, side), bicubic, in [0, 1]."""
    matrix = _interpolation(GLYPH, int(side), Image.Resampling.BICUBIC)
    return (matrix @ glyph @ matrix.T).clip(0, 1)


@cache
def _interpolation(cells: int, length: int, kind: Image.Resampling) -> Floats:
    """The (length, cells) matrix by which Pillow enlarges a line: what it makes of the identity's columns."""
    identity = Image.fromarray(np.eye(cells, dtype=np.float32))
    return np.array(identity.resize((cells, length), kind), dtype=np.float32)


def _add_clutter(rng: Generator, canvas: Floats, bank: Floats, style: Style) -> None:
    """Paint fragments of glyphs, a third to a half as wide as objects, in any colour, into (N, S, S, 3)."""
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
    """Lay `ink` (3,) over the part of a scene (S, S, 3) at column x, row y, as much of it as `cover` (h, w) says."""
    part = canvas[y : y + cover.shape[0], x : x + cover.shape[1]]
    part += cover[..., None] * (ink - part)
