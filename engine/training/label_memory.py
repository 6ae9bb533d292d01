"""Where label memories are kept, and whether there is room for them: decided before any of them is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from engine.core.distributed import Runtime
from losses.common.memory import MemoryNeed, require_room
from utils.collectives import all_max
from utils.free_memory import usable_memory
from utils.options import option

SHARE = 0.5
"""Part of the free memory of a GPU that `auto` gives to what is kept; networks and batches need the rest."""


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """Place of the state that has a row per training image."""

    label_memory: Literal["auto", "device", "host"] = option(
        "auto",
        "what a method or --record keeps of each label is on the GPU (device), or in the machine's memory (host), from "
        "which each step copies its rows; auto: on the GPU where half of what is free there holds it",
    )


class FreeMemory(NamedTuple):
    """Bytes that are free for a process."""

    host: int
    device: int | None = None
    """On its GPU; None where there is none."""


def free_now(runtime: Runtime) -> FreeMemory:
    """The memory that is free for each process, the least of all, so that all decide alike. Collective."""
    host = usable_memory() // runtime.local_world_size
    on_gpu = runtime.device.type == "cuda"
    device = torch.cuda.mem_get_info(runtime.device)[0] if on_gpu else 0
    least = (-all_max(-torch.tensor([host, device], device=runtime.device))).tolist()
    return FreeMemory(least[0], least[1] if on_gpu else None)


def memories_on_host(
    config: MemoryConfig, owner: str, needs: Sequence[MemoryNeed], free: FreeMemory, *, learned_copies: int
) -> bool:
    """True if label memories are to be on the host although there is a GPU.

    Args:
        config: the wish.
        owner: the method, for messages.
        needs: all that it and the recorder will keep.
        free: what is free now.
        learned_copies: numbers that training keeps of each number that is learned: itself, its gradient, and those of
            the optimiser.

    Raises: UserError when there is no room.
    """
    kept = [need._replace(size=need.size * learned_copies) if need.learned else need for need in needs]
    if free.device is None:
        require_room(owner, kept, free.host, "in memory", _advice(kept))
        return False
    on_host = _wants_host(config.label_memory, kept, free.device)
    on_gpu = [need for need in kept if not (on_host and need.per_image)]
    require_room(owner, on_gpu, free.device, "on the GPU", _advice(on_gpu, "--label_memory host"))
    # What goes to the GPU has been made on the host before.
    made = [need for need in kept if need.per_image] if on_host else list(needs)
    require_room(owner, made, free.host, "in memory", _advice(made))
    return on_host


def _wants_host(wish: str, kept: Sequence[MemoryNeed], free: int) -> bool:
    """True where label memories, if there are any, do not go to a GPU with so many bytes free."""
    if not any(need.per_image for need in kept):
        return False
    return wish == "host" or (wish == "auto" and sum(need.size for need in kept) > SHARE * free)


def _advice(needs: Sequence[MemoryNeed], elsewhere: str = "") -> str:
    """Settings with which less is kept there."""
    remedies = [need.remedy for need in needs if need.remedy]
    if any(need.per_image for need in needs):
        remedies = [*filter(None, [elsewhere]), *remedies, "fewer images by --ss_frac_train"]
    return f"give {' or '.join(remedies)}"
