"""Optimisers, and the learning rate: a pure function of the step, and of the scores so far where it follows those."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from utils.checks import require
from utils.options import as_text, option


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser and schedule; the defaults are those of CoNeS and its BCE baseline."""

    optimizer: Literal["sgd", "adam", "adamw"] = option("sgd", "update rule", common=True)
    lr: float = option(0.01, "learning rate of the backbone", common=True)
    head_lr_mult: float = option(
        1.0, "the head learns this many times faster (CoNeS' code means 10 but runs 1)", aliases=("lr_mult",)
    )
    momentum: float = option(0.9, "momentum of SGD")
    w_d: float = option(1e-4, "weight decay", aliases=("weight_decay",))
    w_d_biases: bool = option(
        True, "weight decay of biases and norms too: of all parameters of one dimension (ASL: not of those)"
    )
    scheduler: Literal["step", "cosine", "plateau", "constant", "one_cycle"] = option(
        "step",
        "fall of the learning rate after the warm-up; plateau: when the mAP that is watched stops rising; one_cycle: "
        "up and down along cosines, without warm-up",
    )
    step_size: int = option(4, "epochs between two decays of the step scheduler")
    milestones: tuple[int, ...] | None = option(None, "step: decay after these epochs instead, such as 5,7")
    lr_gamma: float = option(0.1, "factor of each decay of the step and plateau schedulers")
    patience: int = option(3, "plateau: epochs without a better mAP before the next one makes the rate decay")
    plateau_of: Literal["mAP", "loss"] = option(
        "mAP", "plateau: what an epoch is judged by; loss: BCE summed over the labels of an image (C-Tran)"
    )
    min_lr: float = option(1e-7, "plateau: learning rate of the backbone below which nothing decays")
    pct_start: float = option(0.2, "one_cycle: share of all steps in which the learning rate rises")
    schedule_epochs: int | None = option(
        None, "one_cycle, cosine: epochs until the rate has fallen, of which a run may train fewer (default: --epochs)"
    )
    warmup_epoch: float = option(2.0, "epochs of linear warm-up, step by step")
    warmup_steps: int | None = option(None, "steps of warm-up instead of epochs", aliases=("warmup_iters",))
    warmup_ratio: float = option(0.0, "share of the learning rate that the warm-up starts from")
    clip_grad: float | None = option(
        None, "largest norm of the gradient of all parameters together; a longer one is shortened (default: off)"
    )
    ema: float | None = option(
        None, "decay of a moving average of the weights, which is then what is scored and saved (default: off)"
    )
    ema_start: Literal["first_step", "initial"] = option(
        "first_step", "weights that the average begins with: those after the first step, or those before it (ASL)"
    )

    def __post_init__(self) -> None:
        require(self.lr > 0, f"--lr {self.lr}: must be above 0")
        require(self.head_lr_mult > 0, f"--head_lr_mult {self.head_lr_mult}: must be above 0")
        require(self.w_d >= 0, f"--w_d {self.w_d}: must not be negative")
        require(0 <= self.momentum < 1, f"--momentum {self.momentum}: must be in [0, 1)")
        require(self.step_size >= 1, f"--step_size {self.step_size}: must be at least 1 epoch")
        require(0 < self.lr_gamma <= 1, f"--lr_gamma {self.lr_gamma}: must be in (0, 1]")
        require(self.warmup_epoch >= 0, f"--warmup_epoch {self.warmup_epoch}: must not be negative")
        require(self.patience >= 0, f"--patience {self.patience}: must not be negative")
        require(self.min_lr >= 0, f"--min_lr {self.min_lr}: must not be negative")
        require(
            self.scheduler != "plateau" or self.min_lr <= self.lr,
            f"--min_lr {self.min_lr}: must not be above --lr {self.lr}",
        )
        require(0 <= self.pct_start < 1, f"--pct_start {self.pct_start}: must be in [0, 1); the usual value is 0.2")
        require(
            self.warmup_steps is None or self.warmup_steps >= 0, f"--warmup_steps {self.warmup_steps}: not negative"
        )
        require(0 <= self.warmup_ratio < 1, f"--warmup_ratio {self.warmup_ratio}: must be in [0, 1)")
        require(self.clip_grad is None or self.clip_grad > 0, f"--clip_grad {self.clip_grad}: must be above 0")
        require(self.ema is None or 0 < self.ema < 1, f"--ema {self.ema}: must be between 0 and 1, such as 0.9997")
        warmed = self.warmup_epoch if self.warmup_steps is None else self.warmup_steps
        require(
            self.scheduler != "one_cycle" or not (warmed or self.warmup_ratio),
            "--scheduler one_cycle: rises by itself, with no warm-up before it; give --warmup_epoch 0, and no "
            "--warmup_steps or --warmup_ratio",
        )
        require(
            self.schedule_epochs is None or self.schedule_epochs >= 1,
            f"--schedule_epochs {self.schedule_epochs}: must be at least 1",
        )
        require(
            self.schedule_epochs is None or self.scheduler in ("one_cycle", "cosine"),
            f"--schedule_epochs: for one_cycle and cosine, not --scheduler {self.scheduler}; give --schedule_epochs=",
        )
        require(
            self.ema_start == "first_step" or self.ema is not None,
            f"--ema_start {self.ema_start}: there is no average; give --ema 0.9997, say",
        )
        rising = all(one < other for one, other in pairwise([0, *(self.milestones or ())]))
        require(
            self.milestones is None or (bool(self.milestones) and rising),
            f"--milestones {as_text(self.milestones)}: give epochs, whole numbers from 1 in rising order, such as 5,7",
        )
        first = self.milestones[0] if self.milestones is not None else self.step_size
        flag = "step_size" if self.milestones is None else "milestones"
        require(
            self.scheduler != "step" or self.warmup_steps is not None or self.warmup_epoch <= first,
            f"--warmup_epoch {self.warmup_epoch}: longer than --{flag} {first}, so the warm-up would overwrite the "
            "first decay; shorten one of them",
        )


