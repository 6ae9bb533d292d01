"""Optimisers, and the learning rate as a pure function of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch.optim import SGD, Adam, AdamW, Optimizer

from utils.checks import require
from utils.options import option


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser and schedule; the defaults are those of CoNeS and its BCE baseline."""

    optimizer: Literal["sgd", "adam", "adamw"] = option("sgd", "update rule")
    lr: float = option(0.01, "learning rate of the backbone")
    head_lr_mult: float = option(
        1.0, "the head learns this many times faster (CoNeS' code means 10 but runs 1)", aliases=("lr_mult",)
    )
    momentum: float = option(0.9, "momentum of SGD")
    w_d: float = option(1e-4, "weight decay", aliases=("weight_decay",))
    scheduler: Literal["step", "cosine", "constant"] = option("step", "how the learning rate falls after the warm-up")
    step_size: int = option(4, "epochs between two decays of the step scheduler")
    lr_gamma: float = option(0.1, "factor of each decay of the step scheduler")
    warmup_epoch: float = option(2.0, "epochs of linear warm-up, step by step from 0")

    def __post_init__(self) -> None:
        require(self.lr > 0, f"--lr {self.lr}: must be above 0")
        require(self.head_lr_mult > 0, f"--head_lr_mult {self.head_lr_mult}: must be above 0")
        require(self.w_d >= 0, f"--w_d {self.w_d}: must not be negative")
        require(0 <= self.momentum < 1, f"--momentum {self.momentum}: must be in [0, 1)")
        require(self.step_size >= 1, f"--step_size {self.step_size}: must be at least 1 epoch")
        require(0 < self.lr_gamma <= 1, f"--lr_gamma {self.lr_gamma}: must be in (0, 1]")
        require(self.warmup_epoch >= 0, f"--warmup_epoch {self.warmup_epoch}: must not be negative")
        require(
            self.scheduler != "step" or self.warmup_epoch <= self.step_size,
            f"--warmup_epoch {self.warmup_epoch}: longer than --step_size {self.step_size}, so the warm-up would "
            "overwrite the first decay; shorten one of them",
        )


def learning_rate_factor(step: int, steps_per_epoch: int, epochs: int, config: OptimConfig) -> float:
    """What the base learning rate is multiplied with at optimiser step `step` (from 0).

    Warm-up as published with CoNeS (utils/evaluation/warmUpLR.py): step t of W uses t / (W + 1e-8), so the first step
    has rate 0. Step decay once an epoch; cosine falls to 0 step by step over what remains after the warm-up.
    """
    warmup = config.warmup_epoch * steps_per_epoch
    rise = min(step, warmup) / (warmup + 1e-8) if warmup else 1.0
    if config.scheduler == "step":
        return float(rise * config.lr_gamma ** (step // steps_per_epoch // config.step_size))
    if config.scheduler == "cosine" and step > warmup:
        progress = (step - warmup) / (epochs * steps_per_epoch - warmup)
        return rise * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return rise


def build_optimizer(config: OptimConfig, groups: list[dict[str, Any]]) -> Optimizer:
    """The optimiser over `groups`, each with "params" and optionally "lr_mult"; `base_lr` is kept in each group."""
    prepared = []
    for group in groups:
        base = config.lr * group.get("lr_mult", 1.0)
        rest = {key: value for key, value in group.items() if key != "lr_mult"}
        prepared.append({**rest, "lr": base, "base_lr": base})
    if config.optimizer == "sgd":
        return SGD(prepared, lr=config.lr, momentum=config.momentum, weight_decay=config.w_d)
    kind: type[Adam] = {"adam": Adam, "adamw": AdamW}[config.optimizer]
    return kind(prepared, lr=config.lr, weight_decay=config.w_d)


def set_learning_rate(optimizer: Optimizer, factor: float) -> None:
    """Give every group its base learning rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
