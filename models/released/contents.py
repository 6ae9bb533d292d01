"""Common parts of the readers of released checkpoints: the forms of files, and plans that rename their tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from utils.checks import UserError, require
from utils.foreign_states import CheckpointWeights, Form, choose_state
from utils.state_names import plain_names

WRAPPED = "module."
"""The prefix that DataParallel puts before every name."""


class Contents(NamedTuple):
    """The weights in a file by name, without `module.`, and the metadata beside them."""

    path: Path
    state: dict[str, Tensor]
    metadata: dict[str, Any]
    form: Form
    notes: tuple[str, ...] = ()
    """What has been chosen or left out, one line each."""

    def size(self, key: str, axis: int = 0) -> int:
        """The size of a tensor along an axis. Raises: UserError when there is no such tensor or axis."""
        tensor = self.state.get(key)
        if tensor is None:
            raise UserError(f"{self.path}: has no {key}, which such a checkpoint has; fetch the file again")
        require(tensor.ndim > axis, f"{self.path}: {key} has the shape {tuple(tensor.shape)}, which does not fit")
        return tensor.shape[axis]

    def count(self, prefix: str) -> int:
        """The number of different parts, numbered or named, behind `prefix` in the names."""
        return len({key.removeprefix(prefix).split(".")[0] for key in self.state if key.startswith(prefix)})

    def any(self, prefix: str) -> bool:
        """True if a name begins with `prefix`."""
        return any(key.startswith(prefix) for key in self.state)

    def first_names(self) -> str:
        """The first names, for a message."""
        return listed(list(self.state))


class HeadOverrides(NamedTuple):
    """Settings of a network that do not show in its weights; None where nothing is given."""

    lam: float | None = None
    num_heads: int | None = None
    nheads: int | None = None
    boostlu: float | None = None


class Plan(NamedTuple):
    """The network in a file, and our names of its tensors."""

    settings: dict[str, Any]
    """Settings of model and head by name."""
    num_classes: int
    rename: Callable[[str], str | None]
    """From a published name to ours; "" for tensors that are dropped, None for unknown ones."""
    adjust: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    """A change of values, after the tensors are renamed."""
    notes: tuple[str, ...] = ()
    """Assumptions that were made."""
    names: tuple[str, ...] = ()
    """Names of the classes if they are in the file."""
    img_size: int | None = None
    """The size of images if the weights show it."""


def unpack(content: Any, path: Path, wanted: CheckpointWeights | None = None) -> Contents:
    """Find the weights in the content of a file, averaged ones before raw ones unless the others are wanted.

    Known forms: a state_dict; a pair of a state_dict and options (LargeLossMatters, BoostLU, IGNORE); a dictionary with
    a state_dict under `state_dict` (mmcv, Query2Label), `model` (ASL) or another name; averages beside any of them.

    Raises: UserError for anything else, and where the wanted weights are not there.
    """
    found = choose_state(content, path, wanted)
    names = plain_names(found.state)
    plain = {names[key]: value for key, value in found.state.items()}
    require(len(plain) == len(found.state), f"{path}: has a name with and without {WRAPPED}; fetch the file again")
    return Contents(path, plain, found.metadata, found.form, found.notes)


def listed(names: Sequence[str], limit: int = 3) -> str:
    """The first names of a list."""
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def rename_prefix(prefixes: Mapping[str, str]) -> Callable[[str], str | None]:
    """A `Plan.rename` that replaces the first prefix that fits; an empty replacement drops the tensor."""

    def rename(key: str) -> str | None:
        """Our name of a published tensor; empty if it is dropped, None if it is unknown."""
        for published, ours in prefixes.items():
            if key.startswith(published):
                return ours and ours + key.removeprefix(published)
        return None

    return rename
