"""Visual Genome with 256 categories, VG-256 (Krishna et al., IJCV 2017; CoNeS, published code, Dataset/VG).

An object's first name, cleaned, is looked up in `vg256.json`, which lists the phrases of each category. Other names
and images without any category are left out. 30 % of the images, drawn once, are the test set. Classes are in the
order of that file, rows in the order of the image ids as numbers.
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

from data.datasets.formatted import FormattedLayout, is_formatted, load_formatted
from data.datasets.source import DatasetSource
from data.datasets.unpacked import Unpacked, not_found
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
"""Adjectives that are dropped if only such words precede the last word of a name."""

TEST_SHARE, SPLIT_SEED = 0.3, 1
CATEGORIES = 256

_FOLDERS = ("VG_100K", "VG_100K_2")
_SPACE = re.compile(r"[ \t\r\n]*")
_MOST_DIGITS = 18  # of an image id


class VgRows(NamedTuple):
    """The N images with a category, ordered by number: their ids, and (N, C) codes."""

    ids: tuple[str, ...]
    codes: Codes


def load_visual_genome(source: DatasetSource) -> Splits:
    """Read 70 % of the images for training and 30 % as the test set, from `objects.json` or the formatted arrays.

    Args:
        source: `path_images` has the images in `VG_100K/` and `VG_100K_2/` (or all in one of them), and either the
            formatted arrays or `objects.json`; `vg256.json` is beside that or in `path_lists`.

    Raises:
        UserError: a folder, file or entry is missing or malformed.
    """
    if is_formatted(source.path_images):
        splits = load_formatted(source, _layout(source))
        train, test = (
            dataclasses.replace(split, images=_images(source, split.ids)) for split in (splits.train, splits.test)
        )
        return Splits(train, test)
    objects = Unpacked(source.path_images).file("objects.json")
    if objects is None:
        raise not_found(source.path_images, _expected_tree(source.path_images))
    phrases = _phrases_file(source)
    if phrases is None:
        raise UserError(f"{source.path_images / 'vg256.json'}: does not exist, nor under --path_lists; put it there")
    classes, rows = _read(source, objects, phrases)
    require(len(rows.ids) > 1, f"{objects}: {len(rows.ids)} images have a category of vg256.json; get it anew")
    train_rows, test_rows = validation_split(len(rows.ids), TEST_SHARE, SPLIT_SEED)
    return Splits(_annotations(source, classes, rows, train_rows), _annotations(source, classes, rows, test_rows))


def read_phrases(path: Path) -> tuple[tuple[str, ...], dict[str, int]]:
    """Read the categories of `vg256.json`, and the class index of each phrase.

    A phrase that two categories list belongs to the later one ("grass field" to field, not to grass).

    Raises:
        UserError: the file is missing, or not an object of lists of texts.
    """
    content = read_json(path, "it lists the names of objects for each category")
    require(isinstance(content, dict) and bool(content), f"{path}: must be an object, category to list of phrases")
    label_of: dict[str, int] = {}
    for label, (category, phrases) in enumerate(content.items()):
        require(bool(category.strip()) and category.isprintable(), f"{path}: category {label} has no proper name")
        require(
            isinstance(phrases, list) and all(isinstance(phrase, str) for phrase in phrases),
            f"{path}: category {category!r}: must have a list of phrases",
        )
        label_of.update(dict.fromkeys(phrases, label))
    return tuple(content), label_of


def clean_name(name: str) -> str:
    """Return an object's name for the look-up: lower case, no full stop at the end, no adjectives of `LEADING_WORDS`.

    >>> clean_name(" Small white Cat. ")
    'cat'
    """
    text = name.lower().strip()
    text = text[:-1].strip() if text.endswith(".") else text
    *leading, last = text.split() or [""]
    return last if leading and LEADING_WORDS.issuperset(leading) else text


def read_objects(path: Path, label_of: Mapping[str, int], num_classes: int) -> VgRows:
    """Parse `objects.json` image by image, so that its 400 MB are never Python objects all at once.

    Args:
        path: the file, a list of {"image_id": number, "objects": [{"names": [text, ...]}, ...]}.
        label_of: the class index of each phrase.
        num_classes: C.

    Raises:
        UserError: the file is missing or no json, lacks a key, or lists an image twice.
    """
    labels_of: dict[int, set[int]] = {}
    seen: set[int] = set()
    for number, entry in enumerate(_entries(path)):
        where = f"{path}, entry {number}"
        image = _image_id(entry, where)
        require(image not in seen, f"{where}: image_id {image} is listed twice; get this file anew")
        seen.add(image)
        names = _names(entry, f"{where} (image {image})")
        labels = {label_of[name] for name in map(clean_name, names) if name in label_of}
        if labels:
            labels_of[image] = labels
    codes = np.full((len(labels_of), num_classes), ABSENT, dtype=np.int8)
    images = sorted(labels_of)
    for row, image in enumerate(images):
        codes[row, list(labels_of[image])] = PRESENT
    return VgRows(tuple(map(str, images)), codes)


def _entries(path: Path) -> Iterator[Any]:
    """Yield the entries of a JSON file that is one list."""
    text = read_text(path, "Visual Genome keeps its objects there")
    decoder = json.JSONDecoder()
    position = _skip(text, 0)
    require(text[position : position + 1] == "[", f"{path}: not a json list of images; get this file anew")
    position = _skip(text, position + 1)
    ended = text[position : position + 1] == "]"
    while not ended:
        try:
            entry, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: not a json file ({str(error).splitlines()[0]}); get it anew") from error
        yield entry
        position = _skip(text, position)
        ended = text[position : position + 1] == "]"
        if not ended:
            comma = text[position : position + 1] == ","
            require(comma, f"{path}: not a json file (damaged at character {position}); get it anew")
            position = _skip(text, position + 1)
    rest = _skip(text, position + 1)
    require(rest == len(text), f"{path}: not a json file (more text at character {rest}, after the list); get it anew")


def _skip(text: str, position: int) -> int:
    """Return the position of the next character that is no white space."""
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _image_id(entry: Any, where: str) -> int:
    require(isinstance(entry, dict), f"{where}: is a {type(entry).__name__}, not an object")
    image = entry.get("image_id")
    if type(image) is not int or not 0 <= image < 10**_MOST_DIGITS:
        raise UserError(f"{where}: image_id is {reprlib.repr(image)}, must be the number of an image")
    return image


def _names(entry: dict[str, Any], where: str) -> list[str]:
    """Return the first name of each object of an image."""
    objects = entry.get("objects")
    if not isinstance(objects, list):
        raise UserError(f"{where}: has no list 'objects'; is it Visual Genome's objects.json?")
    first_names = []
    for number, one in enumerate(objects):
        names = one.get("names") if isinstance(one, dict) else None
        if not (isinstance(names, list) and names and isinstance(names[0], str)):
            raise UserError(f"{where}, object {number}: must have a list of 'names'")
        first_names.append(names[0])
    return first_names


def _expected_tree(path: Path) -> str:
    return (
        f"{path}: no Visual Genome here; give --path_images the folder that looks like this:\n"
        f"  objects.json  vg256.json   (or formatted_{{train,val}}_{{images,labels}}.npy)\n"
        f"  VG_100K/*.jpg\n"
        f"  VG_100K_2/*.jpg            (or all images in VG_100K/)\n"
        f"(--dataset digits runs without any download)"
    )


def _phrases_file(source: DatasetSource) -> Path | None:
    """Path of `vg256.json`, beside the other files or in the folder of the lists; None if it is in neither."""
    files = (folder / "vg256.json" for folder in (source.path_images, source.path_lists))
    return next((file for file in files if file.exists()), None) or Unpacked(source.path_images).file("vg256.json")


def _layout(source: DatasetSource) -> FormattedLayout:
    """Layout of the formatted arrays; their names are `VG_100K/<id>.jpg` in whichever folder an image is."""
    phrases = _phrases_file(source)
    classes = None if phrases is None else read_phrases(phrases)[0]
    return FormattedLayout("vg", (".",), _number_of, classes, CATEGORIES)


def _number_of(name: str) -> str:
    """Return the id in a file name, "" if the name is no number."""
    match = re.fullmatch(r"[0-9]+", PurePosixPath(name).stem)
    return match[0] if match else ""


def _read(source: DatasetSource, objects: Path, phrases: Path) -> tuple[tuple[str, ...], VgRows]:
    """Read categories and rows, the latter from the cache if neither file has changed."""
    classes, label_of = read_phrases(phrases)
    key = fingerprint(READER, [objects, phrases])
    cached = source.cache.load("vg", key, ["ids", "codes"])
    if cached is not None:
        return classes, VgRows(unpack(cached["ids"]), cached["codes"])
    rows = read_objects(objects, label_of, len(classes))
    source.cache.save("vg", key, {"ids": pack(rows.ids), "codes": rows.codes})
    return classes, rows


def _annotations(source: DatasetSource, classes: tuple[str, ...], rows: VgRows, index: Index) -> Annotations:
    ids = tuple(rows.ids[row] for row in index)
    truth = LabelTable(rows.codes[index])
    return Annotations(_images(source, ids), ids, classes, truth, places=np.arange(len(ids), dtype=np.int64))


def _images(source: DatasetSource, ids: Sequence[str]) -> FileImages:
    """Find the folder of each image; the first folder if neither has the image, or if images are not needed."""
    unpacked = Unpacked(source.path_images)
    usual = [source.path_images / name for name in _FOLDERS]
    first, second = (folder if folder.is_dir() else unpacked.folder(folder.name) or folder for folder in usual)
    in_second: set[str] = set()
    if source.need_images:
        require(
            first.is_dir() or second.is_dir(),
            f"{first}: no such folder, nor {second}; Visual Genome keeps its images there",
        )
        in_second = _names_in(second) - _names_in(first)
    names = (f"{image}.jpg" for image in ids)
    return FileImages([f"{second if name in in_second else first}/{name}" for name in names], source.cache)


def _names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
