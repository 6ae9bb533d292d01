"""A table with some cells changed, and lines removed or added, as a file of its own form; all else stays as it was."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from data.datasets.table.corrections import Edits
from data.datasets.table.delimited import dialect_of
from data.datasets.table.rewriting_binary import rewritten_parquet, rewritten_workbook
from data.datasets.table.sheet import Sheet, encoding_of
from data.datasets.table.typed_rows import TypedRows, added_by_row, cells_by_row
from data.files.text_files import limit_fields
from utils.checks import UserError


def rewritten(sheet: Sheet, edits: Edits, encoding: str | None) -> bytes:
    """The file of a sheet after edits.

    Args:
        sheet: as it was read.
        edits: what to change.
        encoding: of a text without a byte order mark; None for UTF-8.

    Raises:
        UserError: the encoding of the file lacks a character.
    """
    suffix = sheet.path.suffix.lower()
    binary = {".xlsx": rewritten_workbook, ".parquet": rewritten_parquet}
    if suffix in binary:
        return binary[suffix](sheet, edits)
    data = sheet.path.read_bytes()
    found = encoding_of(data, encoding)
    text = data[len(found.mark) :].decode(found.name)
    write = {".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json_list}.get(suffix, _delimited)
    try:
        return found.mark + write(sheet, text, edits).encode(found.name)
    except UnicodeEncodeError as error:
        lacking = error.object[error.start]
        raise UserError(
            f"{sheet.path}: its encoding {found.name} lacks the character {lacking!r}; save the table as UTF-8"
        ) from error


class Field(NamedTuple):
    """A field of a line: where its text begins and ends, quotes included."""

    start: int
    end: int


def fields_in(line: str, delimiter: str) -> list[Field]:
    """The fields of a line of delimited text without its line break, as `csv` takes them apart."""
    fields, at = [], 0
    while True:
        while at < len(line) and line[at] == " " != delimiter:
            at += 1
        start = at
        if line[at : at + 1] == '"':
            at += 1
            while line[at : at + 1] != '"' or line[at + 1 : at + 2] == '"':
                at += 2 if line[at] == '"' else 1
        end = line.find(delimiter, at)
        fields.append(Field(start, len(line) if end < 0 else end))
        if end < 0:
            return fields
        at = end + 1


def with_fields(line: str, delimiter: str, new: Mapping[int, str]) -> str:
    """A line with other texts in some fields, quoted where they were or must be."""
    parts, last = [], 0
    for number, place in enumerate(fields_in(line, delimiter)):
        if number in new:
            quoted = line[place.start : place.start + 1] == '"'
            parts += [line[last : place.start], _quoted(new[number], delimiter, always=quoted)]
            last = place.end
    return "".join([*parts, line[last:]])


def _quoted(text: str, delimiter: str, *, always: bool) -> str:
    """A text as a field."""
    needed = always or any(one in text for one in (delimiter, '"', "\r", "\n")) or text != text.strip()
    return '"' + text.replace('"', '""') + '"' if needed else text


def _delimited(sheet: Sheet, text: str, edits: Edits) -> str:
    """Delimited text whose other lines stay as they are, letter by letter."""
    delimiter = dialect_of(sheet.path, text)
    row_of = {number: row for row, number in enumerate(sheet.numbers.tolist())}
    place = {title: at for at, title in enumerate(sheet.titles)}
    records = list(_records(text, delimiter))
    raw = {row_of[number]: record for number, record in records if number in row_of}
    break_ = next((raw_break for _, record in records if (raw_break := _line_break(record))), "\n")
    behind = added_by_row(edits.added)

    def changed(row: int, cells: Mapping[str, str]) -> str:
        """The record of a row with other cells."""
        record = raw[row]
        end = _line_break(record)
        body = record[: len(record) - len(end)]
        return with_fields(body, delimiter, {place[title]: cell for title, cell in cells.items()}) + end

    own = cells_by_row(edits)
    parts: list[str] = []
    for number, record in records:
        row = row_of.get(number, -1)
        if row not in edits.removed:
            parts.append(changed(row, own[row]) if row in own else record)
        for line in behind.get(row, ()):
            if parts and not _line_break(parts[-1]):
                parts[-1] += break_
            new = changed(line.like, line.cells)
            parts.append(new if _line_break(new) else new + break_)
    return "".join(parts)


def _records(text: str, delimiter: str) -> Iterator[tuple[int, str]]:
    """The number of the last line of each record, and its text with the line break."""
    limit_fields()
    taken: list[str] = []

    def lines() -> Iterator[str]:
        """The lines, noted as they are taken."""
        for line in io.StringIO(text, newline=""):
            taken.append(line)
            yield line

    reader = csv.reader(lines(), delimiter=delimiter, strict=True, skipinitialspace=True)
    for _ in reader:
        yield reader.line_num, "".join(taken)
        taken.clear()


def _line_break(record: str) -> str:
    """The line break at the end of a record."""
    return record[len(record.rstrip("\r\n")) :]


def _json_lines(sheet: Sheet, text: str, edits: Edits) -> str:
    """A text with a JSON object per line, of which the others stay as they are."""
    row_of = {number: row for row, number in enumerate(sheet.numbers.tolist())}
    lines = text.split("\n")
    objects = {row_of[number]: json.loads(line) for number, line in enumerate(lines, 1) if number in row_of}
    tight = any('":' in line and '": ' not in line for line in lines)
    typed = TypedRows(objects)
    own, behind, parts = cells_by_row(edits), added_by_row(edits.added), []
    for number, line in enumerate(lines, 1):
        row = row_of.get(number, -1)
        if row not in edits.removed:
            parts.append(_dumped(typed.changed(row, own[row]), tight) if row in own else line)
        parts += [_dumped(typed.changed(one.like, one.cells), tight) for one in behind.get(row, ())]
    return "\n".join(parts)


def _json_list(sheet: Sheet, text: str, edits: Edits) -> str:
    """A JSON list of objects, indented as it was."""
    content = json.loads(text)
    typed = TypedRows(dict(enumerate(content)))
    own, behind, rows = cells_by_row(edits), added_by_row(edits.added), []
    for row, one in enumerate(content):
        if row not in edits.removed:
            rows.append(typed.changed(row, own[row]) if row in own else one)
        rows += [typed.changed(line.like, line.cells) for line in behind.get(row, ())]
    indent = next((len(line) - len(line.lstrip(" ")) for line in text.split("\n")[1:] if line.strip()), None)
    end = text[len(text.rstrip()) :]
    return json.dumps(rows, ensure_ascii=False, indent=indent) + end


def _dumped(content: object, tight: bool) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":") if tight else None)
