"""What every method is: a class that turns a model and a batch into a loss, and remembers what it learns of labels."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from losses.common.functional import at_least_float32
from utils.types import Batch, CriterionInfo, LabelTable, LossOutput, PeerModels


class Criterion(nn.Module):
    """What one paper adds: `loss = criterion(model, batch)`.

    State (confidences, prototypes, corrected labels) is held in buffers and parameters, so that `state_dict` alone
    resumes a method and the engine knows no method by name. Epochs are counted from 1.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """What to hand to this criterion, of {"cam", "features", "second_view", "peers", "train_scores", "labels"}.

    "labels": a model that can be told labels, a `LabelledModel`.
    """

    def __init__(self, config: Any, info: CriterionInfo) -> None:
        super().__init__()
        self.config = config
        self.info = info

    def on_epoch_start(self, epoch: int, train_scores: Tensor | None = None) -> None:
        """Schedules and refreshes. `train_scores` (N, C) comes to criteria that need "train_scores".

        A run that resumes within an epoch does not call this again: what is set here and outlives it is a buffer.
        """

    def forward(self, model: Any, batch: Batch) -> LossOutput:
        """One training step's loss, and the update of the criterion's own state.

        `model` is a `Model`, or `PeerModels` where `needs` holds "peers": each method says which in its own signature.
        """
        raise NotImplementedError

    def corrected_labels(self) -> LabelTable | None:
        """The observed labels (N, C) with what this method corrected for good; None where it corrects nothing so."""
        return None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters of the criterion's own for the optimiser; none by default."""
        return []


class ScheduledCriterion(Criterion):
    """A method whose schedules follow from the epoch alone, which is its state."""

    def __init__(self, config: Any, info: CriterionInfo) -> None:
        super().__init__(config, info)
        self.epoch = 1

    def on_epoch_start(self, epoch: int, train_scores: Tensor | None = None) -> None:
        """Keep the epoch."""
        self.epoch = epoch

    def get_extra_state(self) -> dict[str, int]:
        """The epoch. It is no buffer because reading one back from a GPU would make every step wait."""
        return {"epoch": self.epoch}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take the epoch up again."""
        self.epoch = int(state["epoch"])


class PeerPair(NamedTuple):
    """What belongs to network f, and what belongs to network g."""

    f: Tensor
    g: Tensor


class PeerCriterion(ScheduledCriterion):
    """A method of two networks f and g that see the same images.

    `total` is the sum of both losses. The networks share no parameter, so each learns from its own loss only, and one
    optimiser over both does what two would. `logits` are those of f.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"peers"})

    def forward(self, model: PeerModels, batch: Batch) -> LossOutput:
        """One training step's loss of both networks, each called once."""
        raise NotImplementedError


def peer_logits(model: PeerModels, images: Tensor) -> PeerPair:
    """Logits (B, C) of both networks, in single precision at least. Images: (B, 3, H, W)."""
    return PeerPair(at_least_float32(model.f(images).logits), at_least_float32(model.g(images).logits))
