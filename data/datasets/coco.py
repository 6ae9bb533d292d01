"""COCO 2014 and 2017, the 80 object categories as labels (Lin et al., ECCV 2014; instances_<split><year>.json).

A category is present where the picture has an annotation of it, crowd regions included. Pictures without any
annotation are left out, as in the published multi-label splits. Classes are ordered by category id, rows by image id.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO

from data.datasets.formatted import Form, is_formatted, load_formatted
from data.datasets.source import DatasetSource
from data.files.cache import fingerprint, pack, unpack
from data.files.text_files import is_plain_text, read_json
from data.images.files import FileImages
from utils.checks import UserError, require
from utils.types import ABSENT, PRESENT, Annotations, Boxes, Codes, LabelTable, Splits

READER = "coco 1"
"""Part of the cache's fingerprint; another number whenever the same file would be read differently."""

_NEEDED: dict[str, dict[str, type]] = {  # section: what each of its entries must have, and the type of that
    "images": {"id": int, "file_name": str},
    "annotations": {"id": int, "image_id": int, "category_id": int},
    "categories": {"id": int, "name": str},
}

_LONGEST_SIDE = 1e9  # pixels; beyond it a number of a box is damage


# fmt: off
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven",
    "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)
# fmt: on
"""The categories of the official files in the order of their ids, for arrays that do not name them."""


class CocoPart(NamedTuple):
    """What one annotation file says of its N pictures that have annotations."""

    ids: tuple[str, ...]
    files: tuple[str, ...]  # relative to the folder of the split's pictures
    classes: tuple[str, ...]
    codes: Codes  # (N, C)
    boxes: Boxes
    left_out: int = 0  # pictures without any annotation


def load_coco(source: DatasetSource, year: int) -> Splits:
    """COCO's train pictures for training, its val pictures (the published splits have no other) as the test set.

    Args:
        source: `path_images` holds `annotations/` (of 2014 also: the formatted arrays, which come first) and the
            pictures, in `images/train2014/` or in `train2014/`.
        year: 2014 or 2017.

    Raises:
        UserError: a folder, file or entry is missing or malformed, or an image is in both splits.
    """
    require(year in (2014, 2017), f"COCO {year}: only 2014 and 2017 are known")
    if year == 2014 and is_formatted(source.path_images):
        return load_formatted(source, Form("coco", ("images", "."), image_number, COCO_CLASSES, len(COCO_CLASSES)))
    root = find_root(source.path_images, year)
    train, test = (_read(source, instances(root, f"{split}{year}")) for split in ("train", "val"))
    require(
        train.classes == test.classes,
        f"{instances(root, f'val{year}')}: other categories than in {instances(root, f'train{year}').name}",
    )
    both = sorted(set(train.ids) & set(test.ids), key=int)
    if both:
        raise UserError(
            f"{root}: image {both[0]} is in train{year} and in val{year} ({len(both)} such); get both files anew"
        )
    return Splits(_annotations(source, root, f"train{year}", train), _annotations(source, root, f"val{year}", test))


def find_root(path: Path, year: int) -> Path:
    """The folder that holds `annotations/`: `path` or `path/coco`. Raises: UserError showing the expected tree."""
    for folder in (path, path / "coco"):
        if (folder / "annotations").is_dir():
            return folder
    raise UserError(
        f"{path}: no COCO {year} here; give --path_images the folder that looks like this:\n"
        f"  annotations/instances_train{year}.json, instances_val{year}.json\n"
        f"  train{year}/*.jpg   (or images/train{year}/*.jpg)\n"
        f"  val{year}/*.jpg     (or images/val{year}/*.jpg)\n"
        f"(--dataset digits runs without any download)"
    )


def image_number(file: str) -> str:
    """The id in a picture's name: "9" of `train2014/COCO_train2014_000000000009.jpg`; an empty text where none is."""
    found = re.fullmatch(r"(?:.*[^0-9])?([0-9]{1,18})", PurePosixPath(file).stem, re.DOTALL)
    return str(int(found[1])) if found else ""


def instances(root: Path, split: str) -> Path:
    """The annotation file of one split."""
    return root / "annotations" / f"instances_{split}.json"


def read_instances(path: Path) -> CocoPart:
    """Parse one annotation file.

    Raises:
        UserError: the file is missing or no json, lacks a section or key, lists something twice, or names an
            image or category that it does not list.
    """
    held = _load_json(path)
    _check(path, held)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress there
        index = COCO()
        index.dataset = held
        index.createIndex()
    categories = sorted(index.cats)
    ids = [image for image in sorted(index.imgs) if index.imgToAnns.get(image)]
    require(bool(ids), f"{path}: no image has an annotation")
    column = {category: place for place, category in enumerate(categories)}
    codes = np.full((len(ids), len(categories)), ABSENT, dtype=np.int8)
    boxed: list[tuple[int, int, list[float]]] = []
    for row, image in enumerate(ids):
        for one in index.imgToAnns[image]:
            label = column[one["category_id"]]
            codes[row, label] = PRESENT
            if "bbox" in one:
                boxed.append((row, label, one["bbox"]))
    files = tuple(index.imgs[image]["file_name"] for image in ids)
    classes = tuple(index.cats[category]["name"] for category in categories)
    return CocoPart(tuple(map(str, ids)), files, classes, codes, _boxes(boxed), len(index.imgs) - len(ids))


