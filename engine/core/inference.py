"""The one way from images to the outputs of a model: open, transform, normalise, forward, in the view of evaluation.

B batch, C classes, H W height and width of an image, s side of the square that a model gets, all in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from data.images.decoders import DecodedImage
from data.images.files import in_threads
from data.loading.eval_view import EvalView
from utils.types import Images, ModelOutput


class ViewedImage(NamedTuple):
    """An image as a model gets it, in bytes."""

    row: int
    pixels: Tensor  # (3, s, s) uint8
    size: tuple[int, int]  # height and width of the image itself


def view_image(view: EvalView, image: DecodedImage, row: int = 0) -> ViewedImage:
    """An opened image in the view of evaluation."""
    height, width = F.get_size(image)
    return ViewedImage(row, view.transform(image), (height, width))


def viewed_batches(
    view: EvalView, images: Images, rows: Sequence[int], batch_size: int, label: str
) -> Iterator[list[ViewedImage]]:
    """The images of `rows` in the view of evaluation, batch by batch, read by several threads ahead of their use.

    Args:
        view: the view.
        images: where to open them.
        rows: which, in order.
        batch_size: images per batch.
        label: text of the progress bar, on a terminal.

    Raises:
        RunError: an image cannot be read.
    """
    opened = in_threads(partial(_opened, view, view.opener(images)), rows, label)
    while batch := list(islice(opened, batch_size)):
        yield batch


@torch.no_grad()
def infer(
    model: nn.Module, pixels: Sequence[Tensor], view: EvalView, want: frozenset[str] = frozenset()
) -> ModelOutput:
    """Outputs of a model for images in the view of evaluation, on the model's device; logits and maps are float32.

    Args:
        model: in evaluation mode.
        pixels: B images, uint8 (3, s, s).
        view: the view they are in, which normalises them.
        want: what to compute besides logits, such as "cam".
    """
    like = next(model.parameters())
    output: ModelOutput = model(view.normalizer(torch.stack(list(pixels)).to(like.device), like.dtype), want=want)
    cam = output.cam
    return output._replace(logits=output.logits.float(), cam=None if cam is None else cam.float())


def _opened(view: EvalView, opener: Callable[[int], DecodedImage], row: int) -> ViewedImage:
    """The image of one row in the view."""
    return view_image(view, opener(row), row)
