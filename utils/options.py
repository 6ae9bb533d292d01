"""One declaration per setting: a dataclass field that is at once a default, a flag, a YAML key and its help text."""

from collections.abc import Sequence
from dataclasses import field
from typing import Any


def option(default: Any, help: str, *, aliases: Sequence[str] = ()) -> Any:  # noqa: A002 - argparse's own word
    """A field of a config dataclass that `engine.settings` turns into `--<name>` and into a YAML key.

    The type comes from the annotation: `int`, `float`, `str`, `bool`, `Path`, `Literal[...]` (a choice) or one of
    these `| None`.

    Args:
        default: the value in force when nobody says otherwise.
        help: one line for `--help` and for the reader of the class; the only place where the setting is described.
        aliases: other spellings of the flag that papers print, without dashes. Never a second setting.
    """
    return field(default=default, metadata={"help": help, "aliases": tuple(aliases)})
