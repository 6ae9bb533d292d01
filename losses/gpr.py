"""GPR: GR loss with labels that a vision-language model is sure of, and a known number of labels (ICCV 2025).

B batch, C classes, N training images, T tiles of an image, p the sigmoid of the logits. Source: AEVLP; published code
Fsoft-AIC/AEVLP, `losses.py`, `utils.py`. Formulas, and differences from that code: docs/methods/gpr.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from losses.assume_negative import LabelCosts
from losses.common.functional import at_least_float32
from losses.common.memory import MemoryNeed, label_memory, read_rows
from losses.em import soft_losses
from losses.gr import GR, GUARD, GRConfig, entry_weights, gr_losses, pseudo_labels
from losses.single_positive import count_penalty, expected_count, require_expected
from losses.vlpl import code_table, require_unknown
from utils.checks import require
from utils.options import as_text, option
from utils.prior_scores import PriorScores, Probabilities
from utils.types import ABSENT, PRESENT, UNKNOWN, Batch, Codes, CriterionInfo, LossOutput, Model


@dataclass(frozen=True, kw_only=True)
class GPRConfig(GRConfig):
    """Settings of GPR; the defaults are those of VOC 2012. Raises: UserError for a value that cannot work."""

    pseudo_threshold: float = option(0.5, "an unknown label whose score from outside is this or more may be present")
    pseudo_top: int = option(3, "most labels of an image that count as present by their scores")
    tile_floor: float = option(
        0.0, "eta: least score of the best tile, or that of the observed label where it is lower, that counts in full"
    )
    pseudo_bounds: tuple[float, ...] = option(
        (0.7, 0.4), "largest and least weight 1 - v of a label that counts as present by its score"
    )
    pseudo_target: float = option(0.9, "rho: probability of such a label in its loss")
    count_weight: float = option(0.05, "weight of the penalty on the number of labels predicted")
    expected_num_pos: float | None = option(
        None, "labels per image on average; must be given where the dataset's settings do not"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pseudo_threshold", "tile_floor", "pseudo_target"):
            require(0 <= getattr(self, name) <= 1, f"--{name} {getattr(self, name)}: must be in [0, 1]")
        require(self.pseudo_top >= 1, f"--pseudo_top {self.pseudo_top}: must be at least 1")
        require(0 <= self.count_weight < math.inf, f"--count_weight {self.count_weight}: must not be negative")
        require_expected(self.expected_num_pos)
        bounds = self.pseudo_bounds
        require(
            len(bounds) == 2 and 0 <= bounds[-1] <= bounds[0] <= 1,
            f"--pseudo_bounds {as_text(bounds)}: must be two numbers in [0, 1], the larger first",
        )


def tile_scores(whole: Probabilities, tiles: Probabilities, observed: Codes, floor: float) -> Probabilities:
    """Mean of the score of the whole image and that of its tiles: of the best one where it is high, else of the worst.

    High is above the floor, or above the largest score of the whole image in a class that is PRESENT where there is one
    and that is lower.

    Args:
        whole: (B, C).
        tiles: (B, T, C).
        observed: (B, C) label codes.
        floor: eta.

    Returns:
        (B, C).
    """
    seen = np.where(observed == PRESENT, whole, -np.inf).max(axis=1, keepdims=True)
    least = np.minimum(np.where(seen < 0, np.inf, seen), np.float32(floor))
    best, worst = tiles.max(axis=1), tiles.min(axis=1)
    parts = np.where(best > least, best, worst)
    return np.asarray((whole + parts) / 2, dtype=np.float32)


def top_codes(scores: Probabilities, threshold: float, top: int) -> Codes:
    """(B, C) PRESENT for the `top` highest of an image that reach the threshold, the first of equals; else UNKNOWN."""
    chosen = np.zeros(scores.shape, dtype=np.bool_)
    np.put_along_axis(chosen, np.argsort(-scores, axis=1, kind="stable")[:, :top], True, axis=1)
    return np.where(chosen & (scores >= threshold), PRESENT, UNKNOWN).astype(np.int8)


def gpr_losses(
    logits: Tensor, observed: Tensor, guessed: Tensor, pseudo: Tensor, weights: Tensor, config: GPRConfig
) -> Tensor:
    """Losses of GR, but for unknown labels that scores from outside say something of.

    Args:
        logits: (B, C) in single precision at least.
        observed: (B, C) label codes.
        guessed: (B, C) label codes of the scores; they count where `observed` is UNKNOWN.
        pseudo: k (B, C), see `losses.gr.pseudo_labels`.
        weights: v (B, C), see `losses.gr.entry_weights`.
        config: powers, bounds and target.

    Returns:
        (B, C).
    """
    plain = gr_losses(
        logits,
        observed,
        pseudo,
        weights,
        present_power=config.present_power,
        absent_power=config.absent_power,
        variant=config.variant,
    )
    costs, most = _costs(logits, config), config.pseudo_bounds[0]
    trust = 1 - weights.clamp(1 - most, 1 - config.pseudo_bounds[1])
    present = trust * soft_losses(costs, torch.full_like(logits, config.pseudo_target), 1.0)
    by_score = torch.where(guessed == PRESENT, present, torch.where(guessed == ABSENT, weights * costs.absent, plain))
    return torch.where(observed == UNKNOWN, by_score, plain)


def _costs(logits: Tensor, config: GPRConfig) -> LabelCosts:
    """-log p and -log(1 - p), exact or as published."""
    if config.variant == "reference":
        p = torch.sigmoid(logits)
        return LabelCosts(-torch.log(p + GUARD), -torch.log(1 - p + GUARD))
    return LabelCosts(-F.logsigmoid(logits), -F.logsigmoid(-logits))


class GPR(GR):
    """GPR loss: mean over B*C of `gpr_losses`, and a penalty on the number of labels predicted in the global batch.

    State: the epoch, and `guessed` (N, C) int8, what the scores say, which follows from their file and is not saved.
    Logged, besides what GR logs: `guess`, the part of the loss of labels that scores make present; `labelled`, their
    number per image; `penalty`. `modified` are these labels.

    Raises: UserError if no label is unknown.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"prior_scores"})
    label_memories = frozenset({"guessed"})
    config: GPRConfig
    guessed: Tensor

    def __init__(self, config: GPRConfig, info: CriterionInfo) -> None:
        require_unknown("gpr", info)
        super().__init__(config, info)
        self.expected = expected_count(config.expected_num_pos, info)

        def codes_of(scores: PriorScores, rows: slice) -> Codes:
            return top_codes(_final_scores(scores, rows, info, config), config.pseudo_threshold, config.pseudo_top)

        self.register_buffer("guessed", code_table("gpr", info, codes_of), persistent=False)

    @classmethod
    def memory_needs(cls, config: GPRConfig, info: CriterionInfo) -> Sequence[MemoryNeed]:
        """What the scores say of each label."""
        return [label_memory("guessed labels", info.observed, 1)]

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C), rows of the training set (B,)."""
        logits, config, observed = at_least_float32(model(batch.images).logits), self.config, batch.observed
        codes = read_rows(self.guessed, batch.index, batch.host_index)
        p, now = torch.sigmoid(logits), self.schedule()
        pseudo = pseudo_labels(p.detach(), now)
        losses = gpr_losses(logits, observed, codes, pseudo, entry_weights(p.detach(), now), config)
        penalty = config.count_weight * count_penalty(p, self.expected)
        guessed = (observed == UNKNOWN) & (codes == PRESENT)
        parts = self._parts(losses.detach().masked_fill(guessed, 0), observed, pseudo, guessed)
        parts["labelled"] = parts.pop("modified")
        parts |= {"guess": losses.detach().where(guessed, 0).mean(), "penalty": penalty.detach()}
        return LossOutput(losses.mean() + penalty, logits.detach(), parts, guessed)


def _final_scores(scores: PriorScores, rows: slice, info: CriterionInfo, config: GPRConfig) -> Probabilities:
    """(B, C) scores of some training images, with those of their tiles where there are any."""
    whole = scores.rows(rows)
    if scores.tiles is None:
        return whole
    return tile_scores(whole, scores.tile_rows(rows), info.observed.rows(rows), config.tile_floor)
