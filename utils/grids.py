"""Images that are grids of other images: what each tile shows, and the tiles of their feature maps.

E grids, T tiles of each, D feature width, h w feature map.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

NO_ROW = -1
"""Index of an image that is such a grid, which is no row of the training set."""


class Layout(NamedTuple):
    """Grids of images: which image each tile shows, row by row, and which tiles are empty."""

    rows: int
    columns: int
    tiles: Tensor  # (E, T) long, positions in the batch
    shown: Tensor  # (E, T) bool; False: the tile is empty

    def on(self, device: torch.device) -> Layout:
        """The same on `device`, for which nothing waits."""
        if device.type == "cpu":
            return self
        tiles, shown = (each.pin_memory().to(device, non_blocking=True) for each in (self.tiles, self.shown))
        return self._replace(tiles=tiles, shown=shown)


def tile_maps(maps: Tensor, rows: int, columns: int) -> Tensor:
    """(E * T, D, h // rows, w // columns) the tiles of feature maps (E, D, h, w) of grids, row by row.

    A map that its grid does not divide is scaled down first to one that it does, bilinear between corners that are
    kept (`align_corners`), as published; one of fewer positions than tiles is scaled up.
    """
    height, width = max(maps.shape[2] // rows, 1), max(maps.shape[3] // columns, 1)
    size = rows * height, columns * width
    whole = maps if maps.shape[2:] == size else F.interpolate(maps, size, mode="bilinear", align_corners=True)
    tiles = whole.reshape(len(maps), maps.shape[1], rows, height, columns, width).permute(0, 2, 4, 1, 3, 5)
    return tiles.flatten(0, 2)
