"""The epoch loop: steps, schedule, saving, and exact continuation of a killed run."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from data.loading.samplers import TrainingBatches
from engine.core.distributed import Runtime
from engine.core.gpu_memory import gpu_memory_told, remedies_in_training
from engine.core.scoring import BatchLoader
from engine.training.ema import EMA
from engine.training.finite import Step, not_finite, step_of, where_not_finite
from engine.training.optim import (
    OptimConfig,
    Plateau,
    after_score,
    learning_rate_factor,
    load_optimizer,
    one_cycle,
    set_learning_rate,
    set_momentum,
)
from engine.training.rank_buffers import buffers_of_ranks, mean_over_ranks, of_process, of_ranks, take_buffers
from engine.training.saved_state import checked_position
from losses.common.base import Criterion
from losses.common.global_batch import share_of_all
from utils.checks import Interrupted, RunError
from utils.console import Progress, is_terminal, say
from utils.seeding import derive_seed
from utils.types import Batch, LossOutput, StateDict


class StopRequest:
    """Record of SIGINT and SIGTERM until the loop can save; a second signal ends the program at once."""

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
    """Progress of a run: `step` batches of `epoch` are done. All are plain values, stored with every save."""

    epoch: int = 1
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)  # of the losses of this epoch's steps
    seconds: float = 0.0  # spent training, whole run
    images: int = 0  # trained on, whole run
    best_epoch: int = 0
    best_score: float = -math.inf
    history: list[dict[str, float]] = field(default_factory=list)  # one row per epoch
    plateau: dict[str, Any] = field(default_factory=dict)  # the fields of `Plateau`; empty before the first score
    stopped: bool = False  # early, before all epochs were trained

    @property
    def trained(self) -> int:
        """Number of finished epochs."""
        return self.epoch - 1

    @property
    def speed(self) -> float:
        """Images per second of the whole run; 0 before its first step."""
        return self.images / self.seconds if self.seconds else 0.0


class Learner(NamedTuple):
    """Everything that learns. `model` is wrapped by the runtime."""

    model: nn.Module
    criterion: Criterion
    optimizer: Optimizer
    optim: OptimConfig
    ema: EMA | None = None


class Freezing(NamedTuple):
    """Number of first epochs with a frozen part of the model, and the function that freezes or frees it."""

    epochs: int
    freeze: Callable[[bool], None]


class Hooks(NamedTuple):
    """Functions that the loop calls at fixed moments; by default they do nothing."""

    train_scores: Callable[[int], Tensor | None] = lambda epoch: None
    """Before an epoch: logits (N, C) of the training set for the criterion, or None."""
    mix: Callable[[Batch, int], Batch] = lambda batch, rows: batch
    """Before each step: what the criterion is given of a batch, with more rows behind its own; `rows`: of all ranks."""
    after_step: Callable[[int, Batch, LossOutput], None] = lambda epoch, batch, loss: None
    """After each step: epoch, batch (on the device but for its truth), and of the criterion's result what is of it."""
    epoch_columns: Callable[[int], dict[str, float]] = lambda epoch: {}
    """After the last step of an epoch: more columns for the log."""
    image_ids: Sequence[str] = ()
    """The training images by row, for messages."""


