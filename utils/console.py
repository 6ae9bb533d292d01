"""Output for a person: plain lines, and progress bars where the output is a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TextIO, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

_OBEYED = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
_OBEYED |= {code: f"\\u{code:04x}" for code in (*range(0x2028, 0x202F), 0x200E, 0x200F, *range(0x2066, 0x206A))}
"""Characters that a terminal obeys (colours, bells, the direction of text) and how they are shown instead."""


def printable(text: str, encoding: str | None = None) -> str:
    r"""Text as a terminal of an encoding can show it, and does not obey it.

    Names of classes and files come from anywhere; what is not to be shown as it is becomes `\x1b` or `\ud800`.
    """
    encoding = encoding or "utf-8"
    return text.translate(_OBEYED).encode(encoding, "backslashreplace").decode(encoding)


def is_first_process() -> bool:
    """True in the first process of a run on several (`torchrun`), which tells what all of them know."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """Print a line at once, above a progress bar if one is showing; what is done goes on where nobody reads it.

    Processes of one run say it once.
    """
    if not is_first_process():
        return
    try:
        show(text)
    except BrokenPipeError:
        _print_nowhere(sys.stdout)


def show(text: str) -> None:
    """Print a line of what a command is run for. Raises: BrokenPipeError when nobody reads it any more."""
    tqdm.write(printable(text, sys.stdout.encoding), file=sys.stdout)
    sys.stdout.flush()


def warn(text: str) -> None:
    """Print a line on the error stream, if anybody reads it."""
    try:
        tqdm.write(printable(text, sys.stderr.encoding), file=sys.stderr)
    except BrokenPipeError:
        _print_nowhere(sys.stderr)


def note(text: str) -> None:
    """Print a line on the error stream that a run goes on after, once over all its processes."""
    if is_first_process():
        warn(f"note: {text}")


def print_nowhere() -> None:
    """Have what is printed from now on go nowhere, for its reader (`head`, a pager) has gone."""
    _print_nowhere(sys.stdout)


def _print_nowhere(stream: TextIO) -> None:
    """Point a stream to nowhere, with all that it has not written yet; else it fails again as the interpreter ends."""
    with suppress(OSError, ValueError):  # a stream without a file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def is_terminal() -> bool:
    """Tell whether progress bars would be seen."""
    return sys.stderr.isatty()


class Progress(Iterable[Item]):
    """Iterates with a bar on a terminal (rate, time left, and a text), silently elsewhere."""

    def __init__(self, items: Iterable[Item], *, total: int, done: int = 0, label: str, unit: str, shown: bool) -> None:
        self._items = items
        self._bar = tqdm(
            total=total, initial=done, desc=label, unit=unit, leave=False, disable=not (shown and is_terminal())
        )

    def __iter__(self) -> Iterator[Item]:
        try:
            yield from self._items
        finally:
            self._bar.close()

    def advance(self, amount: int, text: str = "") -> None:
        """Count `amount` more as done and show `text` beside the bar."""
        if text:
            self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(amount)
