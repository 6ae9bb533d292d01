"""Names of tensors in checkpoints from elsewhere: wrappers before them, counters of profilers, marks of averages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

COUNTERS = frozenset(
    {"total_ops", "total_params"}  # thop
    | {"__flops__", "__params__", "__macs__", "__batch_counter__", "__mac_count__"}  # ptflops, mmcv, calflops
    | {"inference_memory", "MAdd", "Flops", "Memory", "duration", "input_shape", "output_shape", "parameter_quantity"}
    # the line above: torchstat
    | {"flops", "macs", "madds", "n_params", "n_macs", "n_flops", "total_flops", "total_macs", "num_ops", "num_params"}
)
"""Last parts of the names under which profilers leave what they have counted."""

_MOST_NUMBERS = 8
"""Numbers in the largest counter: the shape of an input."""

BOOKKEEPING = frozenset({"n_averaged", "num_updates", "num_batches_averaged", "decay", "steps", "step", "initted"})
"""What averages keep beside the weights: the number of steps, their decay."""

WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_forward_module.")
"""Prefixes that DataParallel, torch.compile, FSDP and DeepSpeed put before names, some of them in the middle."""

ATTRIBUTES = ("model.", "net.", "network.", "online_model.", "ema_model.", "averaged_model.", "base_model.")
"""Attributes in which trainers keep a whole network; taken off where all names have it."""

_AVERAGE = re.compile(r"(?:^|_)(?:ema|swa|ewa|avg|averaged?|averaging|polyak|shadow)\d*(?=_|$)")
_AVERAGE_BEFORE = re.compile(r"(ema_model|model_ema|ema_module|ema_net|ema|swa_model|averaged?_model|avg_model)([._])")


def is_average(key: str) -> bool:
    """Tell whether an entry of this name holds averaged weights, such as `state_dict_ema`, `modelEMA` or `swa`."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower()
    return bool(_AVERAGE.search(re.sub(r"[^a-z0-9]+", "_", spaced)))


def is_counter(name: str, value: Any) -> bool:
    """Tell whether an entry of a state is what a profiler has counted, or the number of steps of an average."""
    if isinstance(value, Tensor):
        small = value.numel() <= (1 if name in BOOKKEEPING else _MOST_NUMBERS)
    else:
        small = isinstance(value, int | float | list | tuple)
    return small and (name.rpartition(".")[2] in COUNTERS or name in BOOKKEEPING)


def without_wrappers(name: str) -> str:
    """The name without the prefixes of wrappers."""
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
        while wrapper != "module." and f".{wrapper}" in name:
            name = name.replace(f".{wrapper}", ".")
    return without_wrappers(name) if name.startswith(WRAPPERS) else name


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Each name without wrappers, and without an attribute that all of them begin with."""
    plain = {name: without_wrappers(name) for name in names}
    for attribute in ATTRIBUTES:
        if plain and all(name.startswith(attribute) for name in plain.values()):
            return {name: without_wrappers(short.removeprefix(attribute)) for name, short in plain.items()}
    return plain


def letters(names: Iterable[str]) -> dict[str, str]:
    """Each name by its letters and digits alone; some averages are kept under names without dots."""
    return {re.sub(r"[^0-9A-Za-z]", "", short): name for name, short in plain_names(names).items()}


def split_average(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], bool]:
    """The raw and the averaged tensors of a network that holds both, by a prefix of their names.

    Returns:
        Raw tensors, averaged ones, and True if they are in the manner of mmcv: `ema_` before names without dots, and
        the two exchanged when the file was written.
    """
    raw: dict[str, Tensor] = {}
    averaged: dict[str, Tensor] = {}
    dotless = True
    for name, value in state.items():
        short = without_wrappers(name)
        if (found := _AVERAGE_BEFORE.match(short)) is None:
            raw[name] = value
        elif (rest := short[found.end() :]) not in BOOKKEEPING:
            averaged[rest] = value
            dotless = dotless and found[2] == "_" and "." not in rest
    return raw, averaged, dotless
