"""How a GPU computes: rounding of products, kernels that repeat bit for bit, and compiled networks."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from utils.checks import require
from utils.options import option


@dataclass(frozen=True, kw_only=True)
class KernelConfig:
    """Choices between speed, rounding and repetition; they matter on a GPU, `compile` on a CPU too."""

    tf32: bool = option(
        True, "on a GPU, networks multiply float32 rounded to TF32, 10 bits of mantissa; methods compute losses in full"
    )
    deterministic: bool = option(
        False, "on a GPU, only kernels that give the same bits again, so that a resumed run equals an undisturbed one"
    )
    compile: bool = option(False, "compile the network by torch.compile, a minute or more before the first step")

    def __post_init__(self) -> None:
        if self.compile:
            _require_compiler()


USUAL_KERNELS = KernelConfig()


def set_kernels(config: KernelConfig, device: torch.device) -> None:
    """Choose the kernels of the process; a CPU has nothing to choose."""
    if device.type != "cuda":
        return
    torch.backends.cudnn.allow_tf32 = config.tf32
    torch.backends.cudnn.deterministic = config.deterministic
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats only so; read when it starts
    torch.use_deterministic_algorithms(config.deterministic)


@contextmanager
def rounded_products(config: KernelConfig, device: torch.device) -> Iterator[None]:
    """Products of float32 matrices within are rounded to TF32, where that is wanted."""
    before = torch.get_float32_matmul_precision()
    if config.tf32 and device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def prepare_network(network: nn.Module, config: KernelConfig, device: torch.device) -> None:
    """Have the forward pass of a network compiled, and its products rounded, as the settings say; in place."""
    forward = torch.compile(network.forward) if config.compile else network.forward
    if config.compile or (config.tf32 and device.type == "cuda"):

        def rounded(*args: object, **kwargs: object) -> object:
            with rounded_products(config, device):
                return forward(*args, **kwargs)

        network.forward = rounded


def _require_compiler() -> None:
    """Raise UserError where `torch.compile` would find no compiler."""
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    require(shutil.which(compiler) is not None, f"--compile: no C++ compiler {compiler} here; install it, or leave it")
