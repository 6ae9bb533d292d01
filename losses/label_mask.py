"""Label mask training: some labels are input, the others are learnt (Lanchantin et al., C-Tran, CVPR 2021).

B batch, C classes. Published code https://github.com/QData/C-Tran (`--use_lmt`).
Formulas, and all differences from that code: docs/methods/label_mask.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.asl import reduced
from losses.common.base import Criterion
from losses.common.functional import at_least_float32, present
from losses.common.global_batch import GlobalBatch
from losses.common.small_loss import share_count
from losses.common.variants import require_choices
from utils.checks import require
from utils.collectives import of_first
from utils.options import option
from utils.types import UNKNOWN, Batch, LabelledModel, LossOutput


@dataclass(frozen=True, kw_only=True)
class LabelMaskConfig:
    """Settings of label mask training. Raises: UserError for a value that cannot work."""

    mask_known: float = option(
        0.75, "largest share of an image's labels that the network is given; their number is drawn anew each time"
    )
    mask_reveals: Literal["assumed", "observed"] = option(
        "assumed", "labels that may be given: all, unknown ones as absent, or only those that are known"
    )

    def __post_init__(self) -> None:
        require(
            0 <= self.mask_known < 1, f"--mask_known {self.mask_known}: must be in [0, 1); the published value is 0.75"
        )
        require_choices(self)


def draw_revealed(shape: tuple[int, int], most: int, device: torch.device) -> Tensor:
    """(G, C) bool, labels of each image, drawn from torch's generator of `device`: n of them, n uniform in 0..most.

    Args:
        shape: (G, C).
        most: the largest n, at most C.
        device: nothing waits for it.
    """
    order = torch.rand(shape, device=device).argsort(dim=1).argsort(dim=1)
    return order < torch.randint(0, most + 1, (shape[0], 1), device=device)


def revealed_labels(observed: Tensor, targets: Tensor, drawn: Tensor, reveals: str) -> Tensor:
    """The labels of each image that the network is given.

    Args:
        observed: (B, C) label codes.
        targets: (B, C) 0/1, UNKNOWN read as ABSENT.
        drawn: (B, C) bool, see `draw_revealed`.
        reveals: "observed" does not reveal those of the drawn labels that are UNKNOWN.

    Returns:
        (B, C) label codes: PRESENT and ABSENT where revealed, UNKNOWN elsewhere.
    """
    revealed = drawn & (observed != UNKNOWN) if reveals == "observed" else drawn
    return targets.masked_fill(~revealed, UNKNOWN)


class LabelMask(Criterion):
    """Label mask training (CVPR 2021): BCE summed over the labels that were not revealed, and over the batch.

    One draw is made for all processes of a run. It holds no state. Logged: `bce`, the mean over the labels that were
    not revealed, and `told`, the mean number of revealed labels per image.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    config: LabelMaskConfig

    def forward(self, model: LabelledModel, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C), some of which are input of the head."""
        targets = present(batch.observed, torch.float32)
        most = int(share_count(torch.tensor(targets.shape[1]), self.config.mask_known))
        whole = GlobalBatch(batch)
        drawn = whole.own(of_first(draw_revealed((whole.size, targets.shape[1]), most, targets.device)))
        known = revealed_labels(batch.observed, targets, drawn, self.config.mask_reveals)
        logits = at_least_float32(model(batch.images, known=known).logits)
        hidden = known == UNKNOWN
        losses = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none") * hidden
        parts = {
            "bce": losses.detach().sum() / hidden.sum().clamp(min=1),
            "told": (~hidden).sum(dim=1, dtype=losses.dtype).mean(),
        }
        return LossOutput(reduced(losses, batch, "sum"), logits.detach(), parts)
