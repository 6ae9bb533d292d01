"""Classes of a checkpoint and of a dataset, matched by name; most released files name no classes."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.core.checkpoint import SavedModel
from engine.core.manifest import load_manifest
from models.peers import Network, Peers
from utils.checks import UserError, require
from utils.types import Annotations, ModelOutput

_NUMBER = re.compile(r"[a-z]*\d+")
"""A name that stands for none, such as `class 7`."""


class InOrder(nn.Module):
    """A network whose scores are in another order.

    Args:
        network: images to C scores.
        columns: C numbers; the k-th score is the network's score number `columns[k]`.
    """

    columns: Tensor

    def __init__(self, network: nn.Module, columns: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("columns", torch.tensor(columns), persistent=False)

    def forward(self, images: Tensor, want: frozenset[str] = frozenset()) -> ModelOutput:
        """The output of the network for images (B, 3, H, W), columns exchanged."""
        output: ModelOutput = self.network(images, want)
        cam = None if output.cam is None else output.cam[:, self.columns]
        return output._replace(logits=output.logits[:, self.columns], cam=cam)


def in_order(network: Network, columns: Sequence[int] | None) -> Network:
    """The network or networks with their scores in another order; None leaves them as they are."""
    if columns is None:
        return network
    if isinstance(network, Peers):
        return Peers(InOrder(network.f, columns), InOrder(network.g, columns))
    return InOrder(network, columns)  # type: ignore[return-value]  # stands in for a Classifier where scores are read


def class_columns(saved: SavedModel, test: Annotations, dataset: str) -> list[int] | None:
    """The number of the checkpoint's score for each class of a dataset, by name; None where they are in its order.

    Without class names in the file only their numbers can be compared, and the order is assumed.

    Raises: UserError when the classes are others, naming those that differ.
    """
    if not _names_classes(saved, test):
        if saved.num_classes != len(test.classes):
            _refuse(saved, test, dataset, "")
        return None
    theirs, ours = _matching(saved.classes, test.classes)
    if sorted(theirs) != sorted(ours):
        _refuse(saved, test, dataset, _difference(saved, test, dataset))
    columns = [theirs.index(name) for name in ours]
    return None if columns == sorted(columns) else columns


def _refuse(saved: SavedModel, test: Annotations, dataset: str, difference: str) -> None:
    """Raise UserError on a checkpoint of other classes."""
    first = f" ({', '.join(saved.classes[:3])}, ...)" if saved.classes else ""
    raise UserError(
        f"{saved.path}: trained on {saved.num_classes} classes{first}, but {dataset} has {len(test.classes)} "
        f"({', '.join(test.classes[:3])}, ...){difference}; give the --dataset or --table it is for"
    )


def _names_classes(saved: SavedModel, test: Annotations) -> bool:
    """Tell whether the checkpoint names its classes; a released one may number them instead."""
    if not saved.classes or set(saved.classes) == set(test.classes):
        return bool(saved.classes)
    return saved.released is None or not all(_NUMBER.fullmatch(_plain_name(name)) for name in saved.classes)


def _matching(theirs: Sequence[str], ours: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names to compare: as they are, or without case, spaces and signs where that makes the same classes of them."""
    one, other = ([_plain_name(name) for name in names] for names in (theirs, ours))
    if sorted(one) == sorted(other) and len(set(one)) == len(one):
        return one, other
    return list(theirs), list(ours)


def _difference(saved: SavedModel, test: Annotations, dataset: str) -> str:
    """The names that only one side has, in words."""
    plain = {_plain_name(name) for name in saved.classes} & {_plain_name(name) for name in test.classes}
    parts = []
    for side, names in (("the checkpoint", saved.classes), (dataset, test.classes)):
        only = [name for name in names if _plain_name(name) not in plain]
        more = f" and {len(only) - 8} more" if len(only) > 8 else ""
        parts += [f"; only {side} has {', '.join(only[:8])}{more}"] if only else []
    return "".join(parts)


def _plain_name(name: str) -> str:
    """Class name without case, spaces and signs: VOC's `tvmonitor` is `TV monitor` elsewhere."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def class_order_note(saved: SavedModel, test: Annotations, dataset: str) -> str:
    """Return a line on the class order of a checkpoint that has another, or no names; else an empty text."""
    if _names_classes(saved, test):
        other = class_columns(saved, test, dataset) is not None
        order = f"; the checkpoint has them in another order ({', '.join(saved.classes[:3])}, ...)"
        return f"classes: matched by name{order}" if other else ""
    family = saved.released and load_manifest().families[saved.released.family]
    if family and dataset in family.order:
        return f"classes: in the order of {dataset}, as the published code numbers them"
    return f"classes: the file does not give their order; that of {dataset} is assumed"


def require_same_classes(saved: SavedModel, other: SavedModel, flag: str) -> None:
    """Raise UserError unless two checkpoints have the same classes, in any order, as far as they name them."""
    names = [sorted(_plain_name(name) for name in each.classes) for each in (saved, other)]
    require(
        saved.num_classes == other.num_classes and (names[0] == names[1] or [] in names),
        f"{flag} {other.path}: trained on other classes than {saved.path}; give one that fits",
    )
