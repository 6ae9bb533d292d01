"""Transition matrices of label noise, estimated by label correlations, and training reweighted by them (NeurIPS 2022).

B batch, C classes, N training images, p the sigmoid of the logits. Source: Li et al., "Estimating Noise Transition
Matrix with Label Correlations for Noisy Multi-Label Learning", arXiv 2309.12706; published code, and differences from
it: docs/methods/transition.md.
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

from losses.assume_negative import split_mean
from losses.common.base import ScheduledCriterion
from losses.common.functional import at_least_float32, present
from losses.common.memory import MemoryNeed, label_memory
from losses.common.noise_rates import NoiseRateConfig, given_rates
from losses.common.variants import require_choices
from losses.transition_estimate import HOW, KnownZero, clean_labels, estimate_noise
from utils.checks import require
from utils.class_facts import NoiseRates
from utils.collectives import broadcast, rank
from utils.options import option
from utils.types import PRESENT, Batch, CriterionInfo, LossOutput, Model

WINDOW = 5
"""Epochs, up to the sample epoch, whose losses are averaged."""
_SURE = 80.0  # logits beyond this change no weight that single precision shows


@dataclass(frozen=True, kw_only=True)
class TransitionConfig(NoiseRateConfig):
    """Settings of the method. Raises: UserError for a value that cannot work."""

    transition_warmup: int | None = option(
        None, "epochs of plain BCE before rates are used (default: half of --epochs)"
    )
    sample_epoch: int | None = option(
        None, "epoch after which rates are estimated, from the losses of five epochs (default: half of the warm-up)"
    )
    known_zero: KnownZero = option(
        "none", "side of the noise that you know to be none: rho_neg, no absent label is seen as present, or rho_pos"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choices(self)
        for name in ("transition_warmup", "sample_epoch"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"--{name} {value}: must be 1 or more")


class NoisePlan:
    """The epochs of a run in which its method does what; the only epoch of a run is a warm-up.

    Raises: UserError where they are too few for the settings.
    """

    def __init__(self, config: TransitionConfig, epochs: int) -> None:
        self.warmup = max(1, epochs // 2) if config.transition_warmup is None else config.transition_warmup
        require(
            self.warmup < epochs or config.transition_warmup is None,
            f"transition: a warm-up of {self.warmup} epochs (--transition_warmup) leaves none of the {epochs} --epochs "
            "for training with the rates it estimates; give more --epochs, or --known_rates",
        )
        self.sample = max(1, self.warmup // 2) if config.sample_epoch is None else config.sample_epoch
        require(
            self.sample <= self.warmup,
            f"--sample_epoch {self.sample}: must be within the warm-up of {self.warmup} epochs (--transition_warmup)",
        )


def label_weights(logits: Tensor, seen: Tensor, rates: Tensor) -> Tensor:
    """(B, C) chance of the noisy label if noisy labels were true, divided by its chance as it is, without gradient.

    Args:
        logits: (B, C) in single precision at least.
        seen: (B, C) noisy labels, 1 or 0.
        rates: (C, 2) chance of an absent label to be seen as present, and of a present one to be seen as absent.
    """
    up, down = rates.to(logits.dtype).unbind(dim=1)
    own, other = torch.where(seen > 0, 1 - down, 1 - up), torch.where(seen > 0, up, down)
    signed = torch.where(seen > 0, logits.detach(), -logits.detach())
    return 1 / (own + other * torch.exp(-signed.clamp(min=-_SURE)))


@torch.no_grad()
def add_scaled_losses(total: Tensor, seen: Tensor, scores: Tensor) -> None:
    """Add to each entry its loss, scaled so that those of the same class and label are from 0 to 1.

    Class by class, so that it takes N entries of memory and not N*C.

    Args:
        total: (N, C), changed in place.
        seen: (N, C) bool, noisy labels.
        scores: (N, C) logits.
    """
    for label in range(total.shape[1]):
        chosen, logits = seen[:, label], scores[:, label].to(total.dtype)
        losses = F.softplus(torch.where(chosen, -logits, logits))
        for part in (chosen, ~chosen):
            least = losses.masked_fill(~part, math.inf).min()
            span = losses.masked_fill(~part, -math.inf).max() - least
            scaled = (losses - least) / span.clamp(min=torch.finfo(losses.dtype).tiny)
            total[:, label] += scaled.where(part, 0)


class Transition(ScheduledCriterion):
    """BCE, and once rates of wrong labels are estimated BCE weighted by them (Li et al., NeurIPS 2022).

    UNKNOWN is read as ABSENT. State: the epoch; `rates` (C, 2), and `how` (C,), a number of `HOW`; without given rates
    `losses` (N, C), sums of scaled losses. Logged: `positive` and `negative`, the parts of the loss by noisy label;
    `weight`, the mean weight.

    Raises: UserError if all labels are alike or stored sparse because they are too many for a score of each, if no
    epoch is left for what the method does, or for rates of two origins.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"train_scores"})
    label_memories = frozenset({"losses"})
    config: TransitionConfig
    losses: Tensor | None
    rates: Tensor
    how: Tensor

    def __init__(self, config: TransitionConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        table, known = info.observed, given_rates(config, info)
        _require_both_kinds(info)
        self.plan = None if known is not None else NoisePlan(config, info.epochs)
        shape = len(table), table.num_classes
        self.register_buffer("losses", None if self.plan is None else torch.zeros(shape))
        rates = np.zeros((table.num_classes, 2)) if known is None else known
        self.register_buffer("rates", torch.from_numpy(rates).float())
        self.register_buffer("how", torch.full((table.num_classes,), -1, dtype=torch.int8))

    @classmethod
    def memory_needs(cls, config: TransitionConfig, info: CriterionInfo) -> Sequence[MemoryNeed]:
        """The losses and the scores of an epoch, unless rates are given."""
        if given_rates(config, info) is not None:
            return ()
        return [label_memory("losses", info.observed, 4), label_memory("scores", info.observed, 4)]

    def wants_train_scores(self, epoch: int) -> bool:
        """Return True after each of the epochs whose losses are averaged."""
        return self.plan is not None and self.plan.sample - WINDOW < epoch - 1 <= self.plan.sample and epoch > 1

    def on_epoch_start(self, epoch: int, train_scores: Tensor | None = None) -> None:
        """Add the losses of the epochs that want scores, and estimate after the last; `train_scores` are logits.

        Raises: ValueError if such an epoch comes without scores of shape (N, C).
        """
        super().on_epoch_start(epoch)
        if self.plan is None or self.losses is None or not self.wants_train_scores(epoch):
            return
        scores = self.scores_before(epoch, train_scores)
        seen = torch.from_numpy(self.info.observed.dense() == PRESENT)
        add_scaled_losses(self.losses, seen.to(self.losses.device), scores.to(self.losses.device))
        if epoch - 1 == self.plan.sample:
            self._take_rates(self._estimated(seen, self.losses, scores) if rank() == 0 else None)

    def _estimated(self, seen: Tensor, losses: Tensor, scores: Tensor) -> Tensor:
        """(C, 3) float64, the rates and the way in which they were found."""
        probabilities = torch.sigmoid(scores.double()).cpu().numpy()
        means = losses.double().cpu().numpy() / min(WINDOW, self.epoch - 1)
        labels, zero = seen.numpy(), self.config.known_zero
        found = estimate_noise(labels, clean_labels(labels, means, zero), probabilities, zero)
        return torch.from_numpy(np.column_stack([found.rates, found.how]))

    def _take_rates(self, found: Tensor | None) -> None:
        """Take what the first process has found; collective."""
        kept = broadcast(torch.zeros(len(self.rates), 3, dtype=torch.float64) if found is None else found)
        self.rates.copy_(kept[:, :2])
        self.how.copy_(kept[:, 2])

    def refuses_spliced(self) -> str:
        """The chances of wrong labels are those of single images."""
        return "weighs labels by the chances that they are wrong, and those of spliced images are others"

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C)."""
        logits = at_least_float32(model(batch.images).logits)
        seen = present(batch.observed, logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, seen, reduction="none")
        weights = torch.ones_like(losses)
        if self.plan is None or self.epoch > self.plan.warmup:
            weights = label_weights(logits, seen, self.rates)
        losses = weights * losses
        parts = {**split_mean(losses, batch.observed == PRESENT), "weight": weights.mean()}
        return LossOutput(losses.mean(), logits.detach(), parts)

    def noise_rates(self) -> NoiseRates | None:
        """The rates in use; None before they are estimated."""
        rates, how = self.rates.double().cpu().numpy(), self.how.tolist()
        if self.plan is None:
            return NoiseRates(rates, ("given",) * len(rates))
        return None if min(how) < 0 else NoiseRates(rates, tuple(HOW[number] for number in how))


def _require_both_kinds(info: CriterionInfo) -> None:
    """Raise UserError unless some labels are present and others not, in a table of which each entry can be scored."""
    table = info.observed
    entries, seen = len(table) * table.num_classes, int(table.counts(PRESENT).sum())
    require(
        not table.stores_known_only,
        f"transition: it scores each of the {len(table)} x {table.num_classes} labels, too many; take --loss bce",
    )
    require(
        0 < seen < entries,
        f"transition: {seen} of {entries} labels are present, so nothing tells wrong ones from others; take --loss bce",
    )
