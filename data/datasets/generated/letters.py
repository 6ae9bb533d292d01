"""Scenes of printed letters, for pretraining the small backbone: like the scenes of digits, but without digits.

The letters are in Pillow's built-in font (Aileron), randomly slanted, rotated and thickened and reduced to 8 x 8. Those
that look like digits (O as 0, I as 1, ...) are left out, and one of each pair that differs only in size (C and c).
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
"""Number of shapes per letter in a split."""

_FONT_SIZE = 48
_CANVAS = 108
_SLANT = 0.2
_ROTATION = math.radians(8)
_STRETCH = 0.15
_LEAST_WIDTH = 5
"""Narrow letters are widened to this many of the 8 columns, like digits; otherwise f, r and t would be bars."""


def load_letters(source: DatasetSource) -> Splits:
    """Generate 8000 training and 1000 test scenes, 40 x 40, 32 classes, fully labelled, from `source.seed`."""
    return Splits(letter_scenes(source.seed, "train"), letter_scenes(source.seed, "test"))


def letter_scenes(seed: int, split: str) -> Annotations:
    """Generate the scenes of one split, train or test; the two share neither scenes nor shapes of letters."""
    rng = np.random.default_rng(derive_seed("letters", seed, split))
    variants = VARIANTS[split]
    font = ImageFont.load_default(_FONT_SIZE)
    bank = np.stack([letter_glyph(rng, letter, font) for letter in LETTERS for _ in range(variants)])

    def pick(rng: Generator, labels: Index) -> Floats:
        """A random variant of each letter."""
        glyphs: Floats = bank[labels * variants + rng.integers(variants, size=len(labels))]
        return glyphs

    drawn_from = SceneSplit(_equal_weights, pick, _any_ink, bank)
    return build_scenes(rng, drawn_from, STYLE, tuple(LETTERS), SCENES[split], f"letters-s{seed}-{split}")


def letter_glyph(rng: Generator, letter: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Floats:
    """Draw one shape (8, 8) in [0, 1] of a letter: thickened, slanted, rotated, stretched, scaled to the square."""
    drawn = Image.new("L", (_CANVAS, _CANVAS))
    thickness = int(rng.integers(0, 3))
    ImageDraw.Draw(drawn).text(
        (_CANVAS / 2, _CANVAS / 2), letter, fill=255, font=font, anchor="mm", stroke_width=thickness
    )
    rotated = drawn.transform(drawn.size, Image.Transform.AFFINE, _distortion(rng), Image.Resampling.BILINEAR)
    cropped = rotated.crop(rotated.getbbox())
    scale = GLYPH / max(cropped.size)
    width, height = (max(_LEAST_WIDTH, round(length * scale)) for length in cropped.size)
    glyph = Image.new("L", (GLYPH, GLYPH))
    glyph.paste(cropped.resize((width, height), Image.Resampling.BOX), ((GLYPH - width) // 2, (GLYPH - height) // 2))
    shape = np.asarray(glyph, dtype=np.float32)
    normalized: Floats = shape / shape.max()
    return normalized


def _distortion(rng: Generator) -> tuple[float, ...]:
    """Draw the six affine coefficients of a random slant, rotation and stretch about the centre of the canvas."""
    slant, angle = rng.uniform(-_SLANT, _SLANT), rng.uniform(-_ROTATION, _ROTATION)
    across, down = rng.uniform(1 - _STRETCH, 1 + _STRETCH, size=2)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = rotation @ np.array([[across, slant], [0, down]])
    centre = np.full(2, _CANVAS / 2)
    shift = centre - matrix @ centre
    return (*matrix[0].tolist(), float(shift[0]), *matrix[1].tolist(), float(shift[1]))


def _equal_weights(_: Generator, number: int) -> NDArray[np.float64]:
    return np.ones((number, len(LETTERS)))


def _any_ink(labels: Index) -> Index:
    return np.full(len(labels), ANY_INK)
