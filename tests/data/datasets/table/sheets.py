"""Tables made of cells, without files."""

from pathlib import Path

import numpy as np

from data.datasets.table.config import TableConfig
from data.datasets.table.sheet import Column, Sheet


def table_config(table, test_table=None, **more):
    """Settings of one table or of several, and of those for the test."""
    both = [(given,) if isinstance(given, Path) else given for given in (table, test_table)]
    return TableConfig(table=both[0], test_table=both[1], **more)


def sheet_of(columns, path="t.csv"):
    """A sheet of columns by title; one called `column 3` has no title in the file."""
    made = []
    for title, cells in columns.items():
        texts = tuple(dict.fromkeys(cells))
        made.append(Column(title, texts, np.array([texts.index(cell) for cell in cells], dtype=np.int32)))
    rows = len(next(iter(columns.values())))
    untitled = frozenset(title for title in columns if title.startswith("column "))
    return Sheet(Path(path), tuple(made), untitled, np.arange(2, rows + 2), "line")
