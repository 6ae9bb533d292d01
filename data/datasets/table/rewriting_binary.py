"""Excel workbooks and parquet files with some cells changed, and rows removed or added."""

from __future__ import annotations

import io
from collections.abc import Mapping
from copy import copy
from typing import Any

from data.datasets.table.corrections import Edits
from data.datasets.table.sheet import Sheet
from data.datasets.table.typed_rows import TypedRows, added_by_row, cells_by_row


def rewritten_workbook(sheet: Sheet, edits: Edits) -> bytes:
    """The workbook of a sheet after edits: its first sheet changes, others, formats and formulas stay."""
    import openpyxl

    book = openpyxl.load_workbook(sheet.path)
    page = book[book.sheetnames[0]]
    numbers = sheet.numbers.tolist()
    typed = TypedRows(
        {
            row: {title: page.cell(number, at).value for at, title in enumerate(sheet.titles, 1)}
            for row, number in enumerate(numbers)
        }
    )
    place = {title: at for at, title in enumerate(sheet.titles, 1)}
    for row, cells in cells_by_row(edits).items():
        changed = typed.changed(row, cells)
        for title in cells:
            page.cell(numbers[row], place[title]).value = changed[title]
    behind = added_by_row(edits.added)
    for row in reversed(range(len(numbers))):  # from below, so that numbers above stay what they are
        for line in reversed(behind.get(row, ())):
            page.insert_rows(numbers[row] + 1)
            _fill(page, numbers[row] + 1, page[_below(numbers[line.like], numbers[row])], typed, line.like, line.cells)
        if row in edits.removed:
            page.delete_rows(numbers[row])
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


def _below(number: int, inserted_behind: int) -> int:
    """The number of a row, after a row was inserted behind another one."""
    return number + 1 if number > inserted_behind else number


def _fill(page: Any, number: int, like: Any, typed: TypedRows, row: int, cells: Mapping[str, str]) -> None:
    """Fill a new row of a page with the values of another one but for some cells, in its style."""
    values = typed.changed(row, cells)
    for at, (value, model) in enumerate(zip(values.values(), like, strict=False), 1):
        cell = page.cell(number, at)
        cell.value = value
        cell._style = copy(model._style)  # openpyxl has no public name for all of a style


def rewritten_parquet(sheet: Sheet, edits: Edits) -> bytes:
    """The parquet file of a sheet after edits: types of columns and what is said of the file stay."""
    import pyarrow as pa
    from pyarrow import parquet

    table = parquet.ParquetFile(sheet.path).read()
    rows = dict(enumerate(table.rename_columns(list(sheet.titles)).to_pylist()))
    typed, own, behind = TypedRows(rows), cells_by_row(edits), added_by_row(edits.added)
    new = []
    for row, content in rows.items():
        if row not in edits.removed:
            new.append(typed.changed(row, own[row]) if row in own else content)
        new += [typed.changed(line.like, line.cells) for line in behind.get(row, ())]
    columns = [
        pa.array([content[title] for content in new], type=field.type)
        for title, field in zip(sheet.titles, table.schema, strict=True)
    ]
    content = io.BytesIO()
    parquet.write_table(pa.Table.from_arrays(columns, schema=table.schema), content)
    return content.getvalue()
