"""The two errors a user sees, and the one-line check that raises the first."""


class UserError(Exception):
    """What was asked cannot be done: one line that says what, where and what to do. Ends in exit code 2."""


class RunError(Exception):
    """A run that had started could not go on; what it saved before is intact. Ends in exit code 1."""


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)
