"""The backbone of a head that learns on features from elsewhere: it hands on what it is given.

D feature width, h w feature map; features without positions are maps of one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from models.backbones.feature_extractors import Backbone, Stage

PREFIX = "given/"
"""How the name of such a backbone begins; behind it stand D, or D, h and w: `given/768`, `given/768x16x16`."""

_NAME = re.compile(r"given/([1-9]\d{0,6})(?:x([1-9]\d{0,4})x([1-9]\d{0,4}))?")


def given_name(shape: Sequence[int]) -> str:
    """The name of the backbone for features of the shape D, or D, h and w."""
    return PREFIX + "x".join(map(str, shape))


def given_shape(name: str) -> tuple[int, ...] | None:
    """The shape that a name says, D, or D, h and w; None for the name of any other backbone."""
    found = _NAME.fullmatch(name)
    return tuple(int(side) for side in found.groups() if side) if found else None


class GivenFeatures(Backbone):
    """Features (B, D, h, w) in the place of images. It has no parameters, so nothing of it is trained or saved."""

    stride = 1

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def stages(self) -> list[Stage]:
        """One, without anything in it."""
        return [()]

    def forward(self, images: Tensor) -> Tensor:
        """The features that stand in for images."""
        return images
