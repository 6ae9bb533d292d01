"""COCO 2014 and 2017, the 80 object categories as labels (Lin et al., ECCV 2014; instances_<split><year>.json).

A category is present where the image has an annotation of it, crowd regions included. Images without any
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

from data.datasets.dense import require_room
from data.datasets.formatted import FormattedLayout, is_formatted, load_formatted
from data.datasets.source import DatasetSource
from data.datasets.unpacked import Unpacked, not_found
from data.files.cache import fingerprint, pack, unpack
from data.files.text_files import is_plain_text, read_json
from data.images.files import FileImages
from utils.checks import UserError, require
from utils.types import ABSENT, PRESENT, Annotations, Boxes, Codes, LabelTable, Splits

READER = "coco 1"
"""Part of the cache's fingerprint; another number whenever the same file would be read differently."""

_REQUIRED_KEYS: dict[str, dict[str, type]] = {  # section: keys that each of its entries must have, with their types
    "images": {"id": int, "file_name": str},
    "annotations": {"id": int, "image_id": int, "category_id": int},
    "categories": {"id": int, "name": str},
}

_MAX_COORDINATE = 1e9  # pixels; anything beyond is damage


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
"""The categories of the official files in the order of their ids, for formatted arrays, which do not name them."""


class CocoSplit(NamedTuple):
    """Content of one annotation file: its N images that have annotations."""

    ids: tuple[str, ...]
    files: tuple[str, ...]  # relative to the image folder of the split
    classes: tuple[str, ...]
    codes: Codes  # (N, C)
    boxes: Boxes
    left_out: int = 0  # images without any annotation


def load_coco(source: DatasetSource, year: int) -> Splits:
    """Read COCO: train for training, val (the published splits have no other) as the test set.

    Args:
        source: `path_images` holds `annotations/` (of 2014 also: the formatted arrays, which come first) and the
            images, in `images/train2014/` or in `train2014/`.
        year: 2014 or 2017.

    Raises:
        UserError: a folder, file or entry is missing or malformed, or an image is in both splits.
    """
    require(year in (2014, 2017), f"COCO {year}: only 2014 and 2017 are known")
    if year == 2014 and is_formatted(source.path_images):
        return load_formatted(source, LAYOUT)
    unpacked = Unpacked(source.path_images)
    files = find_instances(unpacked, year)
    train, test = (_read(source, file) for file in files)
    require(train.classes == test.classes, f"{files[1]}: other categories than in {files[0].name}")
    shared = set(train.ids) & set(test.ids)
    if shared:
        raise UserError(
            f"{files[0]}: image {min(shared, key=int)} is in train{year} and in val{year} ({len(shared)} such);"
            " get both anew"
        )
    return Splits(
        _annotations(source, unpacked, f"train{year}", train), _annotations(source, unpacked, f"val{year}", test)
    )


def find_instances(unpacked: Unpacked, year: int) -> list[Path]:
    """The annotation files of train and val, in `annotations/` or as archives were unpacked.

    Raises: UserError showing the expected tree if neither is there.
    """
    names = [f"instances_{split}{year}.json" for split in ("train", "val")]
    found = [unpacked.file(f"annotations/{name}", f"coco/annotations/{name}", name) for name in names]
    there = next((file for file in found if file is not None), None)
    if there is None and not (unpacked.given / "annotations").is_dir():
        path = unpacked.given
        raise not_found(
            path,
            f"{path}: no COCO {year} here; give --path_images the folder that looks like this:\n"
            f"  annotations/instances_train{year}.json, instances_val{year}.json\n"
            f"  train{year}/*.jpg   (or images/train{year}/*.jpg)\n"
            f"  val{year}/*.jpg     (or images/val{year}/*.jpg)\n"
            f"(--dataset digits runs without any download)",
        )
    folder = unpacked.given / "annotations" if there is None else there.parent
    return [file or folder / name for file, name in zip(found, names, strict=True)]


def image_number(file: str) -> str:
    """Return the id in a file name: "9" of `train2014/COCO_train2014_000000000009.jpg`; "" where there is none."""
    match = re.fullmatch(r"(?:.*[^0-9])?([0-9]{1,18})", PurePosixPath(file).stem, re.DOTALL)
    return str(int(match[1])) if match else ""


