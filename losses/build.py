"""Parts of `losses.build_criterion`: from labels, class names and options as people write them to our types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, fields
from typing import Any, TypeAlias, get_type_hints

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from utils.checks import UserError, require
from utils.class_facts import ClassPriors
from utils.nearest import nearest
from utils.options import as_text, converter
from utils.prior_scores import PriorScores
from utils.types import Index, LabelTable

Labels: TypeAlias = LabelTable | Tensor | ArrayLike


def require_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise UserError naming the nearest of the `known` names unless `name` is one of them."""
    names = list(known)
    if name not in names:
        close = nearest(name, names)
        hint = f"did you mean {close}?" if close else f"known: {', '.join(names)}"
        raise UserError(f"unknown {kind} {name!r}; {hint}")


def require_given(
    name: str, needs: frozenset[str], *, feature_width: object, prior_scores: object, groups: object
) -> None:
    """Raise UserError where a method with these needs is not given what it is built of."""
    require(
        feature_width is not None or not needs & {"features", "pooled"},
        f"{name}: give feature_width, the number of channels of the network's feature map",
    )
    require(
        prior_scores is not None or "prior_scores" not in needs,
        f"{name}: give prior_scores, probabilities (N, C) of the labels from outside",
    )
    require(groups is not None or "groups" not in needs, f"{name}: give groups, what each of the N images belongs to")


def label_table(labels: Labels) -> LabelTable:
    """Labels (N, C) as a table: a `LabelTable` itself, or a copy of an array, tensor or list of codes.

    Raises: UserError unless they are two-dimensional and hold nothing but 1, 0 and -1.
    """
    if isinstance(labels, LabelTable):
        return labels
    values = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    require(values.ndim == 2, f"labels must be of shape (N, C), got {values.shape}")
    require(bool(np.isin(values, (1, 0, -1)).all()), "labels must be 1 (present), 0 (absent) or -1 (unknown)")
    return LabelTable(np.array(values, dtype=np.int8))


def class_names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """The given names of `count` classes, or numbers. Raises: UserError if there are more or fewer names."""
    if names is None:
        return tuple(f"class {label}" for label in range(count))
    require(len(names) == count, f"{len(names)} class names for labels of {count} classes")
    return tuple(names)


def given_priors(values: ArrayLike | None, count: int) -> ClassPriors | None:
    """Class priors of `count` classes as people write them. Raises: UserError unless each has one in [0, 1]."""
    if values is None:
        return None
    priors = np.array(values, dtype=np.float64)
    fits = priors.shape == (count,) and bool(((priors >= 0) & (priors <= 1)).all())
    require(fits, f"class_priors: must be {count} numbers between 0 and 1, one for each class")
    return ClassPriors(priors, "given")


def given_noise(values: ArrayLike | None, count: int) -> NDArray[np.float64] | None:
    """Noise rates of `count` classes as people write them. Raises: UserError unless each has two of a sum below 1."""
    if values is None:
        return None
    rates = np.array(values, dtype=np.float64)
    fits = rates.shape == (count, 2) and bool(((rates >= 0) & (rates <= 1)).all() and (rates.sum(axis=1) < 1).all())
    require(fits, f"noise_rates: must be {count} x 2 numbers between 0 and 1, whose sums in each class are below 1")
    return rates


def given_groups(values: ArrayLike | None, rows: int) -> Index | None:
    """What each of the images belongs to, numbered from 0 in the order of numbers or names. Raises: UserError."""
    if values is None:
        return None
    groups = np.asarray(values)
    require(groups.shape == (rows,), f"groups: must be {rows} numbers or names, one for each image, got {groups.shape}")
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def given_scores(values: PriorScores | ArrayLike | None, rows: int, classes: int) -> PriorScores | None:
    """Prior scores as people write them: probabilities (N, C), or with all that `PriorScores` says of them.

    Raises: UserError unless they are of N images and C classes, and probabilities in [0, 1].
    """
    if isinstance(values, PriorScores) or values is None:
        fits = values is None or (len(values), len(values.columns)) == (rows, classes)
        require(fits, f"prior_scores: must be of {rows} images and {classes} classes")
        return values
    scores = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float32)
    fits = scores.shape == (rows, classes) and bool(((scores >= 0) & (scores <= 1)).all())
    require(fits, f"prior_scores: must be {rows} x {classes} numbers between 0 and 1, one for each label")
    return PriorScores(scores, np.arange(rows), np.arange(classes))


def typed_config(method: str, config: type[Any], options: Mapping[str, Any]) -> Any:
    """Settings of a method, each value read like the text of its flag. Raises: UserError for wrong names or values."""
    known = {name: setting for setting in fields(config) for name in (setting.name, *setting.metadata["aliases"])}
    hints, values = get_type_hints(config), {}
    for name, value in options.items():
        require_known(f"option of {method}", name, known)
        setting = known[name]
        require(setting.name not in values, f"{method}: {name} and another spelling of it are both given")
        values[setting.name] = _typed(method, setting, hints[setting.name], value)
    return config(**values)


def _typed(method: str, setting: Field[Any], annotation: Any, value: Any) -> Any:
    text = as_text(value)
    try:
        return converter(annotation)[0](setting.metadata["synonyms"].get(text, text))
    except ValueError as error:
        raise UserError(f"{method}: {setting.name} {text!r}: {error}") from None
