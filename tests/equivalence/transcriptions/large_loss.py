"""LL-R, LL-Ct and LL-Cp: `train.py` and `losses.py` of snucml/LargeLossMatters, and of BoostLU's copy of them.

../shared/spec/large_loss.md, sections 2, 5 and 9. LL-Cp is the one that compares strings by `==`. u are the losses of
unknown labels, 0 elsewhere; whatever u reaches their k-th largest is modified, observed labels too where that is 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.equivalence.plain import Given, LinearHead, Net, Outcome
from tests.equivalence.transcriptions import validated


class BoostedHead(nn.Module):
    """Scores of all positions, those above 0 times alpha, then their mean (BoostLU, `models.py`)."""

    def __init__(self, classes: int, alpha: float, width: int = 96) -> None:
        super().__init__()
        self.fc, self.alpha = nn.Linear(width, classes), alpha

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C)."""
        scores = torch.einsum("bdhw,kd->bkhw", features, self.fc.weight) + self.fc.bias[:, None, None]
        return torch.where(scores > 0, self.alpha * scores, scores).mean(dim=(2, 3))


class Scheme:
    """One of the three schemes, with the labels that LL-Cp has corrected, and the clean rate."""

    def __init__(self, given: Given, scheme: str, delta: float, strict: bool) -> None:
        self.scheme, self.delta, self.strict = scheme, delta, strict
        self.observed, self.clean_rate = given.observed.clone(), 1.0
        self.flips: tuple[Tensor, Tensor] | None = None

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Mean over B*C; keeps what LL-Cp is to correct after the step."""
        observed, self.flips = self.observed[rows], None
        assumed = (observed == 1).double()
        losses = F.binary_cross_entropy_with_logits(logits, assumed, reduction="none")
        if self.clean_rate == 1:
            return losses.mean()
        unobserved = losses.detach() * (observed == -1)
        rate = self.delta if self.scheme == "LL-Cp" else 1 - self.clean_rate
        threshold = unobserved.flatten().topk(math.ceil(losses.numel() * rate)).values[-1]
        small = unobserved < threshold
        if self.scheme == "LL-R":
            return (losses * small).mean()
        above = unobserved > threshold if self.strict else ~small
        if self.scheme == "LL-Cp":
            self.flips = (rows[above.nonzero()[:, 0]], above.nonzero()[:, 1])
        corrected = F.binary_cross_entropy_with_logits(logits, 1 - assumed, reduction="none")
        return torch.where(small, losses, corrected).mean()

    def correct(self) -> None:
        """What follows the optimiser's step."""
        if self.flips is not None:
            self.observed[self.flips] = 1


def train(
    given: Given,
    *,
    mod_scheme: str,
    delta_rel: float = 0.2,
    lr: float = 1e-5,
    boostlu: float | None = None,
    strict: bool = True,
    early_stop: float = math.inf,
) -> Outcome:
    """The whole run; `early_stop` is in points of mAP."""
    classes = given.observed.shape[1]
    net = Net(LinearHead(classes) if boostlu is None else BoostedHead(classes, boostlu), given.start)
    scheme, best = Scheme(given, mod_scheme, delta_rel / 100, strict), [-math.inf]

    def after_epoch(row: Mapping[str, float]) -> bool:
        best[0] = max(best[0], row["validation_mAP"])
        scheme.clean_rate -= scheme.delta
        return 100 * (best[0] - row["validation_mAP"]) > early_stop

    return validated.run(
        given,
        net,
        validated.two_rates(net, lr, 10),
        lambda images, rows, epoch: scheme.loss(net(images), rows),
        after_step=scheme.correct,
        after_epoch=after_epoch,
        state=lambda: {"observed": scheme.observed} if mod_scheme == "LL-Cp" else {},
    )
