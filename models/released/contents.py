"""What the readers of released checkpoints share: the forms files come in, and a plan of where tensors belong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from utils.checks import UserError, require
from utils.safe_files import is_state

WRAPPED = "module."
"""What DataParallel puts before every name."""


class Contents(NamedTuple):
    """A file's weights by name, without `module.`, and what stands beside them."""

    path: Path
    state: dict[str, Tensor]
    beside: dict[str, Any]
    form: Literal["bare", "tuple", "dict"]

    def side(self, key: str, axis: int = 0) -> int:
        """The size of a tensor along an axis. Raises: UserError when there is no such tensor or axis."""
        held = self.state.get(key)
        if held is None:
            raise UserError(f"{self.path}: holds no {key}, which such a checkpoint has; fetch the file again")
        require(held.ndim > axis, f"{self.path}: {key} has the shape {tuple(held.shape)}, which does not fit")
        return held.shape[axis]

    def count(self, prefix: str) -> int:
        """How many different parts, numbered or named, stand behind `prefix` in the names."""
        return len({key.removeprefix(prefix).split(".")[0] for key in self.state if key.startswith(prefix)})

    def any(self, prefix: str) -> bool:
        """Whether a name begins with `prefix`."""
        return any(key.startswith(prefix) for key in self.state)

    def some(self) -> str:
        """The first names, for a message."""
        return listed(list(self.state))


class HeadOverrides(NamedTuple):
    """Settings of a network that do not show in its weights, as far as somebody says them."""

    lam: float | None = None
    num_heads: int | None = None
    nheads: int | None = None
    boostlu: float | None = None


class Plan(NamedTuple):
    """The network that a file is of, and where its tensors belong."""

    settings: dict[str, Any]
    """Fields of `ModelConfig`."""
    num_classes: int
    place: Callable[[str], str | None]
    """From a published name to ours; "" for what is dropped, None for what nobody knows."""
    adjust: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    """What has to be done to the values, names being ours already."""
    notes: tuple[str, ...] = ()
    """What had to be assumed."""
    names: tuple[str, ...] = ()
    """Names of the classes where the file says them."""
    img_size: int | None = None
    """The size of pictures where the weights show it."""


def unpack(held: Any, path: Path) -> Contents:
    """Find the weights in what a file holds.

    Known forms: names and tensors; a pair of those and options (LargeLossMatters, BoostLU, IGNORE); a dictionary with
    them under `state_dict` (mmcv, Query2Label) or `model` (ASL).

    Raises: UserError for anything else.
    """
    if isinstance(held, tuple | list) and len(held) == 2 and isinstance(held[1], Mapping):
        return _contents(held[0], dict(held[1]), "tuple", path)
    if isinstance(held, Mapping):
        for key in ("state_dict", "model"):
            if isinstance(held.get(key), Mapping):
                beside = {name: value for name, value in held.items() if name != key}
                return _contents(held[key], beside, "dict", path)
    return _contents(held, {}, "bare", path)


def _contents(state: Any, beside: dict[str, Any], form: Literal["bare", "tuple", "dict"], path: Path) -> Contents:
    """The contents, `module.` taken off."""
    if not is_state(state):
        raise UserError(f"{path}: no checkpoint, but {_said(state)}; names with a tensor each are needed")
    plain = {key.removeprefix(WRAPPED): value for key, value in state.items()}
    require(len(plain) == len(state), f"{path}: holds a name with and without {WRAPPED}; fetch the file again")
    return Contents(path, plain, beside, form)


def _said(held: Any) -> str:
    """What something is, in a few words."""
    if not isinstance(held, Mapping):
        return f"a {type(held).__name__}"
    odd = [key for key, value in held.items() if not isinstance(value, Tensor)]
    return f"a dictionary of other things ({listed([str(key)[:40] for key in odd])})" if odd else "an empty dictionary"


def listed(names: Sequence[str], limit: int = 3) -> str:
    """The first names of a list."""
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def placed(prefixes: Mapping[str, str]) -> Callable[[str], str | None]:
    """A `Plan.place` by prefixes, the first that fits: what stands in its stead, or "" for what is dropped."""

    def place(key: str) -> str | None:
        """Our name of a published tensor; empty if it is dead weight, None if it has no place."""
        for published, ours in prefixes.items():
            if key.startswith(published):
                return ours and ours + key.removeprefix(published)
        return None

    return place
