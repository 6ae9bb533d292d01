"""Runs, evaluation and analysis. The words on Ctrl-C stand here, for it may come while the rest is imported."""

import sys
from types import TracebackType

INTERRUPTED = "interrupted; a run goes on from its last save with --resume and the same --output"


def _say_interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print one line for Ctrl-C; the interpreter then ends as that signal ends programs."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write(f"{INTERRUPTED}\n")
    else:
        _before(kind, error, trace)


_before, sys.excepthook = sys.excepthook, _say_interrupted