class Plateau(NamedTuple):
    """Memory of the plateau schedule over the scores of all epochs."""

    factor: float = 1.0  # of the learning rate, from now on
    best: float = -math.inf
    waited: int = 0  # epochs since the best one or the last decay


BETTER = 1e-4
"""Share of the best by which a score must lie above it to count as better."""


def after_score(plateau: Plateau, score: float, config: OptimConfig) -> Plateau:
    """The memory of the plateau schedule after another epoch; decays as torch's ReduceLROnPlateau.

    Args:
        plateau: the memory so far.
        score: of the epoch, the higher the better; a loss with its sign turned.
        config: patience, factor of a decay, least learning rate.
    """
    if score > plateau.best * (1 + math.copysign(BETTER, plateau.best)):
        return Plateau(plateau.factor, score, 0)
    if plateau.waited < config.patience:
        return plateau._replace(waited=plateau.waited + 1)
    return Plateau(max(plateau.factor * config.lr_gamma, config.min_lr / config.lr), plateau.best, 0)


class OneCycle(NamedTuple):
    """Values that the one-cycle schedule sets at a step."""

    factor: float  # of the learning rate
    momentum: float  # of SGD; of Adam beta 1


CYCLE_START, CYCLE_END = 1 / 25, 1 / 25 / 1e4
"""Factors of the learning rate where a cycle begins and where it ends."""

HIGH_MOMENTUM, LOW_MOMENTUM = 0.95, 0.85
"""At both ends of a cycle, and at its top."""


def one_cycle(step: int, total: int, pct_start: float) -> OneCycle:
    """Up along half a cosine, down along another; the momentum against it (Smith and Topin, arXiv 1708.07120).

    The numbers are those of torch's OneCycleLR as it comes; where that divides by 0, because `pct_start` of all steps
    is one step, that step is the top.

    Args:
        step: from 0 to total - 1.
        total: all steps of the run.
        pct_start: share of them in which the rate rises, in [0, 1).
    """
    top, last = pct_start * total - 1, total - 1
    if step < top:
        return _between(OneCycle(CYCLE_START, HIGH_MOMENTUM), OneCycle(1.0, LOW_MOMENTUM), step / top)
    return _between(OneCycle(1.0, LOW_MOMENTUM), OneCycle(CYCLE_END, HIGH_MOMENTUM), (step - top) / (last - top))


def _between(start: OneCycle, end: OneCycle, way: float) -> OneCycle:
    """`way` of the way from one to the other, along half a cosine."""
    left = (1 + math.cos(math.pi * way)) / 2
    return OneCycle(*(behind + left * (ahead - behind) for ahead, behind in zip(start, end, strict=True)))


