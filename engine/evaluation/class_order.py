"""Comparison of the classes of a checkpoint with those of a dataset; most released files name no classes."""

from __future__ import annotations

from engine.core.checkpoint import SavedModel
from engine.core.manifest import load_manifest
from utils.checks import UserError, require
from utils.types import Annotations


def check_classes(saved: SavedModel, test: Annotations, dataset: str) -> None:
    """Raise UserError unless the columns of scores and truth are, as far as is known, the same classes.

    For a file without class names, and a released file with other names, only their numbers are compared.
    """
    ours, theirs = (tuple(map(_plain_name, names)) for names in (test.classes, saved.classes))
    require(
        ours == theirs or set(ours) != set(theirs),
        f"{saved.path}: has the classes of {dataset} in another order ({', '.join(saved.classes[:3])}, ...), so "
        "its scores are not those of these columns; give the --dataset it is for",
    )
    named = saved.released is None and saved.classes != ()
    if saved.num_classes != len(test.classes) or (named and saved.classes != test.classes):
        first = f" ({', '.join(saved.classes[:3])}, ...)" if saved.classes else ""
        raise UserError(
            f"{saved.path}: trained on {saved.num_classes} classes{first}, but {dataset} has {len(test.classes)} "
            f"({', '.join(test.classes[:3])}, ...); give the --dataset it is for"
        )


def _plain_name(name: str) -> str:
    """Class name without case, spaces and signs: VOC's `tvmonitor` is `TV monitor` elsewhere."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def class_order_note(saved: SavedModel, test: Annotations, dataset: str) -> str:
    """Return a line on the class order of a checkpoint that has no names, or other names; else an empty text."""
    if saved.released is None and saved.classes:
        return ""
    if saved.classes and tuple(map(_plain_name, saved.classes)) == tuple(map(_plain_name, test.classes)):
        return ""
    family = saved.released and load_manifest().families[saved.released.family]
    if family and dataset in family.order:
        return f"classes: in the order of {dataset}, as the published code numbers them"
    return f"classes: the file does not give their order; that of {dataset} is assumed"
