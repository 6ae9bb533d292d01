"""Where a change can be made in a file: its characters, and the finding of operators between two nodes of the tree."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Change:
    """The replacement of `old` by `new` in one file."""

    file: str
    """Path inside the project."""
    kind: str
    """One of `plan.WEIGHTS`."""
    line: int
    start: int
    """The first character replaced, counted from the start of the file."""
    end: int
    old: str
    new: str
    function: str
    """The function around it, empty outside of all."""
    imported: bool
    """Whether the changed code runs when the module is imported."""

    def applied(self, text: str) -> str:
        """The file with the change. Raises: ValueError when `text` is another file than the change was found in."""
        if text[self.start : self.end] != self.old:
            raise ValueError(f"{self.file}, line {self.line}: not the file that the change was found in")
        return text[: self.start] + self.new + text[self.end :]

    @property
    def lines(self) -> range:
        """The numbers of the lines that it touches."""
        return range(self.line, self.line + self.old.count("\n") + 1)

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Change:
        """From a row of a plan; other keys are left out."""
        return cls(**{field.name: row[field.name] for field in fields(cls)})


class Source:
    """The text of a file by the places that `ast` gives: lines from 1, columns in bytes."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._lines = text.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    def offset(self, line: int, column: int) -> int:
        """The number of the character at a place."""
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())

    def span(self, node: ast.AST) -> tuple[int, int]:
        """The first character of a node and the one behind it."""
        place: Any = node
        return self.offset(place.lineno, place.col_offset), self.offset(place.end_lineno, place.end_col_offset)

    def of(self, node: ast.AST) -> str:
        """The text of a node."""
        start, end = self.span(node)
        return self.text[start:end]

    def line_of(self, offset: int) -> int:
        """The number of the line that a character stands in."""
        return self.text.count("\n", 0, offset) + 1

    def operator(self, left: ast.AST, right: ast.AST, word: str) -> tuple[int, int] | None:
        """The place of an operator between two operands; None where parentheses hide it."""
        start, end = self.span(left)[1], self.span(right)[0]
        found = re.search(r"(?<![\w])" + r"\s+".join(map(re.escape, word.split())), self.text[start:end])
        return (start + found.start(), start + found.end()) if found else None
