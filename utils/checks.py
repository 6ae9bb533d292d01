"""The exceptions that end a script, two errors that a user sees and a run stopped by a signal, and small checks."""

import signal
from typing import Any


class UserError(Exception):
    """A request that cannot be met: one line that says what, where and what to do. Ends in exit code 2."""


class RunError(Exception):
    """A run that started and could not go on; files saved before are intact. Ends in exit code 1."""


class Interrupted(Exception):  # noqa: N818 - not an error: the run was asked to stop
    """A run stopped on a signal after saving."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def is_number(value: Any) -> bool:
    """Tell whether what a file says is a number, and no truth value: a float, or an integer that a float can hold."""
    return type(value) is float or (type(value) is int and abs(value) < 2**53)
