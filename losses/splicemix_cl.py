"""SpliceMix-CL: what the network says of a tile of a spliced image shall be what it says of the image that it shows.

B images of a batch with E spliced ones behind them, of T tiles each, C classes. Source: arXiv 2311.15200; published
code zuiran/SpliceMix, `models/SpliceMix_CL.py`. Differences from it: docs/methods/splicemix_cl.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.common.base import Criterion
from losses.common.functional import at_least_float32, soft_targets, weighted_bce
from losses.common.global_batch import GlobalBatch
from utils.checks import require
from utils.grids import NO_ROW, Layout
from utils.options import option
from utils.types import Batch, LossOutput, ModelOutput


@dataclass(frozen=True, kw_only=True)
class SpliceMixCLConfig:
    """Settings of SpliceMix-CL. Raises: UserError for a value that cannot work."""

    tile_weight: float = option(1.0, "weight of the loss of tiles against the images that they show")
    tile_gradient: bool = option(
        False, "these images learn from their tiles too, as published for VOC 2007; off: tiles learn from images alone"
    )

    def __post_init__(self) -> None:
        require(0 <= self.tile_weight < math.inf, f"--tile_weight {self.tile_weight}: must be 0 or more")


class TiledModel(Protocol):
    """A model that also classifies the tiles of images that are grids."""

    def __call__(
        self, images: Tensor, want: frozenset[str] = frozenset(), *, layout: Layout | None = None
    ) -> ModelOutput:
        """Images (B + E, 3, H, W) and the layout of the last E; logits (B + E, C) and `tile_logits` (E, T, C) out."""
        ...


def tile_losses(tiles: Tensor, images: Tensor, shown: Tensor) -> Tensor:
    """BCE of tiles against the probabilities of the images that they show: softplus(z) - sigmoid(z') z.

    Args:
        tiles: (E, T, C) logits z of the tiles, in single precision at least.
        images: (E, T, C) logits z' of their images.
        shown: (E, T) bool; False where a tile is empty.

    Returns:
        (E, T, C), 0 of an empty tile.
    """
    losses = -F.logsigmoid(-tiles) - torch.sigmoid(images) * tiles
    return losses.masked_fill(~shown[:, :, None], 0)


class SpliceMixCL(Criterion):
    """SpliceMix with consistency learning (Wang et al., TMM 2025): BCE of all images, and that of tiles.

    The feature map of a spliced image is cut into its tiles, each of which the head classifies as it does an image. It
    holds no state; UNKNOWN is read as ABSENT. Logged: `bce` and `tiles`, the two terms, without the weight.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"grids"})
    takes_soft: ClassVar[bool] = True
    config: SpliceMixCLConfig

    def forward(self, model: TiledModel, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B + E, 3, H, W), observed labels (B + E, C), the layout of the last E."""
        layout = batch.layout
        some = layout is not None and len(layout.tiles) > 0 and self.config.tile_weight > 0
        output = model(batch.images, layout=layout) if some else model(batch.images)
        logits = at_least_float32(output.logits)
        bce = weighted_bce(logits, soft_targets(batch, logits.dtype))
        tiles = logits.new_zeros(()) if layout is None else self._agreement(logits, output.tile_logits, layout, batch)
        total = bce + self.config.tile_weight * tiles
        return LossOutput(total, logits.detach(), {"bce": bce.detach(), "tiles": tiles.detach()})

    def _agreement(self, logits: Tensor, tiles: Tensor | None, layout: Layout, batch: Batch) -> Tensor:
        """Mean over the spliced images of all processes of the mean over all tiles and classes, empty tiles included.

        Scaled as `GlobalBatch.total` is. A process that has none, with `tiles` None, adds nothing.
        """
        own = logits.new_zeros(len(logits), 1)
        if tiles is not None:
            targets = logits[layout.tiles] if self.config.tile_gradient else logits.detach()[layout.tiles]
            losses = tile_losses(at_least_float32(tiles), targets, layout.shown).mean(dim=(1, 2))
            own = torch.cat([own[: len(own) - len(losses)], losses[:, None]])
        whole = GlobalBatch(batch)
        spliced, every = whole.index == NO_ROW, torch.ones(whole.size, 1, dtype=torch.bool, device=own.device)
        return whole.total(own, every) / spliced.sum().clamp(min=1)
