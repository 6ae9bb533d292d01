"""One declaration per setting: a dataclass field that is at once a default, a flag, a YAML key and its help text."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from utils.nearest import nearest

PATHS = "path..."
"""Kind of a list of paths."""
BETWEEN_PATHS = "\0"
"""Between the paths of a list where it is one text: the one character that no name of a file holds."""


class Shorthand(NamedTuple):
    """A flag and YAML key that stands for values of other settings and holds none itself."""

    values: str
    """Its values in words, for `--help`."""
    help: str
    expand: Callable[[str], Mapping[str, str]]
    """From the text given to the texts of the settings it stands for. Raises: ValueError saying what it must be."""


def option(
    default: Any,
    help: str,  # noqa: A002 - argparse's own word
    *,
    aliases: Sequence[str] = (),
    choices: Iterable[str] = (),
    synonyms: Mapping[str, str] = MappingProxyType({}),
    shorthands: Mapping[str, Shorthand] = MappingProxyType({}),
    common: bool = False,
    strict: bool = False,
    implies: Mapping[str, str] = MappingProxyType({}),
) -> Any:
    """A field of a config dataclass that `engine.core.settings` turns into `--<name>` and into a YAML key.

    The type comes from the annotation: `int`, `float`, `str`, `bool`, `Path`, `Literal[...]` (a choice), a number or
    one of some words (`float | Literal[...]`), a list of numbers, texts or paths (`tuple[int, ...]`,
    `tuple[Path, ...]`), or one of these `| None`. Numbers and texts of a list have commas between them; each path is a
    word of its own behind the flag, for its name may hold a comma.

    Args:
        default: the value in force when nobody says otherwise.
        help: one line for `--help` and for the reader of the class; the only place where the setting is described.
        aliases: other spellings of the flag that papers print, without dashes. Never a second setting.
        choices: values of a `str` that come from a registry, such as the names of all heads.
        synonyms: other spellings of values that papers print, each with the value it stands for.
        shorthands: flags that papers print, each of which sets this setting, and others with it.
        common: True for the few settings that the short `--help` shows.
        strict: True for a setting of a head whose flag is refused, and not only pointed out, beside another head.
        implies: values of other settings that `when:` blocks of settings files take for granted where this one is set.
    """
    metadata = {
        "help": help,
        "aliases": tuple(aliases),
        "choices": tuple(choices),
        "synonyms": synonyms,
        "shorthands": shorthands,
        "common": common,
        "strict": strict,
        "implies": implies,
    }
    return field(default=default, metadata=metadata)


def kind_of(annotation: Any, choices: Sequence[str] = ()) -> str:
    """The type of a setting as a word: `int`, `float`, `str`, `bool`, `path` or `choice`.

    A list has `...` behind the word, and a setting that may be unset `?` behind all: `int...`, `float?`. A number that
    may also be one of some words has the kind of the number.

    Args:
        annotation: the type of the dataclass field.
        choices: those of a `str` that come from a registry; the kind is `choice` then.

    Raises:
        KeyError: a type that no flag can have.
    """
    if get_origin(annotation) in (Union, types.UnionType):
        parts = get_args(annotation)
        kind = kind_of(next(part for part in parts if part is not type(None)), choices)
        return f"{kind}?" if type(None) in parts else kind
    if get_origin(annotation) is tuple:
        return kind_of(get_args(annotation)[0], choices) + "..."
    if get_origin(annotation) is Literal or choices:
        return "choice"
    return {bool: "bool", int: "int", float: "float", str: "str", Path: "path"}[annotation]


def choices_of(annotation: Any) -> tuple[str, ...]:
    """The values of a `Literal`, also inside a list or a union with None; empty for other types."""
    if get_origin(annotation) is Literal:
        return tuple(str(choice) for choice in get_args(annotation))
    parts = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType, tuple) else ()
    return next((found for part in parts if (found := choices_of(part))), ())


def reader(kind: str, choices: Sequence[str] = ()) -> Callable[[str], Any]:
    """From the text of a flag or YAML value to a value of a kind of `kind_of`.

    The function that is returned raises ValueError saying what the text must be. An empty text is None where the
    setting may be unset.
    """
    if kind.endswith("?"):
        inner = reader(kind.removesuffix("?"), choices)
        return lambda text: None if text == "" else inner(text)
    if kind == PATHS:
        return lambda text: tuple(map(_path, text.split(BETWEEN_PATHS)))
    if kind.endswith("..."):
        item = reader(kind.removesuffix("..."), choices)
        return lambda text: tuple(item(word) for word in text.replace(",", " ").split())
    if kind == "choice":
        return lambda text: _choice(text, choices)
    read = _READERS[kind]
    return _or_word(read, choices) if choices else read


def converter(annotation: Any) -> tuple[Callable[[str], Any], tuple[str, ...]]:
    """The function from the text of a flag or YAML value to a value of the annotated type, and the choices if any."""
    choices = choices_of(annotation)
    return reader(kind_of(annotation), choices), choices


def as_text(value: Any) -> str:
    """A value of a setting as the text that gives it back: a list with commas, None as nothing."""
    if value is None:
        return ""
    if isinstance(value, tuple | list):
        return (BETWEEN_PATHS if is_paths(value) else ",").join(map(as_text, value))
    if isinstance(value, Path) and str(value).startswith("~"):
        return f"./{value}"  # a name, not somebody's home
    return str(value)


def as_words(value: Any) -> str:
    """A value of a setting in a message, as it stands behind its flag."""
    return as_text(value).replace(BETWEEN_PATHS, " ") or "None"


def is_paths(value: Any) -> bool:
    """True for a list of paths."""
    return isinstance(value, tuple | list) and any(isinstance(item, Path) for item in value)


def _choice(text: str, choices: Sequence[str]) -> str:
    if text not in choices:
        close = nearest(text, choices)
        hint = f" (did you mean {close}?)" if close else ""
        raise ValueError(f"must be one of {', '.join(choices)}{hint}")
    return text


def _or_word(read: Callable[[str], Any], words: Sequence[str]) -> Callable[[str], Any]:
    def read_either(text: str) -> Any:
        """A value, or one of the words."""
        try:
            return text if text in words else read(text)
        except ValueError as error:
            raise ValueError(f"{error}, or {' or '.join(words)}") from None

    return read_either


def _boolean(text: str) -> bool:
    if text.lower() not in {"true", "false", "1", "0", "yes", "no"}:
        raise ValueError("must be True or False")
    return text.lower() in {"true", "1", "yes"}


def _integer(text: str) -> int:
    try:
        return int(text, 10)
    except ValueError:
        raise ValueError("must be a whole number") from None


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("must be a number") from None
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError("must be a finite number")
    return value


def _text(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


def _path(text: str) -> Path:
    path = Path(_text(text))
    try:
        return path.expanduser() if text.startswith("~") else path
    except RuntimeError:
        raise ValueError("must be a path; there is no such home folder") from None


_READERS: Mapping[str, Callable[[str], Any]] = {
    "bool": _boolean,
    "int": _integer,
    "float": _number,
    "str": _text,
    "path": _path,
}
