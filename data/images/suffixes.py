"""Suffixes of image files."""

from __future__ import annotations

from pathlib import PurePath

# fmt: off
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif", ".jp2",
    ".ppm", ".pgm", ".pbm", ".pnm",
)
# fmt: on
"""In lower case; of two images of one name, the one whose suffix is first here is meant."""


HEIC_SUFFIXES = (".heic", ".heif")
"""Of pictures that are read where pillow-heif is installed. Files that are looked for, not named, never have them: what
a dataset is must not depend on what is installed."""


def is_heic_name(name: str) -> bool:
    """True for the name of a file that has a suffix of HEIC pictures, in any case, and is not hidden."""
    return not name.startswith(".") and PurePath(name).suffix.lower() in HEIC_SUFFIXES


def is_image_name(name: str) -> bool:
    """True for the name of a file that has a suffix of images, in any case, and is not hidden."""
    return not name.startswith(".") and PurePath(name).suffix.lower() in SUFFIXES
