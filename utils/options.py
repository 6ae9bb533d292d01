"""One declaration per setting: a dataclass field that is at once a default, a flag, a YAML key and its help text."""

from __future__ import annotations

import difflib
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin


class Shorthand(NamedTuple):
    """A flag and YAML key that stands for values of other settings and holds none itself."""

    values: str
    """What it takes, for `--help`."""
    help: str
    expand: Callable[[str], Mapping[str, str]]
    """From the text given to the texts of the settings it stands for. Raises: ValueError saying what it must be."""


def option(
    default: Any,
    help: str,  # noqa: A002 - argparse's own word
    *,
    aliases: Sequence[str] = (),
    synonyms: Mapping[str, str] = MappingProxyType({}),
    shorthands: Mapping[str, Shorthand] = MappingProxyType({}),
) -> Any:
    """A field of a config dataclass that `engine.core.settings` turns into `--<name>` and into a YAML key.

    The type comes from the annotation: `int`, `float`, `str`, `bool`, `Path`, `Literal[...]` (a choice) or one of
    these `| None`.

    Args:
        default: the value in force when nobody says otherwise.
        help: one line for `--help` and for the reader of the class; the only place where the setting is described.
        aliases: other spellings of the flag that papers print, without dashes. Never a second setting.
        synonyms: other spellings of values that papers print, each with the value it stands for.
        shorthands: flags that papers print, each of which sets this setting, and others with it.
    """
    said = {"help": help, "aliases": tuple(aliases), "synonyms": synonyms, "shorthands": shorthands}
    return field(default=default, metadata=said)


def converter(kind: Any) -> tuple[Callable[[str], Any], tuple[str, ...]]:
    """How the text of a flag or YAML value becomes a value of the annotated type, and the choices if it has any.

    The function that is returned raises ValueError saying what the text must be. For `... | None` an empty text is
    None.
    """
    if get_origin(kind) in (Union, types.UnionType):
        inner, choices = converter(next(part for part in get_args(kind) if part is not type(None)))
        return (lambda text: None if text == "" else inner(text)), choices
    if get_origin(kind) is Literal:
        choices = tuple(str(choice) for choice in get_args(kind))
        return (lambda text: _choice(text, choices)), choices
    return {bool: _boolean, int: _integer, float: _number, str: _text, Path: _path}[kind], ()


def _choice(text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        close = difflib.get_close_matches(text, choices, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"must be one of {', '.join(choices)}{hint}")
    return text


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
    return Path(_text(text)).expanduser()
