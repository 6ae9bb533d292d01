"""The epoch loop: steps, schedule, validation, selection, saving, and going on exactly where a killed run stopped."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from data.loading.samplers import TrainingBatches
from engine.core.distributed import Runtime
from engine.core.scoring import BatchLoader
from engine.training.ema import EMA
from engine.training.optim import (
    OptimConfig,
    Plateau,
    after_score,
    learning_rate_factor,
    one_cycle,
    set_learning_rate,
    set_momentum,
)
from losses.common.base import Criterion
from utils.checks import Interrupted, RunError
from utils.console import Progress, is_terminal, say
from utils.seeding import derive_seed
from utils.types import Batch, LossOutput, StateDict


class StopRequest:
    """Remembers SIGINT and SIGTERM until the loop has a moment to save; a second signal ends the program at once."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.number = number
        for each, handler in self._before.items():
            signal.signal(each, handler)


@dataclass
class TrainState:
    """Where a run is: `step` batches of `epoch` are done. All of it is plain values, stored with every save."""

    epoch: int = 1
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)  # of the losses of this epoch's steps
    seconds: float = 0.0  # spent training, whole run
    images: int = 0  # trained on, whole run
    best_epoch: int = 0
    best_score: float = -math.inf
    history: list[dict[str, float]] = field(default_factory=list)  # one row an epoch
    plateau: dict[str, Any] = field(default_factory=dict)  # what of `Plateau` is no default
    stopped: bool = False  # before all epochs were trained: no better one is to be expected

    @property
    def trained(self) -> int:
        """Epochs that are done."""
        return self.epoch - 1


class Learner(NamedTuple):
    """What learns. `model` is wrapped by the runtime."""

    model: nn.Module
    criterion: Criterion
    optimizer: Optimizer
    optim: OptimConfig
    averaging: EMA | None = None


class Freezing(NamedTuple):
    """Epochs, from the first on, in which a part of the model stays as it is, and what freezes that part."""

    epochs: int
    freeze: Callable[[bool], None]


class Hooks(NamedTuple):
    """What a run does besides training, each at its moment; by default nothing."""

    train_scores: Callable[[], Tensor | None] = lambda: None
    """Before an epoch: what the criterion gets, logits (N, C) of the training set."""
    after_step: Callable[[int, Batch, LossOutput], None] = lambda epoch, batch, loss: None
    """After each step: the epoch, the batch, on the device except for its truth, and what the criterion returned."""
    epoch_figures: Callable[[int], dict[str, float]] = lambda epoch: {}
    """After the last step of an epoch: more columns for the log."""


