"""The exceptions that end a script: two errors that a user sees, and a run stopped by a signal."""

import signal


class UserError(Exception):
    """What was asked cannot be done: one line that says what, where and what to do. Ends in exit code 2."""


class RunError(Exception):
    """A run that had started could not go on; what it saved before is intact. Ends in exit code 1."""


class Interrupted(Exception):  # noqa: N818 - not an error: somebody asked the run to stop
    """A run stopped on a signal after saving."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)
