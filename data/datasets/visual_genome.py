"""Visual Genome with 256 categories, VG-256 (Krishna et al., IJCV 2017; CoNeS, published code, Dataset/VG).

An object's first name, cleaned, is looked up in `vg256.json`, which lists the phrases of each category; what is not
there is left out, and so are pictures without any category. 30 % of the pictures, drawn once, are the test set.
Classes are in the order of that file, rows in the order of the pictures' numbers.
"""

from __future__ import annotations

import dataclasses
import json
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from data.datasets.formatted import Form, is_formatted, load_formatted
from data.datasets.source import DatasetSource
from data.files.cache import fingerprint, pack, unpack
from data.files.text_files import read_json, read_text
from data.images.files import FileImages
from data.subsets.splits import validation_split
from utils.checks import UserError, require
from utils.types import ABSENT, PRESENT, Annotations, Codes, Index, LabelTable, Splits

READER = "visual genome 1"
"""Part of the cache's fingerprint; another number whenever the same files would be read differently."""

# fmt: off
LEADING_WORDS = frozenset((
    "white", "black", "blue", "green", "red", "brown", "yellow", "small", "large", "silver",
    "wooden", "orange", "gray", "grey", "metal", "pink", "tall", "long", "dark",
))
# fmt: on
"""Adjectives that are dropped where nothing else stands before the last word of a name."""

TEST_SHARE, SPLIT_SEED = 0.3, 1
CATEGORIES = 256

_FOLDERS = ("VG_100K", "VG_100K_2")
_SPACE = re.compile(r"[ \t\r\n]*")
_MOST_DIGITS = 18  # of an image id; what has more is no number of a picture


class VgRows(NamedTuple):
    """The N pictures with a category, ordered by number: their ids, and (N, C) codes."""

    ids: tuple[str, ...]
    codes: Codes


def load_visual_genome(source: DatasetSource) -> Splits:
    """70 % of the pictures for training and 30 % as the test set, as `objects.json` or the formatted arrays say.

    Args:
        source: `path_images` holds the pictures in `VG_100K/` and `VG_100K_2/` (or all in one of them), and either
            the formatted arrays or `objects.json`; `vg256.json` lies beside that or under `path_lists`.

    Raises:
        UserError: a folder, file or entry is missing or malformed.
    """
    if is_formatted(source.path_images):
        splits = load_formatted(source, _form(source))
        train, test = (
            dataclasses.replace(part, images=_images(source, part.ids)) for part in (splits.train, splits.test)
        )
        return Splits(train, test)
    objects = source.path_images / "objects.json"
    require(objects.is_file(), _expected_tree(source.path_images))
    phrases = _phrases_file(source)
    if phrases is None:
        raise UserError(f"{source.path_images / 'vg256.json'}: does not exist, nor under --path_lists; put it there")
    classes, rows = _read(source, objects, phrases)
    require(len(rows.ids) > 1, f"{objects}: {len(rows.ids)} pictures show a category of vg256.json; get it anew")
    train_rows, test_rows = validation_split(len(rows.ids), TEST_SHARE, SPLIT_SEED)
    require(len(test_rows) > 0, f"{objects}: too few pictures ({len(rows.ids)}) for a test set; get it anew")
    return Splits(_annotations(source, classes, rows, train_rows), _annotations(source, classes, rows, test_rows))


def read_phrases(path: Path) -> tuple[tuple[str, ...], dict[str, int]]:
    """The categories of `vg256.json`, and the column that each phrase stands for.

    A phrase that two categories list belongs to the later one ("grass field" to field, not to grass).

    Raises:
        UserError: the file is missing, or not an object of lists of texts.
    """
    held = read_json(path, "it says which names of objects make up each category")
    require(isinstance(held, dict) and bool(held), f"{path}: must be an object, category to list of phrases")
    column: dict[str, int] = {}
    for place, (category, phrases) in enumerate(held.items()):
        require(bool(category.strip()) and category.isprintable(), f"{path}: category {place} has no proper name")
        require(
            isinstance(phrases, list) and all(isinstance(phrase, str) for phrase in phrases),
            f"{path}: category {category!r}: must have a list of phrases",
        )
        column.update(dict.fromkeys(phrases, place))
    return tuple(held), column


def clean_name(name: str) -> str:
    """An object's name as it is looked up: lower case, no full stop at the end, no adjectives of `LEADING_WORDS`.

    >>> clean_name(" Small white Cat. ")
    'cat'
    """
    text = name.lower().strip()
    text = text[:-1].strip() if text.endswith(".") else text
    *leading, last = text.split() or [""]
    return last if leading and LEADING_WORDS.issuperset(leading) else text


def read_objects(path: Path, column: Mapping[str, int], width: int) -> VgRows:
    """Parse `objects.json`, picture by picture, so that its 400 MB are never held as objects all at once.

    Args:
        path: the file, a list of {"image_id": number, "objects": [{"names": [text, ...]}, ...]}.
        column: the column of each phrase.
        width: C.

    Raises:
        UserError: the file is missing or no json, lacks a key, or lists a picture twice.
    """
    found: dict[int, set[int]] = {}
    seen: set[int] = set()
    for number, entry in enumerate(_entries(path)):
        where = f"{path}, entry {number}"
        image = _image_id(entry, where)
        require(image not in seen, f"{where}: image_id {image} is listed twice; get this file anew")
        seen.add(image)
        names = _names(entry, f"{where} (image {image})")
        columns = {column[name] for name in map(clean_name, names) if name in column}
        if columns:
            found[image] = columns
    codes = np.full((len(found), width), ABSENT, dtype=np.int8)
    images = sorted(found)
    for row, image in enumerate(images):
        codes[row, list(found[image])] = PRESENT
    return VgRows(tuple(map(str, images)), codes)


