"""Training dynamics of single labels: when each is memorised, and how often a method is right to modify it.

N images, C classes, B batch. Source: Kim et al., "Large Loss Matters in Weakly Supervised Multi-Label
Classification" (CVPR 2022), Figures 1, 3 and 4 and Table 1. Labels are codes: 1 present, 0 absent, -1 unknown; labels
whose truth is UNKNOWN are left out. Shares are fractions. Tables stay on the device on which they are made, and adding
a batch never waits for it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.types import ABSENT, PRESENT, UNKNOWN, LabelTable, StateDict

GROUPS = {"TP": (PRESENT, PRESENT), "TN": (UNKNOWN, ABSENT), "FN": (UNKNOWN, PRESENT)}
"""Groups of labels by observed and true code: an unknown label is trained on as a negative."""

MOST_EPOCHS = 32767
LAST_MODIFIED = 255
"""Labels first modified in a later epoch than this are stored as of this one."""
_BLOCK = 1 << 22  # labels that are counted at a time


class EpochShare(NamedTuple):
    """Shares of a group of labels with the highest loss in epoch 1 (warm-up) and in a later one (regular)."""

    warmup: float  # NaN without labels, like the next
    regular: float
    labels: int


class HighestLoss:
    """Highest loss of each label so far, and the first epoch in which it was reached.

    State: `loss` (N, C) float32 and `epoch` (N, C) int16, 0 for labels not seen yet; 6 bytes per label.
    """

    BYTES = 6

    def __init__(self, rows: int, classes: int, device: torch.device | str = "cpu") -> None:
        self.loss = torch.full((rows, classes), -math.inf, device=device)
        self.epoch = torch.zeros((rows, classes), dtype=torch.int16, device=device)

    @torch.no_grad()
    def add(self, epoch: int, index: Tensor, losses: Tensor) -> None:
        """Add the losses of a batch; epochs must not decrease.

        Args:
            epoch: from 1 to `MOST_EPOCHS`.
            index: (B,) long, rows, each once.
            losses: (B, C).

        Raises:
            ValueError: an epoch outside that range.
        """
        if not 1 <= epoch <= MOST_EPOCHS:
            raise ValueError(f"epoch {epoch}: must be between 1 and {MOST_EPOCHS}")
        losses, before = losses.to(self.loss), self.loss[index]
        higher = losses > before  # strictly, so that of equal losses the first counts
        self.loss[index] = torch.where(higher, losses, before)
        self.epoch[index] = self.epoch[index].masked_fill(higher, epoch)

    def state_dict(self) -> StateDict:
        """For `load_state_dict`."""
        return {"loss": self.loss, "epoch": self.epoch}

    def load_state_dict(self, state: StateDict) -> None:
        """Go on from a saved state."""
        self.loss.copy_(state["loss"])
        self.epoch.copy_(state["epoch"])


def memorisation(epoch: Tensor, observed: LabelTable, truth: LabelTable) -> dict[str, EpochShare]:
    """Table 1: for each of `GROUPS`, shares of labels with the highest loss in the first epoch and later.

    Args:
        epoch: (N, C) of the highest loss, from 1; labels with 0 are left out.
        observed: (N, C) codes of the training labels.
        truth: (N, C) codes.
    """
    counts = dict.fromkeys(GROUPS, np.zeros(2, dtype=np.int64))
    size = max(1, _BLOCK // max(observed.num_classes, 1))
    for start in range(0, len(observed), size):
        rows = slice(start, start + size)
        epochs, seen, true = epoch[rows].cpu().numpy(), observed.rows(rows), truth.rows(rows)
        for name, (seen_code, true_code) in GROUPS.items():
            group = epochs[(seen == seen_code) & (true == true_code)]
            counts[name] = counts[name] + np.array([(group == 1).sum(), (group > 1).sum()])
    return {name: EpochShare(share(*pair), share(*pair[::-1]), int(pair.sum())) for name, pair in counts.items()}


def share(part: int, rest: int) -> float:
    """`part` of the sum of both; NaN when that is 0."""
    return float(part / (part + rest)) if part + rest else math.nan


class GroupLosses:
    """Mean loss of the labels of each of `GROUPS` in an epoch (Figure 1).

    State: `sums` (3, 2) float64, the sum of the losses of a group and its number of labels.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.sums = torch.zeros((len(GROUPS), 2), dtype=torch.float64, device=device)

    def start_epoch(self) -> None:
        """Begin the sums of an epoch."""
        self.sums.zero_()

    @torch.no_grad()
    def add(self, observed: Tensor, truth: Tensor, losses: Tensor) -> None:
        """Add a batch: codes, codes and losses, each (B, C)."""
        found = []
        for seen_code, true_code in GROUPS.values():
            group = (observed == seen_code) & (truth == true_code)
            found.append(torch.stack([losses.double().masked_fill(~group, 0).sum(), group.sum().double()]))
        self.sums += torch.stack(found)

    def means(self) -> dict[str, float]:
        """Mean loss of each group; NaN for a group without labels."""
        rows = zip(GROUPS, self.sums.tolist(), strict=True)
        return {name: total / labels if labels else math.nan for name, (total, labels) in rows}

    def state_dict(self) -> StateDict:
        """For `load_state_dict`."""
        return {"sums": self.sums}

    def load_state_dict(self, state: StateDict) -> None:
        """Go on from a saved state."""
        self.sums.copy_(state["sums"])


