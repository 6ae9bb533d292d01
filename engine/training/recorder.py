"""Statistics of single labels during training: labels that are memorised, and labels that are modified correctly.

N images, C classes, B batch. Only the recorder reads `Batch.truth`; its results never reach a criterion.
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
from losses.common.global_batch import GlobalBatch
from losses.common.memory import MemoryNeed, label_memory
from utils.checks import UserError, require
from utils.label_dynamics import (
    MOST_EPOCHS,
    EpochShare,
    GroupLosses,
    HighestLoss,
    MeanScores,
    Modifications,
    memorisation,
)
from utils.options import option
from utils.safe_files import write_atomically
from utils.types import Batch, LabelTable, LossOutput, StateDict

LABELS_FILE = "labels.npz"
"""Name in a run folder of the file that `Recorder.save` writes."""


@dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """Statistics of single labels that are recorded in training."""

    record: Literal["none", "modification", "memorisation", "all", "scores"] = option(
        "none",
        "log how many of the modified labels are truly present, when labels have their highest loss, or both (all); "
        "scores: keep the mean probability of each label over the epochs, for audit.py --run",
    )
    export_labels: Path | None = option(
        None, "write the observed labels with what the method corrected for good (LL-Cp) to this file at the end"
    )

    class_priors: bool = option(
        True,
        "at the end of a run that learns from known labels alone (iu, iun, partial_bce, csl ignore), estimate the "
        "share of images that each class is in from scores of the training set: class_priors.csv, for --prior_file",
    )

    def __post_init__(self) -> None:
        choices = ("none", "modification", "memorisation", "all", "scores")
        require(self.record in choices, f"--record {self.record}: choose from {', '.join(choices)}")

    def records(self, kind: str) -> bool:
        """True if statistics of this kind are recorded."""
        return self.record == kind or (self.record == "all" and kind != "scores")

    def memory_needs(self, observed: LabelTable) -> list[MemoryNeed]:
        """The tables of labels (N, C) that are kept."""
        kinds = {"modification": Modifications.BYTES, "memorisation": HighestLoss.BYTES, "scores": MeanScores.BYTES}
        size = sum(size for kind, size in kinds.items() if self.records(kind))
        need = label_memory(f"records of {self.record}", observed, size)
        return [need._replace(remedy="--record none")] if size else []


class _Rows(NamedTuple):
    """Rows of the global batch, each once."""

    index: Tensor  # type: ignore[assignment]  # (B,) in the training set; hides tuple.index, unused here
    observed: Tensor  # (B, C) int8, like the truth
    truth: Tensor
    modified: Tensor  # (B, C) bool
    losses: Tensor  # (B, C) float32


class Recorder:
    """Counts after each step, log columns after each epoch, arrays at the end; the same on every process.

    `--record modification`: share of the modified labels that are truly present. `memorisation`: epoch in which each
    label has its highest loss against assume-negative targets, and the size of these losses, whatever the loss of the
    method. `all`: both, modification only if the method modifies labels. `scores`: mean probability of each label over
    the epochs; no columns. `none`: every call does nothing.

    Args:
        config: the statistics to record.
        observed: (N, C) labels of the training.
        truth: (N, C) true labels of the same rows.
        epochs: number of epochs of the whole training.
        device: device of the tables, that of the losses or the host, to which the rows of each step then move. 1 byte
            per label for modification, 6 for memorisation, 4 for scores.

    Raises:
        UserError: there are too many epochs to number.
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
        self.config, self.observed, self.truth, self.device = config, observed, truth, torch.device(device)
        self.epoch = 0  # epoch of the counts
        rows, classes = len(observed), observed.num_classes
        memorisation = config.records("memorisation")
        require(
            not memorisation or epochs <= MOST_EPOCHS,
            f"--record {config.record}: at most {MOST_EPOCHS} epochs can be recorded, not {epochs}",
        )
        self.modifications = Modifications(rows, classes, device) if config.records("modification") else None
        self.highest = HighestLoss(rows, classes, device) if memorisation else None
        self.losses = GroupLosses(device) if memorisation else None
        self.scores = MeanScores(rows, classes, device) if config.records("scores") else None

    def step(self, epoch: int, batch: Batch, output: LossOutput) -> None:
        """Record one training step. Collective: every process calls it after each of its steps.

        Args:
            epoch: from 1; the first step of another epoch begins its counts.
            batch: the batch of this process with its truth, which may be on another device.
            output: result of the criterion for it.

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
        rows = _gathered(batch, output, self.device)
        if self.modifications is not None:
            self.modifications.add(epoch, rows.index, rows.observed, rows.truth, rows.modified)
        if self.highest is not None:
            self.highest.add(epoch, rows.index, rows.losses)
        if self.losses is not None:
            self.losses.add(rows.observed, rows.truth, rows.losses)
        if self.scores is not None:
            self.scores.add(rows.index, rows.observed, rows.losses)

    def epoch_end(self, epoch: int) -> dict[str, float]:
        """Columns for the log after the last step of `epoch`, as fractions; shares of no labels are left out.

        Callable again until the next step. Empty for an epoch without a recorded step.

        `modified_true`, `modified_ever_true`, `unknown_true`, `found`, `found_ever`: see `Modifications.figures`.
        `warmup_TP`, `warmup_TN`, `warmup_FN`: share of the labels (observed and truly present; unknown and truly
        absent; unknown and truly present) whose highest loss so far was in epoch 1. `an_loss_TP`, ...: mean loss of
        these labels in this epoch.
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
        """Warm-up and regular share of each group of labels so far (Table 1); empty if memorisation is not recorded."""
        return {} if self.highest is None else memorisation(self.highest.epoch, self.observed, self.truth)

    def save(self, path: Path) -> None:
        """Write the records of each label as arrays (N, C) of an `.npz`, atomically; no file if nothing is recorded.

        `first_modified` uint8, the epoch, 0 for labels never modified and 255 for that and any later epoch;
        `highest_loss` float32 and `epoch_of_highest` int16, -inf and 0 for labels never seen; `mean_score` float32, the
        mean probability, NaN for those.

        Raises:
            RunError: the disk refuses.
        """
        arrays: dict[str, Tensor] = {}
        if self.modifications is not None:
            arrays["first_modified"] = self.modifications.first
        if self.highest is not None:
            arrays |= {"highest_loss": self.highest.loss, "epoch_of_highest": self.highest.epoch}
        if self.scores is not None:
            arrays["mean_score"] = self.scores.means()
        if arrays:
            content: dict[str, Any] = {name: values.cpu().numpy() for name, values in arrays.items()}
            write_atomically(path, lambda file: np.savez_compressed(file, **content))

    def state_dict(self) -> StateDict:
        """Tensors and plain values, from which a killed run continues to the same results."""
        return {"epoch": self.epoch} | {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a saved state with the same `--record`."""
        self.epoch = state["epoch"]
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _start_epoch(self, epoch: int) -> None:
        """Begin the counts of an epoch."""
        self.epoch = epoch
        for part in (self.modifications, self.losses):
            if part is not None:
                part.start_epoch()

    def _parts(self) -> dict[str, Modifications | HighestLoss | GroupLosses | MeanScores]:
        """Recorded statistics by name."""
        parts = {
            "modifications": self.modifications,
            "highest": self.highest,
            "losses": self.losses,
            "scores": self.scores,
        }
        return {name: part for name, part in parts.items() if part is not None}


def assume_negative_losses(logits: Tensor, observed: Tensor) -> Tensor:
    """Binary cross-entropy (B, C) of each label, unknown ones counted as absent."""
    logits = at_least_float32(logits)
    return F.binary_cross_entropy_with_logits(logits, present(observed, logits.dtype), reduction="none")


def _gathered(batch: Batch, output: LossOutput, wanted: torch.device) -> _Rows:
    """Rows of this step of all processes, on the wanted device; a row that pads the last batch only once.

    They are gathered in every step, not summed over processes at the end of an epoch, so that all processes can resume
    from the state of the main process, the only one that is saved.
    """
    if batch.truth is None:
        raise ValueError("recording needs batches with their truth")
    device = output.logits.device
    observed, truth = batch.observed.to(device), batch.truth.to(device, non_blocking=True)
    modified = torch.zeros_like(observed) if output.modified is None else output.modified
    losses, whole = assume_negative_losses(output.logits, observed), GlobalBatch(batch)
    own = [each.to(torch.float32) for each in (observed, truth, modified, losses)]  # which holds codes exactly
    observed, truth, modified, losses = whole.rows(torch.stack(own, dim=1)).to(wanted).unbind(dim=1)
    known = whole.host_index if wanted.type == "cpu" else None
    index = whole.index.to(wanted) if known is None else known
    return _Rows(index, observed.to(torch.int8), truth.to(torch.int8), modified.bool(), losses)
