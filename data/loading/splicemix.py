"""SpliceMix: more images per batch, each a grid of images of that batch with the union of their labels.

B batch, E spliced images, T tiles of each, C classes, H W image. Source: arXiv 2311.15200; what differs from the
published code: docs/splicemix.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.checks import require
from utils.grids import NO_ROW, Layout
from utils.options import option
from utils.types import ABSENT, PRESENT, UNKNOWN, Batch

GRIDS = ((1, 2), (2, 2), (2, 3))
"""Rows and columns of the grids; those that are not square are turned half of the time."""

_ROUNDING = 1e-9  # 0.29 * 100 is 28.999... in floating point, and means 29


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """Images that are made of others, batch by batch. Raises: UserError for a value that cannot work."""

    mix: Literal["none", "splice"] = option(
        "none", "splice: each batch also has images that are grids of its images, with the union of their labels"
    )
    splice_share: float = option(0.25, "splice: spliced images for each image of a batch, rounded down")
    splice_grids: tuple[float, ...] = option((0.3, 0.4, 0.3), "splice: chances of grids of 1x2, 2x2 and 2x3 images")
    splice_drop: float = option(0.3, "splice: chance that a batch's spliced images have tiles left empty, not all")

    def __post_init__(self) -> None:
        require(self.mix in ("none", "splice"), f"--mix {self.mix}: choose from none, splice")
        require(0 < self.splice_share <= 1, f"--splice_share {self.splice_share}: must be in (0, 1]")
        require(0 <= self.splice_drop <= 1, f"--splice_drop {self.splice_drop}: must be in [0, 1]")
        chances = self.splice_grids
        require(
            len(chances) == len(GRIDS) and min(chances) >= 0 and math.isclose(sum(chances), 1, abs_tol=1e-6),
            f"--splice_grids {','.join(f'{chance:g}' for chance in chances)}: give three chances, of 1x2, 2x2 and 2x3, "
            "whose sum is 1",
        )

    def spliced_rows(self, rows: int) -> int:
        """Number of spliced images beside so many others."""
        return int(rows * self.splice_share + _ROUNDING) if self.mix == "splice" else 0


def draw_layout(config: MixConfig, images: int, spliced: int) -> Layout:
    """Draw one grid for all spliced images of a batch, and what each shows, from torch's generator of the host.

    Every image is taken once before any is taken again. Where tiles are left empty, their number is drawn once, between
    1 and all but one, and their places for each image.

    Args:
        config: chances of the grids and of empty tiles.
        images: B, at least 1.
        spliced: E.
    """
    rows, columns = GRIDS[int(torch.multinomial(torch.tensor(config.splice_grids), 1))]
    if rows != columns and torch.rand(()) < 0.5:
        rows, columns = columns, rows
    count = rows * columns
    empty = int(torch.randint(1, count, ())) if torch.rand(()) < config.splice_drop else 0
    rounds = -(-spliced * count // images)
    order = [torch.empty(0, dtype=torch.long), *(torch.randperm(images) for _ in range(rounds))]
    tiles = torch.cat(order)[: spliced * count].view(spliced, count)
    return Layout(rows, columns, tiles, torch.rand(spliced, count).argsort(dim=1) >= empty)


def spliced_images(images: Tensor, layout: Layout) -> Tensor:
    """(E, 3, H, W) grids of images (B, 3, H, W), each scaled down to its tile; an empty tile is 0.

    Tiles have H // rows x W // columns pixels, and a grid that is smaller for that than H x W is scaled up to it. Both
    are bilinear between corners that are kept (`align_corners`), as published.
    """
    height, width = images.shape[2:]
    spliced, rows, columns = len(layout.tiles), layout.rows, layout.columns
    small = _resized(images, height // rows, width // columns)
    tiles = small[layout.tiles] * layout.shown[:, :, None, None, None]
    grids = tiles.view(spliced, rows, columns, *small.shape[1:]).permute(0, 3, 1, 4, 2, 5)
    joined = grids.reshape(spliced, small.shape[1], rows * small.shape[2], columns * small.shape[3])
    whole = joined if joined.shape[2:] == images.shape[2:] else _resized(joined, height, width)
    return whole.contiguous(memory_format=torch.channels_last)  # as the loaders lay images out


def spliced_labels(observed: Tensor, layout: Layout) -> Tensor:
    """(E, C) codes of the grids, of codes (B, C): PRESENT if any tile is, ABSENT if all are, else UNKNOWN.

    An empty tile shows nothing, so every class is absent from it.
    """
    tiles = observed[layout.tiles].masked_fill(~layout.shown[:, :, None], ABSENT)
    present, unknown = (tiles == PRESENT).any(dim=1), (tiles == UNKNOWN).any(dim=1)
    codes = torch.full_like(tiles[:, 0], ABSENT).masked_fill(unknown, UNKNOWN)
    return codes.masked_fill(present, PRESENT)


def spliced_targets(soft: Tensor, layout: Layout, codes: Tensor) -> Tensor:
    """(E, C) soft targets of the grids, of targets (B, C): the largest of the tiles; -1 where `codes` are UNKNOWN."""
    tiles = soft[layout.tiles].masked_fill(~layout.shown[:, :, None], 0)
    return tiles.amax(dim=1).masked_fill(codes == UNKNOWN, UNKNOWN)


@dataclass(frozen=True)
class Splicer:
    """Adds the spliced images of a step to the batch of one of several processes, which has those it can make."""

    config: MixConfig
    rank: int = 0
    world_size: int = 1

    def __call__(self, batch: Batch, rows: int) -> Batch:
        """The batch with spliced images behind its own; itself where there are none.

        Of all processes together they are as many as one alone would make, dealt out as all rows are. A batch smaller
        than the number of processes is left as it is.

        Args:
            batch: of this process; its truth is left out, as spliced images have none.
            rows: of the batch of all processes.
        """
        spliced = self.config.spliced_rows(rows) if rows >= self.world_size else 0
        if spliced == 0:
            return batch
        first = rows + (self.rank - rows) % self.world_size
        own = len(range(first, rows + spliced, self.world_size))
        layout = draw_layout(self.config, len(batch.index), own).on(batch.images.device)
        return _with_spliced(batch, layout, spliced)


def _with_spliced(batch: Batch, layout: Layout, everywhere: int) -> Batch:
    """The batch with the images of a layout, of so many that all processes add."""
    codes = spliced_labels(batch.observed, layout)
    views = [
        None if images is None else torch.cat([images, spliced_images(images, layout)])
        for images in (batch.images, batch.second_view)
    ]
    soft = None if batch.soft is None else torch.cat([batch.soft, spliced_targets(batch.soft, layout, codes)])
    assert views[0] is not None
    return Batch(
        views[0],
        torch.cat([batch.observed, codes]),
        F.pad(batch.index, (0, len(codes)), value=NO_ROW),
        views[1],
        None,
        soft,
        _padded(batch.host_index, len(codes)),
        _padded(batch.global_index, everywhere),
        layout,
    )


def _padded(index: Tensor | None, count: int) -> Tensor | None:
    """An index on the host with so many more entries, in pinned memory where it is there."""
    if index is None:
        return None
    longer = F.pad(index, (0, count), value=NO_ROW)
    return longer.pin_memory() if index.is_pinned() else longer


def _resized(images: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(images, (height, width), mode="bilinear", align_corners=True)