class MeanScores:
    """Mean probability of each label over the epochs so far: what a network says of it before it knows it by heart.

    State: `sums` (N, C) float32 of probabilities, 4 bytes per label; `seen` (N,) int32, how often each row was seen.
    """

    BYTES = 4

    def __init__(self, rows: int, classes: int, device: torch.device | str = "cpu") -> None:
        self.sums = torch.zeros((rows, classes), device=device)
        self.seen = torch.zeros(rows, dtype=torch.int32, device=device)

    @torch.no_grad()
    def add(self, index: Tensor, observed: Tensor, losses: Tensor) -> None:
        """Add a batch.

        Args:
            index: (B,) long, rows, each once.
            observed: (B, C) codes.
            losses: (B, C) binary cross-entropies, unknown labels counted as absent.
        """
        kept = torch.exp(-losses.to(self.sums))
        self.sums[index] += torch.where(observed == PRESENT, kept, 1 - kept)
        self.seen[index] += 1

    def means(self) -> Tensor:
        """(N, C) float32 in [0, 1]; NaN for rows never seen."""
        return self.sums / self.seen[:, None]

    def state_dict(self) -> StateDict:
        """For `load_state_dict`."""
        return {"sums": self.sums, "seen": self.seen}

    def load_state_dict(self, state: StateDict) -> None:
        """Go on from a saved state."""
        self.sums.copy_(state["sums"])
        self.seen.copy_(state["seen"])


class Modifications:
    """Counts of modified labels that are truly present, in an epoch and over the run, and the epochs of modification.

    State: `first` (N, C) uint8, the epoch in which a label was modified first, 0 for those that never were and
    `LAST_MODIFIED` for that and all later ones, 1 byte per label; and ten counters.
    """

    BYTES = 1

    def __init__(self, rows: int, classes: int, device: torch.device | str = "cpu") -> None:
        self.first = torch.zeros((rows, classes), dtype=torch.uint8, device=device)
        # Truly present and truly absent labels among those that are modified, that are unknown, and that are both.
        self.counts = torch.zeros((3, 2), dtype=torch.int64, device=device)
        # The same for labels modified in any epoch, and for the unknown ones of these.
        self.ever_counts = torch.zeros((2, 2), dtype=torch.int64, device=device)

    def start_epoch(self) -> None:
        """Begin the counts of an epoch; labels modified in earlier epochs stay recorded."""
        self.counts.zero_()

    def add(self, epoch: int, index: Tensor, observed: Tensor, truth: Tensor, modified: Tensor) -> None:
        """Add a batch.

        Args:
            epoch: from 1.
            index: (B,) long, rows, each once.
            observed: (B, C) codes.
            truth: (B, C) codes.
            modified: (B, C) bool, the labels that this step changed or left out.
        """
        before = self.first[index]
        unknown, new = observed == UNKNOWN, modified & (before == 0)
        groups = (modified, unknown, modified & unknown)
        self.counts += torch.stack([modification_counts(truth, group) for group in groups])
        self.ever_counts += torch.stack([modification_counts(truth, group) for group in (new, new & unknown)])
        self.first[index] = before.masked_fill(new, min(epoch, LAST_MODIFIED))

    def figures(self) -> dict[str, float]:
        """Shares; NaN where there are no labels.

        Shares of truly present labels: `modified_true`, among the labels modified in the epoch (Figure 4);
        `modified_ever_true`, among those modified in any epoch so far, each once; `unknown_true`, among all unknown
        labels seen in the epoch, as a random choice would give. Shares of the false negatives, the unknown labels that
        are truly present: `found`, those modified in the epoch; `found_ever`, those modified in any epoch so far.
        """
        modified, unknown, both = self.counts.tolist()
        ever, both_ever = self.ever_counts.tolist()
        missing = unknown[0]
        return {
            "modified_true": share(*modified),
            "modified_ever_true": share(*ever),
            "unknown_true": share(*unknown),
            "found": share(both[0], missing - both[0]),
            "found_ever": share(both_ever[0], missing - both_ever[0]),
        }

    def state_dict(self) -> StateDict:
        """For `load_state_dict`."""
        return {"first": self.first, "counts": self.counts, "ever_counts": self.ever_counts}

    def load_state_dict(self, state: StateDict) -> None:
        """Go on from a saved state."""
        for name, values in self.state_dict().items():
            values.copy_(state[name])


def modification_counts(truth: Tensor, chosen: Tensor) -> Tensor:
    """(2,) int64: numbers of chosen labels that are truly present and truly absent; arguments of any equal shape."""
    return torch.stack([((truth == code) & chosen).sum() for code in (PRESENT, ABSENT)])
