"""Class names as text of a cell, in the way in which the other cells of its column are written."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Sequence

from data.datasets.table.cells import Reading, names_of_list
from data.datasets.table.labelled import USUAL_SEPARATOR

Write = Callable[[Sequence[str]], str]


def joiner(texts: Sequence[str], separator: str | None) -> str:
    """What stands between two names, blanks around it included: that of the first cell that has two."""
    if separator is None:
        return USUAL_SEPARATOR
    if separator.isspace():
        return separator
    found = (re.search(rf"(?<=\S)\s*{re.escape(separator)}\s*(?=\S)", text) for text in texts)
    return next((match[0] for match in found if match), separator)


def names_text(names: Sequence[str], cell: str, texts: Sequence[str], reading: Reading) -> str:
    """A cell that names classes.

    Args:
        names: as they are written in this column; none leaves the cell without names.
        cell: what stood there; it is written in the same way, if it shows one.
        texts: the cells of the column, for the way of a cell that shows none.
        reading: how they are taken apart.
    """
    if reading.lists:
        plain = bool(cell) and names_of_list(cell) is None
        if not plain and (shown := _best_shown(cell, texts)):
            return _way(shown)(names)
    return joiner([cell, *texts], reading.separator).join(names)


def _best_shown(cell: str, texts: Sequence[str]) -> str:
    """The list that shows best how a cell is written: itself, else one of its kind with two names or more, else any."""
    lists = [text for text in (cell, *texts) if names_of_list(text)]
    long = [text for text in lists if len(names_of_list(text) or ()) > 1]
    alike = [text for text in long if not cell or text[0] == cell[0]]
    return next(iter([*alike[:1], *lists[:1]]), "") if cell not in long else cell


def _way(cell: str) -> Write:
    """How a list of names that is not empty is written."""
    try:
        content = json.loads(cell)
    except ValueError:
        content = None
    if isinstance(content, dict):
        key = next(iter(content))
        return lambda names: _json({key: list(names)})
    if isinstance(content, list):
        return lambda names: _json(list(names))
    return _way_of_texts(cell)


def _way_of_texts(cell: str) -> Write:
    """How a list that is no JSON is written: as by Python, NumPy or a database."""
    first, last = cell[0], cell[-1]
    try:
        content = ast.literal_eval(cell)
    except (ValueError, SyntaxError):
        content = None
    between = ", " if content is not None and not _glued(cell) else "," if "," in cell else " "
    quoted = "'" in cell or '"' in cell
    blank = " " if between == "," and ", " in cell else ""
    return lambda names: f"{first}{(between + blank).join(repr(one) if quoted else one for one in names)}{last}"


def _glued(cell: str) -> bool:
    """True for texts side by side, `['a' 'b']`, which Python reads as one."""
    return bool(re.search(r"['\"]\s+['\"]", cell))


def _json(content: object) -> str:
    return json.dumps(content, ensure_ascii=False)
