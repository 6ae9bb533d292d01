"""Group regulariser: images of one recording, patient or site have like scores (L48, NeurIPS 2025 datasets track).

B batch, C classes, N training images, G groups of them. Any method of one forward pass takes it: `group_regularised`
makes a criterion class of another. Source: cvl-umass/l48-benchmarking, `losses/AssetReg.py`; formulas, and differences
from that code: docs/group_regulariser.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from losses.common.base import Criterion
from losses.common.functional import at_least_float32
from losses.common.global_batch import GlobalBatch
from losses.common.memory import MemoryNeed, store_rows
from utils.checks import require
from utils.options import option
from utils.seeding import derive_seed
from utils.types import PRESENT, Batch, CriterionInfo, Index, LabelTable, LossOutput, ModelOutput

Control = Literal["none", "shuffled", "half"]

_BLOCK = 16_384  # rows of labels that are looked at at a time


@dataclass(frozen=True, kw_only=True)
class GroupConfig:
    """The group regulariser. Raises: UserError for a value that cannot work."""

    group_weight: float = option(
        0.0, "alpha: weight of a loss by which scores of images of one group are alike; 0: none"
    )
    group_rate: float | Literal["group"] = option(
        0.001, "eps: share of each score in the mean of its group; group: 2 divided by the images of the group"
    )
    group_start: float | Literal["uniform"] = option(
        "uniform", "means of groups at the start, but for observed positives; uniform: drawn between .4 and .6"
    )
    group_control: Control = option(
        "none", "what groups are worth: shuffled, images change their groups by lot; half, means stay one half"
    )

    def __post_init__(self) -> None:
        weight, control = self.group_weight, self.group_control
        require(0 <= weight < math.inf, f"--group_weight {weight}: must not be negative")
        for name, word in (("group_rate", "group"), ("group_start", "uniform")):
            value = getattr(self, name)
            possible = value == word if isinstance(value, str) else 0 <= value <= 1
            require(possible, f"--{name} {value}: must be in [0, 1], or {word}")
        known = get_args(Control)
        require(control in known, f"--group_control {control}: must be one of {', '.join(known)}")


def group_losses(logits: Tensor, means: Tensor) -> Tensor:
    """(B, C) cross-entropy of scores against soft targets: softplus(z) - m z, of logits and means (B, C)."""
    return F.softplus(logits) - means * logits


def moved_means(means: Tensor, groups: Tensor, scores: Tensor, rates: Tensor) -> Tensor:
    """Means of the groups of a batch after its scores: m <- (1 - eps) m + eps p for one row after the other.

    Args:
        means: (B, C) mean of the group of each row, before.
        groups: (B,) its number.
        scores: (B, C) p.
        rates: (B,) eps of its group.

    Returns:
        (B, C) mean of the group of each row, after all rows.
    """
    same = groups[:, None] == groups[None, :]
    kept = (1 - rates) ** same.triu(diagonal=1).sum(dim=1)
    before = (1 - rates) ** same.sum(dim=1)
    return before[:, None] * means + same.to(scores.dtype) @ ((rates * kept)[:, None] * scores)


def seeded_means(groups: Index, observed: LabelTable, start: float | Literal["uniform"], seed: int) -> Tensor:
    """(G, C) float32 means at the start: 1 where a class is observed present in any row of a group.

    Args:
        groups: (N,) number of the group of each row.
        observed: (N, C).
        start: of all others, or "uniform" for draws between .4 and .6.
        seed: of these.
    """
    shape = int(groups.max(initial=-1)) + 1, observed.num_classes
    generator = torch.Generator().manual_seed(derive_seed(seed, "group means"))
    drawn = 0.4 + 0.2 * torch.rand(shape, generator=generator)
    means = drawn if isinstance(start, str) else torch.full(shape, float(start))
    for first in range(0, len(groups), _BLOCK):
        rows, labels = np.nonzero(observed.rows(slice(first, first + _BLOCK)) == PRESENT)
        means[torch.from_numpy(groups[first + rows]), torch.from_numpy(labels)] = 1
    return means


class _Watched:
    """A model that remembers the logits that it gave."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.logits: Tensor | None = None

    def __call__(self, *given: Any, **named: Any) -> ModelOutput:
        """What the model says."""
        output: ModelOutput = self.model(*given, **named)
        self.logits = output.logits
        return output