def learning_rate_factor(step: int, steps_per_epoch: int, epochs: int, config: OptimConfig) -> float:
    """Factor of the base learning rate at optimiser step `step` (from 0); a plateau decays it further.

    Warm-up as published with CoNeS (utils/evaluation/warmUpLR.py): step t of W uses t / (W + 1e-8), so the first step
    has rate 0; from a ratio r on, r + (1 - r) t / (W + 1e-8), as published with distribution-balanced loss (mmcv).
    Step decay once per epoch; cosine falls to 0 step by step over what remains after the warm-up; one cycle: see there.
    """
    if config.scheduler == "one_cycle":
        return one_cycle(step, epochs * steps_per_epoch, config.pct_start).factor
    warmup = config.warmup_epoch * steps_per_epoch if config.warmup_steps is None else config.warmup_steps
    risen = min(step, warmup) / (warmup + 1e-8) if warmup else 1.0
    rise = config.warmup_ratio + (1 - config.warmup_ratio) * risen
    if config.scheduler == "step":
        return float(rise * config.lr_gamma ** _decays(step // steps_per_epoch, config))
    if config.scheduler == "cosine" and step > warmup:
        progress = (step - warmup) / (epochs * steps_per_epoch - warmup)
        return rise * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return rise


def _decays(epochs: int, config: OptimConfig) -> int:
    """Number of decays of the step scheduler in so many whole epochs."""
    if config.milestones is None:
        return epochs // config.step_size
    return sum(epochs >= milestone for milestone in config.milestones)


def build_optimizer(config: OptimConfig, groups: list[dict[str, Any]]) -> Optimizer:
    """The optimiser over `groups`, each with "params" and optionally "lr_mult"; `base_lr` is kept in each group.

    It updates all parameters in one pass where torch can: on GPUs, and on CPUs, where Adam takes a quarter of the time;
    where some are on a GPU and some on the host, those of each group.
    """
    prepared = []
    fused = _fused([parameter for group in groups for parameter in group["params"]])
    for group in groups:
        base = config.lr * group.get("lr_mult", 1.0)
        rest = {key: value for key, value in group.items() if key != "lr_mult"}
        prepared.append({**rest, "lr": base, "base_lr": base, "fused": fused or _fused(group["params"])})
    if config.optimizer == "sgd":
        sgd = SGD(prepared, lr=config.lr, momentum=config.momentum, weight_decay=config.w_d, fused=fused)
        sgd.register_step_pre_hook(_begin_momenta)
        return sgd
    kind: type[Adam] = {"adam": Adam, "adamw": AdamW}[config.optimizer]
    return kind(prepared, lr=config.lr, weight_decay=config.w_d, fused=fused)


def _begin_momenta(optimizer: Optimizer, *_: Any) -> None:
    """Give a momentum of 0 to each parameter whose first gradient comes later than that of others.

    It then becomes that gradient, as ever; the kernel for all parameters at once takes all of them new, or none.
    """
    if optimizer.state:
        for group in optimizer.param_groups:
            late = [each for each in group["params"] if each.grad is not None and each not in optimizer.state]
            for parameter in late if group["momentum"] else ():
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _fused(parameters: Sequence[Tensor]) -> bool | None:
    """True for parameters of one device that has a kernel for all of them; None to let torch choose."""
    devices = {parameter.device.type for parameter in parameters}
    return (len(devices) == 1 and devices <= {"cpu", "cuda"}) or None


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Restore the state of an optimiser, saved on this device or on another.

    Kernel and constants stay those of the settings, which are those that it was saved with; of the groups only what
    schedules set is taken: the learning rate and the momentum of the last step.

    Raises: ValueError when something is missing, has another shape or cannot be; other exceptions for other damage.
    """
    own = optimizer.state_dict()["param_groups"]
    pairs = zip(state["param_groups"], own, strict=True)
    groups = [{**group, **_scheduled(saved)} for saved, group in pairs]
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    for number, kept in state["state"].items():
        _check_kept(kept, parameters[number], optimizer)
    optimizer.load_state_dict({"state": dict(state["state"]), "param_groups": groups})


def _check_kept(kept: Mapping[str, Any], parameter: Tensor, optimizer: Optimizer) -> None:
    """Raise ValueError unless an optimiser can go on with what it kept of a parameter."""
    names = {"momentum_buffer"} if "momentum" in optimizer.param_groups[0] else {"step", "exp_avg", "exp_avg_sq"}
    if set(kept) != names:
        raise ValueError(f"the optimiser kept {', '.join(sorted(map(str, kept)))[:80]}")
    for name, value in kept.items():
        if value is None:
            raise ValueError(f"{name} of the optimiser is missing")
        shape = torch.Size() if name == "step" else parameter.shape
        signed = name in ("momentum_buffer", "exp_avg")
        fits = value.shape == shape and value.is_floating_point() and (signed or not bool((value < 0).any()))
        if not fits:
            raise ValueError(f"{name} of the optimiser is not what there is of shape {tuple(shape)}")


def _scheduled(group: Mapping[str, Any]) -> dict[str, Any]:
    """What schedules have set in a group. Raises: ValueError where it is no number."""
    name = "momentum" if "momentum" in group else "betas"
    shares = (group[name],) if name == "momentum" else tuple(group[name])
    numbers = all(type(each) in (int, float) and 0 <= each < math.inf for each in (group["lr"], *shares))
    if not numbers or (name == "betas" and len(shares) != 2):
        raise ValueError("a learning rate or momentum that cannot be")
    return {"lr": group["lr"], name: shares if name == "betas" else shares[0]}


def set_learning_rate(optimizer: Optimizer, factor: float) -> None:
    """Give every group its base learning rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def set_momentum(optimizer: Optimizer, momentum: float) -> None:
    """Give every group this momentum: beta 1 where the optimiser is a form of Adam."""
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum
