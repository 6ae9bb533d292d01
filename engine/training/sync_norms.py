"""BatchNorm over the images of all processes (`--sync_bn`), by torch's SyncBatchNorm, which works on GPUs alone."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.core.distributed import Runtime
from losses.common.base import Criterion
from utils.checks import UserError, require

_USUAL = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def synchronise_norms(network: nn.Module, runtime: Runtime, method: str, criterion: type[Criterion]) -> None:
    """Have BatchNorm of a network normalise by the images of all processes in training; one process does so anyway.

    Weights, statistics and their names stay, so that checkpoints are those of a network without it.

    Args:
        network: in place, before anything wraps it.
        runtime: of the run.
        method: its name, for messages.
        criterion: its class.

    Raises:
        UserError: there are several processes on CPUs, some of them take no part in a pass of the method, or the
            network has norms of another kind.
    """
    if runtime.world_size == 1:
        return
    require(
        runtime.device.type == "cuda",
        "--sync_bn: BatchNorm is synchronised between GPUs only, and this run is on CPUs; leave it out, or take "
        "--norm_eval",
    )
    require(
        criterion.passes_alike,
        f"--sync_bn: not with {method}, in which a process may be without images in a pass; leave it out, or take "
        "--norm_eval",
    )
    for module in [module for module in network.modules() if isinstance(module, _BatchNorm)]:
        # The same object in another class: the frozen parts of a classifier are known by their objects.
        module.__class__ = _synchronised(type(module))
        vars(module)["process_group"] = None  # all processes


def _synchronised(kind: type[_BatchNorm]) -> type[_BatchNorm]:
    """The class of the same norm over all processes. Raises: UserError where there is none."""
    if kind in _USUAL or kind is nn.SyncBatchNorm:
        return nn.SyncBatchNorm
    if kind.__module__.partition(".")[0] == "timm":
        from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct  # only where such a network was built

        if kind is BatchNormAct2d:
            found: type[_BatchNorm] = SyncBatchNormAct
            return found
    raise UserError(f"--sync_bn: {kind.__name__}, which this network has, is not synchronised; leave it out")
