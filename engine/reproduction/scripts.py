"""The training scripts as a plan runs them: in its own processes, as functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol


class TrainingScript(Protocol):
    """A `main_*.py` as a module."""

    DEFAULTS: Mapping[str, Any]

    @property
    def main(self) -> Callable[[Sequence[str] | None], int]:
        """Trains; returns the exit code."""


Scripts = Mapping[str, Callable[[], TrainingScript]]
"""The training scripts by file name, as functions that import them."""
