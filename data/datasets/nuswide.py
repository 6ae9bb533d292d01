"""NUS-WIDE, 81 concepts (Chua et al., CIVR 2009), from a table of rows or from formatted arrays.

The table `nus_wid_data.csv` (ASL, ICCV 2021; CoNeS, published code, Dataset/nuswide.py) has the file name, the printed
list of class names and the split of each image. Images with an empty list stay, with every class ABSENT. Classes
are in the order of the published code, rows ordered by image id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from data.datasets.formatted import FormattedLayout, is_formatted, load_formatted
from data.datasets.source import DatasetSource
from data.datasets.unpacked import Unpacked, not_found
from data.files.cache import fingerprint, pack, unpack
from data.files.text_files import is_plain_text, read_rows, relative_path
from data.images.files import FileImages
from utils.checks import UserError, require
from utils.types import ABSENT, PRESENT, Annotations, Codes, LabelTable, Splits

# fmt: off
NUSWIDE_CLASSES = (
    "clouds", "sky", "person", "street", "window", "tattoo", "wedding", "animal", "cat", "buildings", "tree",
    "airport", "plane", "water", "grass", "cars", "road", "snow", "sunset", "railroad", "train", "flowers",
    "plants", "house", "military", "horses", "nighttime", "lake", "rocks", "waterfall", "sun", "vehicle",
    "sports", "reflection", "temple", "statue", "ocean", "town", "beach", "tower", "toy", "book", "bridge",
    "fire", "mountain", "rainbow", "garden", "police", "coral", "fox", "sign", "dog", "cityscape", "sand",
    "dancing", "leaf", "tiger", "moon", "birds", "food", "cow", "valley", "fish", "harbor", "bear", "castle",
    "boats", "running", "glacier", "swimmers", "elk", "frost", "protest", "soccer", "flags", "zebra", "surf",
    "whales", "computer", "earthquake", "map",
)
# fmt: on

READER = "nuswide 1"
"""Part of the cache's fingerprint; another number whenever the same file would be read differently."""

TABLE = "nus_wid_data.csv"

_COLUMNS = (  # possible names of each column, lower case; this is their order where no name is known
    ("filepath", "file_path", "path", "filename", "file_name", "image", "image_path", "img_path"),
    ("label", "labels", "tag", "tags"),
    ("split_name", "split", "phase"),
)
_SPLITS = ("train", "val")
_PREFIX = re.compile(r"(?:images|Flickr)/")
_PURPOSE = "it lists the images of NUS-WIDE"


class NuswideRows(NamedTuple):
    """The N images of one split in the order of their ids."""

    ids: tuple[str, ...]
    files: tuple[str, ...]  # relative to the folder of the dataset
    codes: Codes  # (N, 81)


class _Row(NamedTuple):
    line: int
    file: str
    codes: Codes  # (81,)
    split: str


def load_nuswide(source: DatasetSource) -> Splits:
    """Read split "train" for training, "val" as the test set.

    Args:
        source: `path_images` has the formatted arrays, or the table (which may be in `path_lists` too), and the
            images at the paths given there.

    Raises:
        UserError: a folder, file or entry is missing or malformed, a class is unknown, or an image is listed twice.
    """
    if is_formatted(source.path_images):
        return load_formatted(source, LAYOUT)
    table = find_table(source)
    train, test = _read(source, table)
    source = _with_images(source, table, train)
    require(
        not source.need_images or source.path_images.is_dir(),
        f"{source.path_images}: no such folder; give --path_images the folder of NUS-WIDE's images",
    )
    return Splits(_annotations(source, train), _annotations(source, test))


def _with_images(source: DatasetSource, table: Path, rows: NuswideRows) -> DatasetSource:
    """The source with the folder that the paths of a table start from: where it was, beside the table, or below."""
    if not source.need_images or not rows.files:
        return source
    folders = chain((source.path_images, table.parent), Unpacked(source.path_images).starts())
    found = next((folder for folder in folders if (folder / rows.files[0]).is_file()), source.path_images)
    return replace(source, path_images=found)


def find_table(source: DatasetSource) -> Path:
    """Find `nus_wid_data.csv` beside the images or the lists. Raises: UserError showing the expected tree."""
    for folder in (source.path_images, source.path_lists, source.path_lists / "nuswide"):
        if (folder / TABLE).exists():
            return folder / TABLE
    found = Unpacked(source.path_images).file(TABLE)
    if found is not None:
        return found
    raise not_found(
        source.path_images,
        f"{source.path_images}: no NUS-WIDE here; give --path_images the folder that looks like this:\n"
        f"  {TABLE}      (or in the folder --path_lists)\n"
        f"  images/*.jpg          (or wherever the table says)\n"
        f"or like this:\n"
        f"  formatted_train_images.npy, formatted_train_labels.npy, and the same of val\n"
        f"  Flickr/<folder>/*.jpg (or images/)\n"
        f"(--dataset digits runs without any download)",
    )


