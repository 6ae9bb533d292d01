"""GR loss: `train.py`, `losses.py` and `models.py` of yan4xi1/GRLoss.

../shared/spec/next/gr_loss.md, sections 1 to 4. As it is stored the trainer stops at its start; it was not run. k and v
are of the probabilities of the pass that is trained. Learned k is left out, and so is the linear start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from tests.equivalence.plain import Given, LinearHead, Net, Outcome
from tests.equivalence.transcriptions import validated

GUARD = 1e-7
Ends = tuple[float, float]


def along(ends: Ends, steps: int, length: int) -> float:
    """A number after so many steps of a line."""
    return ends[0] + (ends[1] - ends[0]) * max(steps, 0) / length


def train(
    given: Given,
    *,
    epochs: int,
    lr: float = 1e-5,
    early_stop: float = 2,
    pseudo_slope: Ends = (0, 2),
    pseudo_bias: Ends = (-2, -2),
    weight_mean: Ends = (0.5, 0.8),
    weight_std: Ends = (2, 0.5),
    present_power: float = 0.01,
    absent_power: float = 1,
) -> Outcome:
    """The whole run; `early_stop` is in points of mAP."""
    net, best = Net(LinearHead(given.observed.shape[1]), given.start), [-math.inf]

    def loss_of(images: Tensor, rows: Tensor, epoch: int) -> Tensor:
        p = torch.sigmoid(net(images))
        fixed = p.detach()
        slope, bias = (along(ends, epoch - 1, epochs) for ends in (pseudo_slope, pseudo_bias))
        mean, std = (along(ends, epoch, epochs) for ends in (weight_mean, weight_std))
        k = 1 / (1 + torch.exp(-(slope * fixed + bias)))
        v = torch.exp(-((fixed - mean) ** 2) / (2 * std**2))
        as_present = (1 - p**present_power) / present_power
        as_absent = (1 - (1 - p) ** absent_power) / absent_power
        unknown = v * (k * as_present + (1 - k) * as_absent)
        losses = torch.where(given.observed[rows] == 1, -torch.log(p + GUARD), unknown)
        return losses.sum() / losses.numel()

    def after_epoch(row: Mapping[str, float]) -> bool:
        best[0] = max(best[0], row["validation_mAP"])
        return 100 * (best[0] - row["validation_mAP"]) > early_stop

    return validated.run(given, net, validated.two_rates(net, lr, 10), loss_of, after_epoch=after_epoch)
