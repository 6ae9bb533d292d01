"""Labels that stand in folders: names of folders as classes, and the export of YOLO (images, labels, names)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from data.datasets.dense import require_room
from data.datasets.table.cells import split_names
from data.datasets.table.labelled import (
    NO_SPLIT,
    USUAL_SEPARATOR,
    OwnLabels,
    check_classes,
    check_id,
    sorted_by_id,
)
from data.datasets.table.matching import ImageFolder
from data.datasets.table.split_cells import SPLITS
from data.files.text_files import read_lines, read_text
from utils.checks import UserError, require
from utils.types import ABSENT, PRESENT

_NAME_FILES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names")
"""What the names of the classes of a YOLO export are in, the first that there is."""


_OBJ = re.compile(r"^obj_(\w+?)_data$")
"""How some exports call the folder of a split."""


def read_folders(folder: Path, separator: str | None) -> OwnLabels:
    """Images below a folder, with the names of all folders between as their classes.

    Folders at the top that are all called like splits (train, val, test) are those. An image in no other folder shows
    none of the classes.

    Args:
        folder: the image folder.
        separator: between several classes in the name of a folder; None where a name is one class.

    Raises:
        UserError: there is no image, or none in a folder, or a name is invalid.
    """
    listed = ImageFolder(folder)
    files, heic = listed.files, listed.heic_files
    convert = f"{len(heic)} HEIC pictures ({', '.join(heic[:1])}): convert them to JPEG or PNG"
    require(
        bool(files),
        f"{folder}: no image there or below{f', but {convert}' if heic else '; give --path_images the folder of them'}",
    )
    parts = [file.split("/")[:-1] for file in files]
    splits, parts = _split_off(parts)
    names = [[name for part in one for name in split_names(part, separator)] for one in parts]
    used = {name: f"{folder}, folder {'/'.join(part)}" for part, one in zip(parts, names, strict=True) for name in one}
    classes = tuple(sorted(check_classes(used.items(), separator or USUAL_SEPARATOR)))
    require(bool(classes), f"{folder}: its images are in no folder whose name could be a class")
    for file in files:
        check_id(file, str(folder), {})
    bare = sum(not one for one in names)
    notes = [f"{folder}: {len(classes)} classes named by folders; --label_separator takes a name apart"]
    notes += [f"{folder}: {bare} images are in no folder of a class; they show none"] if bare else []
    notes += [f"{folder}: left out {convert}, or name them in a table and pip install pillow-heif"] if heic else []
    codes = _codes(folder, names, classes)
    return sorted_by_id(OwnLabels(tuple(files), classes, codes, splits, closed=False, notes=tuple(notes)))


def is_yolo(folder: Path) -> bool:
    """Whether a folder is an export of YOLO: labels beside images, in it or in folders of splits, or `obj.names`."""
    return bool(_parts(folder)) or (folder / "obj.names").is_file()


def read_yolo(folder: Path) -> OwnLabels:
    """Read `images/**` with `labels/**/<the same>.txt`: each line begins with the number of a class.

    Both folders may be in folders of splits (`train/images`); with `obj.names` labels are beside the images. Folders
    that are called like splits are those. An image without a label file, or with an empty one, shows none of the
    classes, as YOLO has it.

    Raises:
        UserError: there is no image, no file of names, or a line has no number of a class.
    """
    labels_of = _label_files(folder)
    require(bool(labels_of), f"{folder}: no image there or below")
    classes = read_names(folder)
    bare = sum(not path.is_file() for path in labels_of.values())
    names = [_named(path, classes) if path.is_file() else [] for path in labels_of.values()]
    for file in labels_of:
        check_id(file, str(folder), {})
    require(bare < len(labels_of), f"{folder / 'labels'}: has no label file of any of the {len(labels_of)} images")
    above = [[_OBJ.sub(r"\1", part) for part in file.split("/")[:-1] if part != "images"] for file in labels_of]
    splits, _ = _split_off(above)
    notes = (
        [f"{folder}: {bare} of {len(labels_of)} images have no label file; they show none of the classes"]
        if bare
        else []
    )
    codes = _codes(folder, names, classes)
    return sorted_by_id(OwnLabels(tuple(labels_of), classes, codes, splits, closed=True, notes=tuple(notes)))


def _parts(folder: Path) -> list[str]:
    """The folders that have both images and labels: the export itself, or those of its splits."""
    parts = ["", *(f"{name}/" for name in SPLITS)]
    return [part for part in parts if all((folder / f"{part}{kind}").is_dir() for kind in ("images", "labels"))]


def _label_files(folder: Path) -> dict[str, Path]:
    """The file of labels of each image, which need not be there."""
    parts = _parts(folder)
    if not parts:
        return {file: folder / f"{_without_ending(file)}.txt" for file in ImageFolder(folder).files}
    return {
        f"{part}images/{file}": folder / f"{part}labels/{_without_ending(file)}.txt"
        for part in parts
        for file in ImageFolder(folder / f"{part}images").files
    }


def _without_ending(file: str) -> str:
    return os.path.splitext(file)[0]  # noqa: PTH122 - a name


def read_names(folder: Path) -> tuple[str, ...]:
    """The classes of a YOLO export by their numbers. Raises: UserError where no file has them."""
    path = next((folder / name for name in _NAME_FILES if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder}: no names of classes; add data.yaml with `names: [...]`, or classes.txt")
    if path.suffix not in (".yaml", ".yml"):
        names: Sequence[object] = [name for _, name in read_lines(path, "it names the classes")]
    else:
        try:
            content = yaml.safe_load(read_text(path, "it names the classes"))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: not a readable YAML file ({' '.join(str(error).split())[:160]})") from error
        held = content.get("names") if isinstance(content, dict) else None
        if isinstance(held, Mapping):
            held = [held.get(number, held.get(str(number))) for number in range(len(held))]
        require(isinstance(held, list), f"{path}: has no list `names`")
        names = list(held or [])
    texts = [name for name in names if isinstance(name, str | int)]
    require(len(texts) == len(names) > 0, f"{path}: `names` must be names by numbers from 0")
    return check_classes(((str(name), f"{path}, class {n}") for n, name in enumerate(texts)), USUAL_SEPARATOR)


def _named(path: Path, classes: Sequence[str]) -> list[str]:
    """The classes of a label file, each once. Raises: UserError naming the line that has no number of a class."""
    found: dict[str, None] = {}
    for number, line in read_lines(path, "it has the objects of an image"):
        first = line.split()[0].removesuffix(".0")
        known = first.isascii() and first.isdigit() and int(first[:9]) < len(classes)
        require(known, f"{path}, line {number}: {line[:40]!r} begins with no class; there are 0 to {len(classes) - 1}")
        found[classes[int(first)]] = None
    return list(found)


def _split_off(parts: Sequence[list[str]]) -> tuple[NDArray[np.int8], list[list[str]]]:
    """Splits by the top folders if all are called so, and the folders below them; none where all are of one split."""
    tops = {one[0].lower() if one else "" for one in parts}
    if tops - SPLITS.keys():
        return np.full(len(parts), NO_SPLIT, dtype=np.int8), list(parts)
    splits = np.array([SPLITS[one[0].lower()] for one in parts], dtype=np.int8)
    return np.full_like(splits, NO_SPLIT) if len({*splits.tolist()}) < 2 else splits, [one[1:] for one in parts]


def _codes(folder: Path, names: Sequence[Sequence[str]], classes: Sequence[str]) -> NDArray[np.int8]:
    require_room(folder, len(names), len(classes))
    label_of = {name: label for label, name in enumerate(classes)}
    codes = np.full((len(names), len(classes)), ABSENT, dtype=np.int8)
    for row, one in enumerate(names):
        codes[row, [label_of[name] for name in one]] = PRESENT
    return codes
