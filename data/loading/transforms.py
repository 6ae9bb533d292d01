"""From an image to the tensor a model sees. B batch; H W height and width, s side of the square a model gets, pixels.

An image is Pillow's or a tensor of bytes, and each step works on both with the same draws. Images stay bytes up to
where a batch is used; a `Normalizer` makes floats of them there. All chance comes from torch's default CPU generator;
`sample_generator` makes it a function of one seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from data.images.decoders import DecodedImage, as_tensor
from data.loading.photometric import Photometric, SideCut
from data.loading.randaugment import Cutout, RandAugment
from data.loading.resizing import RESIZERS, Resizer, antialiased
from utils.checks import require

Step = Callable[[DecodedImage], DecodedImage]
Box = tuple[int, int, int, int]


class Normalization(NamedTuple):
    """Pixels in [0, 1] become (x - mean) / std, channel by channel."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


NORMALIZATIONS: dict[str, Normalization | None] = {
    "unit": None,
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    "centred": Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Scales of the pixels by name; None leaves them in [0, 1], as CoNeS and CSRA do with ImageNet weights."""


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
    """Steps from image to image, then uint8 (3, s, s). Grey images become RGB first."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = tuple(steps)

    def __call__(self, image: DecodedImage) -> Tensor:
        """The bytes of one image, channels innermost in memory; the image itself stays unchanged."""
        if isinstance(image, Image.Image) and image.mode != "RGB":
            image = image.convert("RGB")
        for step in self.steps:
            image = step(image)
        return as_tensor(image)


class Normalizer:
    """From the bytes of a batch to the input of a model, on the device they are on.

    Every value is rounded as if each image had been converted alone, on a CPU as on a GPU.
    """

    def __init__(self, normalization: Normalization | None) -> None:
        self.normalization = normalization

    def __call__(self, pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, 3, H, W) uint8 to floats with the channels innermost in memory, as networks compute fastest."""
        lines = pixels.permute(0, 2, 3, 1).contiguous().flatten(2).to(dtype)
        width, device = pixels.shape[3], pixels.device
        lines.div_(_line((255.0,), 1, device, dtype))  # by a number, a GPU would multiply with a rounded 1/255
        if self.normalization is not None:
            mean, std = (_line(values, width, device, dtype) for values in self.normalization)
            lines.sub_(mean).div_(std)
        return lines.view(*lines.shape[:2], width, 3).permute(0, 3, 1, 2)


@lru_cache(maxsize=16)
def _line(values: tuple[float, ...], width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """`values` for each pixel of a line; adding whole lines is several times as fast as adding pixels of three."""
    return torch.tensor(values, device=device, dtype=dtype).repeat(width)


class Resize:
    """Bilinear to s x s, the aspect not kept."""

    def __init__(self, size: int, resized: Resizer = antialiased) -> None:
        self.size, self.resized = size, resized

    def __call__(self, image: DecodedImage) -> DecodedImage:
        """An image of s x s; the same one where it has that size already."""
        return image if F.get_size(image) == [self.size, self.size] else self.resized(image, self.size)


class RandomCrop:
    """A part of s x s pixels, at any position of an image that is at least that large, each as likely.

    Draws and pixels are those of torchvision's RandomCrop.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: DecodedImage) -> DecodedImage:
        """An image of s x s."""
        height, width = F.get_size(image)
        top, left = (_draw(side - self.size + 1) for side in (height, width))
        return _window(image, (left, top, self.size, self.size))


class CenterCrop:
    """The s x s pixels in the middle of an image that is at least that large."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: DecodedImage) -> DecodedImage:
        """An image of s x s."""
        height, width = F.get_size(image)
        return _window(image, ((width - self.size) // 2, (height - self.size) // 2, self.size, self.size))


class FlippedCrop:
    """Half of the images mirrored, then a random part of each, bilinear to s x s.

    Draws and pixels are those of torchvision's RandomHorizontalFlip and RandomResizedCrop one after the other; but only
    what is left of an image is mirrored.

    Args:
        size: s, in pixels.
        scale: least and greatest share of the image's area.
        resized: how a part becomes s x s.
    """

    def __init__(self, size: int, scale: tuple[float, float], resized: Resizer = antialiased) -> None:
        self.size, self.scale, self.resized = size, scale, resized

    def __call__(self, image: DecodedImage) -> DecodedImage:
        """An image of s x s."""
        mirrored = bool(torch.rand(1) < 0.5)
        top, left, height, width = v2.RandomResizedCrop.get_params(image, self.scale, (3 / 4, 4 / 3))
        if mirrored:
            left = F.get_size(image)[1] - left - width
        part = _cropped(image, (left, top, width, height))
        return self.resized(F.horizontal_flip(part) if mirrored else part, self.size)


class ReflectShift:
    """An image moved by up to `most` pixels each way; what comes in at an edge is the image mirrored there."""

    def __init__(self, most: int) -> None:
        self.most = most

    def __call__(self, image: DecodedImage) -> DecodedImage:
        """An image of the same size. Equals padding by reflection and a random crop, at half their cost."""
        down, right = torch.randint(-self.most, self.most + 1, (2,)).tolist()
        height, width = F.get_size(image)
        rows, columns = _mirrored(height, down)[:, None], _mirrored(width, right)
        if isinstance(image, Tensor):
            return image.permute(1, 2, 0)[rows, columns].permute(2, 0, 1)
        return Image.fromarray(np.asarray(image)[rows, columns])


class MultiScaleCrop:
    """A crop of one of a few sizes at one of 13 positions, then bilinear to s x s (CoNeS, published utils/util.py).

    Args:
        size: s, in pixels.
        scales: sides of the crop as shares of the shorter side of the image.
        max_distort: how many steps of `scales` width and height may lie apart.
        resized: how a crop becomes s x s.
    """

    def __init__(
        self,
        size: int,
        scales: Sequence[float] = (1, 0.9, 0.8, 0.7, 0.6),
        max_distort: int = 2,
        resized: Resizer = antialiased,
    ) -> None:
        self.size, self.scales, self.max_distort, self.resized = size, tuple(scales), max_distort, resized

    def __call__(self, image: DecodedImage) -> DecodedImage:
        """An image of s x s. A crop is cut at the image's edges, which it passes by 2 pixels at most."""
        rows, columns = F.get_size(image)
        pairs = crop_pairs(columns, rows, self.size, self.scales, self.max_distort)
        width, height = (max(side, 1) for side in pairs[_draw(len(pairs))])
        offsets = crop_offsets(columns, rows, width, height)
        left, top = offsets[_draw(len(offsets))]
        right, bottom = min(left + width, columns), min(top + height, rows)
        left, top = max(left, 0), max(top, 0)
        return self.resized(_cropped(image, (left, top, right - left, bottom - top)), self.size)


def crop_pairs(
    image_width: int, image_height: int, size: int, scales: Sequence[float], max_distort: int
) -> list[tuple[int, int]]:
    """The (width, height) pairs, in pixels, that `MultiScaleCrop` chooses from; height varies slowest.

    A side less than 3 pixels off `size` becomes `size`, which then needs no resizing.
    """
    shorter = min(image_width, image_height)
    sides = [int(shorter * scale) for scale in scales]
    sides = [size if abs(side - size) < 3 else side for side in sides]
    indices = range(len(sides))
    return [(sides[j], sides[i]) for i in indices for j in indices if abs(i - j) <= max_distort]


def crop_offsets(image_width: int, image_height: int, width: int, height: int) -> list[tuple[int, int]]:
    """The 13 (left, top) corners, in pixels, of a crop of the given size: quarters of the room there is."""
    x, y = (image_width - width) // 4, (image_height - height) // 4
    corners_and_centre = [(0, 0), (4, 0), (0, 4), (4, 4), (2, 2)]
    edges = [(0, 2), (4, 2), (2, 4), (2, 0)]
    quarters = [(1, 1), (3, 1), (1, 3), (3, 3)]
    return [(across * x, down * y) for across, down in corners_and_centre + edges + quarters]


def _crop(size: int, resized: Resizer) -> list[Step]:
    """CoNeS and CSRA on VOC and COCO: flip, then 70 to 100 % of the area at an aspect of 3:4 to 4:3."""
    return [FlippedCrop(size, scale=(0.7, 1.0), resized=resized)]


def _flip(size: int, resized: Resizer) -> list[Step]:
    return [Resize(size, resized), v2.RandomHorizontalFlip(0.5)]


def _resize_crop(size: int, resized: Resizer) -> list[Step]:
    """CLS: warped to 8/7 of the side (256 for 224), a window of it, then half of them mirrored."""
    return [Resize(_with_margin(size), resized), RandomCrop(size), v2.RandomHorizontalFlip(0.5)]


def _multiscale(size: int, resized: Resizer) -> list[Step]:
    return [MultiScaleCrop(size, resized=resized), v2.RandomHorizontalFlip(0.5)]


def _side_crop(size: int, resized: Resizer) -> list[Step]:
    """The crop of the long-tail papers: 80 to 100 % of each side."""
    return [SideCut(), Resize(size, resized), v2.RandomHorizontalFlip(0.5)]


def _photometric(size: int, resized: Resizer) -> list[Step]:
    """Distribution-balanced loss and NDLP. Colours are distorted behind the cut: pixel by pixel, so it is the same."""
    return [SideCut(), Photometric(), Resize(size, resized), v2.RandomHorizontalFlip(0.5)]


def _shift(size: int, resized: Resizer) -> list[Step]:
    """For handwriting, which no mirror leaves legible."""
    return [Resize(size, resized), ReflectShift(4)]


def _randaugment_cutout(size: int, resized: Resizer) -> list[Step]:
    """ASL, Query2Label, Hill and SPLC: warped, half of each side painted over, two random operations; no mirror."""
    return [Resize(size, resized), Cutout(), RandAugment()]


def _none(size: int, resized: Resizer) -> list[Step]:
    return [Resize(size, resized)]


AUGMENTATIONS: dict[str, Callable[[int, Resizer], list[Step]]] = {
    "crop": _crop,
    "resize-crop": _resize_crop,
    "flip": _flip,
    "multiscale": _multiscale,
    "side-crop": _side_crop,
    "photometric": _photometric,
    "shift": _shift,
    "randaugment-cutout": _randaugment_cutout,
    "none": _none,
}
"""Steps of training images by name; each ends in s x s."""


def _randaugment() -> list[Step]:
    """The strong view of IGNORE: three of torchvision's 14 operations at magnitude 5, before any resizing."""
    return [v2.RandAugment(num_ops=3, magnitude=5)]


SECOND_VIEWS: dict[str, Callable[[], list[Step]]] = {"same": list, "randaugment": _randaugment}
"""Steps of the second view of an image by name, before its augmentation, which draws anew for each view."""

CENTRED = frozenset({"resize-crop"})
"""Augmentations beside which images are scored in a centre crop; all others score whole images."""


def train_transform(augment: str, size: int, resize: str = "antialias") -> Pipeline:
    """The transform of training images: any image -> uint8 (3, size, size).

    Args:
        augment: a name of `AUGMENTATIONS`.
        size: side in pixels.
        resize: a name of `RESIZERS`.

    Raises:
        UserError: an unknown name, or a size below 1.
    """
    _check("augment", augment, AUGMENTATIONS)
    _check("resize", resize, RESIZERS)
    require(size >= 1, f"--img_size {size}: must be at least 1 pixel")
    return Pipeline(AUGMENTATIONS[augment](size, RESIZERS[resize]))


def second_transform(second: str, augment: str, size: int, resize: str = "antialias") -> Pipeline:
    """The transform of the second view of training images, for methods that compare two.

    Args:
        second: a name of `SECOND_VIEWS`.
        augment: a name of `AUGMENTATIONS`.
        size: side in pixels.
        resize: a name of `RESIZERS`.

    Raises:
        UserError: an unknown name, or a size below 1.
    """
    _check("second_view", second, SECOND_VIEWS)
    return Pipeline([*SECOND_VIEWS[second](), *train_transform(augment, size, resize).steps])


def eval_transform(augment: str, size: int, resize: str = "antialias") -> Pipeline:
    """The transform of images that are scored, after training under `augment`; nothing random.

    The whole image, bilinear to `size` x `size` whatever its aspect; but for a name in `CENTRED` the middle of the
    larger image that training crops windows from, so that things are as large in both.

    Args:
        augment: a name of `AUGMENTATIONS`.
        size: side in pixels.
        resize: a name of `RESIZERS`.

    Raises:
        UserError: an unknown name, or a size below 1.
    """
    _check("augment", augment, AUGMENTATIONS)
    whole = train_transform("none", size, resize)
    if augment not in CENTRED:
        return whole
    return Pipeline([Resize(_with_margin(size), RESIZERS[resize]), CenterCrop(size)])


def normalizer(name: str) -> Normalizer:
    """The scale of the pixels by its name in `NORMALIZATIONS`. Raises: UserError for an unknown name."""
    _check("normalize", name, NORMALIZATIONS)
    return Normalizer(NORMALIZATIONS[name])


def _check(flag: str, name: str, known: Mapping[str, Any]) -> None:
    require(name in known, f"--{flag} {name}: no such choice; there are {', '.join(known)}")


def _with_margin(size: int) -> int:
    """The side of the image that windows of `size` are cut from, pixels."""
    return round(size * 8 / 7)


def _window(image: DecodedImage, box: Box) -> DecodedImage:
    """The part inside left, top, width and height, in memory of its own with the channels innermost."""
    part = _cropped(image, box)
    return part.permute(1, 2, 0).contiguous().permute(2, 0, 1) if isinstance(part, Tensor) else part


def _cropped(image: DecodedImage, box: Box) -> DecodedImage:
    """The part of an image inside left, top, width and height."""
    left, top, width, height = box
    if isinstance(image, Tensor):
        return image[:, top : top + height, left : left + width]
    return image.crop((left, top, left + width, top + height))


def _mirrored(length: int, shift: int) -> NDArray[np.int64]:
    """Positions `shift`, ..., `shift + length - 1` of a line mirrored at both ends, without repeats."""
    period = max(2 * (length - 1), 1)
    positions = np.arange(shift, shift + length) % period
    return np.minimum(positions, period - positions)


def _draw(choices: int) -> int:
    return int(torch.randint(choices, (1,)))
