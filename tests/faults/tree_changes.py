"""Changes of what a file holds once it is parsed: dictionaries, lists, texts, numbers, arrays and tensors."""

import copy
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from tests.faults.byte_changes import TEXTS

LEAVES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 7, 255, 2**31, 2**63, -(2**63) - 1, 10**30, 0.5, -0.0, 1e308,
    float("nan"), float("inf"), float("-inf"), [], {}, [[]], [None], {"": None}, {"a": {"b": [1]}}, *TEXTS,
)  # fmt: skip
"""What may stand where something else is expected."""

_DTYPES = ("float64", "float16", "int64", "int8", "uint8", "bool", "complex64", "U7", "S3", "datetime64[s]", "object")
_TENSOR_DTYPES = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64)


def change_tree(tree: Any, rng: random.Random) -> Any:
    """A copy with one place changed: another value, nothing there, another name, twice, wrapped, exchanged."""
    tree = copy.deepcopy(tree)
    places = list(_places(tree))
    if not places or rng.random() < 0.03:
        return rng.choice((*LEAVES, [tree], {"data": tree}))
    holder, key = rng.choice(places)
    if isinstance(holder, tuple):
        return _other_tuple(tree, holder, key, rng)
    value = holder[key]
    match rng.randrange(10):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[rng.choice((*TEXTS, 0, None, f"{key} ", f"{key}2"))] = holder.pop(key)
        case 1:
            holder.insert(rng.randrange(len(holder) + 1), value)
        case 2:
            other, place = rng.choice(places)
            if not isinstance(other, tuple):
                holder[key], other[place] = other[place], value
        case 3:
            holder[key] = rng.choice(([value], {"x": value}, str(value)[:500], [value, value]))
        case _:
            holder[key] = _other(value, rng)
    return tree


def change_array(array: np.ndarray, rng: random.Random) -> np.ndarray:
    """Another type, shape or value, rows lost or doubled."""
    match rng.randrange(6):
        case 0:
            return _as_type(array, rng.choice(_DTYPES))
        case 1:
            return rng.choice(
                (array[:0], array[1:], array[None], array.T, array.reshape(-1), array[..., None], array[::-1])
            )
        case 2 if array.ndim:
            return np.concatenate([array, array[: rng.randint(1, 3)]])
        case _ if array.size and array.dtype.kind in "fiub":
            changed = array.copy()
            values = (np.nan, np.inf, -np.inf, 1e300) if array.dtype.kind == "f" else (-1, -2, 2, 127, -128, 255)
            changed.flat[rng.randrange(array.size)] = np.array(rng.choice(values)).astype(array.dtype)
            return changed
        case _ if array.size:
            changed = array.astype("U400" if array.dtype.kind == "U" else object)
            changed.flat[rng.randrange(array.size)] = rng.choice(TEXTS if array.dtype.kind == "U" else LEAVES)
            return changed
        case _:
            return np.zeros((3, 0))


def change_tensor(tensor: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """Another type, shape or value; a layout that weights never have."""
    match rng.randrange(6):
        case 0:
            return tensor.to(rng.choice(_TENSOR_DTYPES))
        case 1:
            return rng.choice(
                (
                    tensor[None],
                    tensor.reshape(-1),
                    tensor.flatten()[:0],
                    tensor.flatten()[:1],
                    tensor.t() if tensor.ndim == 2 else tensor[..., None],
                )
            )
        case 2:
            return rng.choice((torch.tensor(1.0), torch.zeros(0), torch.zeros(3, 0, 2), torch.full((), float("nan"))))
        case 3:
            return rng.choice(
                (tensor.to_sparse() if tensor.ndim else tensor, torch.nn.Parameter(tensor.float()), tensor.double())
            )
        case _:
            changed = tensor.clone()
            if tensor.numel() and tensor.is_floating_point():
                changed.view(-1)[rng.randrange(tensor.numel())] = rng.choice((float("nan"), float("inf"), 1e30))
            return changed


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with each of its keys."""
    for key, value in list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)):
        yield tree, key
        if isinstance(value, dict | list | tuple):
            yield from _places(value)


def _other(value: Any, rng: random.Random) -> Any:
    if isinstance(value, np.ndarray) and rng.random() < 0.8:
        return change_array(value, rng)
    if isinstance(value, torch.Tensor) and rng.random() < 0.8:
        return change_tensor(value, rng)
    if isinstance(value, bool | int | float) and rng.random() < 0.4:
        return rng.choice((-value, value + 1, value * 1000, float(value), str(value), value + 0.5))
    if isinstance(value, str) and rng.random() < 0.4:
        return rng.choice((value.upper(), value + " ", value[:-1], value[::-1], value * 2, value + "\n"))
    return rng.choice(LEAVES)


def _other_tuple(tree: Any, holder: tuple[Any, ...], key: int, rng: random.Random) -> Any:
    """The tree with a tuple replaced, wherever it stands."""
    changed = list(holder)
    changed[key] = _other(changed[key], rng)
    replaced = rng.choice((tuple(changed), changed, holder[:key], holder + holder))
    if tree is holder:
        return replaced
    for other, place in _places(tree):
        if other[place] is holder and not isinstance(other, tuple):
            other[place] = replaced
    return tree


def _as_type(array: np.ndarray, dtype: str) -> np.ndarray:
    try:
        return array.astype(dtype)
    except (TypeError, ValueError):
        return np.zeros(array.shape, dtype=dtype)
