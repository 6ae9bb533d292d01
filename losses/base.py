"""What every method is: a class that turns a model and a batch into a loss, and remembers what it learns of labels."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from utils.types import Batch, CriterionInfo, LabelTable, LossOutput, Model


class Criterion(nn.Module):
    """What one paper adds: `loss = criterion(model, batch)`.

    State (confidences, prototypes, corrected labels) is held in buffers and parameters, so that `state_dict` alone
    resumes a method and the engine knows no method by name. Epochs are counted from 1.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """What to hand to this criterion, of {"cam", "features", "second_view", "peers", "train_scores"}."""

    def __init__(self, config: Any, info: CriterionInfo) -> None:
        super().__init__()
        self.config = config
        self.info = info

    def on_epoch_start(self, epoch: int, train_scores: Tensor | None = None) -> None:
        """Schedules and refreshes. `train_scores` (N, C) comes to criteria that need "train_scores".

        A run that resumes within an epoch does not call this again: what is set here and outlives it is a buffer.
        """

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """One training step's loss, and the update of the criterion's own state."""
        raise NotImplementedError

    def corrected_labels(self) -> LabelTable | None:
        """The observed labels (N, C) with what this method corrected for good; None where it corrects nothing so."""
        return None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters of the criterion's own for the optimiser; none by default."""
        return []