class GroupMeans(Criterion):
    """What `group_regularised` puts before another criterion: its loss, and `group_losses` of all entries.

    State, besides that of the other: `group_means` (G, C) float32, read before the scores of a batch move them.
    Logged: `group`, what the regulariser adds.
    """

    group_config: ClassVar[GroupConfig]
    group_means: Tensor
    group_rates: Tensor
    group_of: Tensor

    def __init__(self, config: Any, info: CriterionInfo) -> None:
        super().__init__(config, info)
        groups, of = _used_groups(self.group_config, info), self.group_config
        frozen = of.group_control == "half"
        count = int(groups.max(initial=-1)) + 1
        means = seeded_means(groups, info.observed, of.group_start, info.seed)
        self.register_buffer("group_means", torch.full_like(means, 0.5) if frozen else means)
        sizes = torch.from_numpy(np.bincount(groups, minlength=count)).float()
        rates = (2 / sizes).clamp(max=1) if isinstance(of.group_rate, str) else torch.full((count,), of.group_rate)
        self.register_buffer("group_rates", rates, persistent=False)
        self.register_buffer("group_of", torch.from_numpy(groups), persistent=False)

    @classmethod
    def memory_needs(cls, config: Any, info: CriterionInfo) -> Sequence[MemoryNeed]:
        """Those of the other criterion, and the means."""
        count = int(_given_groups(info).max(initial=-1)) + 1
        return [
            *super().memory_needs(config, info),
            MemoryNeed("group means", 4 * count * info.observed.num_classes, per_image=False),
        ]

    def refuses_spliced(self) -> str:
        """It knows to what each image belongs."""
        return "learns from what each image belongs to (--group_weight), and a spliced image belongs to several"

    def forward(self, model: Any, batch: Batch) -> LossOutput:
        """Loss of one batch: that of the other criterion, and the mean of the group losses by their weight."""
        watched = _Watched(model)
        output = super().forward(watched, batch)
        assert watched.logits is not None
        logits = at_least_float32(watched.logits)
        means = self.group_means[self.group_of[batch.index]].to(logits.dtype)
        added = self.group_config.group_weight * group_losses(logits, means).mean()
        if self.group_config.group_control != "half":
            self._move(batch, torch.sigmoid(logits.detach()))
        return output._replace(total=output.total + added, parts={**output.parts, "group": added.detach()})

    @torch.no_grad()
    def _move(self, batch: Batch, scores: Tensor) -> None:
        """Move the means by the scores (B, C) of all processes, in the order of one."""
        whole = GlobalBatch(batch)
        groups, values = self.group_of[whole.index], whole.rows(scores.to(self.group_means.dtype))
        moved = moved_means(self.group_means[groups], groups, values, self.group_rates[groups])
        store_rows(self.group_means, groups, moved)


def group_regularised(name: str, kind: type[Criterion], config: GroupConfig) -> type[Criterion]:
    """The criterion class `kind` with the group regulariser; itself where that weighs nothing.

    Args:
        name: of the method, for messages.
        kind: its criterion.
        config: the regulariser.

    Raises:
        UserError: the method calls the network more than once, or two networks, so that no one score is an image's.
    """
    if config.group_weight == 0:
        return kind
    require(
        kind.single_pass and not kind.needs & {"peers", "second_view", "grids"},
        f"--group_weight {config.group_weight}: {name} has several scores of an image in a step (views, mixtures, two "
        "networks), the regulariser is of one; leave it out, or take another method",
    )
    members = {
        "needs": kind.needs | {"groups"},
        "float32_state": kind.float32_state | {"group_means", "group_rates"},
        "group_config": config,
        "__doc__": kind.__doc__,
    }
    return cast(type[Criterion], type(f"Grouped{kind.__name__}", (GroupMeans, kind), members))


def _given_groups(info: CriterionInfo) -> Index:
    """The groups of the training images. Raises: ValueError where there are none."""
    if info.groups is None:
        raise ValueError("the group regulariser: CriterionInfo.groups is missing")
    return info.groups


def _used_groups(config: GroupConfig, info: CriterionInfo) -> Index:
    """(N,) the group of each image, or, as a control, that of another one by lot."""
    groups = _given_groups(info)
    if config.group_control != "shuffled":
        return groups
    return np.random.default_rng(derive_seed(info.seed, "shuffled groups")).permutation(groups)