class Loop:
    """Runs the epochs that are left. Knows no method and no dataset by name."""

    def __init__(
        self,
        runtime: Runtime,
        learner: Learner,
        loader: BatchLoader,
        batches: TrainingBatches,
        *,
        epochs: int,
        seed: int,
        save_minutes: float,
        print_freq: int,
        save: Callable[[StateDict], None],
        freezing: Freezing,
        hooks: Hooks,
    ) -> None:
        self.runtime, self.learner = runtime, learner
        self.loader, self.batches = loader, batches
        self.epochs, self.seed = epochs, seed
        self.save_seconds, self.print_freq, self._save = save_minutes * 60, print_freq, save
        self.freezing, self.hooks = freezing, hooks
        self.at = TrainState()
        self.stop = StopRequest()
        self._sums: dict[str, Tensor] = {}
        self._saved_at = time.monotonic()

    def run(self, after_epoch: Callable[[int, dict[str, float]], None]) -> None:
        """Train all remaining epochs; `after_epoch(epoch, row of the log)` validates, selects, reports, may stop.

        Raises:
            Interrupted: on SIGINT or SIGTERM, after saving.
            RunError: the loss is not finite.
        """
        with self.stop:
            while self.at.epoch <= self.epochs and not self.at.stopped:
                self._train_epoch()
                row = self._epoch_row()
                after_epoch(self.at.epoch, row)
                self.at.history.append(row)
                self.at.epoch, self.at.step = self.at.epoch + 1, 0
                self.at.sums, self._sums = {}, {}
                self.save()

    def follow(self, score: float) -> None:
        """Let the plateau schedule know how good the epoch just trained is; called once an epoch, if at all."""
        self.at.plateau = after_score(Plateau(**self.at.plateau), score, self.learner.optim)._asdict()

    def check_stop(self) -> None:
        """Save and raise `Interrupted` when a signal has asked for it (on any process)."""
        if self.runtime.agree(self.stop.number != 0):
            self.save()
            raise Interrupted(self.stop.number or signal.SIGTERM)

    def save(self) -> None:
        """Write everything that resuming needs, from the main process."""
        self._saved_at = time.monotonic()
        if self.runtime.is_main:
            self._save(self.state_dict())

    def state_dict(self) -> StateDict:
        """Tensors and plain values only."""
        self.at.sums = {name: value.item() for name, value in self._sums.items()}
        averaging = self.learner.averaging
        return {
            "model": self.runtime.unwrap(self.learner.model).state_dict(),
            "criterion": self.learner.criterion.state_dict(),
            "optimizer": self.learner.optimizer.state_dict(),
            "averaging": averaging.state_dict() if averaging else {},
            "runtime": self.runtime.state_dict(),
            "position": asdict(self.at),
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Stand where the saved run stood."""
        self.runtime.unwrap(self.learner.model).load_state_dict(state["model"])
        self.learner.criterion.load_state_dict(state["criterion"])
        self.learner.optimizer.load_state_dict(state["optimizer"])
        if self.learner.averaging:
            self.learner.averaging.load_state_dict(state["averaging"])
        self.runtime.load_state_dict(state["runtime"])
        self.at = TrainState(**state["position"])

    @property
    def _frozen(self) -> bool:
        """Whether a part of the model stays as it is in this epoch."""
        return self.at.epoch <= self.freezing.epochs

    def _train_epoch(self) -> None:
        at = self.at
        self.freezing.freeze(self._frozen)
        if at.step == 0:  # a resumed epoch has had its start already
            self.learner.criterion.on_epoch_start(at.epoch, self.hooks.train_scores())
        self._sums = {name: self._number(value) for name, value in at.sums.items()}
        if at.step < len(self.batches):
            self._train_steps()
        self.runtime.average_buffers(self.learner.model)
        if self.learner.averaging:
            self.learner.averaging.end_epoch(self.runtime)

    def _train_steps(self) -> None:
        at, rows, size = self.at, self.batches.rows, self.batches.batch_size
        self.batches.set_epoch(at.epoch, at.step)
        self.learner.model.train()
        self.learner.criterion.train()
        label = f"epoch {at.epoch}/{self.epochs}"
        bar = Progress(
            self.loader, total=rows, done=at.step * size, label=label, unit="img", shown=self.runtime.is_main
        )
        clock = time.perf_counter()
        for batch in bar:
            images = min(size, rows - at.step * size)
            for name, value in self._step(batch, images).items():
                self._sums[name] = self._sums.get(name, self._number(0.0)) + value.double()
            at.step, at.images = at.step + 1, at.images + images
            now = time.perf_counter()
            clock, at.seconds = now, at.seconds + now - clock
            bar.advance(images, self._look(label))
            if time.monotonic() - self._saved_at >= self.save_seconds:
                self.save()
            self.check_stop()

    def _number(self, value: float) -> Tensor:
        """A running sum on the device, so that adding to it waits for nothing."""
        return torch.tensor(value, dtype=torch.float64, device=self.runtime.device)

    def _step(self, batch: Batch, global_size: int) -> dict[str, Tensor]:
        """One optimiser step; the losses of it, detached."""
        at, (model, criterion, optimizer, optim, averaging) = self.at, self.learner
        steps = len(self.batches)
        number = (at.epoch - 1) * steps + at.step
        torch.manual_seed(derive_seed(self.seed, "step", number, self.runtime.rank))
        factor = learning_rate_factor(number, steps, self.epochs, optim) * Plateau(**at.plateau).factor
        set_learning_rate(optimizer, factor)
        if optim.scheduler == "one_cycle":
            set_momentum(optimizer, one_cycle(number, steps * self.epochs, optim.pct_start).momentum)
        moved = self.loader.ready(self.runtime.to_device(batch))
        frozen = self._frozen
        with self.runtime.unsynchronised(model) if frozen else nullcontext():
            loss = criterion(model, moved)
            if loss.total.requires_grad:
                optimizer.zero_grad()
                self.runtime.backward(loss.total, len(moved.index) / max(global_size, self.runtime.world_size))
        if loss.total.requires_grad:
            if frozen:
                self.runtime.average_gradients(model)
            if self.runtime.world_size > 1:
                self.runtime.average_criterion_gradients(criterion)
            if optim.clip_grad is not None:
                self.runtime.clip_gradients(optimizer, optim.clip_grad)
            optimizer.step()
            if averaging:
                averaging.update()
        self.hooks.after_step(at.epoch, moved, loss)
        return {"loss": loss.total.detach(), **loss.parts}

    def _look(self, label: str) -> str:
        """The running loss for the bar, and as a line where there is no bar, every `print_freq` steps.

        On a CPU a look costs nothing; on a GPU it waits for the step to end, so the bar gets one as seldom as a line.
        """
        due = self.at.step % self.print_freq == 0
        if not due and self.runtime.device.type != "cpu":
            return ""
        text = self._report()
        if due and self.runtime.is_main and not is_terminal():
            speed = self.at.images / max(self.at.seconds, 1e-9)
            left = (len(self.batches) - self.at.step) * self.batches.batch_size / max(speed, 1e-9)
            say(f"{label}  step {self.at.step}/{len(self.batches)}  {text}  {speed:.1f} images/s  {left:.0f} s left")
        return text

    def _report(self) -> str:
        """The running mean loss as text; the moment at which a broken run is noticed."""
        mean = self._sums["loss"].item() / self.at.step
        if not math.isfinite(mean):
            raise RunError(
                f"the loss is {mean} at epoch {self.at.epoch}, step {self.at.step}; try a lower --lr, or --precision "
                "fp32; the last save is intact"
            )
        return f"loss {mean:.4f}"

    def _epoch_row(self) -> dict[str, float]:
        """The log of the epoch just trained: mean losses, learning rate, speed so far."""
        at = self.at
        self._report()
        means = {name: value.item() / at.step for name, value in self._sums.items()}
        rate = self.learner.optimizer.param_groups[0]["lr"]
        figures = {**means, **self.hooks.epoch_figures(at.epoch)}
        return {"epoch": at.epoch, **figures, "lr": rate, "images_per_second": at.images / max(at.seconds, 1e-9)}