def read_instances(path: Path) -> CocoSplit:
    """Parse one annotation file.

    Raises:
        UserError: the file is missing or no json, lacks a section or key, lists something twice, or names an
            image or category that it does not list.
    """
    content = _load_json(path)
    _check(path, content)
    from pycocotools.coco import COCO  # only here: some machines that read no COCO lack it

    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress there
        index = COCO()
        index.dataset = content
        index.createIndex()
    categories = sorted(index.cats)
    ids = [image for image in sorted(index.imgs) if index.imgToAnns.get(image)]
    require(bool(ids), f"{path}: no image has an annotation")
    column_of = {category: column for column, category in enumerate(categories)}
    require_room(path, len(ids), len(categories))
    codes = np.full((len(ids), len(categories)), ABSENT, dtype=np.int8)
    boxed: list[tuple[int, int, list[float]]] = []
    for row, image in enumerate(ids):
        for annotation in index.imgToAnns[image]:
            label = column_of[annotation["category_id"]]
            codes[row, label] = PRESENT
            if "bbox" in annotation:
                boxed.append((row, label, annotation["bbox"]))
    files = tuple(index.imgs[image]["file_name"] for image in ids)
    classes = tuple(index.cats[category]["name"] for category in categories)
    return CocoSplit(tuple(map(str, ids)), files, classes, codes, _boxes(boxed), len(index.imgs) - len(ids))


def _load_json(path: Path) -> dict[str, Any]:
    content = read_json(path, "COCO keeps its annotations there")
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UserError(f"{path}: not COCO annotations: the outermost value is a {kind}, not an object")
    return content


def _check(path: Path, content: dict[str, Any]) -> None:
    """Check everything that the rest of the reader relies on."""
    for section, keys in _REQUIRED_KEYS.items():
        entries = content.get(section)
        if not isinstance(entries, list):
            raise UserError(f"{path}: has no list {section!r}; is it an instances file?")
        for number, entry in enumerate(entries):
            fault = _entry_fault(entry, keys)
            if fault:
                raise UserError(f"{path}: entry {number} of {section!r} {fault}")
    images = _unique(path, "images", (entry["id"] for entry in content["images"]))
    categories = _unique(path, "categories", (entry["id"] for entry in content["categories"]))
    for number, entry in enumerate(content["annotations"]):
        for key, known in (("image_id", images), ("category_id", categories)):
            if entry[key] not in known:
                raise UserError(f"{path}: annotation {number} names {key} {entry[key]}, which the file does not list")
    for entry in content["images"]:
        name = PurePosixPath(entry["file_name"])
        if name.is_absolute() or ".." in name.parts:
            raise UserError(
                f"{path}: image {entry['id']}: file name {entry['file_name'][:80]!r} leads out of the dataset"
            )


def _entry_fault(entry: Any, keys: dict[str, type]) -> str:
    """Return the fault of an entry as the end of a sentence; "" when it has none."""
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
    """Return the fault of a `bbox` as the end of a sentence; "" when it has none."""
    if not (isinstance(box, list | tuple) and len(box) == 4):
        return "has a 'bbox' that is not four numbers"
    if not all(isinstance(side, int | float) and abs(side) < _MAX_COORDINATE for side in box):  # false for NaN
        return "has a 'bbox' that is not four numbers of pixels"
    return "has a 'bbox' with a negative width or height" if box[2] < 0 or box[3] < 0 else ""


def _unique(path: Path, section: str, ids: Iterable[int]) -> set[int]:
    """Return the ids as a set. Raises: UserError for an id that occurs twice."""
    seen: set[int] = set()
    for one in ids:
        if one in seen:
            raise UserError(f"{path}: id {one} is listed twice in {section!r}")
        seen.add(one)
    return seen


def _boxes(boxed: list[tuple[int, int, list[float]]]) -> Boxes:
    """Boxes with corners, from COCO's x, y, width, height."""
    row_label = np.array([entry[:2] for entry in boxed], dtype=np.int64).reshape(-1, 2)
    corners = np.array([entry[2] for entry in boxed], dtype=np.float32).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return Boxes(row_label[:, 0], row_label[:, 1], corners)


def _read(source: DatasetSource, path: Path) -> CocoSplit:
    """Read an annotation file, from the cache if the file has not changed."""
    key = fingerprint(READER, [path])
    cached = source.cache.load("coco", key, ["ids", "files", "classes", "codes", "row", "label", "corners"])
    if cached is not None:
        ids, files, classes = (unpack(cached[name]) for name in ("ids", "files", "classes"))
        boxes = Boxes(cached["row"], cached["label"], cached["corners"])
        return CocoSplit(ids, files, classes, cached["codes"], boxes)
    content = read_instances(path)
    texts = {"ids": pack(content.ids), "files": pack(content.files), "classes": pack(content.classes)}
    source.cache.save("coco", key, {**texts, "codes": content.codes, **content.boxes._asdict()})
    return content


def _annotations(source: DatasetSource, unpacked: Unpacked, split: str, content: CocoSplit) -> Annotations:
    folder, usual = unpacked.images(unpacked.given, split, needed=source.need_images), unpacked.given / "images" / split
    if source.need_images and folder is None:
        raise UserError(f"{usual}: no such folder, nor {unpacked.given / split}; COCO's {split} images belong there")
    images = FileImages([f"{folder or usual}/{name}" for name in content.files], source.cache)
    return Annotations(images, content.ids, content.classes, LabelTable(content.codes), content.boxes)


LAYOUT = FormattedLayout("coco", ("images", "."), image_number, COCO_CLASSES, len(COCO_CLASSES))
