"""Damaged inputs, a module for each reader. `tests/data/test_damage.py` runs every case of every module here."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Case(NamedTuple):
    """One damaged input: `make` builds it in a folder and returns the call that must raise UserError about it."""

    name: str
    make: Callable[[Path], Callable[[], object]]
    words: tuple[str, ...]  # all of them must be in the message: the file, the line or row, the offending value
