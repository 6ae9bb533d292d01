"""From a picture to the tensor a model sees. H W: height and width in pixels, s: side of the square a model gets.

All chance comes from torch's default CPU generator; `sample_generator` makes it a function of one seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from utils.checks import require

Step = Callable[[Image.Image], Image.Image]


class Normalization(NamedTuple):
    """Pixels in [0, 1] become (x - mean) / std, channel by channel."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


NORMALIZATIONS: dict[str, Normalization | None] = {
    "unit": None,
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
}
"""How pixels are scaled; None leaves them in [0, 1], as CoNeS and CSRA do although their weights are ImageNet's."""


@contextmanager
def sample_generator(seed: int) -> Iterator[None]:
    """Seed torch's default CPU generator, and no GPU's, for the block; its state is put back behind it."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


class Pipeline:
    """Steps from picture to picture, then (3, s, s) float32, normalised. Grey pictures become RGB first."""

    def __init__(self, steps: Sequence[Step], normalization: Normalization | None) -> None:
        self.steps = tuple(steps)
        self.scale: tuple[Tensor, Tensor] | None = None
        if normalization is not None:
            mean, std = (torch.tensor(values).view(3, 1, 1) for values in normalization)
            self.scale = mean, std

    def __call__(self, image: Image.Image) -> Tensor:
        """The tensor of one picture; the picture itself stays as it is."""
        if image.mode != "RGB":
            image = image.convert("RGB")
        for step in self.steps:
            image = step(image)
        channels = np.array(image).transpose(2, 0, 1)
        pixels = torch.from_numpy(np.ascontiguousarray(channels)).float().div_(255)
        if self.scale is None:
            return pixels
        mean, std = self.scale
        return pixels.sub_(mean).div_(std)


class Warp:
    """Bilinear to s x s, the aspect not kept."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Image.Image:
        """A picture of s x s; the same one where it has that size already."""
        return image if image.size == (self.size, self.size) else _resized(image, self.size)


class ReflectShift:
    """A picture moved by up to `most` pixels each way; what comes in at an edge is the picture mirrored there."""

    def __init__(self, most: int) -> None:
        self.most = most

    def __call__(self, image: Image.Image) -> Image.Image:
        """A picture of the same size. Equals padding by reflection and a random crop, at half their cost."""
        down, right = torch.randint(-self.most, self.most + 1, (2,)).tolist()
        pixels = np.asarray(image)
        rows, columns = _mirrored(pixels.shape[0], down), _mirrored(pixels.shape[1], right)
        return Image.fromarray(pixels[rows[:, None], columns])


class MultiScaleCrop:
    """A crop of one of a few sizes at one of 13 places, then bilinear to s x s (CoNeS, published code, utils/util.py).

    Args:
        size: s, in pixels.
        scales: sides of the crop as shares of the shorter side of the picture.
        max_distort: how many places of `scales` width and height may lie apart.
    """

    def __init__(self, size: int, scales: Sequence[float] = (1, 0.9, 0.8, 0.7, 0.6), max_distort: int = 2) -> None:
        self.size, self.scales, self.max_distort = size, tuple(scales), max_distort

    def __call__(self, image: Image.Image) -> Image.Image:
        """A picture of s x s. A crop is cut at the picture's edges, which it passes by 2 pixels at most."""
        pairs = crop_pairs(image.width, image.height, self.size, self.scales, self.max_distort)
        width, height = (max(side, 1) for side in pairs[_draw(len(pairs))])
        offsets = crop_offsets(image.width, image.height, width, height)
        left, top = offsets[_draw(len(offsets))]
        box = (max(left, 0), max(top, 0), min(left + width, image.width), min(top + height, image.height))
        return _resized(image.crop(box), self.size)


def crop_pairs(
    image_width: int, image_height: int, size: int, scales: Sequence[float], max_distort: int
) -> list[tuple[int, int]]:
    """The (width, height) pairs, in pixels, that `MultiScaleCrop` chooses from; height varies slowest.

    A side less than 3 pixels off `size` becomes `size`, which then needs no resizing.
    """
    shorter = min(image_width, image_height)
    sides = [int(shorter * scale) for scale in scales]
    sides = [size if abs(side - size) < 3 else side for side in sides]
    places = range(len(sides))
    return [(sides[j], sides[i]) for i in places for j in places if abs(i - j) <= max_distort]


def crop_offsets(image_width: int, image_height: int, width: int, height: int) -> list[tuple[int, int]]:
    """The 13 (left, top) corners, in pixels, of a crop of the given size: quarters of the room there is."""
    x, y = (image_width - width) // 4, (image_height - height) // 4
    corners_and_centre = [(0, 0), (4, 0), (0, 4), (4, 4), (2, 2)]
    edges = [(0, 2), (4, 2), (2, 4), (2, 0)]
    quarters = [(1, 1), (3, 1), (1, 3), (3, 3)]
    return [(across * x, down * y) for across, down in corners_and_centre + edges + quarters]


def _crop(size: int) -> list[Step]:
    """CoNeS and CSRA on VOC and COCO: flip, then 70 to 100 % of the area at an aspect of 3:4 to 4:3."""
    return [v2.RandomHorizontalFlip(0.5), v2.RandomResizedCrop(size, scale=(0.7, 1.0))]


def _flip(size: int) -> list[Step]:
    return [Warp(size), v2.RandomHorizontalFlip(0.5)]


def _multiscale(size: int) -> list[Step]:
    return [MultiScaleCrop(size), v2.RandomHorizontalFlip(0.5)]


def _shift(size: int) -> list[Step]:
    """For handwriting, which no mirror leaves legible."""
    return [Warp(size), ReflectShift(4)]


def _none(size: int) -> list[Step]:
    return [Warp(size)]


AUGMENTATIONS: dict[str, Callable[[int], list[Step]]] = {
    "crop": _crop,
    "flip": _flip,
    "multiscale": _multiscale,
    "shift": _shift,
    "none": _none,
}
"""What training pictures go through, by name; each ends in s x s."""


def train_transform(augment: str, normalize: str, size: int) -> Pipeline:
    """The transform of training pictures: any picture -> (3, size, size) float32.

    Args:
        augment: a name of `AUGMENTATIONS`.
        normalize: a name of `NORMALIZATIONS`.
        size: side in pixels.

    Raises:
        UserError: an unknown name, or a size below 1.
    """
    _check("augment", augment, AUGMENTATIONS)
    _check("normalize", normalize, NORMALIZATIONS)
    require(size >= 1, f"--img_size {size}: must be at least 1 pixel")
    return Pipeline(AUGMENTATIONS[augment](size), NORMALIZATIONS[normalize])


def test_transform(normalize: str, size: int) -> Pipeline:
    """The transform of pictures that are scored: bilinear to `size` x `size`, whatever the aspect; nothing random.

    Raises:
        UserError: an unknown name, or a size below 1.
    """
    return train_transform("none", normalize, size)


def _check(flag: str, name: str, known: Mapping[str, Any]) -> None:
    require(name in known, f"--{flag} {name}: no such choice; there are {', '.join(known)}")


def _resized(image: Image.Image, size: int) -> Image.Image:
    resized: Image.Image = F.resize(image, [size, size], v2.InterpolationMode.BILINEAR)
    return resized


def _mirrored(length: int, shift: int) -> NDArray[np.int64]:
    """Positions `shift`, ..., `shift + length - 1` of a line mirrored at its first and last place, without repeats."""
    period = max(2 * (length - 1), 1)
    places = np.arange(shift, shift + length) % period
    return np.minimum(places, period - places)


def _draw(choices: int) -> int:
    return int(torch.randint(choices, (1,)))
