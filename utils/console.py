"""Output for a person: plain lines, and progress bars where the output is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def say(text: str) -> None:
    """Print a line at once, above a progress bar if one is showing."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def warn(text: str) -> None:
    """Print a line on the error stream."""
    tqdm.write(text, file=sys.stderr)


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
