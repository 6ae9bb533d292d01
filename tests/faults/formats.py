"""What changes fit a file, by its form: its bytes always, and what it holds once it is parsed."""

import datetime
import io
import json
import pickle
import random
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import safetensors.torch
import torch

from tests.faults.byte_changes import NUMBERS, TEXTS, Change, as_bytes, change_bytes, change_text
from tests.faults.tree_changes import change_array, change_tree

MARKER = "payload_ran"
"""The file, in the folder of a trial, that code in a file makes if it is ever run."""


class Payload:
    """Pickles as a call that makes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (MARKER, "w")


def change_json(data: bytes, rng: random.Random) -> bytes:
    """Another value, key or order in a JSON document."""
    text = json.dumps(change_tree(json.loads(data), rng))
    if rng.random() < 0.2:
        text = text.replace('"', rng.choice(("'", '"', '\\"')), rng.choice((1, -1)))
    if rng.random() < 0.1:
        text = "[" * 3000 + text if rng.random() < 0.5 else text + text
    return as_bytes(text)


def change_xml(data: bytes, rng: random.Random) -> bytes:
    """An element lost, doubled, renamed, moved or with another text; another encoding or an entity."""
    root = ElementTree.fromstring(data)
    elements = list(root.iter())
    one, other = rng.choice(elements), rng.choice(elements)
    match rng.randrange(7):
        case 0:
            holder = next((e for e in elements if one in list(e)), None)
            if holder is not None:
                holder.remove(one)
        case 1:
            holder = next((e for e in elements if one in list(e)), None)
            if holder is not None:
                holder.append(one)
        case 2:
            one.tag = rng.choice((one.tag.upper(), other.tag, "x", f"{one.tag}s"))
        case 3:
            one.text, other.text = other.text, one.text
        case _:
            one.text = rng.choice(NUMBERS if rng.random() < 0.5 else TEXTS).replace("\0", "")
    text = ElementTree.tostring(root, encoding="unicode")
    match rng.randrange(12):
        case 0:
            entity = f'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd"><!ENTITY c "{"x" * 50}">]>'
            return as_bytes(entity + text.replace("</name>", rng.choice(("&b;", "&c;" * 9)) + "</name>", 1))
        case 1:
            encoding = rng.choice(("gb2312", "utf-16", "latin-1", "ascii", "nonsense", "utf-32", "idna"))
            head = f'<?xml version="1.0" encoding="{encoding}"?>'
            return (head + text).encode("utf-8" if encoding in ("nonsense", "idna") else encoding, "replace")
        case 2:
            return as_bytes("<a>" * 5000 + text)
        case _:
            return as_bytes(text)


def change_npy(data: bytes, rng: random.Random) -> bytes:
    """Another header over the same numbers, or other numbers, texts or shapes; pickles within."""
    if rng.random() < 0.4:
        header = data[10 : 10 + struct.unpack("<H", data[8:10])[0]]
        changed = change_text(header, rng) if rng.random() < 0.7 else change_bytes(header, rng)
        return data[:8] + struct.pack("<H", len(changed) % 65536) + changed + data[10 + len(header) :]
    array = np.load(io.BytesIO(data), allow_pickle=True)
    if array.dtype == object and not array.ndim:
        array = np.array(_with_payload(change_tree(array.item(), rng), rng), dtype=object)
    else:
        array = change_array(array, rng)
    return saved_array(array)


def saved_array(array: np.ndarray) -> bytes:
    """The bytes of an `.npy` file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def change_zip(data: bytes, rng: random.Random) -> bytes:
    """A member changed, lost, renamed, doubled or compressed otherwise, with right checksums all the same."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    at = rng.randrange(len(members))
    name, content = members[at]
    match rng.randrange(6):
        case 0:
            del members[at]
        case 1:
            members[at] = (rng.choice((f"{name}x", "../x", "data.pkl", name.upper(), members[0][0])), content)
        case 2:
            members.append((name, change_bytes(content, rng)))
        case 3 if name.endswith(".npy"):
            members[at] = (name, change_npy(content, rng))
        case _:
            members[at] = (name, change_bytes(content, rng))
    file = io.BytesIO()
    how = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", how) as archive:
        warnings.simplefilter("ignore")  # of names twice
        for one, content in members:
            archive.writestr(one, content)
    return file.getvalue()


def change_pickle(data: bytes, rng: random.Random) -> bytes:
    """Another value in what is pickled, by the protocol of another Python; a call within."""
    changed = _with_payload(change_tree(pickle.loads(data), rng), rng)
    return pickle.dumps(changed, rng.choice((0, 2, 2, 4, 5)))


def change_checkpoint(data: bytes, rng: random.Random) -> bytes:
    """Another name, shape, type or value in a file of tensors; a call within; the form of before zip archives."""
    changed = change_tree(torch.load(io.BytesIO(data), weights_only=False), rng)
    file = io.BytesIO()
    torch.save(_with_payload(changed, rng), file, _use_new_zipfile_serialization=rng.random() < 0.8)
    return file.getvalue()


def change_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Another header over the same bytes, or other tensors or metadata."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    if rng.random() < 0.7:
        changed = as_bytes(json.dumps(change_tree(header, rng)))
        size = rng.choice((len(changed),) * 5 + (0, len(changed) + 1, 2**40, 2**64 - 1))
        return struct.pack("<Q", size) + changed + data[8 + length :]
    tensors = {str(key): value for key, value in _tensors(change_tree(safetensors.torch.load(data), rng)).items()}
    metadata = {str(key): str(value) for key, value in dict(header.get("__metadata__", {})).items()}
    return safetensors.torch.save({key: value.contiguous() for key, value in tensors.items()}, metadata)


def _tensors(tree: Any) -> dict[str, torch.Tensor]:
    held = tree if isinstance(tree, dict) else {}
    return {
        key.encode("utf-8", "replace").decode() if isinstance(key, str) else key: value
        for key, value in held.items()
        if isinstance(value, torch.Tensor) and value.layout == torch.strided
    }


def change_png(data: bytes, rng: random.Random) -> bytes:
    """A chunk changed, lost, doubled or moved, with its checksum made right."""
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    one = rng.randrange(len(chunks))
    kind, content = chunks[one]
    match rng.randrange(5):
        case 0:
            del chunks[one]
        case 1:
            chunks.insert(rng.randrange(len(chunks)), (kind, content))
        case 2:
            text = rng.choice(
                (
                    b"tEXta\0b",
                    b"zTXta\0\0" + zlib.compress(b"x" * 2_000_000),
                    b"iCCPp\0\0x",
                    b"eXIfMM\0*",
                    b"acTL\0\0\0\1",
                )
            )
            chunks.insert(1, (text[:4], text[4:]))
        case _:
            chunks[one] = (kind, change_bytes(content, rng))
    return data[:8] + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def change_parquet(data: bytes, rng: random.Random) -> bytes:
    """A column of another type, name or length of lists, nulls, no column at all."""
    import pyarrow as pa
    from pyarrow import parquet

    held = parquet.read_table(io.BytesIO(data)).to_pydict()
    name = rng.choice(list(held))
    rows = len(held[name])
    other = rng.choice(
        (
            [None] * rows,
            [1.5] * rows,
            [True] * rows,
            [["a", "b"]] * rows,
            [{"x": 1}] * rows,
            [b"\xff"] * rows,
            [2**60] * rows,
            [float("nan")] * rows,
            [rng.choice(TEXTS[:-10]) for _ in range(rows)],
        )
    )
    match rng.randrange(4):
        case 0:
            held.pop(name)
        case 1:
            held[rng.choice(("x", "", " ", "split", "labels", name.upper()))] = held.pop(name)
        case _:
            held[name] = [value.replace("\ud800", "?") if isinstance(value, str) else value for value in other]
    file = io.BytesIO()
    parquet.write_table(pa.table(held), file)
    return file.getvalue()


def change_workbook(data: bytes, rng: random.Random) -> bytes:
    """A cell of a workbook with another value, a row or column lost or doubled, another sheet before."""
    import openpyxl

    book = openpyxl.load_workbook(io.BytesIO(data))
    sheet = book.active
    cell = sheet.cell(rng.randint(1, sheet.max_row), rng.randint(1, sheet.max_column))
    match rng.randrange(6):
        case 0:
            sheet.delete_rows(cell.row)
        case 1:
            sheet.delete_cols(cell.column)
        case 2:
            book.create_sheet("first", 0)
        case 3:
            cell.value = rng.choice((None, True, -1, 0.5, 1e300, datetime.datetime(2020, 2, 2), "=1/0", "#REF!"))
        case _:
            cell.value = openpyxl.cell.cell.ILLEGAL_CHARACTERS_RE.sub("?", rng.choice(TEXTS + NUMBERS))
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def change_json_line(data: bytes, rng: random.Random) -> bytes:
    """Another value, key or order in one of the JSON documents of a file, which are a line each."""
    lines = data.split(b"\n")
    at = rng.randrange(max(1, len(lines) - 1))
    lines[at] = change_json(lines[at], rng)
    return b"\n".join(lines)


def _with_payload(tree: Any, rng: random.Random) -> Any:
    """The tree, now and then with a call somewhere in it."""
    if rng.random() > 0.1:
        return tree
    if isinstance(tree, dict) and tree and rng.random() < 0.8:
        return {**tree, rng.choice(list(tree)): Payload()}
    return Payload()


def changes_of(path: Path) -> tuple[Change, ...]:
    """What may be done to a file of this name."""
    return (change_bytes, *_BY_SUFFIX.get(path.suffix.lower(), (change_text,)))


_BY_SUFFIX: dict[str, tuple[Callable[[bytes, random.Random], bytes], ...]] = {
    ".json": (change_text, change_json, change_json, change_json),
    ".xml": (change_text, change_xml, change_xml),
    ".npy": (change_npy, change_npy, change_npy),
    ".npz": (change_zip, change_zip),
    ".pkl": (change_pickle, change_pickle, change_pickle),
    ".pth": (change_zip, change_checkpoint, change_checkpoint, change_checkpoint),
    ".tar": (change_checkpoint,),
    ".safetensors": (change_safetensors, change_safetensors),
    ".png": (change_png, change_png),
    ".parquet": (change_parquet,),
    ".xlsx": (change_workbook, change_workbook, change_zip),
    ".jsonl": (change_text, change_json_line, change_json_line),
    **dict.fromkeys((".jpg", ".tif", ".webp", ".gif", ".bmp"), ()),
}
