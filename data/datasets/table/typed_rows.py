"""Cells whose values have a kind in the file, while the reader of tables sees texts; and edits row by row."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data.datasets.table.corrections import Edits, NewLine
from data.datasets.table.seen import code_of
from utils.types import PRESENT


def added_by_row(added: Sequence[NewLine]) -> dict[int, list[NewLine]]:
    """Lines that are added, by the row that they stand behind."""
    found: dict[int, list[NewLine]] = {}
    for line in added:
        found.setdefault(line.after, []).append(line)
    return found


def cells_by_row(edits: Edits) -> dict[int, dict[str, str]]:
    """Changed cells by row and title."""
    found: dict[int, dict[str, str]] = {}
    for (row, title), text in edits.cells.items():
        found.setdefault(row, {})[title] = text
    return found


class TypedRows:
    """Objects whose cells are texts to the reader, and numbers, truth values, lists or null in the file.

    Args:
        objects: by row.
    """

    def __init__(self, objects: Mapping[int, dict[str, Any]]) -> None:
        self.objects = objects
        self.examples: dict[tuple[str, str], Any] = {}
        self.lists: set[str] = set()
        for content in objects.values():
            for title, value in content.items():
                self.examples.setdefault((title.strip(), str(value).strip() if value is not None else ""), value)
                if isinstance(value, list | dict):
                    self.lists.add(title.strip())

    def changed(self, row: int, cells: Mapping[str, str]) -> dict[str, Any]:
        """The object of a row with other cells; keys keep their order."""
        content = dict(self.objects[row])
        by_title = {title.strip(): title for title in content}
        for title, text in cells.items():
            content[by_title.get(title, title)] = self._value(title, text)
        return content

    def _value(self, title: str, text: str) -> Any:
        """A text as a value of the kind that its column has."""
        if (title, text) in self.examples:
            return self.examples[title, text]
        if title in self.lists:
            return json.loads(text) if text else []
        kinds = {type(value) for (one, _), value in self.examples.items() if one == title and value is not None}
        read = _READS.get(kinds.pop()) if len(kinds) == 1 else None
        if read is None:
            return text or next(
                (None for (_, other), value in self.examples.items() if not other and value is None), ""
            )
        try:
            return read(text) if text else None
        except ValueError:  # a word among numbers
            return text


_READS: Mapping[type, Callable[[str], Any]] = {
    bool: lambda text: code_of(text) == PRESENT,
    int: lambda text: int(float(text)),
    float: float,
}
"""From the text of a code to a value of each kind."""
