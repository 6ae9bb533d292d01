"""Scenes of printed letters, for pretraining the small backbone: like the scenes of digits, but no digit is in them.

The letters are Pillow's built-in font (Aileron), slanted, turned and thickened at random and reduced to 8 x 8. Those
that read as digits (O as 0, I as 1, ...) are left out, and one of each pair that differs in size alone (C and c).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from data.datasets.generated.scenes import ANY_INK, GLYPH, Floats, SceneSplit, Style, build_scenes
from data.datasets.source import DatasetSource
from utils.seeding import derive_seed
from utils.types import Annotations, Index, Splits

LETTERS = "ACEFGHJKLMNPRTUVWXYadefhkmnprtuy"
STYLE = Style(sides=(12, 18), clutter=2, noise=0.05, background=0.4, bright=0.8)
SCENES = {"train": 8000, "test": 1000}
VARIANTS = {"train": 250, "test": 60}
"""Shapes of each letter that the scenes of a split choose from."""

_FONT_SIZE = 48
_CANVAS = 108
_SLANT = 0.2
_TURN = math.radians(8)
_STRETCH = 0.15
_LEAST_WIDTH = 5
"""Narrow letters are spread to this many of the 8 columns, as digits are; f, r and t would be bars else."""


def load_letters(source: DatasetSource) -> Splits:
    """8000 training and 1000 test scenes, 40 x 40, 32 classes, fully labelled; a function of `source.seed`."""
    return Splits(letter_scenes(source.seed, "train"), letter_scenes(source.seed, "test"))


def letter_scenes(seed: int, split: str) -> Annotations:
    """The scenes of one split, train or test; the two share neither scenes nor shapes of letters."""
    rng = np.random.default_rng(derive_seed("letters", seed, split))
    variants = VARIANTS[split]
    font = ImageFont.load_default(_FONT_SIZE)
    bank = np.stack([letter_glyph(rng, letter, font) for letter in LETTERS for _ in range(variants)])

    def pick(rng: Generator, labels: Index) -> Floats:
        glyphs: Floats = bank[labels * variants + rng.integers(variants, size=len(labels))]
        return glyphs

    drawn_from = SceneSplit(_equal_weights, pick, _any_ink, bank)
    return build_scenes(rng, drawn_from, STYLE, tuple(LETTERS), SCENES[split], f"letters-s{seed}-{split}")


def letter_glyph(rng: Generator, letter: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Floats:
    """One shape (8, 8) in [0, 1] of a letter: thickened, slanted, turned, stretched, as large as the square allows."""
    drawn = Image.new("L", (_CANVAS, _CANVAS))
    thickness = int(rng.integers(0, 3))
    ImageDraw.Draw(drawn).text(
        (_CANVAS / 2, _CANVAS / 2), letter, fill=255, font=font, anchor="mm", stroke_width=thickness
    )
    turned = drawn.transform(drawn.size, Image.Transform.AFFINE, _distortion(rng), Image.Resampling.BILINEAR)
    inked = turned.crop(turned.getbbox())
    share = GLYPH / max(inked.size)
    width, height = (max(_LEAST_WIDTH, round(length * share)) for length in inked.size)
    glyph = Image.new("L", (GLYPH, GLYPH))
    glyph.paste(inked.resize((width, height), Image.Resampling.BOX), ((GLYPH - width) // 2, (GLYPH - height) // 2))
    shape = np.asarray(glyph, dtype=np.float32)
    full: Floats = shape / shape.max()
    return full


def _distortion(rng: Generator) -> tuple[float, ...]:
    """The six coefficients of a random slant, turn and stretch about the middle of the canvas."""
    slant, angle = rng.uniform(-_SLANT, _SLANT), rng.uniform(-_TURN, _TURN)
    across, down = rng.uniform(1 - _STRETCH, 1 + _STRETCH, size=2)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = turn @ np.array([[across, slant], [0, down]])
    middle = np.full(2, _CANVAS / 2)
    shift = middle - matrix @ middle
    return (*matrix[0].tolist(), float(shift[0]), *matrix[1].tolist(), float(shift[1]))


def _equal_weights(_: Generator, number: int) -> NDArray[np.float64]:
    return np.ones((number, len(LETTERS)))


def _any_ink(labels: Index) -> Index:
    return np.full(len(labels), ANY_INK)
