"""VLPL: scores of a vision-language model make unknown labels present, the others stay undecided (CVPRW 2024).

B batch, C classes, N training images, p the sigmoid of the logits. Source: Xing et al., "Vision-Language Pseudo-Labels
for Single-Positive Multi-Label Learning"; published code mvrl/VLPL, `losses.py`, `models.py`. Differences from that
code: docs/methods/vlpl.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from losses.assume_negative import LabelCosts, label_costs
from losses.common.base import Criterion
from losses.common.functional import at_least_float32
from losses.common.memory import MemoryNeed, label_memory, read_rows
from losses.em import EMConfig, em_losses, soft_losses
from utils.checks import require
from utils.options import option
from utils.prior_scores import PriorScores, Probabilities
from utils.types import ABSENT, PRESENT, UNKNOWN, Batch, Codes, CriterionInfo, LossOutput, Model

_BLOCK = 1 << 22  # scores that are turned into labels at a time


@dataclass(frozen=True, kw_only=True)
class VLPLConfig(EMConfig):
    """Settings of VLPL; the defaults are those of COCO. Raises: UserError for a value that cannot work."""

    pseudo_threshold: float = option(0.3, "an unknown label whose score from outside is above this counts as present")
    pseudo_weight: float = option(0.7, "beta: weight of the loss of such a label")
    pseudo_target: float = option(0.9, "probability of such a label in its loss")
    left_out: float = option(
        0.0, "share of the classes, those of the lowest scores of each image, whose unknown labels have no loss"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pseudo_threshold", "pseudo_target", "left_out"):
            require(0 <= getattr(self, name) <= 1, f"--{name} {getattr(self, name)}: must be in [0, 1]")
        weight = self.pseudo_weight
        require(0 <= weight < float("inf"), f"--pseudo_weight {weight}: must not be negative")


def pseudo_codes(scores: Probabilities, threshold: float, left_out: float = 0.0) -> Codes:
    """What scores say of labels: PRESENT above the threshold, ABSENT the lowest of an image, else UNKNOWN.

    Args:
        scores: (B, C).
        threshold: of PRESENT, which goes first.
        left_out: share of the C classes that is ABSENT, rounded down; of equal scores the first classes.

    Returns:
        (B, C) label codes.
    """
    codes = np.full(scores.shape, UNKNOWN, dtype=np.int8)
    lowest = np.argsort(scores, axis=1, kind="stable")[:, : int(left_out * scores.shape[1])]
    np.put_along_axis(codes, lowest, np.int8(ABSENT), axis=1)
    codes[scores > threshold] = PRESENT
    return codes


def vlpl_losses(logits: Tensor, costs: LabelCosts, observed: Tensor, pseudo: Tensor, config: VLPLConfig) -> Tensor:
    """Losses of EM, but for unknown labels with a pseudo label: beta times that of a soft target, or 0.

    Args:
        logits: (B, C) in single precision at least.
        costs: those of the same logits, exact or as published.
        observed: (B, C) label codes.
        pseudo: (B, C) label codes, see `pseudo_codes`; they count where `observed` is UNKNOWN.
        config: weights and target.

    Returns:
        (B, C).
    """
    undecided = em_losses(logits, costs, observed, config.entropy_weight)
    target = torch.full_like(logits, config.pseudo_target)
    present = soft_losses(costs, target, config.pseudo_weight)
    guessed = torch.where(pseudo == PRESENT, present, torch.where(pseudo == ABSENT, 0 * logits, undecided))
    return torch.where(observed == UNKNOWN, guessed, undecided)


class VLPL(Criterion):
    """Vision-language pseudo-labels (Xing et al., CVPRW 2024): EM, with unknown labels of high scores as present.

    State: `pseudo` (N, C) int8, what the scores say of each label; it follows from their file and is not saved.
    `modified` are the unknown labels that are learned as present. Logged: `positive`, `negative`, `entropy` and
    `pseudo`, the parts of the loss; `labelled`, pseudo labels that are present, per image.

    Raises: UserError if there are no scores, or no label is unknown.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"prior_scores"})
    label_memories = frozenset({"pseudo"})
    config: VLPLConfig
    pseudo: Tensor

    def __init__(self, config: VLPLConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        require_unknown("vlpl", info)

        def codes_of(scores: PriorScores, rows: slice) -> Codes:
            return pseudo_codes(scores.rows(rows), config.pseudo_threshold, config.left_out)

        self.register_buffer("pseudo", code_table("vlpl", info, codes_of), persistent=False)

    @classmethod
    def memory_needs(cls, config: VLPLConfig, info: CriterionInfo) -> Sequence[MemoryNeed]:
        """The pseudo labels."""
        return [label_memory("pseudo labels", info.observed, 1)]

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C), rows of the training set (B,)."""
        logits, config, observed = at_least_float32(model(batch.images).logits), self.config, batch.observed
        pseudo = read_rows(self.pseudo, batch.index, batch.host_index)
        losses = vlpl_losses(logits, label_costs(logits, config.variant), observed, pseudo, config)
        guessed = (observed == UNKNOWN) & (pseudo == PRESENT)
        return LossOutput(losses.mean(), logits.detach(), _parts(losses.detach(), observed, guessed), guessed)


def require_unknown(method: str, info: CriterionInfo) -> None:
    """Raise UserError if no label is unknown."""
    require(
        int(info.observed.counts(UNKNOWN).sum()) > 0,
        f"{method}: no label is unknown, so scores say nothing new; take --labels single, known or dropped "
        "(--drop_rate 0: what is not named)",
    )


def code_table(method: str, info: CriterionInfo, codes_of: Callable[[PriorScores, slice], Codes]) -> Tensor:
    """What scores from outside say of every label, found for some rows at a time.

    Args:
        method: its name, for the message.
        info: with prior scores.
        codes_of: from scores and rows to label codes (B, C).

    Returns:
        (N, C) int8.

    Raises:
        ValueError: there are no prior scores.
    """
    scores = info.prior_scores
    if scores is None:
        raise ValueError(f"{method}: CriterionInfo.prior_scores is missing")
    table = torch.empty(len(scores), len(info.classes), dtype=torch.int8)
    parts = 1 if scores.tiles is None else 1 + scores.tiles.shape[1]
    size = max(1, _BLOCK // max(1, len(info.classes) * parts))
    for start in range(0, len(scores), size):
        rows = slice(start, start + size)
        table[rows] = torch.from_numpy(codes_of(scores, rows))
    return table


def _parts(losses: Tensor, observed: Tensor, guessed: Tensor) -> dict[str, Tensor]:
    """The mean of `losses` (B, C) as addends, and the number of labels per image that are `guessed` (B, C)."""
    rest = losses.masked_fill(guessed, 0)
    codes = {"positive": PRESENT, "negative": ABSENT, "entropy": UNKNOWN}
    parts = {name: rest.where(observed == code, 0).mean() for name, code in codes.items()}
    parts["pseudo"] = losses.where(guessed, 0).mean()
    parts["labelled"] = guessed.sum(dim=1, dtype=losses.dtype).mean()
    return parts