def _load_json(path: Path) -> dict[str, Any]:
    held = read_json(path, "COCO keeps its annotations there")
    if not isinstance(held, dict):
        raise UserError(f"{path}: not COCO annotations: the outermost value is a {type(held).__name__}, not an object")
    return held


def _check(path: Path, held: dict[str, Any]) -> None:
    """Everything that the rest of the reader relies on."""
    for section, keys in _NEEDED.items():
        entries = held.get(section)
        if not isinstance(entries, list):
            raise UserError(f"{path}: has no list {section!r}; is it an instances file?")
        for number, entry in enumerate(entries):
            fault = _entry_fault(entry, keys)
            if fault:
                raise UserError(f"{path}: entry {number} of {section!r} {fault}")
    images = _unique(path, "images", (entry["id"] for entry in held["images"]))
    categories = _unique(path, "categories", (entry["id"] for entry in held["categories"]))
    for number, entry in enumerate(held["annotations"]):
        for key, known in (("image_id", images), ("category_id", categories)):
            if entry[key] not in known:
                raise UserError(f"{path}: annotation {number} names {key} {entry[key]}, which the file does not list")
    for entry in held["images"]:
        name = PurePosixPath(entry["file_name"])
        if name.is_absolute() or ".." in name.parts:
            raise UserError(
                f"{path}: image {entry['id']}: file name {entry['file_name'][:80]!r} leads out of the dataset"
            )


def _entry_fault(entry: Any, keys: dict[str, type]) -> str:
    """What an entry lacks, as the end of a sentence; empty when nothing."""
    if not isinstance(entry, dict):
        return f"is a {type(entry).__name__}, not an object"
    for key, kind in keys.items():
        if key not in entry:
            return f"has no {key!r}"
        if type(entry[key]) is not kind:
            return f"has {key!r} {str(entry[key])[:40]!r}, which is no {kind.__name__}"
        if kind is str and not is_plain_text(entry[key]):
            return f"has {key!r} {entry[key][:40]!a}, which holds control characters"
    return _box_fault(entry.get("bbox", (0, 0, 0, 0)))


def _box_fault(box: Any) -> str:
    """What is wrong with a `bbox`, as the end of a sentence; empty when nothing."""
    if not (isinstance(box, list | tuple) and len(box) == 4):
        return "has a 'bbox' that is not four numbers"
    if not all(isinstance(side, int | float) and abs(side) < _LONGEST_SIDE for side in box):  # a NaN is not below it
        return "has a 'bbox' that is not four numbers of pixels"
    return "has a 'bbox' with a negative width or height" if box[2] < 0 or box[3] < 0 else ""


def _unique(path: Path, section: str, ids: Iterable[int]) -> set[int]:
    """The ids as a set. Raises: UserError for an id that is there twice."""
    seen: set[int] = set()
    for one in ids:
        if one in seen:
            raise UserError(f"{path}: id {one} is listed twice in {section!r}")
        seen.add(one)
    return seen


def _boxes(boxed: list[tuple[int, int, list[float]]]) -> Boxes:
    """COCO's x, y, width, height as corners."""
    place = np.array([entry[:2] for entry in boxed], dtype=np.int64).reshape(-1, 2)
    corners = np.array([entry[2] for entry in boxed], dtype=np.float32).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return Boxes(place[:, 0], place[:, 1], corners)


def _read(source: DatasetSource, path: Path) -> CocoPart:
    """The content of an annotation file, from the cache where the file has not changed."""
    key = fingerprint(READER, [path])
    kept = source.cache.load("coco", key, ["ids", "files", "classes", "codes", "row", "label", "corners"])
    if kept is not None:
        ids, files, classes = (unpack(kept[name]) for name in ("ids", "files", "classes"))
        return CocoPart(ids, files, classes, kept["codes"], Boxes(kept["row"], kept["label"], kept["corners"]))
    part = read_instances(path)
    texts = {"ids": pack(part.ids), "files": pack(part.files), "classes": pack(part.classes)}
    source.cache.save("coco", key, {**texts, "codes": part.codes, **part.boxes._asdict()})
    return part


def _annotations(source: DatasetSource, root: Path, split: str, part: CocoPart) -> Annotations:
    folders = [root / "images" / split, root / split]
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    if source.need_images and not folder.is_dir():
        raise UserError(f"{folders[0]}: no such folder, nor {folders[1]}; COCO's {split} pictures belong there")
    images = FileImages([f"{folder}/{name}" for name in part.files], source.cache)
    return Annotations(images, part.ids, part.classes, LabelTable(part.codes), part.boxes)
