"""Large Loss Matters: the unknown labels with the largest losses are rejected or corrected (Kim et al., CVPR 2022).

B batch, C classes, N training images. Source: arXiv 2206.03740; published code snucml/LargeLossMatters, `losses.py`,
`train.py`. Rules, and all differences from that code: docs/methods/large_loss.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from losses.common.base import ScheduledCriterion
from losses.common.functional import at_least_float32, present, weighted_bce
from losses.common.global_batch import GlobalBatch
from losses.common.memory import MemoryNeed, read_rows, store_rows, zero_rows
from losses.common.variants import fill_variant_options, require_choices
from utils.checks import require
from utils.options import option
from utils.types import PRESENT, UNKNOWN, Batch, Codes, CriterionInfo, LabelTable, LossOutput, Model

Scheme = Literal["LL-R", "LL-Ct", "LL-Cp"]
Population = Literal["unknown", "all"]
Flip = Literal["selected", "strict"]

_BLOCK = 1 << 22  # labels that are unpacked at a time


class LargeLossVariant(NamedTuple):
    """Options for the steps in which the published code differs from its formulas."""

    population: Population
    flip: Flip


VARIANTS = {"fixed": LargeLossVariant("unknown", "selected"), "reference": LargeLossVariant("all", "strict")}


@dataclass(frozen=True, kw_only=True)
class LargeLossConfig:
    """Settings of the large-loss methods. Options left None follow `variant`.

    Raises: UserError for a value that cannot work.
    """

    mod_scheme: Scheme = option(
        "LL-Ct",
        "reject large losses (LL-R), correct the label once (LL-Ct) or for good (LL-Cp)",
        aliases=("largelossmod_scheme",),
    )
    delta_rel: float = option(
        0.2, "percentage of a batch's labels that is modified: added every epoch, or with LL-Cp the same in every epoch"
    )
    start_epoch: int = option(
        2,
        "relative threshold: first epoch in which labels are modified; later for a network without pretrained weights",
    )
    schedule: Literal["accumulated", "exact"] = option(
        "accumulated", "modified share summed up in floating point, which sometimes adds one label, or computed exactly"
    )
    threshold: Literal["relative", "absolute"] = option(
        "relative", "modify a share of the labels, or all whose loss exceeds r0 - epoch * delta_abs"
    )
    r0: float = option(2.0, "absolute threshold: where it starts", aliases=("R0",))
    delta_abs: float = option(0.15, "absolute threshold: its decrease per epoch")
    variant: Literal["fixed", "reference"] = option("fixed", "as in the formulas, or as in the published code")
    population: Population | None = option(
        None, "only unknown labels are ever modified, or, where the threshold is 0, all labels"
    )
    flip: Flip | None = option(
        None, "LL-Cp corrects for good all selected labels, or those strictly above the threshold"
    )

    def __post_init__(self) -> None:
        fill_variant_options(self, VARIANTS)
        require_choices(self)
        require(0 <= self.delta_rel <= 100, f"delta_rel must be a percentage, 0 to 100, got {self.delta_rel}")
        require(self.start_epoch >= 2, f"start_epoch must be 2 or more, got {self.start_epoch}")
        require(math.isfinite(self.r0), f"r0 must be a finite number, got {self.r0}")
        require(0 <= self.delta_abs < math.inf, f"delta_abs must be 0 or more, got {self.delta_abs}")
        require(
            self.threshold == "relative" or self.mod_scheme != "LL-Cp",
            "threshold absolute is defined for LL-R and LL-Ct only: choose another mod_scheme, or threshold relative",
        )

    @property
    def delta(self) -> float | Fraction:
        """`delta_rel` as a share; a `Fraction` where the schedule is exact, so that nothing is rounded."""
        return Fraction(repr(self.delta_rel)) / 100 if self.schedule == "exact" else self.delta_rel / 100

    @property
    def modifies(self) -> bool:
        """True if any label is ever modified: a share of 0 is plain assume-negative."""
        return self.threshold == "absolute" or self.delta_rel > 0


def modified_share(scheme: Scheme, delta: float | Fraction, epoch: int, start: int = 2) -> float | Fraction:
    """Share of a batch's labels that is modified: none in the first epoch, then (t - 1) delta, with LL-Cp delta.

    A later start shifts the whole schedule: the share at epoch t is then that of t - start + 2.

    As in the published code (`train.py`), delta is subtracted from 1 once per epoch, and the share is 1 minus the rest:
    floats accumulate rounding, which sometimes adds one label.

    Args:
        scheme: how labels are modified.
        delta: a share, not a percentage; a `Fraction` is computed with exactly.
        epoch: t, from 1.
        start: the first epoch in which labels are modified; 2 in the paper.

    Returns:
        A share in [0, 1].
    """
    if epoch < start:
        return 0
    if scheme == "LL-Cp":
        return delta
    clean: float | Fraction = 1
    for _ in range(epoch - start + 1):
        clean -= delta
    return min(1 - clean, 1)


def label_count(entries: int, share: float | Fraction) -> int:
    """Number of labels in a share of `entries` labels, rounded up."""
    return math.ceil(entries * share)


def kth_largest(losses: Tensor, count: int) -> Tensor:
    """`count`-th largest loss, or the smallest where there are fewer. Nothing waits for the device.

    Args:
        losses: of any shape, with -inf at entries that do not take part.
        count: 1 or more.

    Returns:
        Scalar; +inf where no entry takes part.
    """
    largest = losses.flatten().topk(min(count, losses.numel()), sorted=False).values.amin()
    smallest = losses.masked_fill(losses == -math.inf, math.inf).amin()
    return torch.maximum(largest, smallest)


def large_loss(logits: Tensor, targets: Tensor, selected: Tensor, scheme: Scheme) -> Tensor:
    """Mean over B*C of the BCE in which `selected` labels are left out (LL-R) or turned (LL-Ct, LL-Cp).

    Equation (4) of the paper with lambda = 0, and with the loss of the opposite label. The mean divides by B*C always.

    Args:
        logits: (B, C).
        targets: (B, C) 0/1, unknown labels assumed negative.
        selected: (B, C) bool, through which no gradient goes.
        scheme: treatment of the selected labels.

    Returns:
        Scalar.
    """
    if scheme == "LL-R":
        return weighted_bce(logits, targets, selected.logical_not().to(logits.dtype))
    return weighted_bce(logits, torch.where(selected, 1 - targets, targets))


def packed(flags: Tensor) -> Tensor:
    """(B, ceil(C/8)) uint8 with the (B, C) bool `flags`, eight per byte, the first in the lowest bit."""
    padded = F.pad(flags.to(torch.uint8), (0, -flags.shape[1] % 8)).reshape(len(flags), -1, 8)
    return (padded << _bits(flags)).sum(dim=2, dtype=torch.uint8)


def unpacked(rows: Tensor, classes: int) -> Tensor:
    """(B, C) bool from rows that `packed` returned."""
    return (rows[:, :, None] >> _bits(rows) & 1).flatten(1)[:, :classes].bool()


def _bits(like: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)


class _Flipped(NamedTuple):
    """Labels of the GLOBAL batch that LL-Cp corrects for good."""

    whole: GlobalBatch
    labels: Tensor  # (G, C) bool


class LargeLoss(ScheduledCriterion):
    """LL-R, LL-Ct and LL-Cp (CVPR 2022): assume negative, except for labels with a large loss.

    State: the epoch; for LL-Cp `corrected` (N, ceil(C/8)), the labels that were corrected for good, one bit each.
    Logged: `bce` before modification, and `modified`, the mean number of labels modified per image.
    """

    label_memories = frozenset({"corrected"})
    config: LargeLossConfig
    corrected: Tensor | None

    def __init__(self, config: LargeLossConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        require(
            not config.modifies or int(info.observed.counts(UNKNOWN).sum()) > 0,
            f"mod_scheme {config.mod_scheme}: no label is unknown, so none may be modified; take --labels single or "
            "dropped (--drop_rate 0: what is not named), or --delta_rel 0 for plain assume-negative",
        )
        width = -(-info.observed.num_classes // 8)
        permanent = config.mod_scheme == "LL-Cp"
        corrected = zero_rows(len(info.observed), width, torch.uint8) if permanent else None
        self.register_buffer("corrected", corrected)

    @classmethod
    def memory_needs(cls, config: LargeLossConfig, info: CriterionInfo) -> list[MemoryNeed]:
        """The corrections of LL-Cp."""
        size = len(info.observed) * -(-info.observed.num_classes // 8)
        return [MemoryNeed("corrections", size)] if config.mod_scheme == "LL-Cp" else []

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch; LL-Cp then corrects the selected labels, for every later visit to these images."""
        logits = at_least_float32(model(batch.images).logits)
        observed = batch.observed
        before = None if self.corrected is None else read_rows(self.corrected, batch.index, batch.host_index)
        if before is not None:
            observed = observed.masked_fill(self._corrections(before), PRESENT)
        targets = present(observed, logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits.detach(), targets, reduction="none")
        selected, flipped = self._select(self._candidates(losses, observed == UNKNOWN), batch)
        if self.corrected is not None and flipped is not None:
            index, on_host = flipped.whole.index, flipped.whole.host_index
            rows = read_rows(self.corrected, index, on_host) | packed(flipped.labels)
            store_rows(self.corrected, index, rows, on_host)
        total = large_loss(logits, targets, selected, self.config.mod_scheme)
        parts = {"bce": losses.mean(), "modified": selected.sum(dim=1, dtype=losses.dtype).mean()}
        return LossOutput(total, logits.detach(), parts, selected)

    @property
    def corrects_for_good(self) -> bool:
        """True for LL-Cp."""
        return self.corrected is not None

    def corrected_labels(self) -> LabelTable | None:
        """The observed labels with those PRESENT that LL-Cp corrected for good, stored as the observed ones are.

        None for the other schemes, which correct nothing for good.
        """
        if self.corrected is None:
            return None
        self.settle_memories()
        observed = self.info.observed
        if observed.stores_known_only:
            return LabelTable(_joined([_stored(codes) for codes in self._blocks()]), default=UNKNOWN)
        return LabelTable(np.concatenate(list(self._blocks())))

    def _corrections(self, rows: Tensor) -> Tensor:
        """(B, C) bool from rows of `corrected`."""
        return unpacked(rows, self.info.observed.num_classes)

    def _candidates(self, losses: Tensor, unknown: Tensor) -> Tensor:
        """(B, C) losses of the labels that may be modified; -inf at the others, under population `all` 0."""
        everything = self.config.population == "all" and self.config.threshold == "relative"
        return losses.masked_fill(~unknown, 0.0 if everything else -math.inf)

    def _select(self, candidates: Tensor, batch: Batch) -> tuple[Tensor, _Flipped | None]:
        """(B, C) bool labels to modify, by the threshold of the GLOBAL batch, and those to correct for good."""
        config = self.config
        if config.threshold == "absolute":
            return candidates > config.r0 - self.epoch * config.delta_abs, None
        share = modified_share(config.mod_scheme, config.delta, self.epoch, config.start_epoch)
        if share == 0:
            return torch.zeros_like(candidates, dtype=torch.bool), None
        whole = GlobalBatch(batch)
        everyone = whole.rows(candidates)
        threshold = kth_largest(everyone, label_count(everyone.numel(), share))
        flipped = everyone > threshold if config.flip == "strict" else everyone >= threshold
        return candidates >= threshold, _Flipped(whole, flipped)

    def _blocks(self) -> Iterator[Codes]:
        """The rows of `corrected_labels`, a block at a time."""
        assert self.corrected is not None
        observed = self.info.observed
        size = max(1, _BLOCK // max(observed.num_classes, 1))
        for start in range(0, len(observed), size):
            part = slice(start, start + size)
            codes = observed.rows(part)
            codes[self._corrections(self.corrected[part].cpu()).numpy()] = PRESENT
            yield codes


def _stored(codes: Codes) -> csr_array:
    """Known labels of dense rows as a CSR array; those that are ABSENT are stored too."""
    known = codes != UNKNOWN
    bounds = np.concatenate([[0], known.sum(axis=1).cumsum()])
    return csr_array((codes[known], known.nonzero()[1], bounds), shape=codes.shape)


def _joined(blocks: list[csr_array]) -> csr_array:
    """The rows of all blocks, which are freed one by one: of many labels there is no room for a second copy."""
    ends = np.cumsum([0, *(block.nnz for block in blocks)])
    kind = np.int32 if ends[-1] <= np.iinfo(np.int32).max else np.int64
    data, indices = np.empty(ends[-1], dtype=np.int8), np.empty(ends[-1], dtype=kind)
    bounds, classes = [np.zeros(1, dtype=kind)], blocks[0].shape[1]
    for first, last in pairwise(ends.tolist()):
        block = blocks.pop(0)
        data[first:last], indices[first:last] = block.data, block.indices
        bounds.append((block.indptr[1:] + first).astype(kind))
    pointers = np.concatenate(bounds)
    return csr_array((data, indices, pointers), shape=(len(pointers) - 1, classes))
