"""The weights in a checkpoint from elsewhere: where they are, which of several are meant, and what is said of that.

Files hold a state_dict bare, under one of many names, in a list, or nested; and often averaged weights (EMA, SWA)
beside those of the last step. Authors mostly report the average, so that is taken unless the other is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

from torch import Tensor

from utils.checks import UserError, require
from utils.state_names import AVERAGE_MARKS, BOOKKEEPING, is_average, is_counter, letters, split_average, split_copies

CheckpointWeights = Literal["ema", "raw"]
"""The averaged weights of a file that holds both, or those of the last step."""

Form = Literal["bare", "tuple", "dict"]

Likeness = Callable[[Mapping[str, Tensor]], int]

_DEPTH, _ENTRIES = 4, 64  # where weights are looked for: levels, and entries of a list
_PREFERRED = ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "weights", "params")
_OTHER_THINGS = re.compile(r"optim|sched|scaler|criterion|loss|rng|random|^amp$|metric|discriminator", re.IGNORECASE)
_STATISTICS = frozenset({"running_mean", "running_var", "num_batches_tracked"})  # no parameters
_SHARED = 0.5  # of the names of an average, the share that must be the network's


class _Found(NamedTuple):
    """A state in a file."""

    keys: tuple[str, ...]
    state: dict[str, Tensor]
    marks: frozenset[str]
    """Names of counters that were left out."""

    @property
    def name(self) -> str:
        """Its place in the file, for messages."""
        return ".".join(f"no. {key}" if key.isdigit() else key for key in self.keys) or "the file"

    @property
    def averaged(self) -> bool:
        """True if its place or its counters say that it is an average."""
        return any(map(is_average, self.keys)) or "n_averaged" in self.marks

    def shares(self, other: _Found) -> float:
        """The share of its names that the other one has too."""
        own = letters(self.state).keys()
        return len(own & letters(other.state).keys()) / len(own)


class ForeignState(NamedTuple):
    """The weights that were chosen in a file."""

    state: dict[str, Tensor]
    metadata: dict[str, Any]
    """The entries beside them."""
    form: Form
    notes: tuple[str, ...]
    """What has been chosen or left out, one line each."""


class _Pair(NamedTuple):
    """Raw and averaged weights; either may be absent."""

    raw: _Found | None
    averaged: _Found | None
    notes: tuple[str, ...] = ()


def choose_state(
    content: Any, path: Path, wanted: CheckpointWeights | None = None, likeness: Likeness = lambda state: 0
) -> ForeignState:
    """Find the weights in the content of a file.

    Args:
        content: the file as `utils.safe_files.load_tensors` returns it.
        path: the file, for messages.
        wanted: the averaged or the raw weights; None: the averaged ones where there are any.
        likeness: how many tensors of the network that is looked for a state has; the state with most is taken.

    Raises: UserError when there are none, or not those that are wanted, or several and nothing tells them apart.
    """
    found = [each for each in _states(content) if not any(map(_OTHER_THINGS.search, each.keys))]
    if not found:
        _refuse(content, path)
    pair = _with_nameless(_pair(found, path, likeness), content)
    chosen, notes = _chosen(pair, path, wanted)
    state, more = _complete(chosen, pair)
    counters = sorted({name.rpartition(".")[2] for name in chosen.marks - BOOKKEEPING})
    if counters:
        number = len(chosen.marks - BOOKKEEPING)
        more = (*more, f"{number} counters of a profiler ({', '.join(counters)}) are ignored")
    place = pair.raw or chosen
    return ForeignState(state, _beside(content, place.keys, found), _form(content, found), (*notes, *more))


def _states(
    content: Any, keys: tuple[str, ...] = (), seen: frozenset[int] = frozenset(), beside: frozenset[str] = frozenset()
) -> Iterator[_Found]:
    """All states in a file, in order. `beside`: marks of an average that stand beside this content."""
    if isinstance(content, Mapping) and (found := _as_state(content, keys)) is not None:
        yield found._replace(marks=found.marks | beside)
    elif len(keys) < _DEPTH and id(content) not in seen:
        marks = AVERAGE_MARKS & set(content) if keys and isinstance(content, Mapping) else frozenset()
        for key, value in _entries(content):
            yield from _states(value, (*keys, key), seen | {id(content)}, marks)


def _entries(content: Any) -> list[tuple[str, Any]]:
    """Entries of a container that may hold states, by name or number."""
    pairs = list(content.items()) if isinstance(content, Mapping) else []
    if isinstance(content, list | tuple):
        pairs = list(enumerate(content, 1))
    held = [(str(key), value) for key, value in pairs if isinstance(value, Mapping | list | tuple)]
    return held[:_ENTRIES]


def _as_state(content: Mapping[Any, Any], keys: tuple[str, ...]) -> _Found | None:
    """The mapping as a state, without counters; None if it holds other things, or nothing else."""
    if not all(isinstance(key, str) for key in content):
        return None
    marks = frozenset(key for key, value in content.items() if is_counter(key, value))
    state = {key: value for key, value in content.items() if key not in marks}
    plain = bool(state) and all(isinstance(value, Tensor) for value in state.values())
    return _Found(keys, state, marks) if plain else None


def _pair(found: list[_Found], path: Path, likeness: Likeness) -> _Pair:
    """The network in a file, and its average."""
    averages = {id(each) for each in found if each.averaged or _is_teacher(each, found)}
    raws = [each for each in found if id(each) not in averages]
    averaged = [each for each in found if id(each) in averages]
    if not raws:
        best = max(averaged, key=lambda each: likeness(each.state))
        return _Pair(None, best, _unused([each for each in averaged if each is not best]))
    raw = min(raws, key=lambda each: (-likeness(each.state), _rank(each), -len(each.state)))
    if not averaged:
        return _split(raw, _twins(raw, raws), path)
    fitting = [each for each in averaged if each.shares(raw) >= _SHARED]
    if not fitting:
        return _Pair(raw, None, _unused(averaged))
    return _exchanged(_Pair(raw, fitting[0], _unused([*fitting[1:], *_twins(raw, raws)])))


def _with_nameless(pair: _Pair, content: Any) -> _Pair:
    """The pair with an average that is a list of tensors without names (torch_ema), if it is of this network."""
    lists = list(_nameless(content)) if pair.raw is not None and pair.averaged is None else []
    if pair.raw is None or not lists:
        return pair
    keys, values = lists[0]
    learned = [name for name in pair.raw.state if name.rpartition(".")[2] not in _STATISTICS]
    shapes = [pair.raw.state[name].shape for name in learned]
    if shapes != [value.shape for value in values]:
        name = ".".join(keys)
        return pair._replace(
            notes=(*pair.notes, f"averaged weights without names ({name}) do not fit and are not used")
        )
    return pair._replace(averaged=_Found(keys, dict(zip(learned, values, strict=True)), frozenset()))


def _nameless(content: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[Tensor]]]:
    """Lists of tensors in entries that are averages, in order, each with its place."""
    for key, value in _entries(content) if len(keys) < _DEPTH else ():
        listed = isinstance(value, list | tuple) and bool(value) and all(isinstance(each, Tensor) for each in value)
        if listed and any(map(is_average, (*keys, key))):
            yield (*keys, key), list(value)
        elif isinstance(value, Mapping):
            yield from _nameless(value, (*keys, key))


def _is_teacher(each: _Found, found: list[_Found]) -> bool:
    """True for the teacher of a student in the same file, which is the student's average (mean teacher, DINO)."""
    keys = tuple(key.replace("teacher", "student") for key in each.keys)
    return keys != each.keys and any(other.keys == keys and each.shares(other) == 1 for other in found)