def read_table(path: Path) -> tuple[NuswideRows, NuswideRows]:
    """Read the training and test rows of the table.

    Columns are found by their names (`filepath`, `label`, `split_name` and the like, in any order; others are
    ignored). If none of the names is known, they are the last three, in that order, after at most one column of row
    numbers; a first line that ends in "train" or "val" is a row then.

    Raises:
        UserError: the file is missing or malformed, a class or split is unknown, an image is listed twice, or a
            split is empty; the message names the line.
    """
    first: dict[str, int] = {}
    rows: dict[str, list[tuple[str, _Row]]] = {split: [] for split in _SPLITS}
    for row in _rows(path):
        image = image_id(row.file)
        if image in first:
            raise UserError(
                f"{path}, line {row.line}: image {image[:80]} is listed twice (also in line {first[image]})"
            )
        first[image] = row.line
        rows[row.split].append((image, row))
    for split, listed in rows.items():
        require(bool(listed), f"{path}: lists no image for split {split!r}; both train and val are needed")
    train, test = (_sorted(rows[split]) for split in _SPLITS)
    return train, test


def image_id(file: str) -> str:
    """Return a file name without extension and without the leading folder `images` or `Flickr`."""
    return _PREFIX.sub("", str(PurePosixPath(file).with_suffix("")), count=1)


def parse_names(text: str) -> list[str] | None:
    """Parse a printed list such as `['sky', 'sun']`; None for anything else. Nothing is evaluated."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    inner = text[1:-1].strip()
    if not inner:
        return []
    items = [item.strip() for item in inner.split(",")]  # no class name holds a comma
    if any(len(item) < 2 or item[0] != item[-1] or item[0] not in "'\"" for item in items):
        return None
    return [item[1:-1] for item in items]


def _rows(path: Path) -> Iterator[_Row]:
    """Read the rows of the table, each checked by itself."""
    columns: tuple[int, ...] | None = None
    width = 0
    for line, fields in read_rows(path, _PURPOSE):
        where = f"{path}, line {line}"
        if columns is None:
            columns, width = _columns(where, fields), len(fields)
            if fields[columns[2]] not in _SPLITS:
                continue
        require(len(fields) == width, f"{where}: {len(fields)} fields, the first line has {width}")
        file, labels, split = (fields[column] for column in columns)
        require(split in _SPLITS, f"{where}: split {split[:40]!r}; must be train or val")
        require(is_plain_text(file), f"{where}: file name {file[:80]!r} holds control characters; correct this line")
        yield _Row(line, relative_path(file, where), _codes(where, labels), split)


def _columns(where: str, fields: Sequence[str]) -> tuple[int, ...]:
    """Return the column numbers of file name, labels and split, from the first line of the table."""
    names = [field.lower() for field in fields]
    matches = [[column for column, name in enumerate(names) if name in known] for known in _COLUMNS]
    if not any(matches):
        if len(fields) in (3, 4):
            return tuple(range(len(fields) - 3, len(fields)))
        raise UserError(f"{where}: {len(fields)} columns; must be {', '.join(known[0] for known in _COLUMNS)}")
    for columns, known in zip(matches, _COLUMNS, strict=True):
        if len(columns) != 1:
            shown = ", ".join(repr(field) for field in fields[:8])[:200]
            raise UserError(
                f"{where}: {len(columns)} columns are called {known[0]!r} or the like, must be one; there are {shown}"
            )
    return tuple(columns[0] for columns in matches)


def _codes(where: str, text: str) -> Codes:
    """Codes (81,) of a printed list of names."""
    names = parse_names(text)
    if names is None:
        raise UserError(f"{where}: labels {text[:60]!r}; must be a list of names such as ['sky', 'sun'], or []")
    codes = np.full(len(NUSWIDE_CLASSES), ABSENT, dtype=np.int8)
    for name in names:
        require(name in _LABELS, f"{where}: {name[:60]!r} is none of the 81 classes of NUS-WIDE")
        codes[_LABELS[name]] = PRESENT
    return codes


def _sorted(listed: Sequence[tuple[str, _Row]]) -> NuswideRows:
    in_order = sorted(listed, key=lambda pair: pair[0])
    ids, rows = zip(*in_order, strict=True)
    return NuswideRows(ids, tuple(row.file for row in rows), np.stack([row.codes for row in rows]))


def _read(source: DatasetSource, path: Path) -> tuple[NuswideRows, NuswideRows]:
    """Read the rows of the table, from the cache if the file has not changed."""
    key = fingerprint(READER, [path])
    names = [f"{split}_{field}" for split in _SPLITS for field in NuswideRows._fields]
    cached = source.cache.load("nuswide", key, names)
    if cached is None:
        train, test = read_table(path)
        arrays = [
            {f"{split}_ids": pack(rows.ids), f"{split}_files": pack(rows.files), f"{split}_codes": rows.codes}
            for split, rows in zip(_SPLITS, (train, test), strict=True)
        ]
        source.cache.save("nuswide", key, arrays[0] | arrays[1])
        return train, test
    train, test = (
        NuswideRows(unpack(cached[f"{split}_ids"]), unpack(cached[f"{split}_files"]), cached[f"{split}_codes"])
        for split in _SPLITS
    )
    return train, test


def _annotations(source: DatasetSource, rows: NuswideRows) -> Annotations:
    images = FileImages([f"{source.path_images}/{file}" for file in rows.files], source.cache)
    return Annotations(images, rows.ids, NUSWIDE_CLASSES, LabelTable(rows.codes))


_LABELS = {name: label for label, name in enumerate(NUSWIDE_CLASSES)}

LAYOUT = FormattedLayout("nuswide", ("Flickr", "images", "."), image_id, NUSWIDE_CLASSES, len(NUSWIDE_CLASSES))
