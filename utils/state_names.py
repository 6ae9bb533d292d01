"""Names of tensors in checkpoints from elsewhere: wrappers before them, counters of profilers, marks of averages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

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

AVERAGE_MARKS = frozenset({"n_averaged", "num_updates", "num_batches_averaged", "initted"})
"""Those of them that tell which of two states of one network is the average."""

_SHARED = 0.5  # of the names of an average, the share that must be the network's
_ATTRIBUTES_DEEP = 3  # attributes before names, one in another, of which so many less one are taken off

WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_forward_module.")
"""Prefixes that DataParallel, torch.compile, FSDP and DeepSpeed put before names, some of them in the middle."""

ATTRIBUTES = ("model.", "net.", "network.", "online_model.", "ema_model.", "averaged_model.", "base_model.")
"""Attributes in which trainers keep a whole network; taken off where all names have it."""

_AVERAGE = re.compile(
    r"(?:^|_)(?:ema|swa|ewa|avg|averaged?|averaging|polyak|shadow|mean_(?:teacher|model|net))\d*(?=_|$)"
)
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


class Copies(NamedTuple):
    """A network and its average, of one state."""

    raw: dict[str, Tensor]
    averaged: dict[str, Tensor]
    """By the names of the network, or none where there are only averaged tensors."""
    prefix: str
    """What stands before the names of the average."""


def split_copies(state: Mapping[str, Tensor]) -> Copies | None:
    """The two copies of a network that one state holds, told apart by what their names begin with, whatever that is.

    One is the average if what it begins with says so (`module_ema.`), if it counts its steps (`second.n_averaged`), or
    if it is the teacher of a student. None where there are no such two.
    """
    plain = {name: without_wrappers(name) for name in state}
    start = _common_start(plain.values())
    if start:
        inner = {name: short.removeprefix(start) for name, short in plain.items()}
        if is_average(start) or AVERAGE_MARKS & set(inner.values()):
            return Copies({}, _renamed(state, inner), start.removesuffix("."))
    first = {name: short.removeprefix(start).partition(".")[0] for name, short in plain.items()}
    for prefix in dict.fromkeys(first.values()):
        inner = {name: plain[name].removeprefix(f"{start}{prefix}.") for name, one in first.items() if one == prefix}
        teacher = prefix.replace("teacher", "student") in set(first.values()) - {prefix}
        if is_average(prefix) or teacher or AVERAGE_MARKS & set(inner.values()):
            raw = {name: value for name, value in state.items() if name not in inner}
            found = _aligned(raw, _renamed(state, inner))
            if found is not None:
                return Copies(*found, prefix)
    return None


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of an average by other names, without what it keeps beside them."""
    return {short: state[name] for name, short in names.items() if short not in BOOKKEEPING}


def _common_start(names: Iterable[str]) -> str:
    """The attribute that all names begin with, `model.`; empty if they begin differently."""
    starts = {name.partition(".")[0] for name in names}
    return f"{starts.pop()}." if len(starts) == 1 else ""


def _aligned(raw: dict[str, Tensor], averaged: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]] | None:
    """Both by names that most of the averaged tensors share, after as few attributes as it takes; None if none do."""
    for one, other in product(_peeled(raw), _peeled(averaged)):
        ours = letters(one)
        same = [
            plain
            for plain, name in letters(other).items()
            if plain in ours and one[ours[plain]].shape == other[name].shape
        ]
        if len(same) >= _SHARED * len(other):
            return one, other
    return None


def _peeled(state: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The state, then without the attribute that all its names begin with, and without the next."""
    for _ in range(_ATTRIBUTES_DEEP):
        yield state
        start = _common_start(map(without_wrappers, state))
        if not start:
            return
        state = {without_wrappers(name).removeprefix(start): value for name, value in state.items()}