class Loop:
    """Loop over the remaining epochs. It knows no method and no dataset by name."""

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
        save_epochs: int,
        print_freq: int,
        save: Callable[[StateDict], None],
        freezing: Freezing,
        hooks: Hooks,
    ) -> None:
        self.runtime, self.learner = runtime, learner
        self.loader, self.batches = loader, batches
        self.epochs, self.seed = epochs, seed
        self.save_seconds, self.save_epochs = save_minutes * 60, save_epochs
        self.print_freq, self._save = print_freq, save
        self.freezing, self.hooks = freezing, hooks
        self.state = TrainState()
        self.stop = StopRequest()
        self._sums: dict[str, Tensor] = {}
        self._order: tuple[int, Tensor] | None = None  # an epoch and its rows
        self._recent: list[Step] = []  # since the loss was last looked at
        self._saved_at = time.monotonic()

    def run(self, after_epoch: Callable[[int, dict[str, float]], None]) -> None:
        """Train all remaining epochs; `after_epoch(epoch, row of the log)` validates, selects, reports, may stop.

        Raises:
            Interrupted: on SIGINT or SIGTERM, after saving.
            RunError: the loss is not finite.
        """
        with self.stop:
            while self.state.epoch <= self.epochs and not self.state.stopped:
                self._train_epoch()
                row = self._epoch_row()
                after_epoch(self.state.epoch, row)
                self.state.history.append(row)
                due = self.state.epoch % self.save_epochs == 0 or self.state.epoch == self.epochs or self.state.stopped
                self.state.epoch, self.state.step = self.state.epoch + 1, 0
                self.state.sums, self._sums = {}, {}
                if due:
                    self.save()

    def follow(self, score: float) -> None:
        """Update the plateau schedule by the score of the epoch just trained; at most once per epoch."""
        self.state.plateau = after_score(Plateau(**self.state.plateau), score, self.learner.optim)._asdict()

    def check_stop(self) -> None:
        """Save and raise `Interrupted` if a signal has arrived (on any process)."""
        self._save_or_stop(due=False)

    def _save_or_stop(self, *, due: bool) -> None:
        """Save where it is due on any process or a signal has arrived, which then ends the run."""
        due, stopped = self.runtime.agree_each(due, self.stop.number != 0)
        if due or stopped:
            self.save()
        if stopped:
            raise Interrupted(self.stop.number or signal.SIGTERM)

    def save(self) -> None:
        """Write the state of the run from the main process; every process calls it.

        Raises: RunError when the state holds numbers that are not finite: what was saved before stays.
        """
        self._saved_at = time.monotonic()
        ranks = self._of_ranks()
        if self.runtime.is_main:
            state = {**self.state_dict(), "ranks": ranks}
            self._require_finite(state)
            self._save(state)

    def _of_ranks(self) -> dict[str, list[StateDict]]:
        """What each process has of its own: of the network in training, of the averaged one, and of the losses."""
        ema = self.learner.ema
        networks = {"model": self.runtime.unwrap(self.learner.model), **({"averaging": ema.network} if ema else {})}
        buffers = {name: buffers_of_ranks(network) for name, network in networks.items()}
        return {**buffers, "sums": of_ranks(self._sums)}

    def _require_finite(self, state: StateDict) -> None:
        """Raise RunError naming the first tensor that is not to be saved, and the step after which it is not."""
        if name := not_finite(state):
            raise RunError(f"{name} is not finite {self._where()}")

    def state_dict(self) -> StateDict:
        """Return the state of the run: tensors and plain values only."""
        self.state.sums = {name: value.item() for name, value in self._sums.items()}
        ema = self.learner.ema
        return {
            "model": self.runtime.unwrap(self.learner.model).state_dict(),
            "criterion": self.learner.criterion.state_dict(),
            "optimizer": self.learner.optimizer.state_dict(),
            "averaging": ema.state_dict() if ema else {},
            "runtime": self.runtime.state_dict(),
            "position": asdict(self.state),
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Restore the state of a saved run."""
        self.runtime.unwrap(self.learner.model).load_state_dict(state["model"])
        self.learner.criterion.take_state(state["criterion"])
        load_optimizer(self.learner.optimizer, state["optimizer"])
        if self.learner.ema:
            self.learner.ema.load_state_dict(state["averaging"])
        self.runtime.load_state_dict(state["runtime"])
        self.state = TrainState(**checked_position(state["position"], self.epochs, len(self.batches)))
        self._take_own(state.get("ranks", {}))  # which earlier versions did not save

    def _take_own(self, ranks: Mapping[str, list[StateDict]]) -> None:
        """Take the buffers and sums that this process had, or the mean of those that there were."""
        ema, rank = self.learner.ema, self.runtime.rank
        self.state.sums |= {name: float(value) for name, value in of_process(ranks.get("sums", ()), rank).items()}
        averaged = take_buffers(self.runtime.unwrap(self.learner.model), ranks.get("model", ()), rank)
        if ema:
            take_buffers(ema.network, ranks.get("averaging", ()), rank)
        if averaged and self.runtime.is_main:
            count = len(ranks["model"])
            say(f"saved by {count} processes, now there are {self.runtime.world_size}: BatchNorm takes their mean")

    @property
    def _frozen(self) -> bool:
        """True if a part of the model is frozen in this epoch."""
        return self.state.epoch <= self.freezing.epochs

    def _train_epoch(self) -> None:
        state = self.state
        self.freezing.freeze(self._frozen)
        if state.step == 0:  # not in a resumed epoch, which has been started already
            self.learner.criterion.on_epoch_start(state.epoch, self.hooks.train_scores(state.epoch))
        device = self.runtime.device
        self._sums = {
            name: torch.tensor(value, dtype=torch.float64, device=device) for name, value in state.sums.items()
        }
        if state.step < len(self.batches):
            criterion = self.learner.criterion
            memories = bool(criterion.label_memories) and not criterion.memories_on_host
            with gpu_memory_told("training", remedies_in_training(self.runtime.precision, memories=memories)):
                self._train_steps()
        self.runtime.average_buffers(self.learner.model)
        if self.learner.ema:
            self.learner.ema.end_epoch(self.runtime)

    def _train_steps(self) -> None:
        state, rows, size = self.state, self.batches.rows, self.batches.batch_size
        self.batches.set_epoch(state.epoch, state.step)
        self.learner.model.train()
        self.learner.criterion.train()
        label = f"epoch {state.epoch}/{self.epochs}"
        bar = Progress(
            self.loader, total=rows, done=state.step * size, label=label, unit="img", shown=self.runtime.is_main
        )
        clock = time.perf_counter()
        for raw in bar:
            images = min(size, rows - state.step * size)
            self.step(raw, images)
            now = time.perf_counter()
            clock, state.seconds = now, state.seconds + now - clock
            bar.advance(images, self._running_loss(label))
            self._save_or_stop(due=time.monotonic() - self._saved_at >= self.save_seconds)

    def step(self, raw: Any, global_size: int) -> None:
        """Take one step on a batch of the loader, `global_size` images over all processes, and count it.

        A GPU is not waited for: the losses are added up where they are.
        """
        for name, value in self._losses_of_step(raw, global_size).items():
            added = value.double()
            self._sums[name] = self._sums[name] + added if name in self._sums else added
        self.state.step, self.state.images = self.state.step + 1, self.state.images + global_size

    def _losses_of_step(self, raw: Any, global_size: int) -> dict[str, Tensor]:
        """Take one optimiser step; return its losses, detached, of which the mean over processes is that of all."""
        model, criterion, optimizer, _, _ = self.learner
        number = (self.state.epoch - 1) * len(self.batches) + self.state.step
        self.runtime.seed_draws(derive_seed(self.seed, "step", number, self.runtime.rank))
        self._set_schedule(number)
        batch = self.loader.to_batch(raw, self.runtime.device)._replace(global_index=self._global_index())
        mixed, frozen = self.hooks.mix(batch, global_size), self._frozen
        share = share_of_all(mixed)
        with self.runtime.unsynchronised(model) if frozen else nullcontext():
            loss = criterion(model, mixed)
            if loss.total.requires_grad:
                optimizer.zero_grad()
                self.runtime.backward(loss.total, share)
        if loss.total.requires_grad:
            self._update(mixed, average=frozen)
        loss = loss.of_first(len(batch.index))
        self.hooks.after_step(self.state.epoch, batch, loss)
        losses = {"loss": loss.total.detach(), **loss.parts}
        self._recent.append(step_of(self.state.step + 1, batch.index, loss.logits, losses))
        weight = share * self.runtime.world_size
        return losses if weight == 1.0 else {name: weight * value for name, value in losses.items()}

    def _global_index(self) -> Tensor | None:
        """Rows of the batch of all processes, which every process knows; None where there is only one."""
        if self.runtime.world_size == 1:
            return None
        if self._order is None or self._order[0] != self.state.epoch:
            self._order = self.state.epoch, self._rows_of_epoch()
        first, size = self.state.step * self.batches.batch_size, self.batches.batch_size
        return self._order[1][first : min(first + size, self.batches.rows)]

    def _rows_of_epoch(self) -> Tensor:
        """(M,) all rows of the epoch in order, where a copy to a GPU does not wait."""
        order = torch.from_numpy(self.batches.order(self.state.epoch))
        return order.pin_memory() if self.runtime.device.type == "cuda" else order

    def _set_schedule(self, number: int) -> None:
        """Set learning rate and momentum of step `number`, counted from the start of training."""
        optimizer, optim, steps = self.learner.optimizer, self.learner.optim, len(self.batches)
        epochs = optim.schedule_epochs or self.epochs
        factor = learning_rate_factor(number, steps, epochs, optim) * Plateau(**self.state.plateau).factor
        set_learning_rate(optimizer, factor)
        if optim.scheduler == "one_cycle":
            set_momentum(optimizer, one_cycle(number, steps * epochs, optim.pct_start).momentum)

    def _update(self, batch: Batch, *, average: bool) -> None:
        """Update the weights by their gradients; with `average` those of the model are first averaged here."""
        model, criterion, optimizer, optim, ema = self.learner
        if average:
            self.runtime.average_gradients(model)
        if self.runtime.world_size > 1:
            self.runtime.average_criterion_gradients(criterion, batch)
        if optim.clip_grad is not None:
            self.runtime.clip_gradients(optimizer, optim.clip_grad)
        optimizer.step()
        if ema:
            ema.update()

    def _running_loss(self, label: str) -> str:
        """Return the running loss for the bar; without a bar, print it as a line every `print_freq` steps.

        On a CPU reading the loss costs nothing; on a GPU it waits for the step to end, so it is read that rarely too.
        """
        due = self.state.step % self.print_freq == 0
        if not due and self.runtime.device.type != "cpu":
            return ""
        text = self._checked_loss()
        if due and self.runtime.is_main and not is_terminal():
            speed = self.state.speed
            left = (len(self.batches) - self.state.step) * self.batches.batch_size / speed
            say(f"{label}  step {self.state.step}/{len(self.batches)}  {text}  {speed:.1f} images/s  {left:.0f} s left")
        return text

    def _checked_loss(self) -> str:
        """Return the running mean loss as text. Raises: RunError when it is not finite."""
        mean = self._sums["loss"].item() / self.state.step
        if not math.isfinite(mean):
            raise RunError(f"the loss is {mean} {self._where()}")
        del self._recent[:-1]
        return f"loss {mean:.4f}"

    def _where(self) -> str:
        """Words on the step since the last look whose loss is not finite."""
        return where_not_finite(self.state.epoch, self.state.step, self._recent, self.hooks.image_ids)

    def _epoch_row(self) -> dict[str, float]:
        """Log row of the epoch just trained: mean losses over all processes, learning rate, speed so far."""
        state = self.state
        self._checked_loss()
        means = {name: value / state.step for name, value in mean_over_ranks(self._sums).items()}
        rate = self.learner.optimizer.param_groups[0]["lr"]
        more = self.hooks.epoch_columns(state.epoch)
        return {"epoch": state.epoch, **means, **more, "lr": rate, "images_per_second": state.speed}
