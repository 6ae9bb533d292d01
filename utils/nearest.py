"""The name that was probably meant by one that there is not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The most similar of some names; None where none is similar."""
    return next(iter(difflib.get_close_matches(name, list(names))), None)
