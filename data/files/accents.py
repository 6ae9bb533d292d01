"""Names whose accents are encoded in two ways: composed (NFC, as most programs write) or apart (NFD, as a Mac does)."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from utils.checks import UserError

_NAMED = 3  # names in a note


class MatchedNames(NamedTuple):
    """Names as they are on disk, in the order asked for, and lines to print."""

    names: list[str]
    notes: list[str]


def composed(name: str) -> str:
    """A name with its accents composed: equal for two names that differ only in how accents are encoded."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def by_composed(names: Iterable[str]) -> dict[str, list[str]]:
    """Names that are not ASCII by their composed form, sorted."""
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        if not name.isascii():
            found.setdefault(composed(name), []).append(name)
    return found


def match_name(name: str, existing: Collection[str], otherwise: dict[str, list[str]], where: str) -> str | None:
    """The one of `existing` that is `name`, or else has its accents encoded otherwise; None if there is none.

    Args:
        name: as it is written.
        existing: names that there are.
        otherwise: `by_composed(existing)`.
        where: folder or file that has them, for the message.

    Raises:
        UserError: several are meant equally.
    """
    if name in existing or name.isascii():
        return name if name in existing else None
    found = otherwise.get(composed(name), [])
    if len(found) > 1:
        raise UserError(
            f"{where}: {len(found)} names differ from {name!r}, and from one another, only in how accents are encoded; "
            f"rename them"
        )
    return found[0] if found else None


def match_files(folder: str | Path, names: Sequence[str]) -> MatchedNames:
    """Relative paths as they are on disk: with accents encoded otherwise where only such a file exists.

    A name without a file stays as it is, and so does one whose file another name means exactly: two names are never
    taken for one. Only folders of names that are not ASCII are listed.

    Raises:
        UserError: several files are meant equally.
    """
    folders = _Folders(str(folder))
    found = [name if name.isascii() else folders.find(name) for name in names]
    taken = Counter(found)
    kept = [name if one != name and taken[one] > 1 else one for name, one in zip(names, found, strict=True)]
    changed = [name for name, one in zip(names, kept, strict=True) if name != one]
    notes = [f"{folder}: {otherwise_note(changed, 'images')}"] if changed else []
    return MatchedNames(kept, [*notes, *alike_notes(folder, names, "images")])


def otherwise_note(names: Sequence[str], what: str) -> str:
    """A line about names that were found with their accents encoded otherwise."""
    return f"{len(names)} {what} found under a name whose accents are encoded otherwise ({_some(names)})"


def alike_notes(place: str | Path, names: Sequence[str], what: str) -> list[str]:
    """A line about names that differ only in how accents are encoded; none if there are no such names."""
    alike = [group[0] for group in by_composed(names).values() if len(group) > 1]
    if not alike:
        return []
    return [f"{place}: {len(alike)} {what} there twice, with accents encoded in two ways ({_some(alike)}); both count"]


class _Folders:
    """The folders below one, each listed once."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._listed: dict[str, tuple[set[str], dict[str, list[str]]]] = {}

    def find(self, name: str) -> str:
        """The path of a file, part by part; the name itself if a part does not exist."""
        at = self._folder
        parts = []
        for part in name.split("/"):
            found = match_name(part, *self._names(at), at)
            if found is None:
                return name
            parts.append(found)
            at = f"{at}/{found}"
        return "/".join(parts)

    def _names(self, folder: str) -> tuple[set[str], dict[str, list[str]]]:
        if folder not in self._listed:
            try:
                names = set(os.listdir(folder))  # noqa: PTH208 - names are enough
            except OSError:
                names = set()
            self._listed[folder] = names, by_composed(names)
        return self._listed[folder]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