def _rank(each: _Found) -> int:
    """The place of a state in the order in which they are taken."""
    return min((_PREFERRED.index(key) for key in each.keys if key in _PREFERRED), default=len(_PREFERRED))


def _twins(raw: _Found, raws: list[_Found]) -> list[_Found]:
    """Other states of the same network."""
    return [each for each in raws if each is not raw and each.shares(raw) == 1 == raw.shares(each)]


def _split(raw: _Found, twins: list[_Found], path: Path) -> _Pair:
    """The pair where no entry of the file says that it is an average: by prefixes of names, or by the order of two."""
    plain, averaged, exchanged = split_average(raw.state)
    if averaged and not plain:
        return _Pair(None, raw._replace(state=averaged), _unused(twins))
    if averaged:
        pair = _Pair(raw._replace(state=plain), _Found((*raw.keys, "ema"), averaged, raw.marks))
        if pair.averaged is not None and pair.raw is not None and pair.averaged.shares(pair.raw) >= _SHARED:
            return _Pair(pair.averaged, pair.raw) if exchanged else pair
    copies = split_copies(raw.state)
    if copies is not None:
        average = _Found((*raw.keys, copies.prefix), copies.averaged, raw.marks)
        return _Pair(raw._replace(state=copies.raw) if copies.raw else None, average, _unused(twins))
    if not twins:
        return _Pair(raw, None)
    return _by_order(raw, twins, path)


def _by_order(raw: _Found, twins: list[_Found], path: Path) -> _Pair:
    """Two states of one network in a list: the second is taken for the average; among names, the preferred is taken."""
    listed = [each for each in (raw, *twins) if "".join(each.keys[:1]).isdigit()]
    if len(listed) == 2 == len(twins) + 1 and raw.keys[0] != twins[0].keys[0]:
        note = "two networks in a list, which does not say which is which: the second is taken for the average (ema)"
        first, second = sorted(listed, key=lambda each: int(each.keys[0]))
        return _Pair(first, second, (note,))
    if raw.keys and "current_model_state" in (each.keys[-1] for each in twins):  # Lightning, WeightAveraging
        other = next(each for each in twins if each.keys[-1] == "current_model_state")
        return _Pair(other, raw)
    counting = [each for each in (raw, *twins) if each.marks & AVERAGE_MARKS]
    if len(counting) == 1 == len(twins):
        return _Pair(twins[0] if counting[0] is raw else raw, counting[0])
    names = ", ".join(each.name for each in (raw, *twins)[:6])
    require(
        all(_rank(each) > _rank(raw) for each in twins),
        f"{path}: holds {len(twins) + 1} networks of the same tensors ({names}) and does not say which to score; save "
        f"one of them in a file of its own",
    )
    return _Pair(raw, None, _unused(twins))


