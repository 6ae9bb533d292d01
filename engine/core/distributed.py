"""Device, precision and processes: the one module that knows Hugging Face Accelerate."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim import Optimizer

from engine.core.kernels import USUAL_KERNELS, KernelConfig, prepare_network, rounded_products, set_kernels
from engine.core.launcher import meet_again
from losses.common.base import Criterion
from losses.common.memory import add_up_gradient
from models.peers import Peers
from utils import collectives
from utils.checks import UserError, require
from utils.types import Batch, StateDict

Precision = Literal["fp32", "bf16", "fp16", "fp64"]
"""Precisions of a network's forward pass. In fp64, on a CPU, everything of a step is float64."""

_PATIENCE = timedelta(days=7)
"""How long processes wait for one that lives; one that has died ends the wait at once."""


class Runtime:
    """Device, precision and processes of a run: one device, or many under `torchrun` or `accelerate launch`."""

    def __init__(self, device: str, precision: str, kernels: KernelConfig = USUAL_KERNELS) -> None:
        require(device != "cuda" or torch.cuda.is_available(), "--device cuda: no CUDA device here; use --device cpu")
        on_cpu = device == "cpu" or not torch.cuda.is_available()
        require(
            not (on_cpu and precision == "fp16"), "--precision fp16: needs a CUDA device; use bf16 or fp32 on a CPU"
        )
        require(on_cpu or precision != "fp64", "--precision fp64: computes on a CPU only; give --device cpu with it")
        meet_again("gloo" if on_cpu else "nccl")
        if "LOCAL_RANK" not in os.environ:  # a second run in one process (tests, notebooks) starts from a clean state
            AcceleratorState._reset_state(reset_partial_state=True)
        # Every rank keeps its own BatchNorm statistics within an epoch (a broadcast before each forward breaks methods
        # that call the model twice); `average_buffers` brings them together before they are used or saved.
        wrapping = DistributedDataParallelKwargs(broadcast_buffers=False)
        mixed = {"fp32": "no", "bf16": "bf16", "fp16": "fp16", "fp64": "no"}[precision]
        self._accelerator = Accelerator(mixed_precision=mixed, cpu=on_cpu, kwargs_handlers=[wrapping])
        self.device: torch.device = self._accelerator.device
        # Work that the others wait for (decoding, caches, a lock) may take hours, an exchange of tensors may not.
        self._waiting: Any = dist.new_group(backend="gloo", timeout=_PATIENCE) if self.world_size > 1 else None
        self.precision, self.kernels = precision, kernels
        set_kernels(kernels, self.device)

    @property
    def dtype(self) -> torch.dtype:
        """Type of images, weights and scores: half types are for the forward pass alone."""
        return torch.float64 if self.precision == "fp64" else torch.float32

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return int(self._accelerator.process_index)

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return int(self._accelerator.num_processes)

    @property
    def local_world_size(self) -> int:
        """Number of processes on this machine."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))

    @property
    def is_main(self) -> bool:
        """True for the process that writes files and prints."""
        return self.rank == 0

    def seed_draws(self, seed: int) -> None:
        """Seed what is drawn from now on, here and on the device.

        `torch.manual_seed` does the same for every kind of device, which takes a quarter of a small head's step.
        """
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed_all(seed)

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return a network on its device, in the chosen precision, with outputs of `dtype` and averaged gradients.

        The networks of a pair are wrapped one by one.
        """
        if isinstance(module, Peers):
            return module.each(self.wrap)
        with warnings.catch_warnings():  # torch's newer name of that setting is not one of Accelerate's yet
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            wrapped: nn.Module = self._accelerator.prepare_model(self._prepared(module))
        return wrapped

    def to_device(self, module: nn.Module) -> nn.Module:
        """Return a network on its device, in the chosen precision with outputs of `dtype`, for use without gradients.

        The networks of a pair are moved one by one.
        """
        if isinstance(module, Peers):
            return module.each(self.to_device)
        moved: nn.Module = self._accelerator.prepare_model(self._prepared(module), evaluation_mode=True)
        return moved

    def wrap_optimizer(self, optimizer: Optimizer) -> Optimizer:
        """Return the optimiser; under fp16 one that skips steps whose gradients overflowed."""
        if self.precision != "fp16":  # the wrapper looks for a module on every step, which on a small head is an eighth
            return optimizer
        wrapped: Optimizer = self._accelerator.prepare_optimizer(optimizer, device_placement=False)
        return wrapped

    def unwrap(self, module: nn.Module) -> nn.Module:
        """Return the network itself, whose parameter names are the same on any number of processes."""
        if isinstance(module, Peers):
            return module.each(self.unwrap)
        bare: nn.Module = self._accelerator.unwrap_model(module)
        return bare

    def backward(self, loss: Tensor, share: float) -> None:
        """Backward pass of this process's mean loss over `share` of the global batch.

        Gradients are averaged over processes, so unequal shares (the last batch) are weighted by size. Products are
        rounded as in the network's forward pass: but for cosines (SARB), LAC's projector, and scores of atoms and the
        graph of IMCL no method multiplies matrices with a gradient.
        """
        weight = share * self.world_size
        with rounded_products(self.kernels, self.device):
            self._accelerator.backward(loss if weight == 1.0 else loss * weight)

    def unsynchronised(self, module: nn.Module) -> ExitStack:
        """Return a context in which the gradients of a wrapped network are not averaged over processes.

        It is needed where only some parameters learn: averaging waits for the gradients of all of them.
        """
        context = ExitStack()
        for network in (module.f, module.g) if isinstance(module, Peers) else (module,):
            context.enter_context(self._accelerator.no_sync(network))
        return context

    def average_gradients(self, module: nn.Module) -> None:
        """Average the gradients of an unsynchronised pass over processes."""
        if self.world_size > 1:
            gradients = [each.grad for each in module.parameters() if each.grad is not None]
            for gradient, total in zip(gradients, collectives.all_sums(gradients), strict=True):
                gradient.copy_(total).div_(self.world_size)

    def average_criterion_gradients(self, criterion: Criterion, batch: Batch) -> None:
        """Average the gradients of the criterion's own parameters over processes, as wrapped networks do.

        `backward` has weighted them by the share of each process. Of a label memory, rows of the batch are exchanged.
        """
        for name, parameter in criterion.named_parameters():
            if parameter.grad is not None:
                if name in criterion.label_memories:
                    add_up_gradient(parameter.grad, batch)
                else:
                    parameter.grad.copy_(collectives.all_sum(parameter.grad))
                parameter.grad /= self.world_size

    def clip_gradients(self, optimizer: Optimizer, max_norm: float) -> None:
        """Scale the gradients of all parameters of an optimiser to a joint norm of at most `max_norm`.

        Called after gradients are averaged; in half precision the loss scale is divided out first.
        """
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._accelerator.clip_grad_norm_(parameters, max_norm)

    def average_buffers(self, module: nn.Module) -> None:
        """Average floating-point buffers (BatchNorm statistics) over processes.

        Buffers of modules in evaluation mode have not changed and stay bit for bit.
        """
        if self.world_size > 1:
            training = [part for part in self.unwrap(module).modules() if part.training]
            buffers = [each for part in training for each in part.buffers(recurse=False) if each.is_floating_point()]
            for buffer, total in zip(buffers, collectives.all_sums(buffers), strict=True):
                buffer.copy_(total).div_(self.world_size)

    def agree(self, flag: bool) -> bool:
        """True if `flag` is true on any process; the result is the same on all."""
        return self.agree_each(flag)[0]

    def agree_each(self, *flags: bool) -> tuple[bool, ...]:
        """The same for each of several flags, in one exchange between the hosts: no GPU is waited for."""
        return tuple(map(bool, collectives.host_max([int(flag) for flag in flags])))

    def same_text(self, text: str) -> str:
        """Return the text of the main process on every process."""
        return str(broadcast_object_list([text])[0])

    def barrier(self) -> None:
        """Wait for all processes, as long as they live."""
        if self._waiting is not None:
            dist.barrier(self._waiting)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Return a context that the main process runs through before the others enter it."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()

    def state_dict(self) -> StateDict:
        """Return the state that a resumed run needs: the loss scale of fp16."""
        scaler = self._accelerator.scaler
        return {} if scaler is None else {"scaler": scaler.state_dict()}

    def load_state_dict(self, state: StateDict) -> None:
        """Restore the loss scale of a resumed run."""
        scaler: Any = self._accelerator.scaler
        if ("scaler" in state) != (scaler is not None):
            raise UserError("the checkpoint was made with another --precision")
        if scaler is not None:
            scaler.load_state_dict(state["scaler"])

    def _prepared(self, module: nn.Module) -> nn.Module:
        """The network with the kernels, the layout and, in float64, the type that it computes in."""
        prepare_network(module, self.kernels, self.device)
        if self.dtype == torch.float64:
            return module.double()
        if self.world_size > 1 and len([*module.parameters(), *module.buffers()]) == 1:
            return module  # torch sends a tensor that is alone onto itself, which fails in another layout
        # Convolutions run 1.1 to 1.3 times as fast with the channels innermost, on CPUs and half-precision GPUs.
        return module.to(memory_format=torch.channels_last)

    def close(self) -> None:
        """Leave the process group.

        Wrapped networks keep a reference to it: while one is in use, the threads of the group (gloo) run until the
        interpreter exits, and may abort the process then.
        """
        collectives.forget_hosts()
        self._accelerator.free_memory()
        self._accelerator.end_training()