def _entries(path: Path) -> Iterator[Any]:
    """The entries of a JSON file that is one list, one after the other."""
    text = read_text(path, "Visual Genome keeps its objects there")
    decoder = json.JSONDecoder()
    place = _skip(text, 0)
    require(text[place : place + 1] == "[", f"{path}: not a json list of pictures; get this file anew")
    place = _skip(text, place + 1)
    ended = text[place : place + 1] == "]"
    while not ended:
        try:
            entry, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: not a json file ({str(error).splitlines()[0]}); get it anew") from error
        yield entry
        place = _skip(text, place)
        ended = text[place : place + 1] == "]"
        if not ended:
            require(
                text[place : place + 1] == ",", f"{path}: not a json file (damaged at character {place}); get it anew"
            )
            place = _skip(text, place + 1)
    rest = _skip(text, place + 1)
    require(rest == len(text), f"{path}: not a json file (more text at character {rest}, after the list); get it anew")


def _skip(text: str, place: int) -> int:
    """The place of the next character that is no white space."""
    match = _SPACE.match(text, place)
    return match.end() if match else place


def _image_id(entry: Any, where: str) -> int:
    require(isinstance(entry, dict), f"{where}: is a {type(entry).__name__}, not an object")
    image = entry.get("image_id")
    if type(image) is not int or not 0 <= image < 10**_MOST_DIGITS:
        raise UserError(f"{where}: image_id is {reprlib.repr(image)}, must be the number of a picture")
    return image


def _names(entry: dict[str, Any], where: str) -> list[str]:
    """The first name of each object of a picture."""
    objects = entry.get("objects")
    if not isinstance(objects, list):
        raise UserError(f"{where}: has no list 'objects'; is it Visual Genome's objects.json?")
    firsts = []
    for number, one in enumerate(objects):
        names = one.get("names") if isinstance(one, dict) else None
        if not (isinstance(names, list) and names and isinstance(names[0], str)):
            raise UserError(f"{where}, object {number}: must have a list of 'names'")
        firsts.append(names[0])
    return firsts


def _expected_tree(path: Path) -> str:
    return (
        f"{path}: no Visual Genome here; give --path_images the folder that looks like this:\n"
        f"  objects.json  vg256.json   (or formatted_{{train,val}}_{{images,labels}}.npy)\n"
        f"  VG_100K/*.jpg\n"
        f"  VG_100K_2/*.jpg            (or all pictures in VG_100K/)\n"
        f"(--dataset digits runs without any download)"
    )


def _phrases_file(source: DatasetSource) -> Path | None:
    """`vg256.json`, beside the other files or among the lists; None where it is in neither place."""
    files = (folder / "vg256.json" for folder in (source.path_images, source.path_lists))
    return next((file for file in files if file.exists()), None)


def _form(source: DatasetSource) -> Form:
    """What the formatted arrays look like; their names are `VG_100K/<id>.jpg`, wherever the picture really is."""
    phrases = _phrases_file(source)
    classes = None if phrases is None else read_phrases(phrases)[0]
    return Form("vg", (".",), _number_of, classes, CATEGORIES)


def _number_of(name: str) -> str:
    """The id in a picture's file name; empty where it is called otherwise."""
    found = re.fullmatch(r"[0-9]+", PurePosixPath(name).stem)
    return found[0] if found else ""


def _read(source: DatasetSource, objects: Path, phrases: Path) -> tuple[tuple[str, ...], VgRows]:
    """Categories and rows, the latter from the cache where neither file has changed."""
    classes, column = read_phrases(phrases)
    key = fingerprint(READER, [objects, phrases])
    kept = source.cache.load("vg", key, ["ids", "codes"])
    if kept is not None:
        return classes, VgRows(unpack(kept["ids"]), kept["codes"])
    rows = read_objects(objects, column, len(classes))
    source.cache.save("vg", key, {"ids": pack(rows.ids), "codes": rows.codes})
    return classes, rows


def _annotations(source: DatasetSource, classes: tuple[str, ...], rows: VgRows, index: Index) -> Annotations:
    ids = tuple(rows.ids[row] for row in index)
    truth = LabelTable(rows.codes[index])
    return Annotations(_images(source, ids), ids, classes, truth, places=np.arange(len(ids), dtype=np.int64))


def _images(source: DatasetSource, ids: Sequence[str]) -> FileImages:
    """Each picture in the folder that has it; the first folder where none does, or where nobody needs pictures."""
    first, second = (source.path_images / name for name in _FOLDERS)
    there: set[str] = set()
    if source.need_images:
        require(
            first.is_dir() or second.is_dir(),
            f"{first}: no such folder, nor {second}; Visual Genome keeps its pictures there",
        )
        there = _names_in(second) - _names_in(first)
    names = (f"{one}.jpg" for one in ids)
    return FileImages([f"{second if name in there else first}/{name}" for name in names], source.cache)


def _names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
