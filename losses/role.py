"""ROLE: unknown labels are estimated jointly with the classifier (Cole et al., CVPR 2021).

B batch, C classes, N training images; p the classifier's probabilities, q the estimated labels. Source: arXiv
2106.09708; published code elijahcole/single-positive-multi-label, `losses.py` and `models.py`. Differences from it:
docs/methods/role.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from losses.assume_negative import Variant, label_costs
from losses.common.base import Criterion
from losses.common.functional import at_least_float32
from losses.common.memory import MemoryNeed, label_memory, read_rows
from losses.single_positive import EPRConfig, count_penalties, expected_count
from utils.checks import require
from utils.options import option
from utils.seeding import derive_seed
from utils.types import ABSENT, PRESENT, Batch, CriterionInfo, LabelTable, LossOutput, Model

HALF_WIDTH = math.log(0.6 / 0.4)
"""Unknown labels are first estimated between 0.4 and 0.6: logits in [-HALF_WIDTH, HALF_WIDTH]."""
SURE = math.log(0.995 / 0.005)
"""Known labels are first estimated 0.995 or 0.005: logits SURE and -SURE."""


@dataclass(frozen=True, kw_only=True)
class ROLEConfig(EPRConfig):
    """Settings of ROLE. Raises: UserError for a value that cannot work, or that is missing."""

    estimator_lr_mult: float = option(10.0, "the label estimates learn this many times faster than the backbone")

    def __post_init__(self) -> None:
        super().__post_init__()
        value = self.estimator_lr_mult
        require(value > 0, f"--estimator_lr_mult {value}: must be above 0; the published value is 10")


def initial_estimates(table: LabelTable, seed: int, *, block: int = 16_384) -> Tensor:
    """(N, C) float32 logits of the first estimates: SURE where PRESENT, -SURE where ABSENT, else drawn uniformly.

    Args:
        table: (N, C) observed labels.
        seed: of the draws, one for every entry, known or not.
        block: rows that are worked on at a time.
    """
    generator = torch.Generator().manual_seed(seed)
    estimates = (2 * torch.rand(len(table), table.num_classes, generator=generator) - 1) * HALF_WIDTH
    for start in range(0, len(table), block):
        codes = torch.from_numpy(table.rows(slice(start, start + block)))
        rows = estimates[start : start + block]
        rows[codes == PRESENT] = SURE
        rows[codes == ABSENT] = -SURE
    return estimates


class RoleLoss(NamedTuple):
    """The two matrices (B, C) of ROLE, each halved: their mean is the loss before the penalties."""

    positive: Tensor  # -log p - log q where PRESENT
    agreement: Tensor  # cross-entropies of p against q and of q against p, each against a constant


def role_losses(logits: Tensor, estimates: Tensor, observed: Tensor, variant: Variant = "fixed") -> RoleLoss:
    """Losses of every entry: present labels should be likely under both, and the two should agree.

    Args:
        logits: (B, C) of the classifier, in single precision at least.
        estimates: (B, C) logits of the estimated labels of these images.
        observed: (B, C) label codes; ABSENT and UNKNOWN have no term of their own.
        variant: see `losses.assume_negative.label_costs`.

    Returns:
        Both matrices, with gradients for classifier and estimates.
    """
    by_classifier, by_estimates = label_costs(logits, variant), label_costs(estimates, variant)
    p, q = torch.sigmoid(logits.detach()), torch.sigmoid(estimates.detach())
    positive = (by_classifier.present + by_estimates.present) * (observed == PRESENT)
    classifier = q * by_classifier.present + (1 - q) * by_classifier.absent
    estimator = p * by_estimates.present + (1 - p) * by_estimates.absent
    return RoleLoss(0.5 * positive, 0.5 * (classifier + estimator))


class ROLE(Criterion):
    """Regularised online label estimation (Cole et al., CVPR 2021).

    State: `estimates`, a parameter (N, C) that the optimiser trains beside the network, without weight decay. Logged:
    `positive`, `agreement`, `penalty`, the parts of the loss; `estimated`, the estimated number of labels per image.

    Raises: UserError if the labels are stored sparse because they are too many for a dense estimate of each.
    """

    label_memories = frozenset({"estimates"})
    config: ROLEConfig

    def __init__(self, config: ROLEConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        rows, classes = len(info.observed), info.observed.num_classes
        require(
            not info.observed.stores_known_only,
            f"role: it keeps an estimate of each of the {rows} x {classes} labels, too many here; take another --loss",
        )
        self.expected = expected_count(config.expected_num_pos, info)
        self.estimates = nn.Parameter(initial_estimates(info.observed, derive_seed(info.seed, "label estimates")))

    @classmethod
    def memory_needs(cls, config: ROLEConfig, info: CriterionInfo) -> list[MemoryNeed]:
        """The estimates, which are learned."""
        return [label_memory("estimates", info.observed, 4, learned=True)]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the estimates, with their own learning rate."""
        return [{"params": [self.estimates], "lr_mult": self.config.estimator_lr_mult, "weight_decay": 0.0}]

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C), rows of the training set (B,)."""
        logits = at_least_float32(model(batch.images).logits)
        estimates = read_rows(self.estimates, batch.index, batch.host_index)
        losses = role_losses(logits, estimates, batch.observed, self.config.variant)
        p, q = torch.sigmoid(logits), torch.sigmoid(estimates)
        of_p, of_q = count_penalties([p, q], self.expected)
        penalty = 0.5 * (of_p + of_q)
        parts = {"positive": losses.positive.mean(), "agreement": losses.agreement.mean(), "penalty": penalty}
        total = torch.stack(list(parts.values())).sum()
        parts["estimated"] = q.sum(dim=1).mean()
        return LossOutput(total, logits.detach(), {name: value.detach() for name, value in parts.items()})
