"""What a new head takes from the head of an earlier run: the rows of the classes that both know. C classes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.heads import HEADS, Head
from utils.safe_files import is_state, load_metadata, require_plain_tensors

_MOST_NAMED = 10  # classes in a line


class TrainedHead(NamedTuple):
    """The head in the file of a run; of two networks that of the first."""

    file: Path
    classes: tuple[str, ...]
    settings: dict[str, Any]
    """Those of the run."""
    state: dict[str, Tensor]


def trained_head(content: Any, file: Path) -> TrainedHead | None:
    """The head in a file of weights; None where it holds none whose classes are named.

    Args:
        content: the file as `utils.safe_files.load_tensors` returns it.
        file: the file; beside `.safetensors`, classes and settings are in its metadata.
    """
    about = _metadata(file) if file.suffix == ".safetensors" else content
    weights = content if file.suffix == ".safetensors" else _entry(content, "model")
    classes, settings = _entry(about, "classes"), _entry(about, "settings")
    named = isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes)
    if not (named and isinstance(settings, Mapping) and is_state(weights)):
        return None
    prefix = "f.head." if _entry(about, "peers") is True else "head."
    state = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    return TrainedHead(file, tuple(classes), dict(settings), state) if state and classes else None


def _metadata(file: Path) -> dict[str, Any]:
    """The entries that a run writes into `.safetensors`; those that are no JSON are left out."""
    found = {}
    for name, text in load_metadata(file).items():
        with suppress(ValueError, RecursionError):
            found[name] = json.loads(text)
    return found


def _entry(content: Any, name: str) -> Any:
    return content.get(name) if isinstance(content, Mapping) else None


def class_axes(kind: str, config: Any, width: int) -> dict[str, int | None]:
    """The axis of each tensor of a head along which its classes lie; None for tensors that all classes share.

    It is found by heads of two and of three classes. Empty for a head in which classes are not rows, because a tensor
    has several such axes, as a graph of classes.

    Args:
        kind: a key of `HEADS`.
        config: settings of the head.
        width: D, of the features.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        few, more = (
            {
                name: tuple(value.shape)
                for name, value in HEADS[kind].build(width, count, config, None).state_dict().items()
            }
            for count in (2, 3)
        )
    longer = {name: [axis for axis, size in enumerate(more[name]) if size != few[name][axis]] for name in few}
    rows = all(len(axes) <= 1 for axes in longer.values()) and any(longer.values())
    return {name: axes[0] if axes else None for name, axes in longer.items()} if rows else {}


def fits(head: Head, trained: TrainedHead, axes: Mapping[str, int | None]) -> bool:
    """True if both heads have the same tensors, of the same shapes but for the number of classes."""
    own = head.state_dict()
    if own.keys() != trained.state.keys() or own.keys() != axes.keys():
        return False
    return all(
        _shape(value, axes[name], len(trained.classes)) == trained.state[name].shape for name, value in own.items()
    )


def _shape(value: Tensor, axis: int | None, classes: int) -> torch.Size:
    """The shape of a tensor if it were of so many classes."""
    return torch.Size(classes if place == axis else size for place, size in enumerate(value.shape))


@torch.no_grad()
def take_rows(head: Head, trained: TrainedHead, classes: Sequence[str], axes: Mapping[str, int | None]) -> list[str]:
    """Copy into a head the rows of classes of the same name, and what all classes share; nothing where none is.

    Args:
        head: the new head.
        trained: one that `fits` it.
        classes: C names of the new head.
        axes: see `class_axes`.

    Returns:
        The classes whose rows were copied, in the order of `classes`.

    Raises: UserError when the file holds numbers that are not finite; the head is then as it was.
    """
    known = [name for name in classes if name in trained.classes]
    if not known:
        return known
    require_plain_tensors(trained.state, trained.file)
    to = torch.tensor([list(classes).index(name) for name in known])
    source = torch.tensor([trained.classes.index(name) for name in known])
    for name, value in head.state_dict().items():
        given, axis = trained.state[name].to(value.dtype), axes[name]
        if axis is None:
            value.copy_(given)
        else:
            value.index_copy_(axis, to, given.index_select(axis, source))
    return known


def reuse_head(head: Head, kind: str, config: Any, width: int, trained: TrainedHead, classes: Sequence[str]) -> str:
    """Let a new head take what it can of a trained one, and return the line that says what.

    Args:
        head: the new head, of the `kind` and `config`, on features of `width` channels.
        kind: a key of `HEADS`.
        config: its settings.
        width: D.
        trained: the head of the file.
        classes: C names of the new head.

    Raises: UserError when what it would take is damaged.
    """
    if (before := trained.settings.get("head")) != kind:
        return f"the head is new: the file's is {str(before)[:40]}, this one {kind}"
    axes = class_axes(kind, config, width)
    if not axes:
        return f"the head is new: in one of kind {kind} classes are no rows that could be taken"
    if not fits(head, trained, axes):
        return f"the head is new: the file's has the kind {kind} too, but other sizes or layers"
    known = take_rows(head, trained, classes, axes)
    if not known:
        return f"the head is new: the file knows none of its classes ({_names(classes)})"
    if len(known) == len(classes):
        return f"the head takes the rows of all its {len(classes)} classes"
    others = [name for name in classes if name not in trained.classes]
    taken = f"the head takes the rows of {len(known)} of its {len(classes)} classes ({_names(known)})"
    return f"{taken}; {len(others)} are new ({_names(others)})"


def _names(classes: Sequence[str]) -> str:
    return ", ".join(classes[:_MOST_NAMED]) + (", ..." if len(classes) > _MOST_NAMED else "")