def _exchanged(pair: _Pair) -> _Pair:
    """The pair with its parts in place: mmengine writes the average where others write the raw weights."""
    if pair.raw and pair.averaged and "steps" in pair.averaged.marks and pair.averaged.keys[-1:] == ("ema_state_dict",):
        return _Pair(pair.averaged, pair.raw, pair.notes)
    return pair


def _unused(states: list[_Found]) -> tuple[str, ...]:
    """A note on states that are not used."""
    return (f"weights under {', '.join(each.name for each in states[:6])} are not used",) if states else ()


def _chosen(pair: _Pair, path: Path, wanted: CheckpointWeights | None) -> tuple[_Found, tuple[str, ...]]:
    """The wanted part of a pair and what is said of it. Raises: UserError where the file does not hold it."""
    raw, averaged = pair.raw, pair.averaged
    missing = (wanted == "ema" and averaged is None) or (wanted == "raw" and raw is None)
    kind = "raw weights, only averaged ones" if wanted == "raw" else "averaged weights, only raw ones"
    require(not missing, f"--checkpoint_weights {wanted}: {path} holds no {kind}; leave the flag out")
    if averaged is None or raw is None:
        note = (
            () if averaged is None else (f"averaged weights (ema, {averaged.name}) are used, the only ones it holds",)
        )
        return (raw or averaged), (*note, *pair.notes)  # type: ignore[return-value]
    if wanted == "raw":
        note = (f"raw weights ({raw.name}) are used, as asked for; it holds averaged ones (ema, {averaged.name}) too",)
        return raw, (*note, *pair.notes)
    text = "as asked for" if wanted else "as for most reported figures"
    note = (
        f"averaged weights (ema, {averaged.name}) are used, {text}; --checkpoint_weights raw takes those of {raw.name}",
    )
    return averaged, (*note, *pair.notes)


def _complete(chosen: _Found, pair: _Pair) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The chosen tensors by the names of the raw ones; what has no average is taken from these, and counted."""
    if pair.raw is None or chosen is not pair.averaged:
        return chosen.state, ()
    ours = letters(pair.raw.state)
    averaged = {ours.get(plain, name): chosen.state[name] for plain, name in letters(chosen.state).items()}
    rest = {name: value for name, value in pair.raw.state.items() if name not in averaged}
    counted = [name for name in rest if not name.endswith("num_batches_tracked")]
    note = (f"{len(counted)} tensors that have no average ({counted[0]}, ...) are the raw ones",) if counted else ()
    return {**averaged, **rest}, note


def _beside(content: Any, keys: tuple[str, ...], found: list[_Found]) -> dict[str, Any]:
    """The entries beside a state, from the outermost to its own level, without other states."""
    states = {id(state) for state in _containers(content, found)}
    beside: dict[str, Any] = {}
    for key in keys:
        if id(content) in states:  # the last key is that of an average within a state
            return beside
        if isinstance(content, Mapping):
            level = {name: value for name, value in content.items() if str(name) != key and id(value) not in states}
            beside.update(level)
        else:
            for number, options in _entries(content):
                beside.update(options if number != key and _is_options(options, states) else {})
        content = dict(_entries(content))[key]
    return beside


def _is_options(content: Any, states: set[int]) -> bool:
    """True for a mapping that is no state and holds none."""
    return (
        isinstance(content, Mapping)
        and id(content) not in states
        and not any(id(value) in states for value in content.values())
    )


def _containers(content: Any, found: list[_Found]) -> Iterator[Any]:
    """The containers in the file that were read as states."""
    for each in found:
        inner = content
        for key in each.keys:
            inner = dict(_entries(inner)).get(key)
        yield inner


def _form(content: Any, found: list[_Found]) -> Form:
    """The form of a file: a bare state, a list or pair with options, or a dictionary."""
    if isinstance(content, Mapping):
        return "bare" if found[0].keys == () else "dict"
    states = {each.keys[0] for each in found}
    others = [each for n, each in enumerate(content, 1) if str(n) not in states and isinstance(each, Mapping)]
    return "tuple" if others else "bare"


def _refuse(content: Any, path: Path) -> NoReturn:
    """Raise UserError on a file without weights."""
    inner = content
    if isinstance(content, Mapping):
        inner = next((content[key] for key in _PREFERRED if isinstance(content.get(key), Mapping)), content)
    raise UserError(
        f"{path}: no checkpoint, but {_description(inner)}, not a state_dict: names with a tensor each are needed"
    )


def _description(content: Any) -> str:
    """A few words on an object that is no state_dict."""
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    odd = [str(key)[:40] for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    names = ", ".join(odd[:3]) + (", ..." if len(odd) > 3 else "")
    return f"a dictionary of other things ({names})" if odd else "an empty dictionary"
