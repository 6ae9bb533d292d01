"""Watching what training does to single labels, beside the loop: which are memorised, and which are modified rightly.

N pictures, C classes, B batch. The recorder alone reads `Batch.truth`; nothing it finds reaches a criterion.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from losses.common.functional import at_least_float32, present
from utils.checks import UserError, require
from utils.collectives import gather_rows, world_size
from utils.label_dynamics import MOST_EPOCHS, EpochShare, GroupLosses, HighestLoss, Modifications, memorisation
from utils.options import option
from utils.safe_files import write_atomically
from utils.types import Batch, LabelTable, LossOutput, StateDict

MOST_BYTES = 4 << 30
"""Memory that tables of labels may take; COCO needs 46 MB for both."""

LABELS_FILE = "labels.npz"
"""What a run folder calls what `Recorder.save` writes."""


@dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """What is written down about single labels while training."""

    record: Literal["none", "modification", "memorisation", "all"] = option(
        "none", "log how many of the modified labels are truly present, when labels have their highest loss, or both"
    )
    export_labels: Path | None = option(
        None, "write the observed labels with what the method corrected for good (LL-Cp) to this file at the end"
    )

    def __post_init__(self) -> None:
        choices = ("none", "modification", "memorisation", "all")
        require(self.record in choices, f"--record {self.record}: choose from {', '.join(choices)}")


class _Rows(NamedTuple):
    """Rows of the global batch, each once."""

    place: Tensor  # (B,) in the training set
    observed: Tensor  # (B, C) int8, like the truth
    truth: Tensor
    modified: Tensor  # (B, C) bool
    losses: Tensor  # (B, C) float32


class Recorder:
    """Counts after each step, figures after each epoch, arrays at the end; the same on every process.

    `--record modification`: of the labels that a method modified, how many are truly present. `memorisation`: in which
    epoch each label has its highest loss against assume-negative targets, and how large these losses are, whatever the
    method's own loss. `all`: both, as far as the method offers them. `none`: every call does nothing.

    Args:
        config: what to record.
        observed: (N, C) labels that are trained on.
        truth: (N, C) true labels of the same rows.
        epochs: how many are to come in all.
        device: where the tables lie: that of the losses. 1 byte a label for modification, 6 for memorisation.

    Raises:
        UserError: the tables would need more than `MOST_BYTES`, or there are too many epochs to number.
    """

    def __init__(
        self,
        config: RecordConfig,
        *,
        observed: LabelTable,
        truth: LabelTable,
        epochs: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.observed, self.truth = config, observed, truth
        self.epoch = 0  # the one that the counts belong to
        rows, classes = len(observed), observed.num_classes
        wants = {kind: config.record in (kind, "all") for kind in ("modification", "memorisation")}
        label_bytes = Modifications.BYTES * wants["modification"] + HighestLoss.BYTES * wants["memorisation"]
        size = rows * classes * label_bytes
        require(
            size <= MOST_BYTES,
            f"--record {config.record}: {rows:,} pictures x {classes:,} classes need {size / 2**30:,.1f} GiB, more "
            f"than {MOST_BYTES / 2**30:.0f}; take --record none or fewer pictures (--ss_frac_train)",
        )
        require(
            not wants["memorisation"] or epochs <= MOST_EPOCHS,
            f"--record {config.record}: at most {MOST_EPOCHS} epochs can be told apart, not {epochs}",
        )
        self.modifications = Modifications(rows, classes, device) if wants["modification"] else None
        self.highest = HighestLoss(rows, classes, device) if wants["memorisation"] else None
        self.losses = GroupLosses(device) if wants["memorisation"] else None

    @torch.no_grad()
    def step(self, epoch: int, batch: Batch, output: LossOutput) -> None:
        """Take one training step in. Collective: every process calls it after each of its steps.

        Args:
            epoch: from 1; the first step of another epoch begins its counts.
            batch: this process's, with its truth, which may lie on another device.
            output: what the criterion returned for it.

        Raises:
            UserError: modification alone is to be recorded, and the method modifies no labels.
            ValueError: the batch has no truth.
        """
        if self.config.record == "none":
            return
        if output.modified is None and self.config.record == "modification":
            raise UserError("--record modification: this method modifies no labels; take --record memorisation or none")
        if epoch != self.epoch:
            self._start_epoch(epoch)
        rows = _gathered(batch, output)
        if self.modifications is not None:
            self.modifications.add(epoch, rows.place, rows.observed, rows.truth, rows.modified)
        if self.highest is not None:
            self.highest.add(epoch, rows.place, rows.losses)
        if self.losses is not None:
            self.losses.add(rows.observed, rows.truth, rows.losses)

    def epoch_end(self, epoch: int) -> dict[str, float]:
        """Figures for the log after the last step of `epoch`, as fractions; those of nothing are left out.

        They may be asked for again until the next step. Of an epoch without a recorded step there are none.

        `modified_true`, `modified_ever_true`, `unknown_true`, `found`, `found_ever`: see `Modifications.figures`.
        `warmup_TP`, `warmup_TN`, `warmup_FN`: the share of labels observed and truly present, unknown and truly absent,
        unknown and truly present whose highest loss so far was in epoch 1. `an_loss_TP`, ...: the mean loss of such
        labels in this epoch.
        """
        found: dict[str, float] = {}
        if epoch != self.epoch:
            return found
        if self.modifications is not None:
            found |= self.modifications.figures()
        found |= {f"warmup_{name}": group.warmup for name, group in self.memorisation().items()}
        if self.losses is not None:
            found |= {f"an_loss_{name}": mean for name, mean in self.losses.means().items()}
        return {name: value for name, value in found.items() if value == value}

    def memorisation(self) -> dict[str, EpochShare]:
        """Warm-up and regular share of each group of labels so far (Table 1); empty where they are not recorded."""
        return {} if self.highest is None else memorisation(self.highest.epoch, self.observed, self.truth)

    def save(self, path: Path) -> None:
        """Write what is known of each label as arrays (N, C) of an `.npz`, atomically; nothing where none is recorded.

        `first_modified` uint8, the epoch, 0 for labels never modified and 255 for that and any later epoch;
        `highest_loss` float32 and `epoch_of_highest` int16, -inf and 0 for labels never seen.

        Raises:
            RunError: the disk refuses.
        """
        arrays: dict[str, Tensor] = {}
        if self.modifications is not None:
            arrays["first_modified"] = self.modifications.first
        if self.highest is not None:
            arrays |= {"highest_loss": self.highest.loss, "epoch_of_highest": self.highest.epoch}
        if arrays:
            held: dict[str, Any] = {name: values.cpu().numpy() for name, values in arrays.items()}
            write_atomically(path, lambda file: np.savez_compressed(file, **held))

    def state_dict(self) -> StateDict:
        """Tensors and plain values; with them a killed run goes on to the same figures."""
        return {"epoch": self.epoch} | {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: StateDict) -> None:
        """Go on from a saved state, of the same `--record`."""
        self.epoch = state["epoch"]
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _start_epoch(self, epoch: int) -> None:
        """Begin the counts of an epoch."""
        self.epoch = epoch
        for part in (self.modifications, self.losses):
            if part is not None:
                part.start_epoch()

    def _parts(self) -> dict[str, Modifications | HighestLoss | GroupLosses]:
        """What is recorded, by name."""
        parts = {"modifications": self.modifications, "highest": self.highest, "losses": self.losses}
        return {name: part for name, part in parts.items() if part is not None}


def assume_negative_losses(logits: Tensor, observed: Tensor) -> Tensor:
    """(B, C) binary cross-entropy of each label, unknown ones counting as absent."""
    logits = at_least_float32(logits)
    return F.binary_cross_entropy_with_logits(logits, present(observed, logits.dtype), reduction="none")


def _gathered(batch: Batch, output: LossOutput) -> _Rows:
    """This step's rows of all processes, on the device of the logits; a row that pads the last batch only once.

    They are gathered in every step, and not counted up over processes at the end of an epoch, so that the state of the
    main process alone, which is what a run saves, resumes all of them.
    """
    if batch.truth is None:
        raise ValueError("recording needs batches with their truth")
    device = output.logits.device
    observed, truth = batch.observed.to(device, torch.int8), batch.truth.to(device, torch.int8, non_blocking=True)
    modified = torch.zeros_like(observed) if output.modified is None else output.modified.to(torch.int8)
    index = gather_rows(batch.index.to(device))
    codes = gather_rows(torch.stack([observed, truth, modified], dim=1))
    losses = gather_rows(assume_negative_losses(output.logits, batch.observed.to(device)).float())
    if world_size() > 1:
        same = index[:, None] == index[None, :]
        first = same.to(torch.uint8).argmax(dim=1) == torch.arange(len(index), device=device)
        index, codes, losses = index[first], codes[first], losses[first]
    return _Rows(index, codes[:, 0], codes[:, 1], codes[:, 2].bool(), losses)
