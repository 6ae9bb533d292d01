"""Going on with a run for more epochs than it began with: only where it would have been the same with these at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.training.config import RunConfig
from engine.training.loop import TrainState
from engine.training.optim import OptimConfig
from losses.common.base import Criterion
from utils.checks import require
from utils.types import CriterionInfo

_ANEW = "start anew with another --output, or train on from its weights with --weights and its best.pth"


def require_same_schedule(before: int, config: RunConfig, optim: OptimConfig) -> None:
    """Raise UserError where the learning rate of the first `before` epochs followed from their number."""
    require(
        optim.scheduler not in ("cosine", "one_cycle") or optim.schedule_epochs is not None,
        f"--epochs {config.epochs}: --scheduler {optim.scheduler} was laid out for the {before} epochs that the run "
        f"began with, and has run down; {_ANEW} (--schedule_epochs lays it out for more epochs than are trained at "
        "first)",
    )


def require_same_rules(
    before: int, config: RunConfig, kind: type[Criterion], method_config: Any, info: CriterionInfo
) -> None:
    """Raise UserError where the rules of a method follow from the number of epochs.

    Two criteria are built one after the other, of the run as it was and as it shall be. A method counts epochs if they
    differ in anything but their label memories, which are dropped at once, for they may be large.

    Args:
        before: number of epochs that the run began with.
        config: settings of the run as it shall be.
        kind: class of the criterion.
        method_config: its settings.
        info: of the run as it shall be.
    """
    earlier = replace(info, epochs=before, frozen_epochs=replace(config, epochs=before).frozen_epochs)
    plans = [_plan(kind, method_config, each) for each in (earlier, info)]
    require(
        _alike(*plans),
        f"--epochs {config.epochs}: the rules of this method, as it is set, follow from the number of epochs, and the "
        f"run began with {before}; {_ANEW}",
    )


def require_not_stopped(config: RunConfig, state: TrainState) -> None:
    """Raise UserError where `--early_stop` has ended the run, as it would have ended a longer one."""
    require(
        not state.stopped,
        f"--epochs {config.epochs}: --early_stop {config.early_stop} ended this run after epoch {state.trained}, and "
        f"would have ended a longer one there; {_ANEW}, and --early_stop=",
    )


def _plan(kind: type[Criterion], method_config: Any, info: CriterionInfo) -> dict[str, Any]:
    """What a new criterion holds, less its label memories and what it was built from."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(info.seed)
        criterion = kind(method_config, info)
    left_out = {"info", "config", *criterion.label_memories}
    buffers, parameters = dict(criterion.named_buffers()), dict(criterion.named_parameters())
    held = {name: value for name, value in vars(criterion).items() if not name.startswith("_")}
    everything = {**held, **buffers, **parameters}
    return {name: value for name, value in everything.items() if name.partition(".")[0] not in left_out}


def _alike(one: Any, other: Any) -> bool:
    """True for values of the same kind and content, whatever they are made of."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_alike(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    return bool(_alike(vars(one), vars(other))) if getattr(one, "__dict__", None) else bool(one == other)
