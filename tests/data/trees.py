"""Small datasets on disk, in the layouts of their owners, and where the real ones are."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.datasets.source import DatasetSource
from data.files.cache import Cache
from data.images.files import FileImages
from utils.types import Annotations, LabelTable


def real_data(name):
    """A path among the real data; skips the calling test where it is absent."""
    folder = Path(os.environ.get("REAL_DATA", Path(__file__).parents[3] / "shared" / "data" / "real"))
    if not (folder / name).exists():
        pytest.skip(f"no real data: {folder / name}")
    return folder / name


def source(path, cache_folder, *, need_images=False):
    return DatasetSource(path, path / "lists", 0, Cache(cache_folder), need_images)


def annotations(truth, ids=None):
    """Annotations of a table of codes; the images do not exist."""
    truth = np.asarray(truth, dtype=np.int8)
    ids = tuple(ids or (f"{row:06d}" for row in range(len(truth))))
    classes = tuple(f"class{k}" for k in range(truth.shape[1]))
    return Annotations(FileImages([f"{one}.jpg" for one in ids]), ids, classes, LabelTable(truth))


def picture(path, size=(40, 30), mode="RGB", colour=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour if colour is not None else 0).save(path)
    return path


def voc_xml(objects):
    """An annotation file; each object is (class, difficult) or (class, difficult, (x1, y1, x2, y2))."""
    text = "<annotation><folder>VOC</folder>"
    for name, difficult, *box in objects:
        text += f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        if box:
            sides = zip(("xmin", "ymin", "xmax", "ymax"), box[0], strict=True)
            text += "<bndbox>" + "".join(f"<{side}>{value}</{side}>" for side, value in sides) + "</bndbox>"
        text += "<part><name>head</name></part></object>"
    return text + "</annotation>"


def voc_tree(folder, year, images, *, pictures=False):
    """`VOC<year>` in `folder` with annotations and split lists of `images`: (id, split, objects)."""
    root = folder / f"VOC{year}"
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (root / "Annotations").mkdir()
    for split in ("train", "val", "test") if year == 2007 else ("train", "val"):
        (lists / f"{split}.txt").write_text("".join(f"{one}\n" for one, where, _ in images if where == split))
    for one, _, objects in images:
        (root / "Annotations" / f"{one}.xml").write_text(voc_xml(objects))
        if pictures:
            picture(root / "JPEGImages" / f"{one}.jpg")
    return root


def class_lists(root, classes, truth_of):
    """Write `<class>_<split>.txt` beside each split list; `truth_of(id)` gives the codes 1, 0, -1 of our own."""
    lists = root / "ImageSets" / "Main"
    for split in [path for path in lists.glob("*.txt") if "_" not in path.stem]:
        ids = split.read_text().split()
        for k, name in enumerate(classes):
            values = {1: " 1", -1: " 0", 0: "-1"}
            text = "".join(f"{one} {values[truth_of(one)[k]]}\n" for one in ids)
            (lists / f"{name}_{split.stem}.txt").write_text(text)


def coco_json(images, annotations, category_ids):
    """An instances file; images are (id, file name), annotations (image id, category id, crowd[, bbox])."""
    return {
        "images": [{"id": one, "file_name": name} for one, name in images],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "iscrowd": crowd, **({"bbox": box[0]} if box else {})}
            for n, (image, category, crowd, *box) in enumerate(annotations)
        ],
        "categories": [{"id": one, "name": f"category {one}"} for one in category_ids],
    }


def coco_tree(folder, year, train, val):
    """`annotations/` in `folder` with the two instances files."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for split, document in (("train", train), ("val", val)):
        (folder / "annotations" / f"instances_{split}{year}.json").write_text(json.dumps(document))
    return folder
